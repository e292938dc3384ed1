//! Keys from environment variables are read or refused, and set no other key than their own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segd::config::{Layer, Layers, Settings, from_environment};

fuzz_target!(|pair: (&str, &str)| {
    let variable = (format!("SEGD_{}", pair.0), pair.1.to_owned());
    match from_environment([variable]) {
        Ok(environment) => {
            if pair.1.is_empty() {
                assert_eq!(environment, Layer::default());
            }
            // Settings resolve, or are refused.
            let layers = Layers {
                environment,
                ..Layers::default()
            };
            if let Err(error) = Settings::resolve(&layers) {
                assert_eq!(error.exit_code(), 2);
            }
        }
        Err(error) => assert_eq!(error.exit_code(), 2),
    }
});
