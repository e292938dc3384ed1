//! Sources and outputs are understood or refused in one line, and an address that was understood is understood again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segd::capture::SourceSpec;
use segd::capture::spec::{PathKind, parse};

fuzz_target!(|text: &str| {
    let parse = |text: &str| parse(text, &|_| PathKind::Missing);
    match parse(text) {
        Ok(SourceSpec::Rtsp(address)) => {
            let again = parse(&address).expect("what was understood is understood again");
            assert_eq!(again, SourceSpec::Rtsp(address));
        }
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
    let _ = segd::output::parse_output(text);
});
