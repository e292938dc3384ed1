//! Any text that a browser sends as an offer gets an answer that is one, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segd::web::answer_to;

fuzz_target!(|offer: &str| {
    let Some(answer) = answer_to(offer) else {
        return;
    };
    assert!(answer.starts_with("v=0\r\n"), "{answer}");
    assert!(answer.contains("a=candidate:"), "{answer}");
    assert!(answer.lines().any(|line| line.starts_with("m=video ") && !line.starts_with("m=video 0 ")), "{answer}");
});
