//! `test://`: a moving picture that depends on nothing but the number of its frame.
//!
//! Colour bars scroll to the left, a grey checked box wanders over them, and the frame's number is
//! stamped into the top left corner as black and white blocks that [`read_stamp`] reads back, also
//! after a lossy encoder.

use std::time::Duration;

use crate::clock::SharedClock;
use vision::error::{Error, Result};
use vision::frame::{Frame, FrameFormat, ImageRef, PixelFormat};
use vision::pool::FramePool;

use super::options::CaptureOptions;
use super::paced::Paced;
use super::source::{Capture, FrameSource, SourceCounters, SourceOpener, take_buffer};
use super::spec::TestPattern;

/// Checks a pattern's sizes and rate.
fn resolve(pattern: TestPattern, options: &CaptureOptions) -> Result<(FrameFormat, f64)> {
    let width = pattern.width.unwrap_or(options.width);
    let height = pattern.height.unwrap_or(options.height);
    let fps = pattern.fps.unwrap_or(options.fps);
    if !(64..=8192).contains(&width) || !(48..=8192).contains(&height) {
        return Err(Error::usage(format!(
            "test://: a pattern of {width}x{height}; it can be 64x48 to 8192x8192"
        )));
    }
    if !(fps > 0.0 && fps <= 1000.0) {
        return Err(Error::usage(format!(
            "test://: fps={fps}; it must be above 0 and at most 1000"
        )));
    }
    if pattern.pixel == PixelFormat::Rgb24 {
        return Err(Error::usage(
            "test://: RGB is not a video format; use i420, nv12 or yuyv",
        ));
    }
    let format = FrameFormat::new(pattern.pixel, width as usize, height as usize);
    Ok((format, fps))
}

/// Opens a [`TestPattern`].
#[derive(Debug)]
pub struct TestPatternOpener {
    format: FrameFormat,
    fps: f64,
    frames: Option<u64>,
    options: CaptureOptions,
    clock: SharedClock,
}

impl TestPatternOpener {
    /// An opener of `pattern`, its open fields taken from `options`.
    ///
    /// # Errors
    /// Usage, if a size or the rate is out of bounds.
    pub fn new(pattern: TestPattern, options: &CaptureOptions, clock: SharedClock) -> Result<Self> {
        let (format, fps) = resolve(pattern, options)?;
        Ok(Self {
            format,
            fps,
            frames: pattern.frames,
            options: options.clone(),
            clock,
        })
    }
}

impl SourceOpener for TestPatternOpener {
    fn name(&self) -> String {
        format!("test:// {}x{}", self.format.width, self.format.height)
    }

    fn open(&self) -> Result<Box<dyn FrameSource>> {
        let source = PatternSource {
            format: self.format,
            fps: self.fps,
            frames: self.frames,
            looped: self.options.looped,
            sequence: 0,
            row: vec![0; self.format.width],
            clock: self.clock.clone(),
        };
        Ok(Box::new(Paced::new(
            source,
            self.options.pace,
            self.clock.clone(),
        )))
    }
}

/// Draws frame after frame, without waiting.
#[derive(Debug)]
struct PatternSource {
    format: FrameFormat,
    fps: f64,
    frames: Option<u64>,
    looped: bool,
    sequence: u64,
    /// Palette indices of one row.
    row: Vec<u8>,
    clock: SharedClock,
}

impl FrameSource for PatternSource {
    fn format(&self) -> FrameFormat {
        self.format
    }

    fn frame_rate(&self) -> Option<f64> {
        Some(self.fps)
    }

    fn frame_count(&self) -> Option<u64> {
        if self.looped { None } else { self.frames }
    }

    fn describe(&self) -> String {
        format!(
            "test pattern {:?} {}x{} at {} fps",
            self.format.pixel, self.format.width, self.format.height, self.fps
        )
    }

    fn counters(&self) -> SourceCounters {
        SourceCounters {
            loops: match self.frames {
                Some(frames) if self.looped && frames > 0 => self.sequence.saturating_sub(1) / frames,
                _ => 0,
            },
            ..SourceCounters::default()
        }
    }

    fn next_frame(&mut self, pool: &FramePool, _timeout: Duration) -> Result<Capture> {
        let number = match self.frames {
            Some(0) => return Ok(Capture::End),
            Some(frames) if self.looped => self.sequence % frames,
            Some(frames) if self.sequence >= frames => return Ok(Capture::End),
            _ => self.sequence,
        };
        let sequence = self.sequence;
        self.sequence += 1;
        let Some(mut data) = take_buffer(pool, &self.format)? else {
            return Ok(Capture::Dropped);
        };
        draw(number, &self.format, &mut self.row, &mut data);
        Ok(Capture::Frame(Frame {
            sequence,
            captured_at_ns: self.clock.now_ns(),
            pts_ns: (sequence as f64 * 1e9 / self.fps).round() as u64,
            format: self.format,
            damaged: false,
            data,
        }))
    }
}

/// (Y, U, V) in BT.601 limited range: eight bars of 75 % colour, then what the box and the stamp use.
const PALETTE: [(u8, u8, u8); 12] = [
    (180, 128, 128), // white
    (162, 44, 142),  // yellow
    (131, 156, 44),  // cyan
    (112, 72, 58),   // green
    (84, 184, 198),  // magenta
    (65, 100, 212),  // red
    (35, 212, 114),  // blue
    (49, 128, 128),  // dark grey
    (100, 128, 128), // the box, dark
    (200, 128, 128), // the box, light
    (16, 128, 128),  // a stamped 0
    (235, 128, 128), // a stamped 1
];
const BOX_DARK: u8 = 8;
const STAMP_ZERO: u8 = 10;

const STAMP_COLUMNS: usize = 16;
const STAMP_ROWS: usize = 3;
/// The third row is the XOR of the two above and this.
const STAMP_CHECK: u16 = 0xA5C3;

/// Side of a stamp's block in pixels; even, so that blocks begin and end with a chroma sample.
fn stamp_block(width: usize) -> usize {
    (width / 20).clamp(2, 16) & !1
}

fn stamp_rows(number: u64) -> [u16; STAMP_ROWS] {
    let (low, high) = (number as u16, (number >> 16) as u16);
    [low, high, low ^ high ^ STAMP_CHECK]
}

/// Position on a path of `span` steps that turns back at both ends.
fn bounce(step: u64, span: usize) -> usize {
    if span == 0 {
        return 0;
    }
    let period = 2 * span as u64;
    let at = (step % period) as usize;
    if at > span { 2 * span - at } else { at }
}

/// Draws frame `number` into `out`, which holds the format's bytes; `row` has `width` bytes of scratch.
fn draw(number: u64, format: &FrameFormat, row: &mut [u8], out: &mut [u8]) {
    let (width, height) = (format.width, format.height);
    let block = stamp_block(width);
    let stamp = stamp_rows(number);
    let side = (height / 4) & !1;
    let box_x = bounce(4 * number, width - side) & !1;
    let box_y = bounce(2 * number, height - side) & !1;
    let shift = (2 * (number % (width as u64 * 4))) as usize;
    for y in 0..height {
        for (x, value) in row.iter_mut().enumerate() {
            *value = ((8 * (x + shift) / width) & 7) as u8;
        }
        if (box_y..box_y + side).contains(&y) {
            for (x, value) in row[box_x..box_x + side].iter_mut().enumerate() {
                *value = BOX_DARK + (((x / 8) ^ ((y - box_y) / 8)) & 1) as u8;
            }
        }
        if y < STAMP_ROWS * block {
            let bits = stamp[y / block];
            for (column, cell) in row[..STAMP_COLUMNS * block].chunks_exact_mut(block).enumerate() {
                cell.fill(STAMP_ZERO + (bits >> column & 1) as u8);
            }
        }
        write_row(y, format, row, out);
    }
}

/// Writes one row of palette indices as the format's samples; chroma is taken from even rows and columns.
fn write_row(y: usize, format: &FrameFormat, row: &[u8], out: &mut [u8]) {
    let (width, height) = (format.width, format.height);
    let (half_w, half_h) = (width.div_ceil(2), height.div_ceil(2));
    let color = |x: usize| PALETTE[row[x.min(width - 1)] as usize];
    match format.pixel {
        PixelFormat::Yuyv => {
            let line = &mut out[y * 4 * half_w..][..4 * half_w];
            for (pair, group) in line.chunks_exact_mut(4).enumerate() {
                let (y0, u, v) = color(2 * pair);
                group.copy_from_slice(&[y0, u, color(2 * pair + 1).0, v]);
            }
        }
        PixelFormat::I420 | PixelFormat::Nv12 => {
            let (luma, chroma) = out.split_at_mut(width * height);
            for (value, index) in luma[y * width..][..width].iter_mut().zip(row) {
                *value = PALETTE[*index as usize].0;
            }
            if y % 2 == 1 {
                return;
            }
            if format.pixel == PixelFormat::Nv12 {
                let line = &mut chroma[y / 2 * 2 * half_w..][..2 * half_w];
                for (x, pair) in line.chunks_exact_mut(2).enumerate() {
                    let (_, u, v) = color(2 * x);
                    pair.copy_from_slice(&[u, v]);
                }
            } else {
                let (us, vs) = chroma.split_at_mut(half_w * half_h);
                for x in 0..half_w {
                    let (_, u, v) = color(2 * x);
                    us[y / 2 * half_w + x] = u;
                    vs[y / 2 * half_w + x] = v;
                }
            }
        }
        PixelFormat::Rgb24 => {
            for (pixel, index) in out[y * 3 * width..][..3 * width].chunks_exact_mut(3).zip(row) {
                pixel.fill(PALETTE[*index as usize].0);
            }
        }
    }
}

/// The frame number stamped into a test pattern's picture, modulo 2^32; `None` if there is none.
/// A lossy encoder in between does no harm as long as the blocks stay black and white.
pub fn read_stamp(image: &ImageRef<'_>) -> Option<u64> {
    let (width, height) = (image.width(), image.height());
    let block = stamp_block(width);
    if width < STAMP_COLUMNS * block || height < STAMP_ROWS * block {
        return None;
    }
    let plane = image.plane(0);
    // Bytes from one luma sample to the next.
    let step = match image.format.pixel {
        PixelFormat::I420 | PixelFormat::Nv12 => 1,
        PixelFormat::Yuyv => 2,
        PixelFormat::Rgb24 => 3,
    };
    let mut rows = [0u16; STAMP_ROWS];
    for (r, bits) in rows.iter_mut().enumerate() {
        for column in 0..STAMP_COLUMNS {
            // The block's middle, away from the encoder's ringing.
            let margin = block / 4;
            let mut sum = 0usize;
            for y in r * block + margin..(r + 1) * block - margin {
                for x in column * block + margin..(column + 1) * block - margin {
                    sum += plane.data[y * plane.stride + x * step] as usize;
                }
            }
            let side = block - 2 * margin;
            *bits |= u16::from(sum / (side * side) >= 128) << column;
        }
    }
    let [low, high, check] = rows;
    (low ^ high ^ STAMP_CHECK == check).then_some(u64::from(high) << 16 | u64::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Pace;
    use crate::clock::{Clock, SimulatedClock};

    fn open(pattern: TestPattern, options: &CaptureOptions) -> (Box<dyn FrameSource>, FramePool) {
        let opener = TestPatternOpener::new(pattern, options, SimulatedClock::auto()).unwrap();
        let source = opener.open().unwrap();
        let pool = FramePool::new(2, source.format().packed_bytes());
        (source, pool)
    }

    fn next(source: &mut dyn FrameSource, pool: &FramePool) -> Option<Frame> {
        match source.next_frame(pool, Duration::from_secs(1)).unwrap() {
            Capture::Frame(frame) => Some(frame),
            Capture::End => None,
            other => panic!("{other:?}"),
        }
    }

    fn unpaced() -> CaptureOptions {
        CaptureOptions {
            pace: Pace::AsFastAsPossible,
            ..CaptureOptions::default()
        }
    }

    #[test]
    fn every_format_and_odd_size_carries_its_number() {
        for pixel in [PixelFormat::I420, PixelFormat::Nv12, PixelFormat::Yuyv] {
            for (width, height) in [(640, 480), (321, 243), (64, 48), (65, 49)] {
                let pattern = TestPattern {
                    width: Some(width),
                    height: Some(height),
                    fps: Some(25.0),
                    frames: Some(40),
                    pixel,
                };
                let (mut source, pool) = open(pattern, &unpaced());
                let mut seen = 0;
                while let Some(frame) = next(source.as_mut(), &pool) {
                    assert_eq!(
                        read_stamp(&frame.image()),
                        Some(seen),
                        "{pixel:?} {width}x{height}"
                    );
                    assert_eq!(frame.sequence, seen);
                    assert_eq!(frame.pts_ns, seen * 40_000_000);
                    seen += 1;
                }
                assert_eq!(seen, 40);
            }
        }
    }

    #[test]
    fn pictures_move_and_repeat_exactly() {
        let format = FrameFormat::new(PixelFormat::I420, 160, 120);
        let render = |n| {
            let (mut row, mut out) = (vec![0; 160], vec![0; format.packed_bytes()]);
            draw(n, &format, &mut row, &mut out);
            out
        };
        assert_eq!(render(7), render(7));
        let (a, b) = (render(7), render(8));
        let changed = a.iter().zip(&b).filter(|(a, b)| a != b).count();
        assert!(
            changed > a.len() / 100,
            "only {changed} of {} samples changed",
            a.len()
        );
        // Colour is there: not all chroma is neutral.
        assert!(a[160 * 120..].iter().any(|&c| c < 60) && a[160 * 120..].iter().any(|&c| c > 200));
    }

    #[test]
    fn a_picture_without_a_stamp_has_none() {
        let format = FrameFormat::new(PixelFormat::I420, 160, 120);
        for fill in [0, 16, 128, 255] {
            let data = vec![fill; format.packed_bytes()];
            assert_eq!(read_stamp(&ImageRef::packed(format, &data).unwrap()), None);
        }
    }

    #[test]
    fn the_recorded_pace_follows_the_clock() {
        let clock = SimulatedClock::auto();
        let pattern = TestPattern {
            fps: Some(10.0),
            frames: Some(3),
            ..TestPattern::default()
        };
        let opener = TestPatternOpener::new(pattern, &CaptureOptions::default(), clock.clone()).unwrap();
        let mut source = opener.open().unwrap();
        let pool = FramePool::new(1, source.format().packed_bytes());
        let mut at = Vec::new();
        while let Some(frame) = next(source.as_mut(), &pool) {
            at.push(frame.captured_at_ns);
        }
        assert_eq!(at, [0, 100_000_000, 200_000_000]);
        assert_eq!(clock.now_ns(), 200_000_000);
    }

    #[test]
    fn a_looped_pattern_starts_again_with_rising_times() {
        let options = CaptureOptions {
            looped: true,
            ..unpaced()
        };
        let pattern = TestPattern {
            frames: Some(2),
            fps: Some(10.0),
            ..TestPattern::default()
        };
        let (mut source, pool) = open(pattern, &options);
        let seen: Vec<_> = (0..5)
            .map(|_| {
                let frame = next(source.as_mut(), &pool).unwrap();
                (read_stamp(&frame.image()).unwrap(), frame.pts_ns / 1_000_000)
            })
            .collect();
        assert_eq!(seen, [(0, 0), (1, 100), (0, 200), (1, 300), (0, 400)]);
        assert_eq!(source.counters().loops, 2);
        assert_eq!(source.frame_count(), None);
    }

    #[test]
    fn sizes_and_rates_out_of_bounds_are_usage_errors() {
        let bad = [
            TestPattern {
                width: Some(63),
                ..TestPattern::default()
            },
            TestPattern {
                height: Some(9000),
                ..TestPattern::default()
            },
            TestPattern {
                fps: Some(0.0),
                ..TestPattern::default()
            },
            TestPattern {
                fps: Some(f64::NAN),
                ..TestPattern::default()
            },
        ];
        for pattern in bad {
            let e = TestPatternOpener::new(pattern, &CaptureOptions::default(), SimulatedClock::auto())
                .err()
                .unwrap();
            assert_eq!(e.exit_code(), 2, "{e}");
        }
    }
}
