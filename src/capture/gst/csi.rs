//! Cameras on a board's CSI connector, which no plain V4L2 node serves: the sensor's raw pictures pass through an
//! image signal processor that only the board's own GStreamer element drives. Which element, and the launch line
//! around it, is a pure choice over what is installed.

use vision::error::{Error, Result};

use crate::capture::options::CaptureOptions;

/// A launch line to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsiPlan {
    /// The source element.
    pub element: &'static str,
    /// The line, which ends in an appsink of I420, NV12 or YUY2 in ordinary memory.
    pub line: String,
}

/// The elements that are known, and the boards that have them.
pub const KNOWN: [(&str, &str); 2] = [("nvarguscamerasrc", "Jetson"), ("libcamerasrc", "Raspberry Pi")];

/// The launch lines for CSI camera `sensor`, best first; `has` tells which elements are installed.
///
/// # Errors
/// Usage, if no element for such cameras is installed, or none can read a second camera.
pub fn plans(sensor: u32, options: &CaptureOptions, has: &dyn Fn(&str) -> bool) -> Result<Vec<CsiPlan>> {
    let (width, height) = (options.width, options.height);
    let (numerator, denominator) = rate(options.fps);
    let mut plans = Vec::new();
    // The sensor mode nearest above the caps is taken, and scaled by the processor:
    // <https://docs.nvidia.com/jetson/archives/r36.4/DeveloperGuide/SD/Multimedia/AcceleratedGstreamer.html>
    if has("nvarguscamerasrc") && has("nvvidconv") {
        plans.push(CsiPlan {
            element: "nvarguscamerasrc",
            line: format!(
                "nvarguscamerasrc sensor-id={sensor} ! \
                 video/x-raw(memory:NVMM),format=NV12,width={width},height={height},framerate={numerator}/{denominator} ! \
                 nvvidconv ! video/x-raw,format=I420 ! appsink"
            ),
        });
    }
    // It names cameras by their path in the device tree, not by number; without a name it takes the first:
    // <https://libcamera.org/getting-started.html#using-gstreamer-plugin>
    if has("libcamerasrc") && sensor == 0 {
        plans.push(CsiPlan {
            element: "libcamerasrc",
            line: format!(
                "libcamerasrc ! video/x-raw,width={width},height={height},framerate={numerator}/{denominator} ! \
                 videoconvert ! video/x-raw,format=I420 ! appsink"
            ),
        });
    }
    if !plans.is_empty() {
        return Ok(plans);
    }
    if has("libcamerasrc") {
        return Err(
            Error::usage(format!("csi://{sensor}: libcamerasrc knows its cameras by name, not by number")).hint(
                "use csi://0 for the first, or `--input \"gst:libcamerasrc camera-name=NAME ! videoconvert ! appsink\"`",
            ),
        );
    }
    if has("nvarguscamerasrc") {
        return Err(Error::usage(format!(
            "csi://{sensor}: GStreamer has nvarguscamerasrc, but no nvvidconv"
        ))
        .hint("install the package nvidia-l4t-gstreamer"));
    }
    let known: Vec<String> = KNOWN
        .iter()
        .map(|(element, board)| format!("{element} ({board})"))
        .collect();
    Err(
        Error::usage(format!(
            "csi://{sensor}: no GStreamer element for CSI cameras is installed (looked for {})",
            known.join(", ")
        ))
        .hint("install nvidia-l4t-gstreamer on a Jetson, gstreamer1.0-libcamera on a Raspberry Pi; a USB camera is /dev/video0"),
    )
}

/// Frames per second as a fraction: whole rates exactly, others to a thousandth.
fn rate(fps: f64) -> (u32, u32) {
    if (fps - fps.round()).abs() < 1e-6 {
        (fps.round() as u32, 1)
    } else {
        ((fps * 1000.0).round() as u32, 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(sensor: u32, installed: &[&str]) -> Result<Vec<&'static str>> {
        let plans = plans(sensor, &CaptureOptions::default(), &|name| {
            installed.contains(&name)
        })?;
        Ok(plans.iter().map(|plan| plan.element).collect())
    }

    #[test]
    fn each_board_gets_its_own_element() {
        let jetson = [
            "nvarguscamerasrc",
            "nvv4l2camerasrc",
            "nvvidconv",
            "v4l2src",
            "videoconvert",
        ];
        assert_eq!(elements(1, &jetson).unwrap(), ["nvarguscamerasrc"]);
        let raspberry_pi = ["libcamerasrc", "v4l2src", "videoconvert"];
        assert_eq!(elements(0, &raspberry_pi).unwrap(), ["libcamerasrc"]);
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        for (sensor, installed, expected) in [
            (0, &["v4l2src"][..], "nvidia-l4t-gstreamer"),
            (0, &["nvarguscamerasrc"], "no nvvidconv"),
            (1, &["libcamerasrc", "videoconvert"], "camera-name"),
        ] {
            let error = elements(sensor, installed).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn the_line_asks_for_size_and_rate() {
        let options = CaptureOptions {
            width: 1280,
            height: 720,
            fps: 29.97,
            ..CaptureOptions::default()
        };
        let plans = plans(2, &options, &|_| true).unwrap();
        assert!(plans[0].line.contains("sensor-id=2 "), "{}", plans[0].line);
        assert!(
            plans[0]
                .line
                .contains("width=1280,height=720,framerate=29970/1000 "),
            "{}",
            plans[0].line
        );
        assert_eq!(rate(30.0), (30, 1));
    }
}
