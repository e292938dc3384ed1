//! Events to a program over HTTP: one POST for each, signed, in the order in which they happened.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use sha2::Sha256;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use ureq::http::{Uri, uri::Authority};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Body};

use super::desk::{Queue, SinkState};
use super::event::Told;
use super::secret::Secret;
use crate::clock::Stop;
use crate::mailbox::Received;
use vision::error::{Error, Result};
use vision::file;

/// Largest file of certificates in bytes.
const MAX_CA_BYTES: u64 = 16 << 20;

/// A program that is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookOptions {
    /// Where it is, as [`address`] takes it. Its path may be a secret, and no log shows it.
    pub url: String,
    /// What the signature is made with.
    pub secret: Option<Secret>,
    /// PEM file of the certificates that may sign the program's; the system's if not given.
    pub ca: Option<PathBuf>,
}

/// The header that has the signature: `sha256=` and the HMAC-SHA256 of the body in hexadecimal digits.
pub const SIGNATURE: &str = "X-Segd-Signature";

/// How long the thread waits for an event before it looks at its stop.
const LOOK: Duration = Duration::from_millis(200);
/// Redirects that are followed.
const MOST_REDIRECTS: usize = 3;
/// What is read of an answer, so that its connection can be used again.
const MOST_ANSWER: u64 = 64 << 10;

/// How long what is waited for.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// One request, its answer included.
    request: Duration,
    /// Between the first two tries; doubled from try to try.
    first: Duration,
    /// Between two tries, at most.
    most: Duration,
    /// From an event's first try on: then it is lost.
    give_up: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(10),
            first: Duration::from_secs(1),
            most: Duration::from_secs(60),
            give_up: Duration::from_secs(600),
        }
    }
}

/// Reads an address: `http://HOST[:PORT]/PATH` or `https://`.
///
/// # Errors
/// What is wrong with it.
pub fn address(url: &str) -> std::result::Result<Uri, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "it is no address")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("it does not begin with http:// or https://");
    }
    match uri.authority() {
        None => Err("there is no host"),
        Some(authority) if authority.host().is_empty() => Err("there is no host"),
        Some(authority) if authority.as_str().contains('@') => Err("user and password have no place in it"),
        Some(_) => Ok(uri),
    }
}

/// Where an address leads to, without its path.
pub fn host_of(url: &str) -> String {
    match url.parse::<Uri>() {
        Ok(uri) => format!(
            "{}://{}",
            uri.scheme_str().unwrap_or(""),
            uri.authority().map_or("", Authority::as_str)
        ),
        Err(_) => String::new(),
    }
}

/// The header's value for a body.
pub fn signature(secret: &str, body: &[u8]) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        return String::new();
    };
    mac.update(body);
    let digits = mac.finalize().into_bytes();
    let digits: String = digits.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}

/// Sends events until its stop, each until it has arrived or is given up.
pub fn run(options: &WebhookOptions, state: &SinkState, from: &Queue, stop: &Stop) {
    run_with(Patience::default(), options, state, from, stop);
}

fn run_with(patience: Patience, options: &WebhookOptions, state: &SinkState, from: &Queue, stop: &Stop) {
    let mut hook = Webhook {
        options,
        patience,
        agent: None,
    };
    loop {
        let ends = stop.is_stopped();
        let wait = if ends { Duration::ZERO } else { LOOK };
        match from.recv_timeout(wait) {
            Received::Item(told) => {
                let arrived = hook.deliver(&told, state, stop);
                let count = if arrived { &state.delivered } else { &state.failed };
                count.fetch_add(1, Relaxed);
                if ends && !arrived {
                    return;
                }
            }
            Received::Timeout if ends => return,
            Received::Timeout => {}
            Received::Closed => return,
        }
    }
}

/// What became of a request that did not arrive.
struct Failure {
    why: Error,
    /// Whether it may arrive later, and what the other side asks to wait.
    again: Option<Duration>,
}

impl Failure {
    fn for_now(why: Error) -> Self {
        Self {
            why,
            again: Some(Duration::ZERO),
        }
    }

    fn for_ever(why: Error) -> Self {
        Self { why, again: None }
    }
}

struct Webhook<'a> {
    options: &'a WebhookOptions,
    patience: Patience,
    /// Made at the first event, and again after a failure: a certificate may be new.
    agent: Option<Agent>,
}

impl Webhook<'_> {
    /// Sends an event, again and again; whether it has arrived.
    fn deliver(&mut self, told: &Told, state: &SinkState, stop: &Stop) -> bool {
        let began = Instant::now();
        let mut pause = self.patience.first;
        loop {
            let Failure { why, again } = match self.post(told) {
                Ok(()) => {
                    state.set(&Ok(()));
                    return true;
                }
                Err(failure) => failure,
            };
            self.agent = None;
            state.set(&Err(why));
            let Some(asked) = again else {
                return false;
            };
            let wait = pause.max(asked).min(self.patience.most);
            if began.elapsed() + wait > self.patience.give_up || stop.wait(wait) {
                return false;
            }
            pause *= 2;
        }
    }

    fn post(&mut self, told: &Told) -> std::result::Result<(), Failure> {
        let host = host_of(&self.options.url);
        let agent = match &self.agent {
            Some(agent) => agent,
            None => self
                .agent
                .insert(agent(self.options, self.patience.request).map_err(Failure::for_now)?),
        };
        let mut uri = address(&self.options.url)
            .map_err(|why| Failure::for_ever(Error::fatal(format!("{host}: {why}"))))?;
        let signature = self
            .options
            .secret
            .as_ref()
            .map(|secret| signature(&secret.0, told.json.as_bytes()));
        for _ in 0..=MOST_REDIRECTS {
            let mut request = agent.post(&uri).content_type("application/json");
            if let Some(signature) = &signature {
                request = request.header(SIGNATURE, signature);
            }
            let mut answer = request
                .send(told.json.as_bytes())
                .map_err(|e| Failure::for_now(explain(&host, e)))?;
            let status = answer.status().as_u16();
            let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
            match status {
                200..300 => {
                    drain(answer.body_mut());
                    return Ok(());
                }
                307 | 308 => {
                    uri = header("location")
                        .and_then(|to| within(&uri, to))
                        .ok_or_else(|| Failure::for_ever(redirected(&host, status, header("location"))))?;
                    drain(answer.body_mut());
                }
                300..400 => return Err(Failure::for_ever(redirected(&host, status, header("location")))),
                408 | 425 | 429 | 500.. => {
                    let asked = header("retry-after").and_then(|text| text.parse().ok());
                    return Err(Failure {
                        why: Error::transient(format!("{host}: answers {status}")),
                        again: Some(asked.map_or(Duration::ZERO, Duration::from_secs)),
                    });
                }
                _ => {
                    let why = Error::transient(format!("{host}: answers {status}, and the event is lost"));
                    return Err(Failure::for_ever(
                        why.hint("look at events.webhook and at what it leads to"),
                    ));
                }
            }
        }
        Err(Failure::for_ever(Error::transient(format!(
            "{host}: redirects more than {MOST_REDIRECTS} times, and the event is lost"
        ))))
    }
}

/// Takes the rest of an answer, which nobody reads.
fn drain(body: &mut Body) {
    let _ = std::io::copy(&mut body.as_reader().take(MOST_ANSWER), &mut std::io::sink());
}

/// Where a redirect leads to, if that is the same host by the same scheme.
fn within(from: &Uri, to: &str) -> Option<Uri> {
    let to: Uri = to.parse().ok()?;
    let path = to.path_and_query()?.clone();
    if to.authority().is_some() && (to.authority(), to.scheme()) != (from.authority(), from.scheme()) {
        return None;
    }
    let mut parts = from.clone().into_parts();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).ok()
}

fn redirected(host: &str, status: u16, to: Option<&str>) -> Error {
    let to = to.map_or_else(|| "nowhere".to_owned(), host_of);
    Error::transient(format!(
        "{host}: answers {status} and leads to {to:?}, and the event is lost"
    ))
    .hint("name the address that it leads to: events go to no other host, and a POST is repeated after 307 and 308 alone")
}

fn explain(host: &str, error: ureq::Error) -> Error {
    let hint = match &error {
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => {
            Some("events.webhook_ca must name the certificates that sign the host's")
        }
        _ => None,
    };
    let error = Error::transient(format!("{host}: is not reached")).caused_by(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Speaks HTTP: follows no redirect by itself, uses no proxy, and takes every answer as one.
fn agent(options: &WebhookOptions, limit: Duration) -> Result<Agent> {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(limit))
        .user_agent(concat!("segd/", env!("CARGO_PKG_VERSION")));
    if options.url.starts_with("https:") {
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(default_provider()))
            .root_certs(RootCerts::new_with_certs(&certificates(options)?));
        config = config.tls_config(tls.build());
    }
    Ok(config.build().into())
}

/// The certificates that may sign the program's.
fn certificates(options: &WebhookOptions) -> Result<Vec<Certificate<'static>>> {
    let Some(path) = &options.ca else {
        let found = rustls_native_certs::load_native_certs();
        return match found.certs.is_empty() {
            true => Err(
                Error::transient("the system has no certificates that sign others")
                    .hint("install ca-certificates, or set events.webhook_ca"),
            ),
            false => Ok(found
                .certs
                .iter()
                .map(|der| Certificate::from_der(der).to_owned())
                .collect()),
        };
    };
    let fail = |why: String| {
        Error::transient(format!("events.webhook_ca {}: can't be read", path.display())).caused_by(why)
    };
    let text = file::read(path, MAX_CA_BYTES).map_err(|e| fail(e.to_string()))?;
    let mut all = Vec::new();
    for item in parse_pem(&text) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| fail(e.to_string()))? {
            all.push(certificate);
        }
    }
    match all.is_empty() {
        true => Err(fail("there is no certificate in it".into())),
        false => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::events::EventDesk;
    use crate::events::event::tests::event;
    use crate::events::event::{Event, Kind};

    const QUICK: Patience = Patience {
        request: Duration::from_secs(20),
        first: Duration::from_millis(2),
        most: Duration::from_millis(20),
        give_up: Duration::from_secs(20),
    };

    /// A request: its path, its headers in lower case, and its body.
    struct Asked {
        path: String,
        head: Vec<String>,
        body: String,
    }

    impl Asked {
        fn read(stream: &TcpStream) -> Option<Self> {
            let mut lines = BufReader::new(stream);
            let mut line = || {
                let mut text = String::new();
                lines.read_line(&mut text).ok().filter(|n| *n > 0)?;
                Some(text.trim_end().to_owned())
            };
            let first = line()?;
            let mut head = Vec::new();
            while let Some(text) = line().filter(|text| !text.is_empty()) {
                head.push(text.to_lowercase());
            }
            let length = head
                .iter()
                .find_map(|text| text.strip_prefix("content-length: "))?;
            let mut body = vec![0; length.parse().ok()?];
            lines.read_exact(&mut body).ok()?;
            Some(Self {
                path: first.split(' ').nth(1)?.to_owned(),
                head,
                body: String::from_utf8(body).ok()?,
            })
        }

        fn header(&self, name: &str) -> Option<&str> {
            let name = format!("{}: ", name.to_lowercase());
            self.head.iter().find_map(|text| text.strip_prefix(name.as_str()))
        }

        fn kind(&self) -> Kind {
            serde_json::from_str::<Event>(&self.body).unwrap().kind
        }
    }

    /// Answers requests one after the other; `None` leaves one without an answer.
    fn serve(
        listener: TcpListener,
        mut answer: impl FnMut(usize) -> Option<String> + Send + 'static,
    ) -> Receiver<Asked> {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            // Who gets no answer is held on to.
            let mut held = Vec::new();
            for (number, stream) in listener.incoming().map_while(std::io::Result::ok).enumerate() {
                let Some(asked) = Asked::read(&stream) else {
                    continue;
                };
                if sender.send(asked).is_err() {
                    return;
                }
                match answer(number) {
                    Some(text) => {
                        let _ = write!(
                            &stream,
                            "HTTP/1.1 {text}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        );
                    }
                    None => held.push(stream),
                }
            }
        });
        receiver
    }

    fn listen() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        (listener, url)
    }

    fn hooked(url: &str, secret: Option<&str>, patience: Patience) -> Arc<EventDesk> {
        let desk = EventDesk::new(["door"]);
        let options = WebhookOptions {
            url: url.to_owned(),
            secret: secret.map(|text| Secret(text.to_owned())),
            ca: None,
        };
        desk.attach("webhook", host_of(url), move |state, from, stop| {
            run_with(patience, &options, state, from, stop);
        })
        .unwrap();
        desk
    }

    #[track_caller]
    fn wait_for(mut ready: impl FnMut() -> bool) {
        let limit = Instant::now() + Duration::from_secs(30);
        while !ready() {
            assert!(Instant::now() < limit);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn counts(desk: &EventDesk) -> (u64, u64) {
        let state = &desk.sinks()[0];
        (state.delivered.load(Relaxed), state.lost())
    }

    #[test]
    fn a_signature_is_that_of_the_standard() {
        // RFC 4231, test case 2.
        assert_eq!(
            signature("Jefe", b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn an_address_is_taken_or_refused() {
        assert!(address("https://example.org/a?b=c").is_ok());
        assert!(address("http://[::1]:8080/").is_ok());
        for (url, why) in [
            ("ftp://example.org/", "http://"),
            ("example.org", "http://"),
            ("http:///a", "address"),
            ("http://ann:pw@example.org/", "password"),
            ("http://a b/", "address"),
        ] {
            assert!(
                address(url).unwrap_err().contains(why),
                "{url}: {:?}",
                address(url)
            );
        }
        assert_eq!(
            host_of("https://example.org:1/secret/path"),
            "https://example.org:1"
        );
    }

    #[test]
    fn events_arrive_in_order_signed_and_are_repeated_until_they_do() {
        let (listener, url) = listen();
        let answers = |number| {
            Some(match number {
                0 => "500 Broken".to_owned(),
                1 => "429 Slowly\r\nRetry-After: 0".to_owned(),
                2 => "204 Taken".to_owned(),
                _ => "200 OK".to_owned(),
            })
        };
        let asked = serve(listener, answers);
        let desk = hooked(&url, Some("open sesame"), QUICK);
        desk.publish(event(Kind::Start));
        desk.publish(event(Kind::End));
        let all: Vec<Asked> = (0..4).map(|_| asked.recv().unwrap()).collect();
        let kinds: Vec<Kind> = all.iter().map(Asked::kind).collect();
        assert_eq!(kinds, [Kind::Start, Kind::Start, Kind::Start, Kind::End]);
        for one in &all {
            assert_eq!(
                (one.path.as_str(), one.header("content-type")),
                ("/hook", Some("application/json"))
            );
            let expected = signature("open sesame", one.body.as_bytes());
            assert_eq!(one.header(SIGNATURE), Some(expected.as_str()));
        }
        wait_for(|| counts(&desk) == (2, 0));
        assert!(desk.troubles().is_empty());
    }

    #[test]
    fn a_redirect_is_followed_within_the_host_alone() {
        let (elsewhere, other) = listen();
        let strangers = serve(elsewhere, |_| Some("200 OK".into()));
        for (answer, follows) in [
            (format!("307 There\r\nLocation: {other}"), false),
            (format!("302 There\r\nLocation: {other}"), false),
            ("302 There\r\nLocation: /new".to_owned(), false),
            ("301 There".to_owned(), false),
            ("308 There\r\nLocation: /new?a=b".to_owned(), true),
        ] {
            let (listener, url) = listen();
            let first = answer.clone();
            let asked = serve(listener, move |number| {
                Some(if number == 0 {
                    first.clone()
                } else {
                    "200 OK".to_owned()
                })
            });
            let desk = hooked(&url, None, QUICK);
            desk.publish(event(Kind::Start));
            assert_eq!(asked.recv().unwrap().header(SIGNATURE), None);
            match follows {
                true => {
                    let second = asked.recv().unwrap();
                    assert_eq!((second.path.as_str(), second.kind()), ("/new?a=b", Kind::Start));
                    wait_for(|| counts(&desk) == (1, 0));
                }
                false => {
                    wait_for(|| counts(&desk) == (0, 1));
                    let why = desk.troubles().join("");
                    assert!(why.contains("and leads to"), "{answer}: {why}");
                }
            }
        }
        assert!(strangers.try_recv().is_err(), "nothing goes to another host");
    }

    #[test]
    fn a_host_that_is_gone_is_waited_for_and_what_it_refuses_is_lost() {
        let (listener, url) = listen();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let desk = hooked(&url, None, QUICK);
        desk.publish(event(Kind::Start));
        wait_for(|| desk.troubles().iter().any(|why| why.contains("is not reached")));
        assert_eq!(counts(&desk), (0, 0));
        let asked = serve(TcpListener::bind(address).unwrap(), |number| {
            Some(if number == 1 {
                "410 Gone".into()
            } else {
                "200 OK".to_owned()
            })
        });
        assert_eq!(asked.recv().unwrap().kind(), Kind::Start);
        desk.publish(event(Kind::Update));
        assert_eq!(asked.recv().unwrap().kind(), Kind::Update);
        wait_for(|| counts(&desk) == (1, 1));
        assert!(
            desk.troubles().join("").contains("answers 410"),
            "{:?}",
            desk.troubles()
        );
        desk.publish(event(Kind::End));
        wait_for(|| counts(&desk) == (2, 1));
        assert!(desk.troubles().is_empty());
    }

    #[test]
    fn a_slow_host_costs_itself_alone_and_what_it_misses_is_counted() {
        let (listener, url) = listen();
        let asked = serve(listener, |_| None);
        let desk = hooked(
            &url,
            None,
            Patience {
                request: Duration::from_millis(100),
                give_up: Duration::from_millis(150),
                ..QUICK
            },
        );
        let many = super::super::desk::QUEUE as u64 + 50;
        for _ in 0..many {
            desk.publish(event(Kind::Update));
        }
        assert!(asked.recv().is_ok());
        wait_for(|| desk.sinks()[0].failed.load(Relaxed) >= 1);
        assert!(counts(&desk).1 >= 50, "{:?}", counts(&desk));
        assert!(desk.troubles().join("").contains("is not reached"));
        desk.close();
    }
}
