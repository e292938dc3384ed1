//! The head of a request over HTTP is read, waited for or refused, and what comes after it changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segd::health::{Asked, read_head};

fuzz_target!(|head: &[u8]| {
    let whole = read_head(head);
    let mut before = Asked::NotYet;
    for end in 0..=head.len() {
        let now = read_head(&head[..end]);
        if before != Asked::NotYet {
            assert_eq!(now, before, "{end} bytes");
            break;
        }
        before = now;
    }
    if let Asked::Request(method, path) = whole {
        assert!(!method.is_empty() && !path.is_empty() && !path.contains(char::is_whitespace));
    }
});
