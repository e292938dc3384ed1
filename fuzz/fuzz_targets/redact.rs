//! Hiding classes never writes outside the picture, and fills what it must, for any size and mask.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vision::frame::{FrameFormat, LabelMap, PixelFormat};
use vision::redact::{How, RedactOptions, Redactor};

fuzz_target!(|input: (u8, u8, u8, Vec<u8>)| {
    let (width, height, margin, labels) = input;
    let (width, height) = (usize::from(width).max(1), usize::from(height).max(1));
    let mut mask = LabelMap::zeros(width, height);
    for (to, from) in mask.labels.iter_mut().zip(labels) {
        *to = from % 4;
    }
    let options = RedactOptions {
        how: vec![None, Some(How::Blur), Some(How::Pixelate), Some(How::Fill)],
        margin: f32::from(margin) / 255.0,
    };
    let format = FrameFormat::new(PixelFormat::I420, width, height);
    let mut redactor = Redactor::new(width, height, &options);
    redactor.look_at(&mask);
    let mut out = vec![255; format.packed_bytes()];
    redactor.hide(format, 0, &mut out);
    for (label, sample) in mask.labels.iter().zip(&out) {
        assert!(*label != 3 || *sample == 96);
    }
});
