//! A time that survives H.264: a pattern of black and white squares along the picture's upper edge, for measuring how
//! long a picture is on its way.
//!
//! 48 squares of 16x16 pixels (a macroblock), row after row: 40 bits of microseconds, most significant first, and an
//! 8-bit check sum.

use crate::clock::TimeNs;
use vision::frame::{FrameFormat, PixelFormat};

const SIDE: usize = 16;
const TIME_BITS: u32 = 40;
const CHECK_BITS: u32 = 8;

/// Writes a time, to the microsecond, onto a picture without row padding. False where the picture is too small or is
/// not planar.
pub fn write(format: FrameFormat, data: &mut [u8], time_ns: TimeNs) -> bool {
    let (width, height) = (format.width, format.height);
    let planar = matches!(format.pixel, PixelFormat::I420 | PixelFormat::Nv12);
    if !planar || !fits(width, height) || data.len() < width * height {
        return false;
    }
    let time = (time_ns / 1_000) & ((1 << TIME_BITS) - 1);
    let bits = time << CHECK_BITS | u64::from(check_sum(time));
    for (index, (x, y)) in squares(width).enumerate() {
        let bit = bits >> (TIME_BITS + CHECK_BITS - 1 - index as u32) & 1;
        for row in y..y + SIDE {
            data[row * width + x..row * width + x + SIDE].fill(if bit == 1 { 235 } else { 16 });
        }
    }
    true
}

/// Reads a time from the luma of a picture of `width` x `height` pixels, rows `stride` bytes apart. `None` where
/// there is none, or it is damaged.
pub fn read(luma: &[u8], width: usize, height: usize, stride: usize) -> Option<TimeNs> {
    if !fits(width, height) || stride < width || luma.len() < stride * (height - 1) + width {
        return None;
    }
    let mut bits = 0_u64;
    for (x, y) in squares(width) {
        // The middle, where the neighbours have the least influence.
        let inner =
            (y + 4..y + SIDE - 4).flat_map(|row| &luma[row * stride + x + 4..row * stride + x + SIDE - 4]);
        let sum: u32 = inner.map(|&v| u32::from(v)).sum();
        bits = bits << 1 | u64::from(sum > 64 * 125);
    }
    let time = bits >> CHECK_BITS;
    (bits as u8 == check_sum(time)).then_some(time * 1_000)
}

fn fits(width: usize, height: usize) -> bool {
    let columns = width / SIDE;
    columns > 0 && ((TIME_BITS + CHECK_BITS) as usize).div_ceil(columns) * SIDE <= height
}

/// The squares' upper left corners.
fn squares(width: usize) -> impl Iterator<Item = (usize, usize)> {
    let columns = width / SIDE;
    (0..(TIME_BITS + CHECK_BITS) as usize).map(move |n| (n % columns * SIDE, n / columns * SIDE))
}

/// Never 0 for a picture that is all black or all white.
fn check_sum(time: u64) -> u8 {
    time.to_le_bytes()
        .iter()
        .fold(0x5a, |sum: u8, &byte| sum.rotate_left(3) ^ byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_time_is_read_back_through_noise(time_us in 0_u64..1 << TIME_BITS, width in 160_usize..700, seed in any::<u32>()) {
            let height = 120;
            let format = FrameFormat::new(PixelFormat::I420, width, height);
            let mut data = vec![128; format.packed_bytes()];
            prop_assert!(write(format, &mut data, time_us * 1_000 + 999));
            let mut state = seed | 1;
            for value in &mut data {
                state ^= state << 13; state ^= state >> 17; state ^= state << 5;
                *value = value.saturating_add_signed((state % 80) as i8 - 40);
            }
            prop_assert_eq!(read(&data, width, height, width), Some(time_us * 1_000));
        }
    }

    #[test]
    fn pictures_without_a_time_have_none() {
        for value in [0, 16, 128, 235, 255] {
            assert_eq!(read(&[value; 640 * 48], 640, 48, 640), None);
        }
        assert_eq!(read(&[0; 100], 640, 480, 640), None);
        let small = FrameFormat::new(PixelFormat::I420, 32, 32);
        assert!(!write(small, &mut vec![0; small.packed_bytes()], 1));
    }
}
