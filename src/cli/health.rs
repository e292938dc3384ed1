//! `segd health`: asks the daemon on this machine how it is, for healthchecks of containers and for scripts.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use crate::config::{DEFAULT_LISTEN, Layer, Origin, from_environment};
use vision::error::{Error, Result};

/// The longest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// Arguments of `segd health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Where the daemon's HTTP listens [default: health.listen of the configuration, or 127.0.0.1:8555]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http: Option<String>,
    /// Configuration file [default: /etc/segd/segd.toml if it exists]
    #[arg(long, value_name = "FILE", env = "SEGD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Ask whether every camera's pictures go out, not whether anything is wrong
    #[arg(long)]
    pub ready: bool,
    /// How long the daemon may take to answer
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = duration)]
    pub timeout: Duration,
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("expected more than nothing, such as 3s".into()),
        Ok(duration) => Ok(duration),
        Err(e) => Err(e.to_string()),
    }
}

/// Prints what the daemon says of itself.
///
/// # Errors
/// Usage: no address, or none that is one; fatal: nobody answers, or something is wrong.
pub fn run(args: HealthArgs) -> Result<()> {
    let listen = match &args.http {
        Some(listen) => listen.clone(),
        None => configured(args.config)?,
    };
    let address: SocketAddr = listen.parse().map_err(|_| {
        Error::usage(format!(
            "{listen:?} is where the daemon's HTTP should listen, expected ADDRESS:PORT, such as {DEFAULT_LISTEN}"
        ))
    })?;
    let address = reachable(address);
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let answer = ask(address, path, args.timeout)
        .map_err(|e| Error::fatal(format!("no answer from http://{address}{path}")).caused_by(e))?;
    let (code, text) = parse(&answer).ok_or_else(|| {
        Error::fatal(format!(
            "what listens at {address} does not speak HTTP as segd does"
        ))
    })?;
    match code {
        200 => {
            println!("{}", text.trim_end());
            Ok(())
        }
        503 => Err(Error::fatal(text.trim_end().to_owned())),
        other => Err(Error::fatal(format!(
            "http://{address}{path} answers {other}, expected 200 or 503: is that segd?"
        ))),
    }
}

/// `health.listen` of file and environment.
fn configured(config: Option<PathBuf>) -> Result<String> {
    let origin = Origin {
        config,
        arguments: Layer::default(),
    };
    let file = match origin.file() {
        Some(path) => Layer::read(&path)?,
        None => Layer::default(),
    };
    let layers = from_environment(std::env::vars_os())?.over(&file);
    match layers.health.listen {
        None => Ok(DEFAULT_LISTEN.into()),
        Some(listen) if listen.is_empty() => Err(Error::usage(
            "health.listen is empty: this segd serves no HTTP, and can't be asked",
        )),
        Some(listen) => Ok(listen),
    }
}

/// Where a daemon that listens at `address` is reached from this machine: all addresses include loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The whole answer to a GET, within `limit`.
fn ask(address: SocketAddr, path: &str, limit: Duration) -> std::io::Result<Vec<u8>> {
    let deadline = Instant::now() + limit;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(std::io::Error::from(std::io::ErrorKind::TimedOut)),
            false => Ok(left),
        }
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    let mut bytes = [0; 4096];
    while answer.len() < MAX_ANSWER {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&bytes[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            // A read that timed out says "would block".
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            Err(e) => return Err(e),
        }
    }
    Ok(answer)
}

/// Status code and text of an answer.
fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut status = head.lines().next()?.split(' ');
    status.next().filter(|version| version.starts_with("HTTP/1."))?;
    let code = status.next()?.parse().ok()?;
    Some((code, String::from_utf8_lossy(&answer[end + 4..]).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers one request with `answer`, or not at all; gives what was asked.
    fn answering(answer: Option<&'static str>) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = String::new();
            while !asked.ends_with("\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                asked.push(byte[0].into());
            }
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
                // Until the client is gone.
                None => drop(stream.read(&mut [0])),
            }
            asked
        });
        (address, thread)
    }

    fn health(address: SocketAddr, ready: bool) -> Result<()> {
        run(HealthArgs {
            http: Some(address.to_string()),
            config: None,
            ready,
            timeout: Duration::from_millis(300),
        })
    }

    #[test]
    fn a_well_daemon_is_well() {
        let (address, thread) = answering(Some("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n"));
        health(address, false).unwrap();
        assert!(thread.join().unwrap().starts_with("GET /healthz HTTP/1.1\r\n"));
        let (address, thread) = answering(Some("HTTP/1.1 200 OK\r\n\r\nready\n"));
        health(address, true).unwrap();
        assert!(thread.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
    }

    #[test]
    fn what_is_wrong_is_said_and_is_an_error() {
        for (answer, said) in [
            (
                Some("HTTP/1.1 503 Service Unavailable\r\n\r\ndoor: source lost\n"),
                "door: source lost",
            ),
            (Some("HTTP/1.1 404 Not Found\r\n\r\n"), "answers 404"),
            (Some("RTSP/1.0 200 OK\r\n\r\n"), "does not speak HTTP"),
            (Some("HTTP/1.1 200"), "does not speak HTTP"),
            (None, "no answer"),
        ] {
            let (address, thread) = answering(answer);
            let error = health(address, false).unwrap_err();
            assert!(error.to_string().contains(said), "{answer:?}: {error}");
            assert_eq!(error.exit_code(), 1);
            thread.join().unwrap();
        }
    }

    #[test]
    fn all_addresses_are_asked_at_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:2", "[::1]:2"),
            ("192.0.2.1:3", "192.0.2.1:3"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
