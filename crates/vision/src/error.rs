//! The one error type: what went wrong, what to do about it, and whether trying again can help.
//!
//! A message names the key, file or device, what was found and what was expected; the hint says what
//! to do. [`Severity`] decides what happens next: the supervisor reopens a stage after a transient
//! error, and everything else ends the program with [`Error::exit_code`].

use std::error::Error as StdError;
use std::fmt;

/// Result with segd's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error means for the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Arguments or configuration are wrong: exit code 2.
    Usage,
    /// Trying again will not help: exit code 1.
    Fatal,
    /// Opening the stage again may help (a camera unplugged, a server restarting).
    Transient,
}

/// An error with its severity, what to do, and its cause.
#[derive(Debug)]
pub struct Error {
    severity: Severity,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync + 'static>>,
}

impl Error {
    fn new(severity: Severity, message: impl Into<String>) -> Self {
        Self {
            severity,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// Wrong arguments or configuration (exit code 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Severity::Usage, message)
    }

    /// A failure that trying again will not fix (exit code 1).
    pub fn fatal(message: impl Into<String>) -> Self {
        Self::new(Severity::Fatal, message)
    }

    /// A failure that may pass by itself (exit code 1 if nothing retries).
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(Severity::Transient, message)
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says which of several cameras it is about.
    #[must_use]
    pub fn in_camera(mut self, name: &str) -> Self {
        self.message = format!("camera {name}: {}", self.message);
        self
    }

    /// Says in what part of something larger it is, such as a table of a configuration.
    #[must_use]
    pub fn within(mut self, part: &str) -> Self {
        self.message = format!("{part}: {}", self.message);
        self
    }

    /// Attaches the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the error means for the program.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// Whether opening again may help.
    pub fn is_transient(&self) -> bool {
        self.severity == Severity::Transient
    }

    /// The process's exit code: 2 for usage and configuration, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self.severity {
            Severity::Usage => 2,
            Severity::Fatal | Severity::Transient => 1,
        }
    }
}

/// One line: message, causes, hint.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut last = self.message.clone();
        let mut source = StdError::source(self);
        while let Some(cause) = source {
            // Many libraries repeat their cause inside their own message.
            let text = cause.to_string().replace('\n', " ");
            if !last.contains(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            // An `Error` prints its own causes.
            source = if cause.is::<Error>() { None } else { cause.source() };
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_with_cause_and_hint() {
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file\nor directory");
        let e = Error::usage("model \"x\": can't read x/contract.toml")
            .caused_by(io)
            .hint("name a folder with a contract.toml");
        assert_eq!(
            e.to_string(),
            "model \"x\": can't read x/contract.toml: no such file or directory; name a folder with a contract.toml"
        );
        assert_eq!(e.exit_code(), 2);
    }

    #[test]
    fn a_cause_already_in_the_message_is_not_repeated() {
        let io = std::io::Error::other("boom");
        assert_eq!(
            Error::fatal("it went boom").caused_by(io).to_string(),
            "it went boom"
        );
    }

    #[test]
    fn exit_codes() {
        assert_eq!(Error::fatal("x").exit_code(), 1);
        assert_eq!(Error::transient("x").exit_code(), 1);
        assert!(Error::transient("x").is_transient());
    }
}
