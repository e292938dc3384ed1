//! `v4l2:/dev/videoN`: a virtual camera, which programs for meetings take as they take any other. The kernel's module
//! v4l2loopback makes the device.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use crate::encode::elements::{self, VideoLayout, internal};
use crate::encode::{Timeline, period_ns};
use crate::output::{FrameOutput, Output, OutputOpener, Video};
use vision::error::{Error, Result};
use vision::frame::Frame;

/// Pictures that wait for the device; a further one drops the oldest, counted.
const QUEUED: u64 = 2;

/// Opens a virtual camera.
#[derive(Debug, Clone)]
pub struct CameraOpener {
    device: PathBuf,
}

impl CameraOpener {
    /// An opener for this device.
    pub fn new(device: PathBuf) -> Self {
        Self { device }
    }
}

/// How to make a device.
fn load(device: &Path) -> String {
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    let number = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    let number = match number {
        "" => String::new(),
        number => format!(" video_nr={number}"),
    };
    format!(
        "load the module that makes one: sudo modprobe v4l2loopback{number} card_label=segd exclusive_caps=1 \
         (package v4l2loopback-dkms)"
    )
}

/// Whether pictures can be given to a device.
///
/// # Errors
/// Usage, with what to do.
pub fn check_camera(device: &Path) -> Result<()> {
    let shown = device.display();
    let found = fs::metadata(device).map_err(|e| {
        Error::usage(format!("output v4l2:{shown}: there is no such device"))
            .caused_by(e)
            .hint(load(device))
    })?;
    if !found.file_type().is_char_device() {
        return Err(Error::usage(format!("output v4l2:{shown}: is no device")).hint(load(device)));
    }
    #[cfg(feature = "camera")]
    takes_pictures(device)?;
    Ok(())
}

#[cfg(feature = "camera")]
fn takes_pictures(device: &Path) -> Result<()> {
    use v4l::capability::Flags;

    let shown = device.display();
    let opened = v4l::Device::with_path(device).map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::PermissionDenied => "add this user to the group video".to_owned(),
            _ => load(device),
        };
        Error::usage(format!("output v4l2:{shown}: can't be opened"))
            .caused_by(e)
            .hint(hint)
    })?;
    let capabilities = opened.query_caps().map_err(|e| {
        Error::usage(format!("output v4l2:{shown}: is no video device"))
            .caused_by(e)
            .hint(load(device))
    })?;
    if !capabilities.capabilities.contains(Flags::VIDEO_OUTPUT) {
        return Err(Error::usage(format!(
            "output v4l2:{shown}: is a device of {}, which gives pictures and takes none",
            capabilities.driver
        ))
        .hint(load(device)));
    }
    Ok(())
}

impl OutputOpener for CameraOpener {
    fn name(&self) -> String {
        format!("v4l2:{}", self.device.display())
    }

    fn is_live(&self) -> bool {
        true
    }

    fn open(&self, video: &Video) -> Result<Output> {
        check_camera(&self.device)?;
        Ok(Output::Frames(Box::new(Camera::open(self, video)?)))
    }
}

struct Camera {
    name: String,
    layout: VideoLayout,
    pipeline: gst::Pipeline,
    bus: gst::Bus,
    appsrc: gst_app::AppSrc,
    timeline: Timeline,
    dropped: u64,
}

impl Camera {
    fn open(opener: &CameraOpener, video: &Video) -> Result<Self> {
        let layout = VideoLayout::new(video.format, video.frame_rate)?;
        let appsrc = elements::make_appsrc(&layout)?;
        appsrc.set_is_live(true);
        appsrc.set_max_buffers(QUEUED);
        appsrc.set_leaky_type(gst_app::AppLeakyType::Downstream);
        // What the device does not take as it is becomes what it takes.
        let convert = elements::make("videoconvert", "gstreamer1.0-plugins-base")?;
        let sink = elements::make("v4l2sink", "gstreamer1.0-plugins-good")?;
        sink.set_property("device", opener.device.to_string_lossy().as_ref());
        sink.set_property("sync", false);
        sink.set_property("async", false);
        let pipeline = gst::Pipeline::new();
        let chain = [appsrc.upcast_ref(), &convert, &sink];
        pipeline
            .add_many(chain)
            .map_err(|e| internal("adding an element", e))?;
        gst::Element::link_many(chain).map_err(|e| internal("linking the camera's elements", e))?;
        let bus = pipeline
            .bus()
            .ok_or_else(|| Error::fatal("GStreamer: a pipeline without a bus"))?;
        let camera = Self {
            name: opener.name(),
            layout,
            pipeline,
            bus,
            appsrc,
            timeline: Timeline::new(period_ns(video.frame_rate)),
            dropped: 0,
        };
        if camera.pipeline.set_state(gst::State::Playing).is_err() {
            return Err(camera.failure().unwrap_or_else(|| camera.failed()));
        }
        Ok(camera)
    }

    fn failed(&self) -> Error {
        Error::transient(format!("{}: the device takes no pictures", self.name))
            .hint("another program may give it pictures already, or a reader holds it at another size")
    }

    fn failure(&self) -> Option<Error> {
        let message = self.bus.pop_filtered(&[gst::MessageType::Error])?;
        match message.view() {
            gst::MessageView::Error(e) => Some(self.failed().caused_by(elements::message_text(e))),
            _ => None,
        }
    }
}

impl FrameOutput for Camera {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn push(&mut self, frame: Frame) -> Result<()> {
        if let Some(why) = self.failure() {
            return Err(why);
        }
        if self.appsrc.current_level_buffers() >= QUEUED {
            self.dropped += 1;
        }
        let pts = gst::ClockTime::from_nseconds(self.timeline.at(frame.captured_at_ns));
        let buffer = self.layout.buffer(frame.data, pts)?;
        self.appsrc
            .push_buffer(buffer)
            .map_err(|e| self.failure().unwrap_or_else(|| self.failed().caused_by(e)))?;
        Ok(())
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(device: &Path) -> String {
        let why = check_camera(device).unwrap_err();
        assert_eq!(why.exit_code(), 2, "{why}");
        why.to_string()
    }

    #[test]
    fn what_takes_no_pictures_is_refused_with_what_to_load() {
        let away = refused(Path::new("/dev/video4242"));
        assert!(away.contains("there is no such device"), "{away}");
        assert!(away.contains("modprobe v4l2loopback video_nr=4242"), "{away}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = refused(file.path());
        assert!(
            file.contains("is no device") && file.contains("v4l2loopback"),
            "{file}"
        );
        #[cfg(feature = "camera")]
        {
            let null = refused(Path::new("/dev/null"));
            assert!(
                null.contains("v4l2:/dev/null: ") && null.contains("v4l2loopback"),
                "{null}"
            );
        }
    }
}
