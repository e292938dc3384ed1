//! Whether a capture card's pixels are square.

use v4l::Device;
use v4l::v4l_sys::v4l2_cropcap;
use v4l::v4l2;
use v4l::v4l2::vidioc::VIDIOC_CROPCAP;

/// `V4L2_BUF_TYPE_VIDEO_CAPTURE`.
const VIDEO_CAPTURE: u32 = 1;

/// What a picture may be wider or narrower than it should without anyone seeing it.
const UNSEEN: f64 = 0.03;

/// The whole picture of a card, before it is scaled to a mode.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Whole {
    width: u32,
    height: u32,
    /// Height of a pixel by its width, as V4L2 has it.
    pixel: (u32, u32),
}

impl Whole {
    /// What the driver says; `None` where it says nothing.
    fn of(device: &Device) -> Option<Self> {
        let mut asked = v4l2_cropcap {
            type_: VIDEO_CAPTURE,
            // SAFETY: a struct of integers, of which zero is a value.
            ..unsafe { std::mem::zeroed() }
        };
        // SAFETY: the descriptor is open, and the request takes a pointer to this struct, which outlives the call.
        unsafe { v4l2::ioctl(device.handle().fd(), VIDIOC_CROPCAP, (&raw mut asked).cast()) }.ok()?;
        Some(Self {
            width: asked.defrect.width,
            height: asked.defrect.height,
            pixel: (asked.pixelaspect.numerator, asked.pixelaspect.denominator),
        })
    }

    /// How much wider than `width` x `height` square pixels the picture should be shown; `None` if nobody sees it.
    fn stretch(self, width: u32, height: u32) -> Option<f64> {
        let (high, wide) = self.pixel;
        let sides = [self.width, self.height, high, wide, width, height];
        if sides.contains(&0) || high == wide {
            return None;
        }
        let shown = f64::from(self.width) * f64::from(wide) / (f64::from(self.height) * f64::from(high));
        let stretch = shown * f64::from(height) / f64::from(width);
        ((stretch - 1.0).abs() > UNSEEN).then_some(stretch)
    }
}

/// How much wider than its `width` x `height` pixels a camera's picture should be shown; `None` where pixels are square, or
/// the driver says nothing.
pub(super) fn stretch(device: &Device, width: u32, height: u32) -> Option<f64> {
    Whole::of(device)?.stretch(width, height)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_television_picture_is_wider_than_its_pixels_say() {
        let pal = Whole {
            width: 720,
            height: 576,
            pixel: (54, 59),
        };
        let full = pal.stretch(720, 576).unwrap();
        assert!((full - 59.0 / 54.0).abs() < 1e-9, "{full}");
        assert!(pal.stretch(360, 576).unwrap() > 2.0);
        // Scaled to 4:3, as it is shown.
        assert_eq!(pal.stretch(640, 480), None);
        let ntsc = Whole {
            width: 720,
            height: 480,
            pixel: (11, 10),
        };
        assert!(ntsc.stretch(720, 480).unwrap() < 0.92);
    }

    #[test]
    fn square_pixels_and_drivers_that_do_not_know_change_nothing() {
        let webcam = Whole {
            width: 1920,
            height: 1080,
            pixel: (1, 1),
        };
        // Cut, not scaled.
        assert_eq!(webcam.stretch(640, 480), None);
        for pixel in [(0, 0), (1, 0), (0, 1)] {
            assert_eq!(Whole { pixel, ..webcam }.stretch(640, 480), None);
        }
        let nothing = Whole {
            width: 0,
            height: 0,
            pixel: (54, 59),
        };
        assert_eq!(nothing.stretch(640, 480), None);
    }
}
