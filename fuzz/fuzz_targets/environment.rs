//! Keys from environment variables are read or refused, and set no other key than their own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segd::config::from_environment;

fuzz_target!(|pair: (&str, &str)| {
    let variable = (format!("SEGD_{}", pair.0), pair.1.to_owned());
    match from_environment([variable]) {
        Ok(config) => {
            // Cameras resolve, or are refused.
            let _ = config.cameras();
        }
        Err(error) => assert_eq!(error.exit_code(), 2),
    }
});
