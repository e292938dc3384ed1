//! A configuration is read or refused in one line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segd::config::FileConfig;

fuzz_target!(|text: &str| {
    if let Err(error) = FileConfig::parse(text, "fuzz") {
        assert_eq!(error.exit_code(), 2);
        assert!(!error.to_string().contains('\n'));
    }
});
