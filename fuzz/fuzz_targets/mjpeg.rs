//! A camera's JPEG is decoded or refused, and the good one that comes next is decoded as ever.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use segd::capture::v4l2::mjpeg::MjpegDecoder;
use vision::frame::PixelFormat;

const WIDTH: usize = 64;
const HEIGHT: usize = 48;

fn decoder() -> MjpegDecoder {
    MjpegDecoder::new(WIDTH, HEIGHT).expect("libjpeg-turbo")
}

fn decode(decoder: &mut MjpegDecoder, jpeg: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = vec![0; PixelFormat::I420.packed_bytes(WIDTH, HEIGHT)];
    decoder.decode(jpeg, &mut out).map(|()| out)
}

static GOOD: &[u8] = include_bytes!("../good-64x48.jpg");
static PICTURE: LazyLock<Vec<u8>> = LazyLock::new(|| decode(&mut decoder(), GOOD).expect("a whole picture"));

fuzz_target!(|jpeg: &[u8]| {
    let mut decoder = decoder();
    let _ = decode(&mut decoder, jpeg);
    assert_eq!(decode(&mut decoder, GOOD).as_ref(), Ok(&*PICTURE));
});
