//! The newest outgoing picture, for whoever asks: compose copies it only while somebody waits for one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use tokio::sync::oneshot;

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

/// Where those who want an outgoing picture wait for it.
#[derive(Debug, Default)]
pub struct SnapshotDesk {
    /// Whether anybody waits.
    wanted: AtomicBool,
    waiting: Mutex<Vec<oneshot::Sender<Arc<Picture>>>>,
}

impl SnapshotDesk {
    /// Gives a copy to all who wait. Costs one load if nobody does.
    pub fn offer(&self, format: FrameFormat, data: &[u8]) {
        if !self.wanted.load(Ordering::Acquire) {
            return;
        }
        let waiting = {
            let mut waiting = self.waiting();
            self.wanted.store(false, Ordering::Release);
            std::mem::take(&mut *waiting)
        };
        let data = data[..format.packed_bytes().min(data.len())].to_vec();
        let picture = Arc::new(Picture { format, data });
        for one in waiting {
            // It may have gone.
            let _ = one.send(picture.clone());
        }
    }

    /// The next picture that goes out; wait for it as long as you like.
    pub fn next(&self) -> oneshot::Receiver<Arc<Picture>> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting();
        // While no picture goes out, those who have given up don't pile up.
        waiting.retain(|one| !one.is_closed());
        waiting.push(sender);
        self.wanted.store(true, Ordering::Release);
        receiver
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<oneshot::Sender<Arc<Picture>>>> {
        self.waiting.lock().unwrap_or_else(|e| e.into_inner())
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

    #[test]
    fn a_picture_comes_only_when_asked_for_and_is_the_next_one() {
        let desk = SnapshotDesk::default();
        let format = FrameFormat::new(PixelFormat::I420, 16, 16);
        let offer = |value| desk.offer(format, &vec![value; format.packed_bytes()]);
        offer(1);
        let mut waiting = desk.next();
        assert!(waiting.try_recv().is_err(), "what went out before");
        let beside = desk.next();
        offer(81);
        offer(3);
        assert_eq!(waiting.try_recv().unwrap().data[0], 81);
        assert_eq!(beside.blocking_recv().unwrap().data[0], 81);
        assert_eq!(desk.waiting().len(), 0);
    }

    #[test]
    fn those_who_have_given_up_dont_pile_up() {
        let desk = SnapshotDesk::default();
        for _ in 0..100 {
            drop(desk.next());
        }
        assert_eq!(desk.waiting().len(), 1);
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
