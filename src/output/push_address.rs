//! The servers that video is pushed to, by their addresses, which may hold secrets: no text for people has them.

use std::fmt;

use percent_encoding::percent_decode_str;

use vision::error::{Error, Result};

/// How a server takes video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushKind {
    /// RTMP: H.264 in FLV.
    Rtmp,
    /// SRT: an MPEG transport stream over UDP.
    Srt,
    /// RTSP: packets over one TCP connection.
    Rtsp,
}

/// Who the server is told that it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password.
    pub password: String,
}

/// A server's address. Shown without its secrets: the key of RTMP, all parameters of SRT, user and parameters of RTSP.
#[derive(Clone, PartialEq, Eq)]
pub struct PushAddress {
    kind: PushKind,
    /// As the server is told it.
    url: String,
    over_tls: bool,
    credentials: Option<Credentials>,
    host: String,
    port: u16,
    shown: String,
    secrets: Vec<String>,
}

/// The schemes of addresses, and what each expects.
const SCHEMES: [(&str, PushKind, &str, u16); 5] = [
    (
        "rtsp+push",
        PushKind::Rtsp,
        "rtsp+push://[USER:PASSWORD@]HOST[:PORT]/PATH",
        554,
    ),
    (
        "rtsps+push",
        PushKind::Rtsp,
        "rtsps+push://[USER:PASSWORD@]HOST[:PORT]/PATH",
        322,
    ),
    ("rtmp", PushKind::Rtmp, "rtmp://HOST[:PORT]/APP/KEY", 1935),
    ("rtmps", PushKind::Rtmp, "rtmps://HOST[:PORT]/APP/KEY", 443),
    (
        "srt",
        PushKind::Srt,
        "srt://HOST:PORT[?streamid=ID&passphrase=TEXT&pbkeylen=N&latency=MS]",
        0,
    ),
];

/// Parameters of SRT that may be given. Segd calls; it is never called.
const SRT_KEYS: [&str; 4] = ["streamid", "passphrase", "pbkeylen", "latency"];

impl PushAddress {
    /// Understands an address; `None` if its scheme is none of a server's.
    ///
    /// # Errors
    /// Usage, with what was expected, without secrets.
    pub fn parse(text: &str) -> Option<Result<Self>> {
        let (scheme, rest) = text.split_once("://")?;
        let (_, kind, form, port) = *SCHEMES.iter().find(|(name, ..)| *name == scheme)?;
        let parsed = Self::parse_rest(scheme, rest, kind, port);
        Some(parsed.map_err(|why| {
            Error::usage(format!("output {scheme}://...: {why}")).hint(format!("expected {form}"))
        }))
    }

    fn parse_rest(scheme: &str, rest: &str, kind: PushKind, port: u16) -> Result<Self, String> {
        let (user, rest) = match kind {
            PushKind::Rtsp => split_user(rest)?,
            PushKind::Rtmp | PushKind::Srt => (None, rest),
        };
        let (before_query, query) = match rest.split_once('?') {
            Some((before, query)) => (before, Some(query)),
            None => (rest, None),
        };
        if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("there is a blank in it".into());
        }
        if before_query.contains('@') && kind != PushKind::Rtsp {
            return Err("a user has no place in it".into());
        }
        let (authority, path) = match before_query.find('/') {
            Some(at) => before_query.split_at(at),
            None => (before_query, ""),
        };
        let (host, said_port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']').ok_or("the bracket isn't closed")?;
                (host, port.strip_prefix(':'))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(is_host) {
            return Err("there is no name or address of a server".into());
        }
        let port = match said_port {
            Some(text) => text
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or("the port is no number from 1 to 65535")?,
            None if port > 0 => port,
            None => return Err("there is no port".into()),
        };
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let mut secrets = Vec::new();
        let names: Vec<&str> = path.split('/').skip(1).filter(|name| !name.is_empty()).collect();
        let base = format!("{scheme}://{authority}");
        let credentials = user.map(|user| {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            secrets.push(password.to_owned());
            Credentials {
                user: decoded(user),
                password: decoded(password),
            }
        });
        let shown = match kind {
            PushKind::Rtsp => {
                if names.is_empty() {
                    return Err("there is no path".into());
                }
                secrets.extend(query.map(str::to_owned));
                format!("{base}/{}", names.join("/"))
            }
            PushKind::Rtmp => {
                let [app @ .., key] = names.as_slice() else {
                    return Err("there is no application and no key".into());
                };
                if app.is_empty() {
                    return Err("there is no key behind the application".into());
                }
                secrets.push((*key).to_owned());
                secrets.extend(query.map(str::to_owned));
                format!("{base}/{}/***", app.join("/"))
            }
            PushKind::Srt => {
                if !names.is_empty() {
                    return Err("a path has no place in it".into());
                }
                for parameter in query.iter().flat_map(|query| query.split('&')) {
                    let (key, value) = parameter.split_once('=').ok_or("a parameter has no value")?;
                    if !SRT_KEYS.contains(&key) {
                        return Err(format!("the parameter {key:?} is not known"));
                    }
                    let decoded = decoded(value);
                    let fits = match key {
                        "passphrase" => (10..=79).contains(&decoded.len()),
                        "pbkeylen" => ["16", "24", "32"].contains(&value),
                        "latency" => value.parse::<u16>().is_ok(),
                        _ => true,
                    };
                    if !fits {
                        return Err(match key {
                            "passphrase" => "the passphrase has no 10 to 79 letters".into(),
                            "pbkeylen" => "pbkeylen is not 16, 24 or 32 (bytes)".into(),
                            _ => "the latency is no number of milliseconds up to 65535".into(),
                        });
                    }
                    if matches!(key, "passphrase" | "streamid") {
                        secrets.push(value.to_owned());
                    }
                }
                base.clone()
            }
        };
        let decoded: Vec<String> = secrets.iter().map(|secret| decoded(secret)).collect();
        secrets.extend(decoded);
        secrets.retain(|secret| !secret.is_empty());
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        let spoken = scheme.trim_end_matches("+push");
        let path = match kind {
            PushKind::Rtsp => path.trim_end_matches('/'),
            PushKind::Rtmp | PushKind::Srt => path,
        };
        Ok(Self {
            kind,
            url: format!("{spoken}://{authority}{path}{query}"),
            over_tls: matches!(spoken, "rtsps" | "rtmps"),
            credentials,
            host: host.to_owned(),
            port,
            shown,
            secrets,
        })
    }

    /// How the server takes video.
    pub fn kind(&self) -> PushKind {
        self.kind
    }

    /// The address as the server takes it: with its secrets, but for the user.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether nobody between here and the server can read along.
    pub fn is_over_tls(&self) -> bool {
        self.over_tls
    }

    /// Who the server is told that it is.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Name or address, and port.
    pub fn server(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// A text without the secrets.
    pub fn mask(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), "***");
        }
        text
    }
}

/// What stands before the host, a user and a password as they are written, and the rest.
///
/// # Errors
/// Why it can't be told where the host begins.
fn split_user(rest: &str) -> Result<(Option<&str>, &str), String> {
    const ESCAPES: &str = "in a user name or password write %40 for @, %2F for /, %3F for ?, %23 for #";
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let at = |sign: usize| Ok((Some(&rest[..sign]), &rest[sign + 1..]));
    // A host, with its port if it has one.
    let is_host = |text: &str| match text.rsplit_once(':') {
        Some((_, port)) if !port.contains(']') => port.parse::<u16>().is_ok(),
        _ => true,
    };
    match (authority.rfind('@'), rest.rfind('@')) {
        (_, None) => Ok((None, rest)),
        (Some(plain), Some(last)) if plain == last => at(plain),
        (Some(_), Some(_)) => Err(format!(
            "it can't be told where the password ends: {ESCAPES}; in a path write %40 for @"
        )),
        (None, Some(last)) => match (is_host(authority), authority.contains(':')) {
            // The password holds one of the others.
            (false, _) => at(last),
            (true, true) => Err(format!(
                "it can't be told where the host begins: {ESCAPES}; in a path write %40 for @"
            )),
            // The path holds it.
            (true, false) => Ok((None, rest)),
        },
    }
}

/// Without secrets.
impl fmt::Display for PushAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Without secrets.
impl fmt::Debug for PushAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// A text, such as a configuration, without the secrets of the servers' addresses in it, which end at a quote or a blank.
pub fn mask_push_addresses(text: &str) -> String {
    let mut out = text.to_owned();
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'');
    for word in text.split(ends).filter(|word| word.contains("://")) {
        if let Some(Ok(address)) = PushAddress::parse(word) {
            out = out.replace(word, &address.to_string());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> PushAddress {
        PushAddress::parse(text).expect(text).expect(text)
    }

    #[test]
    fn each_form_is_understood_and_shown_without_its_secrets() {
        for (text, url, server, shown) in [
            (
                "rtmp://live.example/app/s3cret",
                "rtmp://live.example/app/s3cret",
                ("live.example", 1935),
                "rtmp://live.example/app/***",
            ),
            (
                "rtmps://live.example:444/a/b/s3cret?token=s3cret",
                "rtmps://live.example:444/a/b/s3cret?token=s3cret",
                ("live.example", 444),
                "rtmps://live.example:444/a/b/***",
            ),
            (
                "srt://[::1]:8890?streamid=publish:yard:s3cret&passphrase=s3cret%2Fs3cret&latency=200",
                "srt://[::1]:8890?streamid=publish:yard:s3cret&passphrase=s3cret%2Fs3cret&latency=200",
                ("::1", 8890),
                "srt://[::1]:8890",
            ),
        ] {
            let address = parse(text);
            assert_eq!((address.url(), address.server()), (url, server), "{text}");
            assert_eq!(address.to_string(), shown);
            assert!(!format!("{address:?}").contains("s3cret"), "{address:?}");
            let said = format!("Failed to connect to {url} as s3cret, s3cret/s3cret");
            let masked = address.mask(&said);
            if text.contains("app/s3cret") {
                assert!(!masked.contains("s3cret"), "{masked}");
            }
            let file = format!("outputs = [\"a.mp4\", \"{text}\"]\n");
            assert_eq!(
                mask_push_addresses(&file),
                format!("outputs = [\"a.mp4\", \"{shown}\"]\n")
            );
            assert_eq!(address.is_over_tls(), text.starts_with("rtmps"));
        }
        assert!(PushAddress::parse("rtsp://127.0.0.1:8554/a").is_none());
        assert!(PushAddress::parse("a.mp4").is_none());
    }

    #[test]
    fn wrong_forms_say_what_was_expected_and_no_secret() {
        for (text, part) in [
            ("rtmp://", "no name"),
            ("rtmp://host", "no application"),
            ("rtmp://host/s3cret", "no key"),
            ("rtmp://ann:s3cret@host/a/b", "a user has no place"),
            ("rtmp://host:0/a/s3cret", "the port"),
            ("rtmp://host/a/s3cret s3cret", "a blank"),
            ("srt://host?passphrase=s3crets3cret", "no port"),
            ("srt://:8890?passphrase=s3crets3cret", "no name"),
            ("srt://host:1?passphrase=s3cret", "10 to 79"),
            ("srt://host:1?mode=listener", "\"mode\" is not known"),
            ("srt://host:1?pbkeylen=7", "16, 24 or 32"),
            ("srt://host:1?latency=long", "milliseconds"),
            ("srt://host:1?streamid", "no value"),
            ("srt://host:1/path", "a path has no place"),
            ("rtmp://[::1/a/s3cret", "bracket"),
        ] {
            let why = PushAddress::parse(text).unwrap().unwrap_err();
            assert_eq!(why.exit_code(), 2, "{text}");
            let said = why.to_string();
            assert!(
                said.contains(part) && said.contains("expected "),
                "{text}: {said}"
            );
            assert!(!said.contains("s3cret"), "{said}");
        }
    }

    #[test]
    fn a_user_stands_before_the_host_whatever_the_password_is() {
        for (text, user, password, url, server, shown) in [
            (
                "rtsp+push://media.lan/door",
                None,
                "",
                "rtsp://media.lan/door",
                ("media.lan", 554),
                "rtsp+push://media.lan/door",
            ),
            (
                "rtsp+push://ann:s3cret@media.lan:8554/yard/door?key=s3cret",
                Some("ann"),
                "s3cret",
                "rtsp://media.lan:8554/yard/door?key=s3cret",
                ("media.lan", 8554),
                "rtsp+push://media.lan:8554/yard/door",
            ),
            (
                "rtsps+push://ann:s3/c?r#e@t:%41%zz 1@[::1]/door/",
                Some("ann"),
                "s3/c?r#e@t:A%zz 1",
                "rtsps://[::1]/door",
                ("::1", 322),
                "rtsps+push://[::1]/door",
            ),
            (
                "rtsp+push://media.lan/a@b",
                None,
                "",
                "rtsp://media.lan/a@b",
                ("media.lan", 554),
                "rtsp+push://media.lan/a@b",
            ),
        ] {
            let address = parse(text);
            assert_eq!((address.url(), address.server()), (url, server), "{text}");
            assert_eq!(address.to_string(), shown, "{text}");
            let who = address.credentials();
            assert_eq!(who.map(|who| who.user.as_str()), user, "{text}");
            assert_eq!(who.map_or("", |who| &who.password), password, "{text}");
            assert!(!format!("{address:?}").contains("s3"), "{address:?}");
        }
        for (text, part) in [
            (
                "rtsp+push://ann:12/s3cret@media.lan/door",
                "where the host begins",
            ),
            ("rtsp+push://ann:s3cret@media.lan/a@b", "where the password ends"),
            ("rtsp+push://ann:s3cret@media.lan", "no path"),
            ("rtsp+push://ann:s3cret@/door", "no name"),
            ("rtsp+push://media.lan:0/door", "the port"),
            ("rtsp+push://media.lan/a b", "a blank"),
        ] {
            let said = PushAddress::parse(text).unwrap().unwrap_err().to_string();
            assert!(said.contains(part) && !said.contains("s3cret"), "{text}: {said}");
        }
    }
}
