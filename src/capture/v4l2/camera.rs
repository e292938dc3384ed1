//! V4L2 cameras.
//!
//! Cameras are found through nokhwa, but read through the `v4l` crate beneath it: nokhwa 0.10 waits without
//! end for a camera that stalls, refuses a mode that the driver adjusts or a rate that is no whole number,
//! and hides the time, the number and the length of each picture. `v4l` gives all three, and can be polled.
//!
//! The driver has the last word on the mode: what it sets is read back, logged, and used. Pictures that the
//! driver marks as damaged, that are shorter than they should be, or whose JPEG doesn't decode are dropped
//! and counted; the last picture is taken when several wait and the oldest has grown stale.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};
use v4l::buffer::{Metadata, Type};
use v4l::io::mmap::Stream as MmapStream;
use v4l::io::traits::{CaptureStream, Stream};
use v4l::video::Capture as VideoCapture;
use v4l::video::capture::Parameters;
use v4l::{Device, Format, FourCC, Fraction};

use crate::clock::SharedClock;
use vision::error::{Error, Result};
use vision::frame::{FrameFormat, PixelFormat};
use vision::pool::FramePool;

use super::controls::set_controls;
use super::error::{EINVAL, ENODEV, camera_error};
use super::identity::{Identity, Nodes, device_name};
use super::mjpeg::MjpegDecoder;
use super::mode::{Choice, Encoding, Wanted, choose_mode};
use super::offered::{interval, modes_of};
use super::shape;
use super::unpack::{Decode, Numbering, Unpacker, age_of, colorimetry};
use crate::capture::options::{CameraFormat, CaptureOptions};
use crate::capture::source::{Capture, FrameSource, SourceCounters, SourceOpener};

/// Buffers of the driver: one is read from, the others fill.
const BUFFERS: u32 = 4;
/// A picture older than this gives way to a newer one that waits.
const STALE_NS: u64 = 100_000_000;
/// `POLLIN` of poll(2).
const POLLIN: i16 = 1;

/// Opens a camera.
#[derive(Debug)]
pub struct CameraOpener {
    path: PathBuf,
    options: CaptureOptions,
    clock: SharedClock,
    nodes: Nodes,
    /// Which camera it was when it was opened last.
    seen: Mutex<Option<Identity>>,
}

impl CameraOpener {
    /// An opener of the device node `path`.
    pub fn new(path: &Path, options: &CaptureOptions, clock: SharedClock) -> Self {
        Self {
            path: path.to_owned(),
            options: options.clone(),
            clock,
            nodes: Nodes::default(),
            seen: Mutex::new(None),
        }
    }
}

impl SourceOpener for CameraOpener {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn open(&self) -> Result<Box<dyn FrameSource>> {
        let mut seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        let (path, identity) = self.nodes.resolve(&self.path, seen.as_ref())?;
        if path != self.path {
            info!("camera {} is {}", self.path.display(), path.display());
        }
        let source = CameraSource::open(&path, &self.options, self.clock.clone()).map_err(|e| {
            // What has worked will work again: udev may take its time to give a node back its group.
            if seen.is_some() && !e.is_transient() {
                Error::transient(e.to_string())
            } else {
                e
            }
        })?;
        if identity.is_some() {
            *seen = identity;
        }
        Ok(source)
    }
}

/// The camera read by way of the board's converter, where that is the better way and works.
#[cfg(feature = "gstreamer")]
fn open_converted(
    path: &Path,
    choice: &Choice,
    options: &CaptureOptions,
    clock: &SharedClock,
) -> Option<Box<dyn FrameSource>> {
    use super::converted;
    use crate::capture::gst::{self, GstOpener};
    use crate::capture::spec::SourceSpec;
    gst::init().ok()?;
    let has = |name: &str| gstreamer::ElementFactory::find(name).is_some();
    for plan in converted::plans(path.to_str()?, choice, &has) {
        match GstOpener::new(&SourceSpec::Launch(plan.line), options, clock.clone()).open() {
            Ok(source) => return Some(source),
            Err(why) => warn!(
                "camera {}: {} does not read it, it is read directly: {why}",
                path.display(),
                plan.element
            ),
        }
    }
    None
}

#[cfg(not(feature = "gstreamer"))]
fn open_converted(_: &Path, _: &Choice, _: &CaptureOptions, _: &SharedClock) -> Option<Box<dyn FrameSource>> {
    None
}

/// An opened camera.
struct CameraSource {
    path: PathBuf,
    stream: CameraStream,
    rate: Option<f64>,
    unpacker: Unpacker,
    /// The picture that showed that the camera works, until it is delivered.
    first: Option<(Vec<u8>, Metadata)>,
}

/// Stops streaming when dropped, without the panic that the `v4l` crate has for drivers that refuse to.
struct CameraStream(Option<MmapStream<'static>>);

impl Drop for CameraStream {
    fn drop(&mut self) {
        if let Some(mut stream) = self.0.take() {
            match stream.stop() {
                Ok(()) => drop(stream),
                Err(e) if e.raw_os_error() == Some(ENODEV) => drop(stream),
                Err(e) => {
                    warn!("the camera doesn't stop: {e}");
                    std::mem::forget(stream);
                }
            }
        }
    }
}

impl CameraStream {
    fn get(&mut self) -> io::Result<&mut MmapStream<'static>> {
        self.0.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Whether a picture waits, after at most `timeout`.
    fn ready(&mut self, timeout: Duration) -> io::Result<bool> {
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        match self.get()?.handle().poll(POLLIN, millis) {
            Ok(events) => Ok(events > 0),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Gives the picture that waits to `take`; a newer one if it is stale and another one waits.
    fn read<R>(&mut self, take: impl FnOnce(&[u8], &Metadata) -> R) -> io::Result<R> {
        let stream = self.get()?;
        let handle = stream.handle();
        let mut others = BUFFERS - 1;
        loop {
            // Hands the last picture's buffer back to the driver first.
            let (bytes, meta) = CaptureStream::next(stream)?;
            if others > 0 && age_of(meta) > STALE_NS && handle.poll(POLLIN, 0).is_ok_and(|n| n > 0) {
                others -= 1;
                continue;
            }
            return Ok(take(bytes, meta));
        }
    }
}

impl CameraSource {
    fn open(path: &Path, options: &CaptureOptions, clock: SharedClock) -> Result<Box<dyn FrameSource>> {
        let fail = |action: &str, e: io::Error| camera_error(path, action, e);
        if path.as_os_str().as_encoded_bytes().contains(&0) {
            return Err(Error::usage(format!(
                "camera {:?}: a path can't hold a zero byte",
                path
            )));
        }
        let device = Device::with_path(path).map_err(|e| fail("opening", e))?;
        // ENOTTY: no video device at all.
        match device.format() {
            Err(e) if e.raw_os_error() != Some(EINVAL) => return Err(fail("asking for the format", e)),
            _ => {}
        }
        let mut modes = modes_of(&device, options.width, options.height).map_err(|why| {
            // Lists that come back empty don't tell that the camera was pulled out meanwhile.
            match device.format() {
                Err(e) if e.raw_os_error() == Some(ENODEV) => fail("listing modes", e),
                _ => Error::usage(format!("camera {}: {why}", path.display())).hint(format!(
                    "try another node (`segd probe` lists them), or \"gst:v4l2src device={} ! videoconvert ! appsink\"",
                    path.display()
                )),
            }
        })?;
        if let Some(format) = options.pixel_format {
            let encoding = match format {
                CameraFormat::Yu12 => Encoding::I420,
                CameraFormat::Nv12 => Encoding::Nv12,
                CameraFormat::Yuyv => Encoding::Yuyv,
                CameraFormat::Uyvy => Encoding::Uyvy,
                CameraFormat::Mjpg => Encoding::Mjpeg,
            };
            modes.retain(|mode| mode.encoding == encoding);
            if modes.is_empty() {
                return Err(Error::usage(format!(
                    "camera {}: capture.pixel_format: it has no mode of {format:?}",
                    path.display()
                ))
                .hint("`segd probe` lists its modes"));
            }
        }
        let wanted = Wanted {
            width: options.width,
            height: options.height,
            fps: options.fps,
        };
        let choice = choose_mode(&modes, &wanted).ok_or_else(|| {
            Error::usage(format!("camera {}: none of its modes has a size", path.display()))
        })?;
        if choice.encoding == Encoding::Uyvy {
            set_controls(&device, path, &options.controls)?;
            if let Some(source) = open_converted(path, &choice, options, &clock) {
                return Ok(source);
            }
        }
        let fourcc = fourcc_of(&device, choice.encoding);
        let set = device
            .set_format(&Format::new(choice.width, choice.height, fourcc))
            .map_err(|e| fail("setting the mode", e))?;
        let encoding = Encoding::from_fourcc(set.fourcc.repr).ok_or_else(|| {
            Error::fatal(format!(
                "camera {}: asked for {choice}, the driver set {}, which segd doesn't read",
                path.display(),
                set.fourcc
            ))
        })?;
        if let Some(wanted) = choice.interval {
            let params = Parameters::new(Fraction::new(wanted.numerator, wanted.denominator));
            if let Err(e) = device.set_params(&params) {
                debug!("camera {}: the rate can't be set: {e}", path.display());
            }
        }
        set_controls(&device, path, &options.controls)?;
        let rate = device.params().ok().and_then(|p| interval(p.interval).rate());
        let format = FrameFormat {
            pixel: match encoding {
                Encoding::I420 | Encoding::Mjpeg => PixelFormat::I420,
                Encoding::Nv12 => PixelFormat::Nv12,
                Encoding::Yuyv | Encoding::Uyvy => PixelFormat::Yuyv,
            },
            width: set.width as usize,
            height: set.height as usize,
            color: colorimetry(encoding, set.colorspace, set.quantization),
        };
        if format.width == 0 || format.height == 0 {
            return Err(Error::transient(format!(
                "camera {}: the driver set a size of 0",
                path.display()
            )));
        }
        if (encoding, set.width, set.height) != (choice.encoding, choice.width, choice.height) {
            info!(
                "camera {}: asked for {choice}, the driver set {encoding:?} {}x{}",
                path.display(),
                set.width,
                set.height
            );
        }
        if let Some(stretch) = shape::stretch(&device, set.width, set.height) {
            let path = path.display();
            warn!(
                "camera {path}: its pixels are not square: the picture should be {stretch:.2} times as wide; \
                 --input \"gst:v4l2src device={path} ! videoconvert ! appsink\" shows it so"
            );
        }
        // Some drivers leave it at 0 for rows without padding.
        let stride =
            (set.stride as usize).max(format.pixel.plane_size(0, format.width, format.height).row_bytes);
        let decode = match encoding {
            Encoding::Mjpeg => Decode::Mjpeg(MjpegDecoder::new(format.width, format.height)?),
            Encoding::Uyvy => Decode::Uyvy { stride },
            _ => Decode::Raw { stride },
        };
        let stream = MmapStream::with_buffers(&device, Type::VideoCapture, BUFFERS)
            .map_err(|e| fail("asking for buffers", e))?;
        let mut stream = CameraStream(Some(stream));
        let first = first_picture(&mut stream, options.open_timeout()).map_err(|e| {
            if e.kind() == io::ErrorKind::TimedOut {
                Error::transient(format!(
                    "camera {}: no picture within {} s",
                    path.display(),
                    options.open_timeout_ms as f64 / 1000.0
                ))
                .hint("unplug it and plug it in again, or try another USB port")
            } else {
                fail("starting", e)
            }
        })?;
        let node = path
            .canonicalize()
            .ok()
            .and_then(|p| Some(p.file_name()?.to_str()?.to_owned()))
            .unwrap_or_default();
        let text = format!(
            "camera {} ({}): {encoding:?} {}x{}{}",
            path.display(),
            device_name(&node),
            format.width,
            format.height,
            rate.map_or_else(String::new, |r| format!(" at {r:.2} fps"))
        );
        Ok(Box::new(Self {
            path: path.to_owned(),
            stream,
            rate,
            unpacker: Unpacker {
                text,
                format,
                decode,
                numbering: Numbering::default(),
                corrupt: 0,
                clock,
            },
            first: Some(first),
        }))
    }
}

/// The pixel format by which the device names an encoding.
fn fourcc_of(device: &Device, encoding: Encoding) -> FourCC {
    let offered = device.enum_formats().unwrap_or_default();
    offered
        .iter()
        .map(|f| f.fourcc)
        .find(|f| Encoding::from_fourcc(f.repr) == Some(encoding))
        .unwrap_or(FourCC::new(b"YUYV"))
}

/// Starts streaming and copies the first picture.
fn first_picture(stream: &mut CameraStream, timeout: Duration) -> io::Result<(Vec<u8>, Metadata)> {
    let stream = stream.get()?;
    stream.set_timeout(timeout.min(Duration::from_secs(3600)));
    let (bytes, meta) = CaptureStream::next(stream)?;
    let used = (meta.bytesused as usize).min(bytes.len());
    Ok((bytes[..used].to_vec(), *meta))
}

impl FrameSource for CameraSource {
    fn format(&self) -> FrameFormat {
        self.unpacker.format
    }

    fn frame_rate(&self) -> Option<f64> {
        self.rate
    }

    fn describe(&self) -> String {
        self.unpacker.text.clone()
    }

    fn is_live(&self) -> bool {
        true
    }

    fn counters(&self) -> SourceCounters {
        SourceCounters {
            corrupt: self.unpacker.corrupt,
            lost: self.unpacker.numbering.lost,
            ..SourceCounters::default()
        }
    }

    fn next_frame(&mut self, pool: &FramePool, timeout: Duration) -> Result<Capture> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some((bytes, meta)) = self.first.take()
                && let Some(capture) = self.unpacker.unpack(&bytes, &meta, pool)?
            {
                return Ok(capture);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let ready = self
                .stream
                .ready(left)
                .map_err(|e| camera_error(&self.path, "waiting for a picture", e))?;
            if !ready {
                return Ok(Capture::Timeout);
            }
            let unpacker = &mut self.unpacker;
            match self.stream.read(|bytes, meta| unpacker.unpack(bytes, meta, pool)) {
                Ok(capture) => {
                    if let Some(capture) = capture? {
                        return Ok(capture);
                    }
                }
                Err(e) => return Err(camera_error(&self.path, "reading", e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::RealClock;

    #[test]
    fn devices_that_are_no_cameras_are_told_apart() {
        let open = |path: &str| {
            CameraSource::open(Path::new(path), &CaptureOptions::default(), RealClock::shared())
                .err()
                .unwrap()
        };
        let error = open("/dev/video997");
        assert!(
            error.is_transient() && error.to_string().contains("no such device"),
            "{error}"
        );
        for path in ["/dev/null", "/dev/zero", "/"] {
            let error = open(path);
            assert_eq!(error.exit_code() == 2, path != "/", "{error}");
            assert!(error.to_string().contains(path), "{error}");
        }
        assert!(open("/dev/null").to_string().contains("not a video device"));
        assert_eq!(open("/dev/a\0b").exit_code(), 2);
    }
}
