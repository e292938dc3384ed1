//! A camera's JPEG is decoded or refused, and the decoder can go on with the next.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segd::capture::mjpeg::MjpegDecoder;
use segd::frame::PixelFormat;

fuzz_target!(|jpeg: &[u8]| {
    for (width, height) in [(64, 48), (31, 17)] {
        let mut out = vec![0; PixelFormat::I420.packed_bytes(width, height)];
        let mut decoder = MjpegDecoder::new(width, height).expect("libjpeg-turbo");
        let first = decoder.decode(jpeg, &mut out);
        assert_eq!(decoder.decode(jpeg, &mut out), first);
    }
});
