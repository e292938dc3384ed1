//! V4L2 cameras whose pictures a board converts in hardware on their way in: a pure choice over what is installed.
//!
//! Cameras on a Jetson's connectors, and bridges from HDMI, often give UYVY alone. The CPU can read that, at the
//! price of a conversion to 4:2:0 for every picture; `nvv4l2camerasrc` takes it into NVMM memory, where the video
//! image compositor converts it, and only the result is copied out.

use super::mode::{Choice, Encoding};

/// Smaller pictures are converted faster by the CPU than they are sent through another device's memory.
const WORTH_PIXELS: u64 = 1280 * 720;

/// A launch line to try before the camera is read directly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertedPlan {
    /// The source element.
    pub element: &'static str,
    /// The line, which ends in an appsink of I420 in ordinary memory.
    pub line: String,
}

/// The launch lines to try for a camera at `device` that is to run in mode `choice`; none where reading it directly
/// is the better way. `has` tells which elements are installed.
pub fn plans(device: &str, choice: &Choice, has: &dyn Fn(&str) -> bool) -> Vec<ConvertedPlan> {
    let pixels = u64::from(choice.width) * u64::from(choice.height);
    // A launch line has no way to write every name.
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.:".contains(c);
    if choice.encoding != Encoding::Uyvy
        || pixels < WORTH_PIXELS
        || !device.chars().all(plain)
        || !has("nvv4l2camerasrc")
        || !has("nvvidconv")
    {
        return Vec::new();
    }
    let rate = choice.interval.map_or_else(String::new, |i| {
        format!(",framerate={}/{}", i.denominator, i.numerator)
    });
    // <https://docs.nvidia.com/jetson/archives/r36.4/DeveloperGuide/SD/CameraDevelopment/CameraSoftwareDevelopmentSolution.html>
    vec![ConvertedPlan {
        element: "nvv4l2camerasrc",
        line: format!(
            "nvv4l2camerasrc device={device} ! video/x-raw(memory:NVMM),format=UYVY,width={},height={}{rate} ! \
             nvvidconv ! video/x-raw,format=I420 ! appsink",
            choice.width, choice.height
        ),
    }]
}

#[cfg(test)]
mod tests {
    use super::super::mode::Interval;
    use super::*;

    fn choice(encoding: Encoding, width: u32, height: u32) -> Choice {
        Choice {
            encoding,
            width,
            height,
            interval: Some(Interval {
                numerator: 1001,
                denominator: 60_000,
            }),
        }
    }

    #[test]
    fn large_uyvy_pictures_go_through_nvmm_on_a_jetson() {
        let jetson = |name: &str| ["nvv4l2camerasrc", "nvvidconv", "v4l2src"].contains(&name);
        let found = plans("/dev/video0", &choice(Encoding::Uyvy, 1920, 1080), &jetson);
        assert_eq!(found.len(), 1);
        let line = &found[0].line;
        assert!(
            line.starts_with("nvv4l2camerasrc device=/dev/video0 ! "),
            "{line}"
        );
        assert!(
            line.contains("(memory:NVMM),format=UYVY,width=1920,height=1080,framerate=60000/1001 !"),
            "{line}"
        );
    }

    #[test]
    fn everything_else_is_read_directly() {
        let all = |_: &str| true;
        let large = choice(Encoding::Uyvy, 1920, 1080);
        assert!(plans("/dev/video0", &choice(Encoding::Yuyv, 1920, 1080), &all).is_empty());
        assert!(plans("/dev/video0", &choice(Encoding::Mjpeg, 1920, 1080), &all).is_empty());
        assert!(plans("/dev/video0", &choice(Encoding::Uyvy, 640, 480), &all).is_empty());
        assert!(plans("/dev/video0", &large, &|name| name != "nvvidconv").is_empty());
        assert!(plans("/dev/video0", &large, &|name| name != "nvv4l2camerasrc").is_empty());
        assert!(plans("/dev/a ! fakesink", &large, &all).is_empty());
    }
}
