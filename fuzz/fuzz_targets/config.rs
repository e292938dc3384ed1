//! A configuration is read or refused in one line, and what is read comes to settings or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segd::config::{Layer, Layers, Settings};

fuzz_target!(|text: &str| {
    let file = match Layer::parse(text, "fuzz") {
        Ok(file) => file,
        Err(error) => {
            assert_eq!(error.exit_code(), 2);
            assert!(!error.to_string().contains('\n'));
            return;
        }
    };
    match Settings::resolve(&Layers::of_file(file)) {
        Ok(settings) => {
            assert!(!settings.cameras.is_empty());
            // What has not changed needs no restart.
            let diff = Settings::diff(&settings, &settings);
            assert!(diff.restart.is_empty() && diff.cameras.iter().all(|(_, d)| d.restart.is_empty()));
        }
        Err(error) => assert_eq!(error.exit_code(), 2),
    }
});
