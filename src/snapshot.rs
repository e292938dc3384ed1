//! The newest outgoing picture, for who asks: compose copies it only while somebody waits for one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;

use crate::output::images::i420_to_rgb;
use vision::error::{Error, Result};
use vision::frame::{FrameFormat, ImageRef, PixelFormat};

/// A picture without row padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Format of the bytes.
    pub format: FrameFormat,
    /// [`FrameFormat::packed_bytes`] bytes.
    pub data: Vec<u8>,
}

/// Where outgoing pictures are left for those who asked.
#[derive(Debug, Default)]
pub struct SnapshotDesk {
    wanted: AtomicBool,
    picture: Mutex<Option<Picture>>,
    left: Condvar,
}

impl SnapshotDesk {
    /// Leaves a copy if somebody waits for one. Costs one load otherwise.
    pub fn offer(&self, format: FrameFormat, data: &[u8]) {
        if !self.wanted.swap(false, Ordering::AcqRel) {
            return;
        }
        let data = data[..format.packed_bytes().min(data.len())].to_vec();
        *self.picture.lock().unwrap_or_else(|e| e.into_inner()) = Some(Picture { format, data });
        self.left.notify_all();
    }

    /// The next picture that goes out, waited for at most `timeout`.
    pub fn wait(&self, timeout: Duration) -> Option<Picture> {
        let deadline = Instant::now() + timeout;
        let mut picture = self.picture.lock().unwrap_or_else(|e| e.into_inner());
        *picture = None;
        self.wanted.store(true, Ordering::Release);
        while picture.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.wanted.store(false, Ordering::Release);
                return None;
            }
            let woken = self.left.wait_timeout(picture, left);
            picture = woken.unwrap_or_else(|e| e.into_inner()).0;
        }
        // Left where it is: another one may wait for the same.
        picture.clone()
    }
}

/// An I420 or RGB picture as JPEG.
///
/// # Errors
/// Fatal, for bytes that don't fit the format.
pub fn jpeg(picture: &Picture) -> Result<Vec<u8>> {
    let fail = |why: String| Error::fatal("the picture can't be made a JPEG").caused_by(why);
    let rgb = to_rgb(picture).map_err(fail)?;
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 85)
        .encode_image(&rgb)
        .map_err(|e| fail(e.to_string()))?;
    Ok(bytes)
}

fn to_rgb(picture: &Picture) -> std::result::Result<RgbImage, String> {
    let image = ImageRef::packed(picture.format, &picture.data)?;
    let (width, height) = (image.width(), image.height());
    let side = |n: usize| u32::try_from(n).map_err(|e| e.to_string());
    let (w, h) = (side(width)?, side(height)?);
    if picture.format.pixel == PixelFormat::Rgb24 {
        return RgbImage::from_raw(w, h, picture.data.clone()).ok_or_else(|| "too few bytes".to_owned());
    }
    if picture.format.pixel != PixelFormat::I420 {
        return Err(format!("{:?} is no outgoing format", picture.format.pixel));
    }
    let mut rgb = vec![0; 3 * width * height];
    i420_to_rgb(&image, &mut rgb);
    RgbImage::from_raw(w, h, rgb).ok_or_else(|| "too few bytes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_picture_comes_only_when_asked_for_and_is_the_next_one() {
        let desk = Arc::new(SnapshotDesk::default());
        let format = FrameFormat::new(PixelFormat::I420, 16, 16);
        desk.offer(format, &vec![1; format.packed_bytes()]);
        assert_eq!(desk.wait(Duration::from_millis(10)), None, "what went out before");
        let waiting = desk.clone();
        let waiter = std::thread::spawn(move || waiting.wait(Duration::from_secs(10)));
        while !desk.wanted.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        desk.offer(format, &vec![81; format.packed_bytes()]);
        desk.offer(format, &vec![3; format.packed_bytes()]);
        assert_eq!(waiter.join().unwrap().unwrap().data[0], 81);
    }

    #[test]
    fn colours_survive() {
        let format = FrameFormat::new(PixelFormat::I420, 32, 32);
        let data = [(81, 1024), (90, 256), (240, 256)]
            .into_iter()
            .flat_map(|(v, n)| std::iter::repeat_n(v, n))
            .collect();
        let bytes = jpeg(&Picture { format, data }).unwrap();
        let [r, g, b] = image::load_from_memory(&bytes).unwrap().to_rgb8()[(16, 16)].0;
        assert!(r > 245 && g < 12 && b < 12, "{r} {g} {b}");
        let short = Picture {
            format,
            data: vec![0; 10],
        };
        assert!(jpeg(&short).is_err());
    }
}
