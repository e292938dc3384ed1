//! Images: a folder of them (or one) as a recording, and [`load_rgb`] for single pictures.
//!
//! A folder's files are taken in natural order (`2.png` before `10.png`) and delivered as I420, each in its own size.
//! A file that doesn't decode is skipped with a warning, and counted. One file that is an animation is played; of those in
//! a folder the first picture is taken, with a warning.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use tracing::warn;

use crate::clock::SharedClock;
use vision::error::{Error, Result};
use vision::frame::{Frame, FrameFormat, ImageRef, PixelFormat, Plane};
use vision::picture::{is_animation, is_picture, jpeg_is_whole, opaque};
use vision::pool::FramePool;

use super::animation::AnimationSource;
use super::rgb::{RGB_TO_I420_COLOR, rgb_to_i420};
use crate::capture::options::CaptureOptions;
use crate::capture::paced::Paced;
use crate::capture::source::{Capture, FrameSource, SourceCounters, SourceOpener, take_buffer};

/// A picture in memory: R G B, row by row without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbPicture {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `3 * width * height` bytes.
    pub pixels: Vec<u8>,
}

impl RgbPicture {
    /// The picture's format.
    pub fn format(&self) -> FrameFormat {
        FrameFormat::new(PixelFormat::Rgb24, self.width, self.height)
    }

    /// The pixels, for the pixel functions.
    ///
    /// # Errors
    /// If the fields don't fit together.
    pub fn image(&self) -> Result<ImageRef<'_>> {
        let plane = Plane {
            data: &self.pixels,
            stride: 3 * self.width,
        };
        ImageRef::new(self.format(), &[plane]).map_err(Error::fatal)
    }
}

/// Whether the file at `path` is a PNG, GIF or WebP by its first bytes, whatever its name says: pictures or animations that
/// a media framework would show one frame of. JPEG is none of them: a stream of JPEGs begins as one JPEG does.
pub fn is_picture_inside(path: &Path) -> bool {
    let is_file = std::fs::metadata(path).is_ok_and(|meta| meta.is_file());
    let start = || {
        let mut start = Vec::with_capacity(16);
        File::open(path).ok()?.take(16).read_to_end(&mut start).ok()?;
        image::guess_format(&start).ok()
    };
    is_file
        && matches!(
            start(),
            Some(image::ImageFormat::Png | image::ImageFormat::Gif | image::ImageFormat::WebP)
        )
}

/// Reads a PNG, JPEG, BMP, WebP or GIF file as RGB, upright as its EXIF orientation says.
///
/// The format is known by the content, not by the name. Grey becomes R = G = B; 16 bits are scaled to 8;
/// CMYK is converted; transparent pixels are laid onto white. Colour profiles are ignored:
/// colours are taken for sRGB. At most `max_pixels` pixels are decoded.
///
/// # Errors
/// Usage, naming the file: it can't be read, is no image, is too large, is cut short.
pub fn load_rgb(path: &Path, max_pixels: u64) -> Result<RgbPicture> {
    let bad = |what: &str| Error::usage(format!("{}: {what}", path.display()));
    // Asked before it is opened: opening a pipe waits for who writes into it.
    let meta = std::fs::metadata(path).map_err(|e| bad("can't be read").caused_by(e))?;
    if !meta.is_file() {
        return Err(bad("is not a file"));
    }
    // No format needs more bytes than this for this many pixels.
    let most = max_pixels.saturating_mul(16).saturating_add(64 << 20);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(|e| bad("can't be read").caused_by(e))?;
    let reader = ImageReader::new(Cursor::new(&bytes))
        .with_guessed_format()
        .map_err(|e| bad("can't be read").caused_by(e))?;
    if reader.format().is_none() {
        return Err(bad("is no image").hint("PNG, JPEG, BMP, WebP and GIF are read"));
    }
    let mut decoder = reader
        .into_decoder()
        .map_err(|e| bad("is no image that can be read").caused_by(e))?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > max_pixels {
        return Err(bad(&format!(
            "has {width}x{height} pixels; at most {max_pixels} are read"
        )));
    }
    let mut limits = Limits::default();
    // Up to four 16-bit channels, and the decoder's own copy.
    limits.max_alloc = Some(pixels.saturating_mul(16).saturating_add(64 << 20));
    decoder
        .set_limits(limits)
        .map_err(|e| bad("needs too much memory").caused_by(e))?;
    // A broken EXIF block says nothing about the pixels.
    let orientation = decoder
        .orientation()
        .unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| bad("is damaged").caused_by(e))?;
    image.apply_orientation(orientation);
    if bytes.starts_with(b"\xff\xd8") && !jpeg_is_whole(&bytes) {
        return Err(bad("is cut short: the JPEG has no end").hint("copy it again from where it came"));
    }
    if is_animation(&bytes) {
        warn!("{}: an animation; its first picture is taken", path.display());
    }
    let image = opaque(image);
    Ok(RgbPicture {
        width: image.width() as usize,
        height: image.height() as usize,
        pixels: image.into_raw(),
    })
}

/// Names in the order a person expects: runs of digits compare as numbers.
fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut a_rest, mut b_rest) = (a, b);
    loop {
        let (Some(x), Some(y)) = (a_rest.chars().next(), b_rest.chars().next()) else {
            // What ends first comes first; then leading zeros and nothing else can differ.
            return a_rest.len().cmp(&b_rest.len()).then_with(|| a.cmp(b));
        };
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let (a_digits, a_tail) = split_digits(a_rest);
            let (b_digits, b_tail) = split_digits(b_rest);
            let order = a_digits
                .len()
                .cmp(&b_digits.len())
                .then_with(|| a_digits.cmp(b_digits));
            if order != Ordering::Equal {
                return order;
            }
            (a_rest, b_rest) = (a_tail, b_tail);
        } else {
            if x != y {
                return x.cmp(&y);
            }
            (a_rest, b_rest) = (&a_rest[x.len_utf8()..], &b_rest[y.len_utf8()..]);
        }
    }
}

/// The leading digits without leading zeros, and the rest.
fn split_digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    (digits.trim_start_matches('0'), rest)
}

/// The images of a folder in natural order, or the one file.
///
/// # Errors
/// Usage, if the path can't be read or holds no image.
pub fn list_images(path: &Path) -> Result<Vec<PathBuf>> {
    let unreadable =
        |e: std::io::Error| Error::usage(format!("{}: can't be read", path.display())).caused_by(e);
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let hidden = file
            .file_name()
            .is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        if !hidden && is_picture(&file) && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(
            Error::usage(format!("{}: there is no image in the folder", path.display()))
                .hint("png, apng, jpg, jpeg, bmp, webp and gif files are taken; folders inside are not"),
        );
    }
    files.sort_by(|a, b| natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(files)
}

/// Opens a folder of images, or one image.
#[derive(Debug)]
pub struct ImagesOpener {
    path: PathBuf,
    options: CaptureOptions,
    clock: SharedClock,
}

impl ImagesOpener {
    /// An opener of the folder or file `path`.
    pub fn new(path: &Path, options: &CaptureOptions, clock: SharedClock) -> Self {
        Self {
            path: path.to_owned(),
            options: options.clone(),
            clock,
        }
    }
}

impl SourceOpener for ImagesOpener {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn open(&self) -> Result<Box<dyn FrameSource>> {
        let files = list_images(&self.path)?;
        if let [file] = files.as_slice()
            && let Some(animation) = AnimationSource::open(
                file,
                self.options.max_image_pixels,
                self.options.looped,
                self.clock.clone(),
            )
        {
            return Ok(Box::new(Paced::new(
                animation,
                self.options.pace,
                self.clock.clone(),
            )));
        }
        let mut source = ImagesSource {
            name: self.name(),
            files,
            next: 0,
            sequence: 0,
            good_in_run: 0,
            first: None,
            format: FrameFormat {
                pixel: PixelFormat::I420,
                width: 0,
                height: 0,
                color: RGB_TO_I420_COLOR,
            },
            options: self.options.clone(),
            clock: self.clock.clone(),
            counters: SourceCounters::default(),
        };
        let Some(first) = source.load_next()? else {
            // One file was asked for: say what is wrong with it. Of many, say that none is good.
            return Err(match source.files.as_slice() {
                [file] => match load_rgb(file, self.options.max_image_pixels) {
                    Err(error) => error,
                    Ok(_) => Error::fatal(format!("{}: changed while it was read", file.display())),
                },
                files => Error::usage(format!(
                    "{}: none of {} images can be read",
                    self.name(),
                    files.len()
                )),
            });
        };
        source.format.width = first.width;
        source.format.height = first.height;
        source.first = Some(first);
        Ok(Box::new(Paced::new(
            source,
            self.options.pace,
            self.clock.clone(),
        )))
    }
}

/// Decodes file after file, without waiting.
#[derive(Debug)]
struct ImagesSource {
    name: String,
    files: Vec<PathBuf>,
    /// The file to be read next.
    next: usize,
    sequence: u64,
    good_in_run: u64,
    /// The picture that told the format, until it is delivered.
    first: Option<RgbPicture>,
    format: FrameFormat,
    options: CaptureOptions,
    clock: SharedClock,
    counters: SourceCounters,
}

impl ImagesSource {
    /// The next picture that can be read; `None` at the end.
    fn load_next(&mut self) -> Result<Option<RgbPicture>> {
        loop {
            let Some(file) = self.files.get(self.next) else {
                return Ok(None);
            };
            self.next += 1;
            match load_rgb(file, self.options.max_image_pixels) {
                Ok(picture) => {
                    self.good_in_run += 1;
                    return Ok(Some(picture));
                }
                Err(error) => {
                    self.counters.corrupt += 1;
                    warn!("skipped: {error}");
                }
            }
        }
    }
}

impl FrameSource for ImagesSource {
    fn format(&self) -> FrameFormat {
        self.format
    }

    fn frame_rate(&self) -> Option<f64> {
        Some(self.options.fps)
    }

    fn frame_count(&self) -> Option<u64> {
        (!self.options.looped).then_some(self.files.len() as u64)
    }

    fn describe(&self) -> String {
        format!(
            "{}: {} images of {}x{} at {} fps",
            self.name,
            self.files.len(),
            self.format.width,
            self.format.height,
            self.options.fps
        )
    }

    fn counters(&self) -> SourceCounters {
        self.counters
    }

    fn next_frame(&mut self, pool: &FramePool, _timeout: Duration) -> Result<Capture> {
        let picture = loop {
            let picture = match self.first.take() {
                Some(picture) => Some(picture),
                None => self.load_next()?,
            };
            match picture {
                Some(picture) => break picture,
                None if !self.options.looped => return Ok(Capture::End),
                None if self.good_in_run == 0 => {
                    return Err(Error::fatal(format!(
                        "{}: no image can be read any more",
                        self.name
                    )));
                }
                None => {
                    self.next = 0;
                    self.good_in_run = 0;
                    self.counters.loops += 1;
                }
            }
        };
        if (picture.width, picture.height) != (self.format.width, self.format.height) {
            (self.format.width, self.format.height) = (picture.width, picture.height);
            self.first = Some(picture);
            return Ok(Capture::NewFormat);
        }
        let sequence = self.sequence;
        self.sequence += 1;
        let Some(mut data) = take_buffer(pool, &self.format)? else {
            return Ok(Capture::Dropped);
        };
        rgb_to_i420(picture.width, picture.height, &picture.pixels, &mut data);
        Ok(Capture::Frame(Frame {
            sequence,
            captured_at_ns: self.clock.now_ns(),
            pts_ns: (sequence as f64 * 1e9 / self.options.fps).round() as u64,
            format: self.format,
            damaged: false,
            data,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Pace;
    use crate::clock::{Clock, SimulatedClock};
    use image::{GrayImage, ImageBuffer, Luma, Rgb, RgbImage, Rgba, RgbaImage};

    const LIMIT: u64 = 1_000_000;

    fn flat(width: u32, height: u32, color: [u8; 3]) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb(color))
    }

    fn options() -> CaptureOptions {
        CaptureOptions {
            pace: Pace::AsFastAsPossible,
            fps: 10.0,
            ..CaptureOptions::default()
        }
    }

    /// Luma of the first pixel of each frame, up to `most`.
    fn lumas(source: &mut dyn FrameSource, most: usize) -> Vec<u8> {
        let pool = FramePool::new(1, source.format().packed_bytes());
        let mut out = Vec::new();
        while out.len() < most {
            match source.next_frame(&pool, Duration::from_secs(1)).unwrap() {
                Capture::Frame(frame) => {
                    assert_eq!(frame.pts_ns, out.len() as u64 * 100_000_000);
                    out.push(frame.data[0]);
                }
                Capture::End => break,
                other => panic!("{other:?}"),
            }
        }
        out
    }

    fn open(path: &Path, options: &CaptureOptions) -> Result<Box<dyn FrameSource>> {
        ImagesOpener::new(path, options, SimulatedClock::auto()).open()
    }

    #[test]
    fn names_sort_as_people_expect() {
        let mut names = ["b1", "a10", "a2", "a02b", "A3", "a", "a2b", "a100", "é"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["A3", "a", "a2", "a02b", "a2b", "a10", "a100", "b1", "é"]);
    }

    #[test]
    fn a_folder_plays_in_order_and_skips_what_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        for (name, grey) in [("f10.png", 255), ("f2.bmp", 128), ("f1.webp", 0)] {
            flat(5, 3, [grey; 3]).save(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("f3.png"), b"\x89PNG\r\n\x1a\nnonsense").unwrap();
        std::fs::write(dir.path().join("notes.txt"), b"no image").unwrap();
        std::fs::write(dir.path().join(".hidden.png"), b"no image").unwrap();
        let mut source = open(dir.path(), &options()).unwrap();
        assert_eq!((source.format().width, source.format().height), (5, 3));
        assert_eq!(source.format().pixel, PixelFormat::I420);
        assert_eq!(source.frame_count(), Some(4));
        assert_eq!(lumas(source.as_mut(), 100), [16, 126, 235]);
        assert_eq!(source.counters().corrupt, 1);

        let looped = CaptureOptions {
            looped: true,
            ..options()
        };
        let mut source = open(dir.path(), &looped).unwrap();
        assert_eq!(lumas(source.as_mut(), 7), [16, 126, 235, 16, 126, 235, 16]);
        assert_eq!(source.counters().loops, 2);
    }

    #[test]
    fn another_size_is_another_format() {
        let dir = tempfile::tempdir().unwrap();
        flat(4, 4, [0; 3]).save(dir.path().join("1.png")).unwrap();
        flat(6, 4, [255; 3]).save(dir.path().join("2.png")).unwrap();
        flat(6, 4, [0; 3]).save(dir.path().join("3.png")).unwrap();
        let mut source = open(dir.path(), &options()).unwrap();
        let mut seen = Vec::new();
        loop {
            let pool = FramePool::new(1, source.format().packed_bytes());
            match source.next_frame(&pool, Duration::ZERO).unwrap() {
                Capture::Frame(frame) => seen.push((frame.sequence, frame.format.width, frame.data[0])),
                Capture::NewFormat => seen.push((99, source.format().width, 0)),
                Capture::End => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, [(0, 4, 16), (99, 6, 0), (1, 6, 235), (2, 6, 16)]);
    }

    #[test]
    fn a_folder_skips_what_is_cut_short_and_waits_for_no_pipe() {
        let dir = tempfile::tempdir().unwrap();
        flat(32, 32, [200; 3]).save(dir.path().join("1.jpg")).unwrap();
        let whole = std::fs::read(dir.path().join("1.jpg")).unwrap();
        std::fs::write(dir.path().join("2.jpg"), &whole[..whole.len() - 2]).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("3.jpg"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let mut source = open(dir.path(), &options()).unwrap();
        assert_eq!(lumas(source.as_mut(), 10).len(), 1);
        assert_eq!(source.counters().corrupt, 1);
        let cut = load_rgb(&dir.path().join("2.jpg"), LIMIT).unwrap_err();
        assert!(cut.to_string().contains("2.jpg: is cut short"), "{cut}");
        let pipe = load_rgb(&dir.path().join("3.jpg"), LIMIT).unwrap_err();
        assert!(pipe.to_string().contains("is not a file"), "{pipe}");
    }

    #[test]
    fn a_paced_folder_waits_between_its_images() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..3 {
            flat(4, 4, [n; 3])
                .save(dir.path().join(format!("{n}.png")))
                .unwrap();
        }
        let paced = CaptureOptions {
            pace: Pace::Recorded,
            ..options()
        };
        let clock = SimulatedClock::auto();
        let mut source = ImagesOpener::new(dir.path(), &paced, clock.clone())
            .open()
            .unwrap();
        assert_eq!(lumas(source.as_mut(), 10).len(), 3);
        assert_eq!(clock.now_ns(), 200_000_000);
    }

    #[test]
    fn every_kind_of_pixel_becomes_rgb() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        GrayImage::from_pixel(2, 1, Luma([77]))
            .save(path("grey.png"))
            .unwrap();
        ImageBuffer::from_pixel(2, 1, Rgb([65535u16, 32768, 0]))
            .save(path("deep.png"))
            .unwrap();
        RgbaImage::from_pixel(2, 1, Rgba([10, 20, 30, 0]))
            .save(path("clear.png"))
            .unwrap();
        // A name that lies about its format.
        flat(2, 1, [1, 2, 3]).save(path("x.png")).unwrap();
        std::fs::rename(path("x.png"), path("lies.jpg")).unwrap();
        for (name, rgb) in [
            ("grey.png", [77, 77, 77]),
            ("deep.png", [255, 128, 0]),
            ("clear.png", [255, 255, 255]),
            ("lies.jpg", [1, 2, 3]),
        ] {
            let picture = load_rgb(&path(name), LIMIT).unwrap();
            assert_eq!((picture.width, picture.height), (2, 1));
            assert_eq!(picture.pixels, rgb.repeat(2), "{name}");
            assert_eq!(picture.image().unwrap().plane(0).stride, 6);
        }
    }

    #[test]
    fn exif_orientation_is_applied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("turned.jpg");
        // Left half black, right half white.
        let image = RgbImage::from_fn(32, 16, |x, _| Rgb([if x < 16 { 0 } else { 255 }; 3]));
        image.save(&path).unwrap();
        let jpeg = std::fs::read(&path).unwrap();
        // APP1 with one entry: orientation (0x0112) = 6, turn by 90 degrees clockwise.
        let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec();
        let mut turned = jpeg[..2].to_vec();
        turned.extend([0xff, 0xe1]);
        turned.extend(((exif.len() + 2) as u16).to_be_bytes());
        turned.append(&mut exif);
        turned.extend(&jpeg[2..]);
        std::fs::write(&path, turned).unwrap();
        let picture = load_rgb(&path, LIMIT).unwrap();
        assert_eq!((picture.width, picture.height), (16, 32));
        let (top, bottom) = (picture.pixels[3 * 8], picture.pixels[3 * (31 * 16 + 8)]);
        assert!(top < 40 && bottom > 215, "{top} {bottom}");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("text.png"), "just text").unwrap();
        flat(40, 40, [5; 3]).save(path("big.png")).unwrap();
        let whole = std::fs::read(path("big.png")).unwrap();
        std::fs::write(path("cut.png"), &whole[..whole.len() / 2]).unwrap();
        for (name, limit, part) in [
            ("text.png", LIMIT, "is no image"),
            ("big.png", 1599, "has 40x40 pixels"),
            ("cut.png", LIMIT, "is damaged"),
            ("missing.png", LIMIT, "No such file"),
            (".", LIMIT, "is not a file"),
        ] {
            let error = load_rgb(&path(name), limit).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(part), "{name}: {error}");
        }
        let error = open(&path("text.png"), &options()).err().unwrap().to_string();
        assert!(error.contains("text.png: is no image"), "{error}");
        std::fs::create_dir(path("none")).unwrap();
        let error = open(&path("none"), &options()).err().unwrap().to_string();
        assert!(error.contains("no image in the folder"), "{error}");
        std::fs::write(path("none/a.png"), "x").unwrap();
        std::fs::write(path("none/b.png"), "x").unwrap();
        let error = open(&path("none"), &options()).err().unwrap().to_string();
        assert!(error.contains("none of 2 images"), "{error}");
    }
}
