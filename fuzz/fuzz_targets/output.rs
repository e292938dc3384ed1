//! Outputs, users' entries and camera names are read or refused; what was read is written as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segd::config::parse_listen;
use segd::output::access::{RtspAccess, User};
use segd::output::{OutputSpec, parse_output};

fuzz_target!(|text: &str| {
    // Addresses of servers are shown without their secrets.
    if let Ok(spec) = parse_output(text)
        && !matches!(spec, OutputSpec::Push(_))
    {
        assert_eq!(parse_output(&spec.to_string()).unwrap(), spec);
    }
    if let Ok(user) = User::parse(text) {
        assert_eq!(User::parse(&user.entry()).unwrap(), user);
    }
    let open = RtspAccess {
        insecure: true,
        ..RtspAccess::default()
    };
    let _ = parse_listen(text, &open);
});
