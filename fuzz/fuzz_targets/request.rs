//! Whatever a client sends over HTTP gets a whole answer or none, and what comes after a request's head changes nothing.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use segd::health::Health;
use segd::output::access::RtspAccess;
use segd::web::{App, Gate, Limits, converse, router};
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime")
});

/// All that comes back when a client sends this and then shuts its side down.
fn answer(sent: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let stream = tokio::io::join(sent, &mut answer);
    let router = router(App::new(Health::new(Vec::new()), Gate::new(RtspAccess::default())));
    // An error is one of the client's.
    let _ = RUNTIME.block_on(converse(stream, router, &Limits::DEFAULT));
    answer
}

/// The status code and the body of an answer.
fn parts(answer: &[u8]) -> Option<(u16, &[u8])> {
    if answer.is_empty() {
        return None;
    }
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head");
    let head = std::str::from_utf8(&answer[..end]).expect("text");
    let (version, rest) = head.split_once(' ').expect("a status line");
    assert!(matches!(version, "HTTP/1.0" | "HTTP/1.1"), "{head}");
    let code = rest[..3].parse().expect("a status code");
    let body = &answer[end + 4..];
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: "));
    let length: usize = length.expect("a length").parse().expect("a number");
    // HEAD has the length without the body.
    assert!(body.len() == length || body.is_empty(), "{head}");
    Some((code, body))
}

fuzz_target!(|sent: &[u8]| {
    let whole = answer(sent);
    let Some((code, _)) = parts(&whole) else {
        return;
    };
    let known = [200, 303, 400, 401, 403, 404, 405, 413, 414, 415, 422, 426, 431, 503];
    assert!(known.contains(&code), "{code}");
    let more = answer(&[sent, b"GET /status HTTP/1.1\r\n\r\n"].concat());
    assert_eq!(parts(&more).map(|(code, _)| code), Some(code));
});
