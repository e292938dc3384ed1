//! Who may watch: users by digest, TLS files, limits.
//!
//! A user's entry is `NAME:REALM:HA1`, where HA1 is MD5(NAME:REALM:PASSWORD) of digest authentication
//! (<https://www.rfc-editor.org/rfc/rfc2617#section-3.2.2>, which RTSP 1.0 uses). The password itself is kept
//! nowhere; the entry is as good as the password to whoever reads it, for this realm alone.

use std::fmt;
use std::path::PathBuf;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use crate::output::RtspAddress;
use vision::error::{Error, Result};

/// The realm of entries that segd makes.
pub const REALM: &str = "segd";

/// Clients at a time if nothing is said.
const MAX_CLIENTS: u32 = 16;

/// A user and the digest of the password.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    name: String,
    realm: String,
    ha1: String,
}

/// Without the digest.
impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "User({})", self.name)
    }
}

impl User {
    /// The user `name` with `password`.
    ///
    /// # Errors
    /// Usage, for a name that an entry can't hold, or an empty password.
    pub fn new(name: &str, password: &str) -> Result<Self> {
        check_name(name)?;
        if password.is_empty() {
            return Err(Error::usage("the password is empty"));
        }
        let digest = Md5::digest(format!("{name}:{REALM}:{password}"));
        Ok(Self {
            name: name.to_owned(),
            realm: REALM.to_owned(),
            ha1: digest.iter().map(|b| format!("{b:02x}")).collect(),
        })
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// Usage, saying what an entry looks like; the text itself is not repeated.
    pub fn parse(entry: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::usage(format!("access.users: an entry {why}"))
                .hint("`segd hash-password NAME` prints NAME:REALM:HA1 entries")
        };
        let parts: Vec<&str> = entry.split(':').collect();
        let [name, realm, ha1] = parts[..] else {
            return Err(wrong("is not NAME:REALM:HA1"));
        };
        check_name(name).map_err(|_| wrong("has a name of other than letters, digits, . _ @ -"))?;
        check_name(realm).map_err(|_| wrong("has a realm of other than letters, digits, . _ @ -"))?;
        if ha1.len() != 32 || !ha1.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong("has no HA1 of 32 hexadecimal digits"));
        }
        Ok(Self {
            name: name.to_owned(),
            realm: realm.to_owned(),
            ha1: ha1.to_ascii_lowercase(),
        })
    }

    /// Whether this is the password. How long that takes tells nothing of it.
    pub fn has_password(&self, password: &str) -> bool {
        let digest = Md5::digest(format!("{}:{}:{password}", self.name, self.realm));
        let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        hex.as_bytes().ct_eq(self.ha1.as_bytes()).into()
    }

    /// The user's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The realm that clients are asked to authenticate for.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// The entry for the configuration: a secret.
    pub fn entry(&self) -> String {
        format!("{}:{}:{}", self.name, self.realm, self.ha1)
    }
}

fn check_name(name: &str) -> Result<()> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '-');
    if name.is_empty() || name.len() > 64 || !name.chars().all(is_name) {
        return Err(Error::usage(format!(
            "user name {name:?}, expected up to 64 letters, digits, . _ @ -"
        )));
    }
    Ok(())
}

/// Certificate and key of `rtsps://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// Who may watch an RTSP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtspAccess {
    /// Those who may; all if there are none.
    pub users: Vec<User>,
    /// Names of the users who may change things over HTTP as well.
    pub admins: Vec<String>,
    /// Serve other addresses than loopback without users.
    pub insecure: bool,
    /// For `rtsps://`.
    pub tls: Option<TlsFiles>,
    /// Clients that may watch at a time.
    pub max_clients: u32,
}

impl Default for RtspAccess {
    fn default() -> Self {
        Self {
            users: Vec::new(),
            admins: Vec::new(),
            insecure: false,
            tls: None,
            max_clients: MAX_CLIENTS,
        }
    }
}

impl RtspAccess {
    /// Checks the users together: one realm, and no name twice.
    ///
    /// # Errors
    /// Usage.
    pub fn validate(&self) -> Result<()> {
        for (index, user) in self.users.iter().enumerate() {
            if user.realm != self.users[0].realm {
                return Err(Error::usage(format!(
                    "access.users: realms {} and {}, expected one for all",
                    self.users[0].realm, user.realm
                )));
            }
            if self.users[..index].iter().any(|other| other.name == user.name) {
                return Err(Error::usage(format!(
                    "access.users: {} is listed twice",
                    user.name
                )));
            }
        }
        if let Some(unknown) = self.admins.iter().find(|name| self.user(name).is_none()) {
            let names: Vec<&str> = self.users.iter().map(User::name).collect();
            return Err(Error::usage(format!(
                "access.admins: {unknown:?} is none of access.users, which are {names:?}"
            )));
        }
        if !(1..=1000).contains(&self.max_clients) {
            return Err(Error::usage(format!(
                "access.max_clients = {}, expected 1 to 1000",
                self.max_clients
            )));
        }
        Ok(())
    }

    /// The user of this name.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    /// The realm that all users share.
    pub fn realm(&self) -> &str {
        self.users.first().map_or(REALM, User::realm)
    }

    /// Whether `address` may be served like this.
    ///
    /// # Errors
    /// Usage: open to others without users, or TLS without its files.
    pub fn allows(&self, address: &RtspAddress) -> Result<()> {
        if address.tls && self.tls.is_none() {
            return Err(Error::usage(format!(
                "{address}: rtsps needs access.certificate and access.key"
            )));
        }
        if !address.is_loopback() && self.users.is_empty() && !self.insecure {
            return Err(Error::usage(format!(
                "{address}: everyone who reaches this address could watch: there are no users"
            ))
            .hint(
                "add users to [access] (`segd hash-password NAME` makes an entry), serve 127.0.0.1, or say --insecure",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{OutputSpec, parse_output};

    fn address(text: &str) -> RtspAddress {
        match parse_output(text) {
            Ok(OutputSpec::Rtsp(address)) => address,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_digest_is_that_of_the_rfc() {
        // MD5("Mufasa:testrealm@host.com:Circle Of Life"), RFC 2617, section 3.5.
        let digest = Md5::digest("Mufasa:testrealm@host.com:Circle Of Life");
        let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "939e7578ed9e3c518a452acee763bce9");
        let user = User::new("ann", "secret").unwrap();
        assert_eq!(User::parse(&user.entry()).unwrap(), user);
        assert!(user.has_password("secret"));
        for other in ["", "secre", "secret ", "Secret"] {
            assert!(!user.has_password(other), "{other:?}");
        }
    }

    #[test]
    fn no_secret_is_repeated() {
        let user = User::new("ann", "secret").unwrap();
        assert_eq!(format!("{user:?}"), "User(ann)");
        for entry in ["ann:hunter2", "ann:segd:hunter2", "a b:segd:hunter2", "hunter2"] {
            let error = User::parse(entry).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn open_addresses_need_users_or_a_word() {
        let open = address("rtsp://0.0.0.0:8554/a");
        let mut access = RtspAccess::default();
        assert!(access.allows(&address("rtsp://127.0.0.1:8554/a")).is_ok());
        assert!(
            access
                .allows(&open)
                .unwrap_err()
                .to_string()
                .contains("--insecure")
        );
        access.insecure = true;
        assert!(access.allows(&open).is_ok());
        access.insecure = false;
        access.users.push(User::new("ann", "x").unwrap());
        assert!(access.allows(&open).is_ok());
        let tls = access.allows(&address("rtsps://0.0.0.0:8322/a")).unwrap_err();
        assert!(tls.to_string().contains("access.certificate"), "{tls}");
    }

    #[test]
    fn users_fit_together() {
        let mut access = RtspAccess {
            users: vec![User::new("ann", "x").unwrap(), User::new("ann", "y").unwrap()],
            ..RtspAccess::default()
        };
        assert!(access.validate().unwrap_err().to_string().contains("twice"));
        access.users[1] = User::parse("bob:other:0123456789abcdef0123456789abcdef").unwrap();
        assert!(access.validate().unwrap_err().to_string().contains("one for all"));
        access.users.remove(1);
        access.admins = vec!["bob".into()];
        let unknown = access.validate().unwrap_err().to_string();
        assert!(
            unknown.contains("\"bob\" is none of access.users, which are [\"ann\"]"),
            "{unknown}"
        );
        access.admins = vec!["ann".into()];
        assert!(access.validate().is_ok());
        access.admins.clear();
        access.users.clear();
        access.max_clients = 0;
        assert!(access.validate().is_err());
    }
}
