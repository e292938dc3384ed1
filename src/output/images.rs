//! Frames to a folder of PNG images, `000000.png` and on, for exact results.
//!
//! No image is ever replaced. Where there are numbered images already, a conversion is refused, and a live output goes on
//! behind the last.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::output::names::rename_new;
use crate::output::{FrameOutput, Output, OutputOpener, Video};
use vision::error::{Error, Result};
use vision::frame::{Colorimetry, Frame, FrameFormat, ImageRef, PixelFormat, Range};

/// Opens an image folder.
#[derive(Debug, Clone)]
pub struct ImagesOpener {
    folder: PathBuf,
    /// The number of the next image: one that is opened again goes on where it was.
    next: Arc<AtomicU64>,
    begun: Arc<AtomicBool>,
}

impl ImagesOpener {
    /// An opener for this folder; it is created when opened.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            next: Arc::default(),
            begun: Arc::default(),
        }
    }
}

impl OutputOpener for ImagesOpener {
    fn name(&self) -> String {
        format!("{} (PNG images)", self.folder.display())
    }

    fn is_live(&self) -> bool {
        false
    }

    fn open(&self, video: &Video) -> Result<Output> {
        self.begin(video).map(|output| Output::Frames(Box::new(output)))
    }
}

impl ImagesOpener {
    fn begin(&self, video: &Video) -> Result<ImagesOutput> {
        let format = video.format;
        if format.pixel != PixelFormat::I420 {
            return Err(Error::usage(format!(
                "frames to write as images are {:?}; I420 is expected",
                format.pixel
            )));
        }
        fs::create_dir_all(&self.folder).map_err(|e| {
            Error::usage(format!("{}: the folder can't be created", self.folder.display()))
                .caused_by(e)
                .hint("write to a folder that this user may write to")
        })?;
        if !self.begun.load(Relaxed)
            && let Some(last) = last_image(&self.folder)
        {
            let folder = self.folder.display();
            if !video.live {
                return Err(Error::usage(format!(
                    "{folder}: holds images of an earlier run, up to {last:06}.png"
                ))
                .hint("name another folder, or move them away"));
            }
            tracing::warn!(
                "{folder}: the images that it holds are kept; new ones begin with number {}",
                last + 1
            );
            self.next.store(last + 1, Relaxed);
        }
        self.begun.store(true, Relaxed);
        let output = ImagesOutput {
            folder: self.folder.clone(),
            format,
            next: self.next.clone(),
            rgb: vec![0; 3 * format.width * format.height],
            png: Vec::new(),
        };
        // A folder that can't be written to is refused now, not at the first frame.
        let probe = self.folder.join(".segd.partial");
        fs::write(&probe, [])
            .and_then(|()| fs::remove_file(&probe))
            .map_err(|e| {
                Error::usage(format!("{}: can't be written to", self.folder.display()))
                    .caused_by(e)
                    .hint("write to a folder that this user may write to")
            })?;
        Ok(output)
    }
}

struct ImagesOutput {
    folder: PathBuf,
    format: FrameFormat,
    next: Arc<AtomicU64>,
    rgb: Vec<u8>,
    png: Vec<u8>,
}

impl FrameOutput for ImagesOutput {
    fn describe(&self) -> String {
        format!("{} (PNG images)", self.folder.display())
    }

    fn push(&mut self, frame: Frame) -> Result<()> {
        if frame.format != self.format {
            return Err(Error::fatal(format!(
                "{}: a frame of {:?} came; the folder was begun with {:?}",
                self.folder.display(),
                frame.format,
                self.format
            )));
        }
        i420_to_rgb(&frame.image(), &mut self.rgb);
        let path = self.folder.join(format!("{:06}.png", self.next.load(Relaxed)));
        let (width, height) = (self.format.width, self.format.height);
        write_png(&path, width, height, &self.rgb, &mut self.png)?;
        self.next.fetch_add(1, Relaxed);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// The highest number of the images in a folder, if there are numbered ones.
fn last_image(folder: &Path) -> Option<u64> {
    let number = |name: &str| {
        let digits = name.strip_suffix(".png")?;
        let is_number = (6..=12).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| digits.parse().ok()).flatten()
    };
    let entries = fs::read_dir(folder).ok()?;
    entries
        .filter_map(|entry| number(entry.ok()?.file_name().to_str()?))
        .max()
}

/// Writes an RGB picture under a temporary name beside `path`, then renames it. `scratch` is reused.
fn write_png(path: &Path, width: usize, height: usize, rgb: &[u8], scratch: &mut Vec<u8>) -> Result<()> {
    scratch.clear();
    // Frames are far smaller than 2^32 pixels a side.
    let mut encoder = png::Encoder::new(&mut *scratch, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder
        .write_header()
        .and_then(|mut writer| {
            writer.write_image_data(rgb)?;
            writer.finish()
        })
        .map_err(|e| Error::fatal(format!("{}: can't be encoded", path.display())).caused_by(e))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.partial"));
    fs::write(&temporary, &*scratch)
        .and_then(|()| rename_new(&temporary, path))
        .map_err(|e| {
            // What is there of it is no image.
            let _ = fs::remove_file(&temporary);
            let hint = if e.kind() == std::io::ErrorKind::StorageFull {
                "the disk is full: make room, or write to another disk"
            } else {
                "check that the folder is still there and can be written to"
            };
            Error::fatal(format!("{}: can't be written", path.display()))
                .caused_by(e)
                .hint(hint)
        })
}

/// Fixed-point factors (16 fraction bits) from YUV to RGB.
struct Factors {
    y_offset: i32,
    y: i32,
    r_v: i32,
    g_u: i32,
    g_v: i32,
    b_u: i32,
}

impl Factors {
    /// The inverse of the matrices of ITU-R BT.601 (<https://www.itu.int/rec/R-REC-BT.601>) and BT.709
    /// (<https://www.itu.int/rec/R-REC-BT.709>).
    fn new(color: Colorimetry) -> Self {
        let (kr, kb) = color.matrix.weights();
        let (y_offset, y_scale, c_scale) = match color.range {
            Range::Limited => (16, 255.0 / 219.0, 255.0 / 224.0),
            Range::Full => (0, 1.0, 1.0),
        };
        let kg = 1.0 - kr - kb;
        let fixed = |x: f64| (x * 65536.0).round() as i32;
        Self {
            y_offset,
            y: fixed(y_scale),
            r_v: fixed(2.0 * (1.0 - kr) * c_scale),
            g_u: fixed(-2.0 * (1.0 - kb) * kb / kg * c_scale),
            g_v: fixed(-2.0 * (1.0 - kr) * kr / kg * c_scale),
            b_u: fixed(2.0 * (1.0 - kb) * c_scale),
        }
    }

    #[inline]
    fn rgb(&self, y: u8, u: u8, v: u8) -> [u8; 3] {
        let luma = (i32::from(y) - self.y_offset) * self.y + 32768;
        let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
        let byte = |x: i32| (x >> 16).clamp(0, 255) as u8;
        [
            byte(luma + self.r_v * v),
            byte(luma + self.g_u * u + self.g_v * v),
            byte(luma + self.b_u * u),
        ]
    }
}

/// An I420 picture as packed RGB, by the picture's own colorimetry. Each chroma sample holds for its
/// 2x2 pixels.
///
/// # Panics
/// If the picture isn't I420 or `rgb` is shorter than `3 * width * height`.
pub fn i420_to_rgb(image: &ImageRef<'_>, rgb: &mut [u8]) {
    assert_eq!(image.format.pixel, PixelFormat::I420, "the picture's format");
    let factors = Factors::new(image.format.color);
    let (width, height) = (image.width(), image.height());
    let half = width.div_ceil(2);
    for (y, out) in rgb.chunks_exact_mut(3 * width).take(height).enumerate() {
        let luma = image.plane(0).row(y, width);
        let u = image.plane(1).row(y / 2, half);
        let v = image.plane(2).row(y / 2, half);
        for (((out, luma), u), v) in out.chunks_mut(6).zip(luma.chunks(2)).zip(u).zip(v) {
            for (pixel, luma) in out.chunks_exact_mut(3).zip(luma) {
                pixel.copy_from_slice(&factors.rgb(*luma, *u, *v));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vision::frame::Matrix;
    use vision::pool::PooledBuffer;

    const COLORS: [Colorimetry; 4] = [
        Colorimetry {
            matrix: Matrix::Bt601,
            range: Range::Limited,
        },
        Colorimetry {
            matrix: Matrix::Bt601,
            range: Range::Full,
        },
        Colorimetry {
            matrix: Matrix::Bt709,
            range: Range::Limited,
        },
        Colorimetry {
            matrix: Matrix::Bt709,
            range: Range::Full,
        },
    ];

    /// RGB to YUV by the standards' formulas, rounded.
    fn forward(color: Colorimetry, rgb: [u8; 3]) -> [u8; 3] {
        let (kr, kb) = color.matrix.weights();
        let [r, g, b] = rgb.map(|x| f64::from(x) / 255.0);
        let y = kr * r + (1.0 - kr - kb) * g + kb * b;
        let (u, v) = ((b - y) / (2.0 - 2.0 * kb), (r - y) / (2.0 - 2.0 * kr));
        let [y, u, v] = match color.range {
            Range::Limited => [16.0 + 219.0 * y, 128.0 + 224.0 * u, 128.0 + 224.0 * v],
            Range::Full => [255.0 * y, 128.0 + 255.0 * u, 128.0 + 255.0 * v],
        };
        [y, u, v].map(|x| x.round().clamp(0.0, 255.0) as u8)
    }

    #[test]
    fn known_colours() {
        let limited = Factors::new(COLORS[0]);
        assert_eq!(limited.rgb(16, 128, 128), [0, 0, 0]);
        assert_eq!(limited.rgb(235, 128, 128), [255, 255, 255]);
        // BT.601 red, <https://www.itu.int/rec/R-REC-BT.601>: Y 81.5, U 90.2, V 240.
        assert_eq!(limited.rgb(81, 90, 240), [254, 0, 0]);
        let full = Factors::new(COLORS[1]);
        for grey in 0..=255 {
            assert_eq!(full.rgb(grey, 128, 128), [grey; 3]);
        }
    }

    proptest! {
        #[test]
        fn rgb_comes_back_within_the_rounding_of_yuv(r: u8, g: u8, b: u8, which in 0usize..4) {
            let color = COLORS[which];
            let [y, u, v] = forward(color, [r, g, b]);
            let back = Factors::new(color).rgb(y, u, v);
            for (a, b) in back.iter().zip([r, g, b]) {
                prop_assert!(a.abs_diff(b) <= 2, "{color:?} {:?} -> {:?} -> {back:?}", [r, g, b], [y, u, v]);
            }
        }

        #[test]
        fn fixed_point_is_the_formula_within_one(y: u8, u: u8, v: u8, which in 0usize..4) {
            let color = COLORS[which];
            let (kr, kb) = if color.matrix == Matrix::Bt601 { (0.299, 0.114) } else { (0.2126, 0.0722) };
            let kg = 1.0 - kr - kb;
            let (luma, cs) = match color.range {
                Range::Limited => ((f64::from(y) - 16.0) * 255.0 / 219.0, 255.0 / 224.0),
                Range::Full => (f64::from(y), 1.0),
            };
            let (cu, cv) = ((f64::from(u) - 128.0) * cs, (f64::from(v) - 128.0) * cs);
            let (r, b) = (luma + 2.0 * (1.0 - kr) * cv, luma + 2.0 * (1.0 - kb) * cu);
            let g = (luma - kr * r - kb * b) / kg;
            let exact = [r, g, b].map(|x| x.round().clamp(0.0, 255.0) as u8);
            for (a, b) in Factors::new(color).rgb(y, u, v).iter().zip(exact) {
                prop_assert!(a.abs_diff(b) <= 1);
            }
        }

        #[test]
        fn every_pixel_takes_its_own_chroma(width in 1usize..12, height in 1usize..12, seed: u64) {
            let format = FrameFormat {
                pixel: PixelFormat::I420,
                width,
                height,
                color: COLORS[(seed % 4) as usize],
            };
            let data: Vec<u8> = (0..format.packed_bytes())
                .map(|i| (seed.wrapping_mul(i as u64 + 1).wrapping_mul(0x9E37_79B9) >> 20) as u8)
                .collect();
            let image = ImageRef::packed(format, &data).map_err(TestCaseError::fail)?;
            let mut rgb = vec![0; 3 * width * height];
            i420_to_rgb(&image, &mut rgb);
            let factors = Factors::new(format.color);
            let half = width.div_ceil(2);
            let (u, v) = (width * height, width * height + half * height.div_ceil(2));
            for y in 0..height {
                for x in 0..width {
                    let c = (y / 2) * half + x / 2;
                    let expected = factors.rgb(data[y * width + x], data[u + c], data[v + c]);
                    let at = 3 * (y * width + x);
                    prop_assert_eq!(&rgb[at..at + 3], &expected);
                }
            }
        }
    }

    #[test]
    fn a_folder_gets_its_images_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let format = FrameFormat {
            pixel: PixelFormat::I420,
            width: 5,
            height: 3,
            color: COLORS[1],
        };
        let target = folder.path().join("a/b");
        let video = Video::new(format, None, false);
        let mut output = ImagesOpener::new(target.clone()).begin(&video).unwrap();
        for sequence in 0..3u64 {
            let mut data = vec![128u8; format.packed_bytes()];
            data[..15].fill(50 * sequence as u8);
            let frame = Frame {
                sequence,
                captured_at_ns: 0,
                pts_ns: 0,
                format,
                damaged: false,
                data: PooledBuffer::unpooled(data),
            };
            output.push(frame).unwrap();
        }
        Box::new(output).finish().unwrap();
        let mut names: Vec<_> = fs::read_dir(&target)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["000000.png", "000001.png", "000002.png"]);
        let picture = image::open(target.join("000002.png")).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), (5, 3));
        assert!(picture.pixels().all(|p| p.0 == [100; 3]));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let video = Video::new(FrameFormat::new(PixelFormat::I420, 2, 2), None, false);
        let e = ImagesOpener::new("/proc/segd".into()).open(&video).err().unwrap();
        assert!(e.to_string().contains("/proc/segd"), "{e}");
        assert_eq!(e.exit_code(), 2);
    }
}
