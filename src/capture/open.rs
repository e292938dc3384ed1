//! Makes the opener of what is named.

use vision::error::{Error, Result};

use super::files::{ImagesOpener, PlaylistOpener, is_picture_inside};
use super::options::CaptureOptions;
use super::source::SourceOpener;
use super::spec::SourceSpec;
use super::test::TestPatternOpener;
use crate::clock::SharedClock;

impl SourceSpec {
    /// The opener of this source.
    ///
    /// # Errors
    /// Usage, if the build lacks what the source needs, or an option is out of bounds.
    pub fn opener(&self, options: &CaptureOptions, clock: SharedClock) -> Result<Box<dyn SourceOpener>> {
        if !(options.fps > 0.0 && options.fps <= 1000.0) {
            return Err(Error::usage(format!(
                "fps = {}; it must be above 0 and at most 1000",
                options.fps
            )));
        }
        match self {
            Self::Test(pattern) => Ok(Box::new(TestPatternOpener::new(*pattern, options, clock)?)),
            Self::File(path) if is_picture_inside(path) => {
                Ok(Box::new(ImagesOpener::new(path, options, clock)))
            }
            #[cfg(feature = "gstreamer")]
            Self::File(_) | Self::Csi(_) | Self::Rtsp(_) | Self::Launch(_) => {
                Ok(Box::new(super::gst::GstOpener::new(self, options, clock)))
            }
            #[cfg(not(feature = "gstreamer"))]
            Self::File(_) | Self::Csi(_) | Self::Rtsp(_) | Self::Launch(_) => {
                Err(left_out(&self.name(), "gstreamer"))
            }
            Self::Images(path) => Ok(Box::new(ImagesOpener::new(path, options, clock))),
            Self::Playlist(items) => {
                let once = CaptureOptions {
                    looped: false,
                    ..options.clone()
                };
                let items = items.iter().map(|item| item.opener(&once, clock.clone()));
                Ok(Box::new(PlaylistOpener::new(
                    items.collect::<Result<_>>()?,
                    options.looped,
                )))
            }
            #[cfg(feature = "camera")]
            Self::Camera(path) => Ok(Box::new(super::v4l2::CameraOpener::new(path, options, clock))),
            #[cfg(not(feature = "camera"))]
            Self::Camera(_) => Err(left_out(&self.name(), "camera")),
        }
    }
}

/// The error for a source whose feature was left out of the build.
#[allow(dead_code)] // All features on: nothing is left out.
fn left_out(name: &str, feature: &str) -> Error {
    Error::usage(format!("{name}: this build of segd was made without it"))
        .hint(format!("build with --features {feature}"))
}

#[cfg(test)]
mod tests {
    use super::super::spec::parse_uri;
    use super::*;
    use crate::clock::RealClock;

    #[test]
    fn an_animation_of_any_name_is_played() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clip.dat");
        let mut encoder = image::codecs::gif::GifEncoder::new(std::fs::File::create(&path).unwrap());
        for grey in [0, 90, 180] {
            let picture = image::RgbaImage::from_pixel(8, 6, image::Rgba([grey, grey, grey, 255]));
            encoder.encode_frame(image::Frame::new(picture)).unwrap();
        }
        drop(encoder);
        let spec = parse_uri(path.to_str().unwrap()).unwrap();
        let opener = spec
            .opener(&CaptureOptions::default(), RealClock::shared())
            .unwrap();
        let source = opener.open().unwrap();
        assert!(
            source.describe().ends_with("an animation of 8x6"),
            "{}",
            source.describe()
        );
    }

    #[test]
    fn a_bad_rate_is_refused() {
        let options = CaptureOptions {
            fps: -1.0,
            ..CaptureOptions::default()
        };
        let e = parse_uri("test://")
            .unwrap()
            .opener(&options, RealClock::shared())
            .err()
            .unwrap();
        assert!(e.to_string().contains("fps = -1"), "{e}");
    }
}
