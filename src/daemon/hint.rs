//! Where the video is to be seen: the page and each RTSP output, in lines that can be copied.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::config::Settings;
use crate::output::{OutputSpec, RtspAddress};
use crate::stdio;

/// Says on standard error where the page is, if it is served at `page`, and how each RTSP output is watched.
pub(super) fn say(settings: &Settings, page: Option<SocketAddr>) {
    if let Some(address) = page {
        let line = page_line(address, settings.access.tls.is_some(), reachable);
        stdio::say(format_args!("segd: {line}"));
    }
    let outputs = settings.cameras.iter().flat_map(|camera| &camera.outputs);
    for output in outputs {
        if let OutputSpec::Rtsp(address) = output
            && let Some(line) = line(address, !settings.access.users.is_empty(), reachable)
        {
            stdio::say(format_args!("segd: {line}"));
        }
    }
}

/// The line for the page.
fn page_line(address: SocketAddr, has_tls: bool, reachable: impl Fn(IpAddr) -> IpAddr) -> String {
    let mut shown = address;
    if address.ip().is_unspecified() {
        shown.set_ip(reachable(address.ip()));
    }
    let scheme = if has_tls { "https" } else { "http" };
    format!("see it in a browser: {scheme}://{shown}/")
}

/// The line for one RTSP address; `None` for a port that is only known once it is open. `reachable` gives an address of this
/// machine for one that stands for all of them.
fn line(address: &RtspAddress, has_users: bool, reachable: impl Fn(IpAddr) -> IpAddr) -> Option<String> {
    if address.port == 0 {
        return None;
    }
    let mut shown = address.clone();
    if let Ok(ip) = address.host.parse::<IpAddr>()
        && ip.is_unspecified()
    {
        shown.host = reachable(ip).to_string();
    }
    let mut url = shown.to_string();
    if has_users {
        url = url.replacen("://", "://USER:PASSWORD@", 1);
    }
    Some(format!(
        "watch it with: ffplay -fflags nobuffer {url}   (or mpv --profile=low-latency {url})"
    ))
}

/// The address under which others most likely reach this machine, of the family of `any` if there is one.
fn reachable(any: IpAddr) -> IpAddr {
    routed(any)
        .or_else(|| first_interface(any))
        // Who listens on all IPv6 addresses is reached over IPv4 too.
        .or_else(|| {
            any.is_ipv6()
                .then(|| routed(Ipv4Addr::UNSPECIFIED.into()))
                .flatten()
        })
        .unwrap_or(match any {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        })
}

/// The address that packets to the outside would carry. None is sent: connecting a UDP socket only looks at the routes.
fn routed(any: IpAddr) -> Option<IpAddr> {
    // Addresses for documentation, which lie behind the default route.
    let outside: IpAddr = match any {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((outside, 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_unspecified() && !own.is_loopback()).then_some(own)
}

/// For networks without a way out: the first address that is neither loopback nor of one link alone.
fn first_interface(any: IpAddr) -> Option<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().ok()?;
    interfaces
        .into_iter()
        .filter(|interface| !interface.is_loopback() && !interface.is_link_local())
        .map(|interface| interface.ip())
        .find(|ip| ip.is_ipv4() == any.is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::parse_output;

    fn said(output: &str, has_users: bool) -> Option<String> {
        let Ok(OutputSpec::Rtsp(address)) = parse_output(output) else {
            panic!("{output}");
        };
        line(&address, has_users, |any| match any {
            IpAddr::V4(_) => "192.0.2.7".parse().unwrap(),
            IpAddr::V6(_) => "2001:db8::7".parse().unwrap(),
        })
    }

    #[test]
    fn the_pages_line_can_be_copied() {
        let line = |address: &str, has_tls| {
            page_line(address.parse().unwrap(), has_tls, |_| {
                "192.0.2.7".parse().unwrap()
            })
        };
        assert!(line("127.0.0.1:8555", false).ends_with(" http://127.0.0.1:8555/"));
        assert!(line("0.0.0.0:80", true).ends_with(" https://192.0.2.7:80/"));
        assert!(line("[2001:db8::7]:8555", false).ends_with(" http://[2001:db8::7]:8555/"));
    }

    #[test]
    fn the_line_leads_to_the_picture_when_it_is_copied() {
        for (output, has_users, url) in [
            ("rtsp://127.0.0.1:8554/segd", false, "rtsp://127.0.0.1:8554/segd"),
            ("rtsp://0.0.0.0:8554/a", false, "rtsp://192.0.2.7:8554/a"),
            ("rtsp://[::]:8554/a", false, "rtsp://[2001:db8::7]:8554/a"),
            (
                "rtsps://0.0.0.0:8322/a",
                true,
                "rtsps://USER:PASSWORD@192.0.2.7:8322/a",
            ),
            (
                "rtsp://edge-3.local:1/a",
                true,
                "rtsp://USER:PASSWORD@edge-3.local:1/a",
            ),
        ] {
            let line = said(output, has_users).unwrap();
            assert!(
                line.contains(&format!("ffplay -fflags nobuffer {url} ")),
                "{line}"
            );
            assert!(
                line.contains(&format!("mpv --profile=low-latency {url}")),
                "{line}"
            );
            assert!(!line.contains("vlc"), "{line}");
        }
        assert_eq!(said("rtsp://127.0.0.1:0/a", false), None);
    }

    #[test]
    fn an_address_of_this_machine_is_always_found() {
        for any in ["0.0.0.0", "::"] {
            let found = reachable(any.parse().unwrap());
            assert!(!found.is_unspecified());
        }
    }
}
