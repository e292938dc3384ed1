//! Sources and outputs are understood or refused in one line.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = segd::capture::parse_uri(text) {
        assert!(!error.to_string().contains('\n'));
    }
    let _ = segd::output::parse_output(text);
});
