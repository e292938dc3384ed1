//! What a camera's driver hands over becomes a picture or is refused, whatever size, row length, byte count and flags it
//! tells.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segd::capture::v4l2::unpack;

fuzz_target!(|told: (u8, u8, u8, u16, u32, u32, &[u8])| {
    let (encoding, width, height, stride, bytes_used, flags, bytes) = told;
    let size = (usize::from(width).max(1), usize::from(height).max(1));
    unpack(encoding, size, stride.into(), (bytes_used, flags), bytes);
});
