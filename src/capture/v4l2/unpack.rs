//! What a V4L2 driver hands over, made into frames: numbers, times, colours, row padding, JPEG.

use rustix::time::{ClockId, clock_gettime};
use tracing::{debug, warn};
use v4l::buffer::{Flags, Metadata};
use v4l::format::{Colorspace, Quantization};

use crate::clock::SharedClock;
use vision::error::Result;
use vision::frame::{Colorimetry, Frame, FrameFormat, ImageRef, Matrix, PixelFormat, Plane, Range};
use vision::pool::FramePool;

use super::mjpeg::MjpegDecoder;
use super::mode::Encoding;
use crate::capture::source::{Capture, take_buffer};

/// An age that can only mean another clock.
const ABSURD_NS: u64 = 10_000_000_000;

/// How a camera's samples relate to RGB; what the driver leaves open is as the V4L2 documentation says
/// (<https://docs.kernel.org/userspace-api/media/v4l/colorspaces-defs.html>).
pub(super) fn colorimetry(
    encoding: Encoding,
    colorspace: Colorspace,
    quantization: Quantization,
) -> Colorimetry {
    if encoding == Encoding::Mjpeg {
        return Colorimetry {
            matrix: Matrix::Bt601,
            range: Range::Full,
        };
    }
    Colorimetry {
        matrix: match colorspace {
            Colorspace::Rec709 | Colorspace::DCIP3 | Colorspace::Rec2020 => Matrix::Bt709,
            _ => Matrix::Bt601,
        },
        range: match (quantization, colorspace) {
            (Quantization::FullRange, _) | (Quantization::Default, Colorspace::JPEG) => Range::Full,
            _ => Range::Limited,
        },
    }
}

/// Nanoseconds since a picture was taken; 0 if its time can't be compared with `now_ns`.
fn age_ns(now_ns: i128, taken_ns: i128, monotonic: bool) -> u64 {
    let age = now_ns - taken_ns;
    if monotonic && (0..i128::from(ABSURD_NS)).contains(&age) {
        age as u64
    } else {
        0
    }
}

fn monotonic_now_ns() -> i128 {
    let now = clock_gettime(ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

pub(super) fn age_of(meta: &Metadata) -> u64 {
    let taken = i128::from(meta.timestamp.sec) * 1_000_000_000 + i128::from(meta.timestamp.usec) * 1000;
    let monotonic = meta.flags & Flags::TIMESTAMP_MASK == Flags::TIMESTAMP_MONOTONIC;
    age_ns(monotonic_now_ns(), taken, monotonic)
}

/// Numbers pictures from 0 by the driver's 32-bit numbers, which may begin anywhere, wrap, or stand still.
#[derive(Debug, Default)]
pub(super) struct Numbering {
    last: Option<(u32, u64)>,
    pub lost: u64,
}

impl Numbering {
    fn next(&mut self, driver: u32) -> u64 {
        let Some((before, sequence)) = self.last else {
            self.last = Some((driver, 0));
            return 0;
        };
        let step = match driver.wrapping_sub(before) {
            // A driver that doesn't count, or began anew.
            0 => 1,
            step if step > u32::MAX / 2 => 1,
            step => u64::from(step),
        };
        self.lost += step - 1;
        self.last = Some((driver, sequence + step));
        sequence + step
    }
}

/// The planes of a raw picture in a driver's buffer, whose rows are `stride` bytes apart.
fn raw_image(format: FrameFormat, stride: usize, bytes: &[u8]) -> std::result::Result<ImageRef<'_>, String> {
    let tail = |from: usize| bytes.get(from..).unwrap_or(&[]);
    match format.pixel {
        PixelFormat::Yuyv => ImageRef::new(format, &[Plane { data: bytes, stride }]),
        PixelFormat::Nv12 => ImageRef::new(
            format,
            &[
                Plane { data: bytes, stride },
                Plane {
                    data: tail(stride * format.height),
                    stride,
                },
            ],
        ),
        PixelFormat::I420 => {
            let half = stride / 2;
            let u = stride * format.height;
            let v = u + half * format.height.div_ceil(2);
            ImageRef::new(
                format,
                &[
                    Plane { data: bytes, stride },
                    Plane {
                        data: tail(u),
                        stride: half,
                    },
                    Plane {
                        data: tail(v),
                        stride: half,
                    },
                ],
            )
        }
        PixelFormat::Rgb24 => Err("cameras give no RGB".to_owned()),
    }
}

/// How a buffer becomes a frame.
#[derive(Debug)]
pub(super) enum Decode {
    Raw {
        stride: usize,
    },
    /// Raw 4:2:2 whose chroma stands before its luma.
    Uyvy {
        stride: usize,
    },
    Mjpeg(MjpegDecoder),
}

/// Turns the driver's buffers into frames.
pub(super) struct Unpacker {
    /// The camera and its mode, for logs.
    pub text: String,
    pub format: FrameFormat,
    pub decode: Decode,
    pub numbering: Numbering,
    pub corrupt: u64,
    pub clock: SharedClock,
}

impl Unpacker {
    /// The frame in a buffer; `None`, counted, if it is damaged.
    pub fn unpack(&mut self, bytes: &[u8], meta: &Metadata, pool: &FramePool) -> Result<Option<Capture>> {
        let sequence = self.numbering.next(meta.sequence);
        let captured_at_ns = self.clock.now_ns().saturating_sub(age_of(meta));
        let Some(mut data) = take_buffer(pool, &self.format)? else {
            return Ok(Some(Capture::Dropped));
        };
        match self.fill(bytes, meta, &mut data) {
            Ok(()) => Ok(Some(Capture::Frame(Frame {
                sequence,
                captured_at_ns,
                pts_ns: captured_at_ns,
                format: self.format,
                damaged: false,
                data,
            }))),
            Err(why) => {
                self.corrupt += 1;
                // The first one says what it is; a camera with a bad cable would fill the log.
                if self.corrupt == 1 {
                    warn!("{}: a picture was dropped: {why}", self.text);
                } else {
                    debug!("{}: a picture was dropped: {why}", self.text);
                }
                Ok(None)
            }
        }
    }

    fn fill(&mut self, bytes: &[u8], meta: &Metadata, out: &mut [u8]) -> std::result::Result<(), String> {
        if meta.flags.contains(Flags::ERROR) {
            return Err("marked as damaged by the driver".to_owned());
        }
        // What follows the bytes used is left from an earlier picture.
        let bytes = &bytes[..bytes.len().min(meta.bytesused as usize)];
        match &mut self.decode {
            Decode::Raw { stride } => {
                raw_image(self.format, *stride, bytes)?.copy_packed(out);
                Ok(())
            }
            Decode::Uyvy { stride } => {
                let image = raw_image(self.format, *stride, bytes)?;
                let (row_bytes, plane) = (self.format.width.div_ceil(2) * 4, image.plane(0));
                for (y, row) in out
                    .chunks_exact_mut(row_bytes)
                    .take(self.format.height)
                    .enumerate()
                {
                    let pairs = plane.row(y, row_bytes).as_chunks::<2>().0;
                    for (to, &[chroma, luma]) in row.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
                        *to = [luma, chroma];
                    }
                }
                Ok(())
            }
            Decode::Mjpeg(decoder) => decoder.decode(bytes, out),
        }
    }
}

/// Unpacks one buffer of a camera that tells all this: size in pixels, bytes from row to row, bytes used and flags.
#[cfg(fuzzing)]
pub fn fuzz_unpack(
    encoding: u8,
    (width, height): (usize, usize),
    stride: usize,
    (bytesused, flags): (u32, u32),
    bytes: &[u8],
) {
    let (pixel, decode) = match encoding % 5 {
        0 => (PixelFormat::I420, Decode::Raw { stride }),
        1 => (PixelFormat::Nv12, Decode::Raw { stride }),
        2 => (PixelFormat::Yuyv, Decode::Raw { stride }),
        3 => (PixelFormat::Yuyv, Decode::Uyvy { stride }),
        _ => {
            let decoder = MjpegDecoder::new(width, height).expect("libjpeg-turbo");
            (PixelFormat::I420, Decode::Mjpeg(decoder))
        }
    };
    let mut unpacker = Unpacker {
        text: "camera".into(),
        format: FrameFormat::new(pixel, width, height),
        decode,
        numbering: Numbering::default(),
        corrupt: 0,
        clock: crate::clock::RealClock::shared(),
    };
    let meta = Metadata {
        bytesused,
        flags: Flags::from(flags),
        field: 1,
        timestamp: v4l::timestamp::Timestamp::new(0, 0),
        sequence: 0,
    };
    let pool = FramePool::new(1, unpacker.format.packed_bytes());
    match unpacker.unpack(bytes, &meta, &pool) {
        Ok(Some(Capture::Frame(frame))) => assert_eq!(frame.data.len(), unpacker.format.packed_bytes()),
        Ok(None) => assert_eq!(unpacker.corrupt, 1),
        other => panic!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::RealClock;

    fn unpacker(format: FrameFormat, decode: Decode) -> Unpacker {
        Unpacker {
            text: "camera".into(),
            format,
            decode,
            numbering: Numbering::default(),
            corrupt: 0,
            clock: RealClock::shared(),
        }
    }

    fn meta(sequence: u32, bytesused: u32, flags: Flags) -> Metadata {
        Metadata {
            bytesused,
            flags,
            field: 1,
            timestamp: v4l::timestamp::Timestamp::new(0, 0),
            sequence,
        }
    }

    #[test]
    fn pictures_are_numbered_over_gaps_wraps_and_counters_that_stand_still() {
        let number = |driver: &[u32]| {
            let mut numbering = Numbering::default();
            let numbers: Vec<u64> = driver.iter().map(|&d| numbering.next(d)).collect();
            (numbers, numbering.lost)
        };
        assert_eq!(number(&[7, 8, 11, 12]), (vec![0, 1, 4, 5], 2));
        assert_eq!(number(&[u32::MAX, 0, 2]), (vec![0, 1, 3], 1));
        assert_eq!(number(&[0, 0, 0]), (vec![0, 1, 2], 0));
        assert_eq!(number(&[500, 0, 1]), (vec![0, 1, 2], 0), "begun anew");
    }

    #[test]
    fn ages_come_from_the_monotonic_clock_alone() {
        assert_eq!(age_ns(5_000, 2_000, true), 3_000);
        assert_eq!(age_ns(5_000, 2_000, false), 0);
        assert_eq!(age_ns(5_000, 6_000, true), 0, "from the future");
        assert_eq!(age_ns(1 << 60, 0, true), 0, "another clock");
        let now = monotonic_now_ns();
        let mut taken = meta(0, 0, Flags::TIMESTAMP_MONOTONIC);
        let micros = (now / 1000 - 50_000) as i64;
        taken.timestamp = v4l::timestamp::Timestamp::new(micros / 1_000_000, micros % 1_000_000);
        let age = age_of(&taken);
        assert!((50_000_000..5_000_000_000).contains(&age), "{age}");
    }

    #[test]
    fn row_padding_and_short_buffers() {
        // 4x2, rows 6 bytes apart: what is in the padding is 99.
        let nv12 = [1, 2, 3, 4, 99, 99, 5, 6, 7, 8, 99, 99, 20, 30, 21, 31];
        let mut unpacker = unpacker(
            FrameFormat::new(PixelFormat::Nv12, 4, 2),
            Decode::Raw { stride: 6 },
        );
        let mut out = vec![0; 12];
        unpacker
            .fill(&nv12, &meta(0, 16, Flags::empty()), &mut out)
            .unwrap();
        assert_eq!(out, [1, 2, 3, 4, 5, 6, 7, 8, 20, 30, 21, 31]);
        assert!(
            unpacker
                .fill(&nv12, &meta(0, 15, Flags::empty()), &mut out)
                .is_err(),
            "one byte short"
        );
        assert!(
            unpacker
                .fill(&nv12, &meta(0, 16, Flags::ERROR), &mut out)
                .is_err()
        );

        let i420 = [1, 2, 99, 99, 3, 4, 99, 99, 5, 99, 6];
        let image = raw_image(FrameFormat::new(PixelFormat::I420, 2, 2), 4, &i420).unwrap();
        let mut out = vec![0; 6];
        image.copy_packed(&mut out);
        assert_eq!(out, [1, 2, 3, 4, 5, 6]);
        let yuyv = [1, 2, 3, 4, 99, 99, 5, 6, 7, 8];
        let image = raw_image(FrameFormat::new(PixelFormat::Yuyv, 2, 2), 6, &yuyv).unwrap();
        let mut out = vec![0; 8];
        image.copy_packed(&mut out);
        assert_eq!(out, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(raw_image(FrameFormat::new(PixelFormat::Yuyv, 2, 2), 6, &yuyv[..9]).is_err());
    }

    #[test]
    fn uyvy_becomes_yuyv() {
        // 2x2, rows 6 bytes apart: what is in the padding is 99.
        let uyvy = [20, 1, 30, 2, 99, 99, 21, 3, 31, 4];
        let mut unpacker = unpacker(
            FrameFormat::new(PixelFormat::Yuyv, 2, 2),
            Decode::Uyvy { stride: 6 },
        );
        let mut out = vec![0; 8];
        unpacker
            .fill(&uyvy, &meta(0, 10, Flags::empty()), &mut out)
            .unwrap();
        assert_eq!(out, [1, 20, 2, 30, 3, 21, 4, 31]);
        let short = unpacker.fill(&uyvy, &meta(0, 9, Flags::empty()), &mut out);
        assert!(short.is_err(), "one byte short");
    }

    #[test]
    fn damaged_pictures_are_dropped_and_counted() {
        let yuyv = FrameFormat::new(PixelFormat::Yuyv, 2, 1);
        let mut unpacker = unpacker(yuyv, Decode::Raw { stride: 4 });
        let pool = FramePool::new(1, 4);
        let bytes = [1, 2, 3, 4];
        assert!(
            unpacker
                .unpack(&bytes, &meta(3, 2, Flags::empty()), &pool)
                .unwrap()
                .is_none()
        );
        let Some(Capture::Frame(frame)) = unpacker
            .unpack(&bytes, &meta(5, 4, Flags::empty()), &pool)
            .unwrap()
        else {
            panic!("no frame");
        };
        assert_eq!((frame.sequence, &*frame.data), (2, &bytes[..]));
        let dropped = unpacker
            .unpack(&bytes, &meta(6, 4, Flags::empty()), &pool)
            .unwrap();
        assert!(matches!(dropped, Some(Capture::Dropped)), "the pool is empty");
        assert_eq!((unpacker.corrupt, unpacker.numbering.lost), (1, 1));
    }

    #[test]
    fn what_drivers_leave_open_about_colour() {
        let color = |e, c, q| {
            let color = colorimetry(e, c, q);
            (color.matrix, color.range)
        };
        use {Colorspace as C, Encoding as E, Quantization as Q};
        assert_eq!(color(E::Mjpeg, C::SRGB, Q::Default), (Matrix::Bt601, Range::Full));
        assert_eq!(
            color(E::Yuyv, C::SRGB, Q::Default),
            (Matrix::Bt601, Range::Limited)
        );
        assert_eq!(
            color(E::Nv12, C::Rec709, Q::Default),
            (Matrix::Bt709, Range::Limited)
        );
        assert_eq!(
            color(E::Nv12, C::Rec709, Q::FullRange),
            (Matrix::Bt709, Range::Full)
        );
        assert_eq!(color(E::Yuyv, C::JPEG, Q::Default), (Matrix::Bt601, Range::Full));
    }
}
