//! Where HTTP and WebRTC are served.

use std::net::{IpAddr, SocketAddr};

use crate::output::access::RtspAccess;
use vision::error::{Error, Result};

/// Where HTTP listens if nothing is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8555";

/// How WebRTC is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebRtcSettings {
    /// The UDP port; 0 for no WebRTC. [`WebRtcSettings::PORT`] if nothing is said, and then a port that is in use is no error.
    pub port: Option<u16>,
    /// The address that browsers send to, where that is not this machine's own: in a container, behind a router.
    pub address: Option<IpAddr>,
}

impl WebRtcSettings {
    /// The port if nothing is said.
    pub const PORT: u16 = 8189;
}

/// Reads `ADDRESS:PORT`.
///
/// # Errors
/// Usage: no address and port, or open to others without users.
pub fn parse_listen(listen: &str, access: &RtspAccess) -> Result<SocketAddr> {
    let address: SocketAddr = listen.parse().map_err(|_| {
        Error::usage(format!(
            "health.listen = {listen:?}, expected ADDRESS:PORT, such as {DEFAULT_LISTEN}, or an empty text"
        ))
    })?;
    may_listen(&address, access)?;
    Ok(address)
}

/// Whether HTTP may be served at `address` by these rules.
///
/// # Errors
/// Usage: open to others without users.
pub fn may_listen(address: &SocketAddr, access: &RtspAccess) -> Result<()> {
    if !address.ip().is_loopback() && access.users.is_empty() && !access.insecure {
        return Err(Error::usage(format!(
            "health.listen = \"{address}\": everyone who reaches this address could look: there are no users"
        ))
        .hint(
            "add users to [access] (`segd hash-password NAME` makes an entry), serve 127.0.0.1, or say --insecure",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::access::User;

    #[test]
    fn only_loopback_without_a_word() {
        let mut access = RtspAccess::default();
        assert!(parse_listen("127.0.0.1:1", &access).is_ok());
        assert!(parse_listen("[::1]:1", &access).is_ok());
        let error = parse_listen("0.0.0.0:1", &access).unwrap_err();
        assert!(error.to_string().contains("--insecure"), "{error}");
        assert_eq!(parse_listen("8555", &access).unwrap_err().exit_code(), 2);
        access.insecure = true;
        assert!(parse_listen("0.0.0.0:1", &access).is_ok());
        access.insecure = false;
        access.users.push(User::new("ann", "x").unwrap());
        assert!(parse_listen("0.0.0.0:1", &access).is_ok());
    }
}
