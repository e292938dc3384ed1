//! Moving pictures in files of still pictures: animated GIF, WebP and PNG, played at their own times.

use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::time::Duration;

use image::codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::{
    AnimationDecoder, DynamicImage, Frames, ImageDecoder, ImageFormat, ImageReader, ImageResult, Limits,
};
use tracing::warn;

use super::rgb::{RGB_TO_I420_COLOR, rgb_to_i420};
use crate::capture::source::{Capture, FrameSource, SourceCounters, take_buffer};
use crate::clock::SharedClock;
use vision::error::{Error, Result};
use vision::frame::{Frame, FrameFormat, PixelFormat};
use vision::picture::opaque;
use vision::pool::FramePool;

/// Pictures that say they are shown for less are shown for [`USUAL_NS`], as browsers do.
const SHORTEST_NS: u64 = 20_000_000;
const USUAL_NS: u64 = 100_000_000;

/// A file's pictures, decoded one after the other.
type Pictures = Peekable<Frames<'static>>;

/// The pictures of an animation; `None` for a file that is none.
///
/// # Errors
/// What the file system or the decoder says.
fn pictures(path: &Path, max_pixels: u64) -> ImageResult<Option<Pictures>> {
    let mut file = BufReader::new(File::open(path)?);
    let format = ImageReader::new(&mut file).with_guessed_format()?.format();
    file.seek(SeekFrom::Start(0))?;
    // A decoder holds the picture, the one before, and what it reads from.
    let mut limits = Limits::default();
    limits.max_alloc = Some(max_pixels.saturating_mul(16).saturating_add(64 << 20));
    let small = |(width, height): (u32, u32)| {
        let pixels = u64::from(width) * u64::from(height);
        pixels > 0 && pixels <= max_pixels
    };
    let frames = match format {
        Some(ImageFormat::Gif) => {
            let mut decoder = GifDecoder::new(file)?;
            if !small(decoder.dimensions()) {
                return Ok(None);
            }
            decoder.set_limits(limits)?;
            decoder.into_frames()
        }
        Some(ImageFormat::WebP) => {
            let mut decoder = WebPDecoder::new(file)?;
            if !decoder.has_animation() || !small(decoder.dimensions()) {
                return Ok(None);
            }
            decoder.set_limits(limits)?;
            decoder.into_frames()
        }
        Some(ImageFormat::Png) => {
            let mut decoder = PngDecoder::new(file)?;
            if !decoder.is_apng()? || !small(decoder.dimensions()) {
                return Ok(None);
            }
            decoder.set_limits(limits)?;
            decoder.apng()?.into_frames()
        }
        _ => return Ok(None),
    };
    Ok(Some(frames.peekable()))
}

/// An animation that is played.
pub(super) struct AnimationSource {
    path: PathBuf,
    pictures: Pictures,
    max_pixels: u64,
    looped: bool,
    format: FrameFormat,
    first_ns: u64,
    sequence: u64,
    /// When the next picture is shown.
    next_ns: u64,
    shown_in_run: u64,
    clock: SharedClock,
    counters: SourceCounters,
}

impl AnimationSource {
    /// Opens the file at `path`; `None` if it is no animation, or can't be read as one.
    pub fn open(path: &Path, max_pixels: u64, looped: bool, clock: SharedClock) -> Option<Self> {
        let mut pictures = pictures(path, max_pixels).ok().flatten()?;
        let first = pictures.peek()?.as_ref().ok()?;
        let (width, height) = first.buffer().dimensions();
        let first_ns = shown_for(first);
        Some(Self {
            path: path.to_owned(),
            max_pixels,
            looped,
            format: FrameFormat {
                pixel: PixelFormat::I420,
                width: width as usize,
                height: height as usize,
                color: RGB_TO_I420_COLOR,
            },
            first_ns,
            pictures,
            sequence: 0,
            next_ns: 0,
            shown_in_run: 0,
            clock,
            counters: SourceCounters::default(),
        })
    }

    /// The next picture; `None` at the end.
    fn next_picture(&mut self) -> Result<Option<image::Frame>> {
        loop {
            match self.pictures.next() {
                Some(Ok(picture)) => {
                    self.shown_in_run += 1;
                    return Ok(Some(picture));
                }
                Some(Err(why)) => {
                    self.counters.corrupt += 1;
                    warn!(
                        "{}: damaged or cut short; {} pictures were read: {why}",
                        self.path.display(),
                        self.shown_in_run
                    );
                }
                None => {}
            }
            // Decoders say no more after an error.
            if !self.looped {
                self.pictures = Frames::new(Box::new(std::iter::empty())).peekable();
                return Ok(None);
            }
            let again = pictures(&self.path, self.max_pixels);
            let (Ok(Some(again)), true) = (again, self.shown_in_run > 0) else {
                return Err(Error::fatal(format!(
                    "{}: can't be read any more",
                    self.path.display()
                )));
            };
            self.pictures = again;
            self.shown_in_run = 0;
            self.counters.loops += 1;
        }
    }
}

/// Nanoseconds for which a picture is shown.
fn shown_for(picture: &image::Frame) -> u64 {
    let ns = Duration::from(picture.delay()).as_nanos() as u64;
    if ns < SHORTEST_NS { USUAL_NS } else { ns }
}

impl FrameSource for AnimationSource {
    fn format(&self) -> FrameFormat {
        self.format
    }

    /// That of the first two pictures: each may be shown for a time of its own.
    fn frame_rate(&self) -> Option<f64> {
        Some(1e9 / self.first_ns as f64)
    }

    fn describe(&self) -> String {
        format!(
            "{}: an animation of {}x{}",
            self.path.display(),
            self.format.width,
            self.format.height
        )
    }

    fn counters(&self) -> SourceCounters {
        self.counters
    }

    fn next_frame(&mut self, pool: &FramePool, _timeout: Duration) -> Result<Capture> {
        let Some(picture) = self.next_picture()? else {
            return Ok(Capture::End);
        };
        let pts_ns = self.next_ns;
        self.next_ns += shown_for(&picture);
        let sequence = self.sequence;
        self.sequence += 1;
        let Some(mut data) = take_buffer(pool, &self.format)? else {
            return Ok(Capture::Dropped);
        };
        let picture = opaque(DynamicImage::from(picture.into_buffer()));
        if (picture.width() as usize, picture.height() as usize) != (self.format.width, self.format.height) {
            return Err(Error::fatal(format!(
                "{}: its pictures differ in size",
                self.path.display()
            )));
        }
        rgb_to_i420(self.format.width, self.format.height, picture.as_raw(), &mut data);
        Ok(Capture::Frame(Frame {
            sequence,
            captured_at_ns: self.clock.now_ns(),
            pts_ns,
            format: self.format,
            damaged: false,
            data,
        }))
    }
}

#[cfg(test)]
mod tests {
    use image::codecs::gif::{GifEncoder, Repeat};
    use image::{Delay, Rgba, RgbaImage};

    use super::*;
    use crate::clock::SimulatedClock;

    /// A GIF of grey pictures, each with its milliseconds.
    fn gif(path: &Path, pictures: &[(u8, u32)]) {
        let mut encoder = GifEncoder::new(File::create(path).unwrap());
        encoder.set_repeat(Repeat::Infinite).unwrap();
        for (grey, ms) in pictures {
            let picture = RgbaImage::from_pixel(8, 6, Rgba([*grey, *grey, *grey, 255]));
            let frame = image::Frame::from_parts(picture, 0, 0, Delay::from_numer_denom_ms(*ms, 1));
            encoder.encode_frame(frame).unwrap();
        }
    }

    /// Times in ms and lumas of at most `most` pictures.
    fn played(source: &mut AnimationSource, most: usize) -> Vec<(u64, u8)> {
        let pool = FramePool::new(1, source.format().packed_bytes());
        let mut seen = Vec::new();
        while seen.len() < most {
            match source.next_frame(&pool, Duration::ZERO).unwrap() {
                Capture::Frame(frame) => seen.push((frame.pts_ns / 1_000_000, frame.data[0])),
                Capture::End => break,
                other => panic!("{other:?}"),
            }
        }
        seen
    }

    #[test]
    fn pictures_come_at_their_own_times() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        gif(&path, &[(0, 40), (255, 200), (0, 0), (255, 40)]);
        let open = |looped| AnimationSource::open(&path, 1000, looped, SimulatedClock::auto()).unwrap();
        let mut source = open(false);
        assert_eq!((source.format().width, source.format().height), (8, 6));
        assert_eq!(source.frame_rate(), Some(25.0));
        // A picture that says it is shown for no time is shown for the usual one.
        assert_eq!(
            played(&mut source, 100),
            [(0, 16), (40, 235), (240, 16), (340, 235)]
        );
        assert!(matches!(
            source
                .next_frame(&FramePool::new(1, 100), Duration::ZERO)
                .unwrap(),
            Capture::End
        ));
        let mut source = open(true);
        assert_eq!(played(&mut source, 6)[4..], [(380, 16), (420, 235)]);
        assert_eq!(source.counters().loops, 1);
    }

    #[test]
    fn what_is_cut_plays_up_to_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        gif(&path, &[(0, 40), (255, 40), (0, 40), (255, 40)]);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() * 6 / 10]).unwrap();
        let mut source = AnimationSource::open(&path, 1000, false, SimulatedClock::auto()).unwrap();
        let seen = played(&mut source, 100).len();
        assert!((1..4).contains(&seen), "{seen}");
        assert_eq!(source.counters().corrupt, 1);
    }

    #[test]
    fn still_pictures_and_large_ones_are_left_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gif");
        let open = |path: &Path, most| AnimationSource::open(path, most, false, SimulatedClock::auto());
        gif(&path, &[(0, 40), (255, 40)]);
        assert!(open(&path, 47).is_none());
        assert!(open(&path, 48).is_some());
        for name in ["still.png", "still.webp", "still.jpg"] {
            let path = folder.path().join(name);
            image::RgbImage::new(4, 4).save(&path).unwrap();
            assert!(open(&path, 1000).is_none(), "{name}");
        }
        assert!(open(&folder.path().join("missing.gif"), 1000).is_none());
    }
}
