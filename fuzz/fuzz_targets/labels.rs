//! A file of labels gives one number a pixel or is refused.
#![no_main]

use std::io::Cursor;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use vision::dataset::decode_index_png;

fuzz_target!(|png: &[u8]| {
    if let Ok(labels) = decode_index_png(Cursor::new(png), Path::new("fuzz.png")) {
        assert_eq!(labels.data.len(), labels.width * labels.height);
    }
});
