//! The client's side of RTSP 1.0 (RFC 2326), as far as sending a stream to a server needs it: requests and their answers
//! over one connection, users by digest (RFC 2617, RFC 7616) or in clear, and packets between the two.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use sha2::{Digest as _, Sha256};

use crate::output::push_address::Credentials;

/// How long a server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The longest head of an answer in bytes, and the longest text behind it.
const LONGEST_HEAD: usize = 16 * 1024;
const LONGEST_BODY: usize = 64 * 1024;

/// Letters of a server's words that errors repeat.
const LONGEST_REASON: usize = 80;

/// How a server wants to know who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    /// User and password, in clear.
    Basic,
    /// A hash of them.
    Digest {
        realm: String,
        nonce: String,
        opaque: Option<String>,
        hash: Hash,
        /// Whether the hash is over a number of ours as well (`qop="auth"`).
        counts: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hash {
    Md5,
    Sha256,
}

impl Hash {
    fn of(self, text: &str) -> String {
        let bytes = match self {
            Self::Md5 => Md5::digest(text).to_vec(),
            Self::Sha256 => Sha256::digest(text).to_vec(),
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The parameters of a challenge: `name=value` and `name="value"` with commas between them.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut rest = text.trim_start();
    while let Some((name, value)) = rest.split_once('=') {
        let (value, behind) = match value.trim_start().strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => {
                let end = value.find(',').unwrap_or(value.len());
                value.split_at(end)
            }
        };
        let name = name.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        all.push((name, value.trim().to_owned()));
        rest = behind.trim_start_matches([' ', ',', '\t']);
    }
    all
}

impl Challenge {
    /// The best of those that a server offers.
    fn of(answer: &Answer) -> Option<Self> {
        let offered = answer.all("www-authenticate").filter_map(|text| {
            let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
            if scheme.eq_ignore_ascii_case("basic") {
                return Some(Self::Basic);
            }
            if !scheme.eq_ignore_ascii_case("digest") {
                return None;
            }
            let given = parameters(rest);
            let get = |name: &str| {
                given
                    .iter()
                    .find(|(n, _)| n == name)
                    .map(|(_, value)| value.clone())
            };
            let hash = match get("algorithm").map(|name| name.to_ascii_lowercase()).as_deref() {
                None | Some("md5") => Hash::Md5,
                Some("sha-256") => Hash::Sha256,
                Some(_) => return None,
            };
            let qop = get("qop");
            let counts = qop
                .as_deref()
                .is_some_and(|all| all.split(',').any(|one| one.trim() == "auth"));
            // Only hashes of the text as well are asked for.
            if qop.is_some() && !counts {
                return None;
            }
            Some(Self::Digest {
                realm: get("realm").unwrap_or_default(),
                nonce: get("nonce")?,
                opaque: get("opaque"),
                hash,
                counts,
            })
        });
        offered.max_by_key(|challenge| match challenge {
            Self::Basic => None,
            Self::Digest { hash, .. } => Some(*hash),
        })
    }

    /// What a request says to be let in. `count` is how often the server's number was used, with this one.
    fn answer(&self, who: &Credentials, method: &str, url: &str, count: u32, ours: &str) -> String {
        let Credentials { user, password } = who;
        match self {
            Self::Basic => format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
            Self::Digest {
                realm,
                nonce,
                opaque,
                hash,
                counts,
            } => {
                let secret = hash.of(&format!("{user}:{realm}:{password}"));
                let asked = hash.of(&format!("{method}:{url}"));
                let (between, more) = match counts {
                    true => (
                        format!("{count:08x}:{ours}:auth:"),
                        format!(", qop=auth, nc={count:08x}, cnonce=\"{ours}\""),
                    ),
                    false => (String::new(), String::new()),
                };
                let response = hash.of(&format!("{secret}:{nonce}:{between}{asked}"));
                let algorithm = match hash {
                    Hash::Md5 => "",
                    Hash::Sha256 => ", algorithm=SHA-256",
                };
                let opaque = opaque
                    .as_ref()
                    .map_or_else(String::new, |text| format!(", opaque=\"{text}\""));
                let user = user.replace('\\', "\\\\").replace('"', "\\\"");
                format!(
                    "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{url}\", \
                     response=\"{response}\"{algorithm}{opaque}{more}"
                )
            }
        }
    }
}

/// A server's answer, without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    status: u16,
    reason: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
}

impl Answer {
    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// The first header of this name, which is written in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }
}

/// What comes from a server.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    Answer(Answer),
    /// A packet, or a request of its own, neither of which tells anything.
    Other,
}

/// The first message of what has come, if it is whole.
///
/// # Errors
/// Why it is none.
fn take(input: &mut VecDeque<u8>) -> Result<Option<Message>, String> {
    let bytes = input.make_contiguous();
    match bytes {
        [] => return Ok(None),
        [b'$', rest @ ..] => {
            let [_, high, low, ..] = rest else {
                return Ok(None);
            };
            let length = 4 + usize::from(u16::from_be_bytes([*high, *low]));
            if bytes.len() < length {
                return Ok(None);
            }
            input.drain(..length);
            return Ok(Some(Message::Other));
        }
        _ => {}
    }
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return match bytes.len() > LONGEST_HEAD {
            true => Err("what it says is no RTSP".into()),
            false => Ok(None),
        };
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(Ok(0), |(_, text)| text.parse::<usize>());
    let length = length
        .ok()
        .filter(|n| *n <= LONGEST_BODY)
        .ok_or("the length of its answer is no number, or too large")?;
    if bytes.len() < end + 4 + length {
        return Ok(None);
    }
    input.drain(..end + 4 + length);
    let Some(status) = first.strip_prefix("RTSP/") else {
        let is_request = first.ends_with("RTSP/1.0");
        return match is_request {
            true => Ok(Some(Message::Other)),
            false => Err("what it says is no RTSP".into()),
        };
    };
    let mut words = status.splitn(3, ' ').skip(1);
    let status = words.next().and_then(|word| word.parse().ok());
    Ok(Some(Message::Answer(Answer {
        status: status.ok_or("its answer has no status")?,
        reason: words
            .next()
            .unwrap_or_default()
            .chars()
            .filter(|c| !c.is_control())
            .take(LONGEST_REASON)
            .collect(),
        headers,
    })))
}

/// One connection.
pub(super) struct Client<S> {
    stream: S,
    credentials: Option<Credentials>,
    challenge: Option<Challenge>,
    /// How often the server's number was used.
    uses: u32,
    /// Our number beside it.
    ours: String,
    number: u32,
    session: Option<String>,
    input: VecDeque<u8>,
    /// When something came last.
    heard: Instant,
}

impl<S: Read + Write> Client<S> {
    /// Over a stream whose reads end after a while. `ours` is a random text.
    pub(super) fn new(stream: S, credentials: Option<Credentials>, ours: String) -> Self {
        Self {
            stream,
            credentials,
            challenge: None,
            uses: 0,
            ours,
            number: 0,
            session: None,
            input: VecDeque::new(),
            heard: Instant::now(),
        }
    }

    /// What it goes over.
    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// How long nothing has come.
    pub(super) fn silent_for(&self) -> Duration {
        self.heard.elapsed()
    }

    /// Sends a request without waiting for its answer.
    ///
    /// # Errors
    /// As the stream says.
    pub(super) fn send(&mut self, method: &str, url: &str, headers: &str, body: &str) -> std::io::Result<()> {
        self.number += 1;
        let mut text = format!(
            "{method} {url} RTSP/1.0\r\nCSeq: {}\r\nUser-Agent: segd\r\n",
            self.number
        );
        if let (Some(challenge), Some(who)) = (&self.challenge, &self.credentials) {
            self.uses += 1;
            let answer = challenge.answer(who, method, url, self.uses, &self.ours);
            text.push_str(&format!("Authorization: {answer}\r\n"));
        }
        if let Some(session) = &self.session {
            text.push_str(&format!("Session: {session}\r\n"));
        }
        text.push_str(headers);
        if !body.is_empty() {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(body);
        self.write(text.as_bytes())
    }

    /// Sends a request, and waits for its answer, which is a good one. Who asks is said if the server wants to know.
    ///
    /// # Errors
    /// Why there is none, without user and password.
    pub(super) fn ask(
        &mut self,
        method: &str,
        url: &str,
        headers: &str,
        body: &str,
    ) -> Result<Answer, String> {
        let mut is_second = false;
        loop {
            self.send(method, url, headers, body)
                .map_err(|e| format!("{method} can't be sent: {e}"))?;
            let answer = self.answer()?;
            if (200..300).contains(&answer.status) {
                if let Some(session) = answer.header("session") {
                    let id = session.split(';').next().unwrap_or_default().trim();
                    self.session = Some(id.to_owned());
                }
                return Ok(answer);
            }
            let offered = Challenge::of(&answer);
            let why = match (answer.status, offered.is_some()) {
                // A number of the server's that has grown old is answered so as well.
                (401, true) if !is_second && self.credentials.is_some() => {
                    self.challenge = offered;
                    self.uses = 0;
                    is_second = true;
                    continue;
                }
                (401, _) if self.credentials.is_none() => ": it wants a user and a password",
                (401, true) => ": user or password are wrong",
                (401, false) => ": it takes users in no way that segd knows",
                _ => "",
            };
            return Err(format!(
                "it answers {method} with {} {}{why}",
                answer.status, answer.reason
            ));
        }
    }

    fn answer(&mut self) -> Result<Answer, String> {
        let begun = Instant::now();
        loop {
            while let Some(message) = take(&mut self.input)? {
                if let Message::Answer(answer) = message {
                    return Ok(answer);
                }
            }
            if begun.elapsed() > ANSWER {
                return Err(format!("it did not answer within {} s", ANSWER.as_secs()));
            }
            self.read().map_err(|e| format!("it does not answer: {e}"))?;
        }
    }

    /// Takes what has come, which tells nothing but that somebody is there.
    ///
    /// # Errors
    /// Why nothing will come any more, or that a later request was refused.
    pub(super) fn listen(&mut self) -> Result<(), String> {
        while self
            .read()
            .map_err(|e| format!("the connection has ended: {e}"))?
            > 0
        {
            while let Some(message) = take(&mut self.input)? {
                match message {
                    // It wants to know again who asks: the next request says so.
                    Message::Answer(answer) if answer.status == 401 => {
                        self.challenge = Challenge::of(&answer);
                        self.uses = 0;
                    }
                    // It has forgotten the session.
                    Message::Answer(answer) if answer.status == 454 => {
                        return Err(format!("it answers with 454 {}", answer.reason));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Reads once; gives how many bytes came, none if there are none now.
    fn read(&mut self) -> std::io::Result<usize> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(std::io::Error::new(
                ErrorKind::UnexpectedEof,
                "the server has closed it",
            )),
            Ok(count) => {
                self.heard = Instant::now();
                self.input.extend(&bytes[..count]);
                Ok(count)
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Ok(0)
            }
            Err(e) => Err(e),
        }
    }

    /// Sends bytes as they are: packets.
    ///
    /// # Errors
    /// As the stream says.
    pub(super) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        let mut input = VecDeque::from(text.as_bytes().to_vec());
        match take(&mut input) {
            Ok(Some(Message::Answer(answer))) => answer,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn challenge(headers: &str) -> Option<Challenge> {
        Challenge::of(&answer(&format!(
            "RTSP/1.0 401 Unauthorized\r\n{headers}\r\n\r\n"
        )))
    }

    #[test]
    fn the_digest_is_that_of_the_rfc() {
        let who = Credentials {
            user: "Mufasa".into(),
            password: "Circle Of Life".into(),
        };
        // RFC 2617, section 3.5.
        let asked = challenge(
            "WWW-Authenticate: Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", \
             nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"",
        )
        .unwrap();
        let said = asked.answer(&who, "GET", "/dir/index.html", 1, "0a4f113b");
        assert!(
            said.contains("response=\"6629fae49393a05397450978507c4ef1\""),
            "{said}"
        );
        assert!(
            said.contains("opaque=\"5ccc069c403ebaf9f0171e9517f40e41\", qop=auth, nc=00000001"),
            "{said}"
        );
        // RFC 7616, section 3.9.1.
        let who = Credentials {
            password: "Circle of Life".into(),
            ..who
        };
        let asked = challenge(
            "WWW-Authenticate: Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm=SHA-256, \
             nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"",
        )
        .unwrap();
        let ours = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        let said = asked.answer(&who, "GET", "/dir/index.html", 1, ours);
        assert!(
            said.contains("response=\"753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1\""),
            "{said}"
        );
    }

    #[test]
    fn the_best_challenge_is_taken_and_unknown_ones_are_not() {
        let both = "WWW-Authenticate: Basic realm=\"a\"\r\nWWW-Authenticate: Digest realm=\"a\", nonce=\"n\"";
        assert!(matches!(
            challenge(both),
            Some(Challenge::Digest { hash: Hash::Md5, .. })
        ));
        assert_eq!(
            challenge("WWW-Authenticate: Basic realm=\"a\""),
            Some(Challenge::Basic)
        );
        for unknown in [
            "",
            "WWW-Authenticate: Bearer",
            "WWW-Authenticate: Digest realm=\"a\"",
            "WWW-Authenticate: Digest realm=\"a\", nonce=\"n\", algorithm=MD5-sess",
            "WWW-Authenticate: Digest realm=\"a\", nonce=\"n\", qop=\"auth-int\"",
        ] {
            assert_eq!(challenge(unknown), None, "{unknown}");
        }
        let given = parameters("realm = \"a, b=c\", nonce=x , stale=FALSE,opaque=\"\"");
        let expected = [
            ("realm", "a, b=c"),
            ("nonce", "x"),
            ("stale", "FALSE"),
            ("opaque", ""),
        ];
        assert_eq!(given, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }

    #[test]
    fn answers_come_between_packets_and_in_parts() {
        let sent = b"$\x01\0\x03abcOPTIONS rtsp://a RTSP/1.0\r\nCSeq: 1\r\n\r\nRTSP/1.0 200 OK\r\nSession: 7;timeout=9\r\n\
                     Content-Length: 3\r\n\r\nxyz$";
        let mut input = VecDeque::new();
        let mut seen = Vec::new();
        for byte in sent {
            input.push_back(*byte);
            while let Some(message) = take(&mut input).unwrap() {
                seen.push(message);
            }
        }
        let [Message::Other, Message::Other, Message::Answer(answer)] = &seen[..] else {
            panic!("{seen:?}");
        };
        assert_eq!(
            (answer.status, answer.header("session")),
            (200, Some("7;timeout=9"))
        );
        assert_eq!(input, [b'$']);
    }

    #[test]
    fn what_is_no_rtsp_is_said_to_be_none() {
        for text in [
            "HTTP/1.1 400 Bad Request\r\n\r\n",
            "RTSP/1.0 ok\r\n\r\n",
            &"x".repeat(LONGEST_HEAD + 1),
        ] {
            assert!(
                take(&mut VecDeque::from(text.as_bytes().to_vec())).is_err(),
                "{text:.20}"
            );
        }
        let long = "RTSP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n";
        assert!(take(&mut VecDeque::from(long.as_bytes().to_vec())).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let mut input = VecDeque::from(bytes);
            let mut before = input.len() + 1;
            while let Ok(Some(_)) = take(&mut input) {
                proptest::prop_assert!(input.len() < before);
                before = input.len();
            }
        }
    }

    /// A server that gives these answers, one for each request.
    struct Script {
        answers: VecDeque<&'static str>,
        due: VecDeque<u8>,
        asked: Vec<String>,
    }

    impl Read for Script {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            self.due.read(out)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.asked.push(String::from_utf8_lossy(bytes).into_owned());
            if let Some(answer) = self.answers.pop_front() {
                self.due.extend(answer.as_bytes());
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn client(answers: &[&'static str], with_user: bool) -> Client<Script> {
        let script = Script {
            answers: answers.iter().copied().collect(),
            due: VecDeque::new(),
            asked: Vec::new(),
        };
        let who = Credentials {
            user: "ann".into(),
            password: "s3cret".into(),
        };
        Client::new(script, with_user.then_some(who), "ours".into())
    }

    const OK: &str = "RTSP/1.0 200 OK\r\nSession: 42;timeout=60\r\n\r\n";
    const WHO: &str =
        "RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"n1\"\r\n\r\n";
    const AGAIN: &str =
        "RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"n2\"\r\n\r\n";
    const CLEAR: &str = "RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"r\"\r\n\r\n";

    #[test]
    fn who_asks_is_said_when_the_server_wants_to_know_and_from_then_on() {
        let mut client = client(&[WHO, OK, OK, AGAIN, OK], true);
        client.ask("ANNOUNCE", "rtsp://a/b", "", "v=0\r\n").unwrap();
        client.ask("SETUP", "rtsp://a/b/0", "", "").unwrap();
        // The number has grown old.
        client.ask("RECORD", "rtsp://a/b", "", "").unwrap();
        let asked = &client.stream().asked;
        let says = |at: usize, text: &str| asked[at].contains(text);
        assert!(!says(0, "Authorization") && says(0, "Content-Length: 5\r\n\r\nv=0\r\n"));
        assert!(
            says(1, "Authorization: Digest username=\"ann\"")
                && says(1, "nonce=\"n1\"")
                && !says(1, "Session")
        );
        assert!(says(2, "nonce=\"n1\"") && says(2, "Session: 42\r\n") && says(2, "CSeq: 3\r\n"));
        assert!(says(3, "nonce=\"n1\"") && says(4, "nonce=\"n2\"") && asked.len() == 5);
        assert!(asked.iter().all(|text| !text.contains("s3cret")));
    }

    #[test]
    fn in_clear_if_nothing_else_is_taken() {
        let mut client = client(&[CLEAR, OK], true);
        client.ask("ANNOUNCE", "rtsp://a/b", "", "").unwrap();
        assert!(client.stream().asked[1].contains("Authorization: Basic YW5uOnMzY3JldA==\r\n"));
    }

    #[test]
    fn a_refusal_is_repeated_with_what_to_do_and_without_the_password() {
        let busy = "RTSP/1.0 400 Bad Request\r\n\r\n";
        for (answers, with_user, part) in [
            (&[WHO, WHO][..], true, "user or password are wrong"),
            (&[WHO, AGAIN, WHO, AGAIN], true, "user or password are wrong"),
            (&[CLEAR, CLEAR], true, "user or password are wrong"),
            (&[WHO], false, "it wants a user and a password"),
            (&[busy], true, "it answers ANNOUNCE with 400 Bad Request"),
            (&[], true, "the server has closed it"),
        ] {
            let why = client(answers, with_user)
                .ask("ANNOUNCE", "rtsp://a/b", "", "")
                .unwrap_err();
            assert!(why.contains(part) && !why.contains("s3cret"), "{why}");
        }
    }
}
