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
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tracing::{debug, info, warn};
use v4l::buffer::{Flags, Metadata, Type};
use v4l::format::{Colorspace, Quantization};
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::io::mmap::Stream as MmapStream;
use v4l::io::traits::{CaptureStream, Stream};
use v4l::video::Capture as VideoCapture;
use v4l::video::capture::Parameters;
use v4l::{Device, Format, FourCC, Fraction};

use crate::clock::SharedClock;
use crate::error::{Error, Result};
use crate::frame::{Colorimetry, Frame, FrameFormat, ImageRef, Matrix, PixelFormat, Plane, Range};
use crate::pool::FramePool;

use super::camera_list::device_name;
use super::camera_mode::{Encoding, Interval, Mode, Rates, Sizes, Wanted, choose_mode};
use super::mjpeg::MjpegDecoder;
use super::{Capture, CaptureOptions, FrameSource, SourceCounters, SourceOpener};

/// Buffers of the driver: one is read from, the others fill.
const BUFFERS: u32 = 4;
/// A picture older than this gives way to a newer one that waits.
const STALE_NS: u64 = 100_000_000;
/// An age that can only mean another clock.
const ABSURD_NS: u64 = 10_000_000_000;
/// `POLLIN` of poll(2).
const POLLIN: i16 = 1;

// errno values, errno(3).
const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ENXIO: i32 = 6;
const EACCES: i32 = 13;
const EBUSY: i32 = 16;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const ENOTTY: i32 = 25;
const ENOSPC: i32 = 28;

/// Opens a camera.
#[derive(Debug)]
pub struct CameraOpener {
    path: PathBuf,
    options: CaptureOptions,
    clock: SharedClock,
}

impl CameraOpener {
    /// An opener of the device node `path`.
    pub fn new(path: &Path, options: &CaptureOptions, clock: SharedClock) -> Self {
        Self {
            path: path.to_owned(),
            options: options.clone(),
            clock,
        }
    }
}

impl SourceOpener for CameraOpener {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn open(&self) -> Result<Box<dyn FrameSource>> {
        Ok(Box::new(CameraSource::open(
            &self.path,
            &self.options,
            self.clock.clone(),
        )?))
    }
}

/// The error for `error`, which `action` on the camera gave. What may pass by itself is transient.
fn camera_error(path: &Path, action: &str, error: io::Error) -> Error {
    let name = path.display();
    let made = match error.raw_os_error() {
        Some(ENOENT) => Error::transient(format!("camera {name}: there is no such device"))
            .hint("plug the camera in; `segd probe` lists the cameras that are there"),
        Some(ENODEV | ENXIO) => Error::transient(format!("camera {name}: the device is gone"))
            .hint("it was unplugged or its driver has stopped; it is opened again when it is back"),
        Some(EBUSY) => Error::transient(format!("camera {name}: another program is using it"))
            .hint(format!("end that program; `fuser -v {name}` names it")),
        Some(EACCES | EPERM) if is_new(path) => {
            // udev sets a new node's permissions a moment after it appears.
            Error::transient(format!(
                "camera {name}: permission denied, the device has just appeared"
            ))
        }
        Some(EACCES | EPERM) => Error::fatal(format!("camera {name}: permission denied"))
            .hint("add the user to group `video`: sudo usermod -aG video $USER, then log in again"),
        Some(ENOTTY) => Error::usage(format!("camera {name}: not a video device"))
            .hint("`segd probe` lists the cameras that are there"),
        Some(ENOSPC) => Error::transient(format!("camera {name}: not enough USB bandwidth"))
            .hint("use another USB port, a smaller picture or a lower rate"),
        _ => Error::transient(format!("camera {name}: {action} failed")),
    };
    made.caused_by(error)
}

/// Whether the node was made or changed within the last seconds.
fn is_new(path: &Path) -> bool {
    let (Ok(meta), Ok(now)) = (
        std::fs::metadata(path),
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH),
    ) else {
        return false;
    };
    let age = now.as_secs() as i64 - meta.ctime();
    (0..=3).contains(&age)
}

fn interval(fraction: Fraction) -> Interval {
    Interval {
        numerator: fraction.numerator,
        denominator: fraction.denominator,
    }
}

/// The modes of a device that segd can read. Stepwise modes state their rates at the size nearest to
/// `width` x `height`.
///
/// # Errors
/// Why there are none.
pub(super) fn modes_of(device: &Device, width: u32, height: u32) -> std::result::Result<Vec<Mode>, String> {
    // Asking for the format tells devices that capture no pictures apart: an empty list doesn't.
    device.format().map_err(|e| match e.raw_os_error() {
        Some(EINVAL) => {
            "it gives no pictures: a metadata node, an encoder, or a multi-planar device".to_owned()
        }
        _ => e.to_string(),
    })?;
    let formats = device.enum_formats().map_err(|e| e.to_string())?;
    let mut modes = Vec::new();
    for description in &formats {
        let Some(encoding) = Encoding::from_fourcc(description.fourcc.repr) else {
            continue;
        };
        let sizes = match device.enum_framesizes(description.fourcc) {
            Ok(sizes) => sizes.into_iter().map(|s| s.size).map(sizes_of).collect(),
            // Drivers that don't tell have the one size that they stand at.
            Err(_) => device.format().map_or_else(
                |_| Vec::new(),
                |f| {
                    vec![Sizes::Discrete {
                        width: f.width,
                        height: f.height,
                    }]
                },
            ),
        };
        for sizes in sizes {
            let (w, h) = sizes.nearest(width, height);
            let rates = device
                .enum_frameintervals(description.fourcc, w, h)
                .map_or(Rates::Unknown, |intervals| {
                    rates_of(intervals.into_iter().map(|i| i.interval))
                });
            modes.push(Mode {
                encoding,
                sizes,
                rates,
            });
        }
    }
    if modes.is_empty() {
        let offered: Vec<String> = formats.iter().map(|f| f.fourcc.to_string()).collect();
        return Err(format!(
            "it offers {}; segd reads YUYV, NV12, YU12 and MJPG",
            if offered.is_empty() {
                "no format".to_owned()
            } else {
                offered.join(", ")
            }
        ));
    }
    Ok(modes)
}

fn sizes_of(size: FrameSizeEnum) -> Sizes {
    match size {
        FrameSizeEnum::Discrete(size) => Sizes::Discrete {
            width: size.width,
            height: size.height,
        },
        FrameSizeEnum::Stepwise(s) => Sizes::Stepwise {
            width: (s.min_width, s.max_width, s.step_width),
            height: (s.min_height, s.max_height, s.step_height),
        },
    }
}

fn rates_of(intervals: impl Iterator<Item = FrameIntervalEnum>) -> Rates {
    let mut list = Vec::new();
    for given in intervals {
        match given {
            FrameIntervalEnum::Discrete(fraction) => list.push(interval(fraction)),
            FrameIntervalEnum::Stepwise(step) => {
                return Rates::Range {
                    min: interval(step.min),
                    max: interval(step.max),
                };
            }
        }
    }
    if list.is_empty() {
        Rates::Unknown
    } else {
        Rates::Discrete(list)
    }
}

/// How a camera's samples relate to RGB; what the driver leaves open is as the V4L2 documentation says
/// (<https://docs.kernel.org/userspace-api/media/v4l/colorspaces-defs.html>).
fn colorimetry(encoding: Encoding, colorspace: Colorspace, quantization: Quantization) -> Colorimetry {
    if encoding == Encoding::Mjpeg {
        return Colorimetry {
            matrix: Matrix::Bt601,
            range: Range::Full,
        };
    }
    Colorimetry {
        matrix: match colorspace {
            Colorspace::Rec709 | Colorspace::DCIP3 | Colorspace::Rec2020 => Matrix::Bt709,
            _ => Matrix::Bt601,
        },
        range: match (quantization, colorspace) {
            (Quantization::FullRange, _) | (Quantization::Default, Colorspace::JPEG) => Range::Full,
            _ => Range::Limited,
        },
    }
}

/// Nanoseconds since a picture was taken; 0 if its time can't be compared with `now_ns`.
fn age_ns(now_ns: i128, taken_ns: i128, monotonic: bool) -> u64 {
    let age = now_ns - taken_ns;
    if monotonic && (0..i128::from(ABSURD_NS)).contains(&age) {
        age as u64
    } else {
        0
    }
}

/// Numbers pictures from 0 by the driver's 32-bit numbers, which may begin anywhere, wrap, or stand still.
#[derive(Debug, Default)]
struct Numbering {
    last: Option<(u32, u64)>,
    lost: u64,
}

impl Numbering {
    fn next(&mut self, driver: u32) -> u64 {
        let Some((before, sequence)) = self.last else {
            self.last = Some((driver, 0));
            return 0;
        };
        let step = match driver.wrapping_sub(before) {
            // A driver that doesn't count, or began anew.
            0 => 1,
            step if step > u32::MAX / 2 => 1,
            step => u64::from(step),
        };
        self.lost += step - 1;
        self.last = Some((driver, sequence + step));
        sequence + step
    }
}

/// The planes of a raw picture in a driver's buffer, whose rows are `stride` bytes apart.
fn raw_image(format: FrameFormat, stride: usize, bytes: &[u8]) -> std::result::Result<ImageRef<'_>, String> {
    let tail = |from: usize| bytes.get(from..).unwrap_or(&[]);
    match format.pixel {
        PixelFormat::Yuyv => ImageRef::new(format, &[Plane { data: bytes, stride }]),
        PixelFormat::Nv12 => ImageRef::new(
            format,
            &[
                Plane { data: bytes, stride },
                Plane {
                    data: tail(stride * format.height),
                    stride,
                },
            ],
        ),
        PixelFormat::I420 => {
            let half = stride / 2;
            let u = stride * format.height;
            let v = u + half * format.height.div_ceil(2);
            ImageRef::new(
                format,
                &[
                    Plane { data: bytes, stride },
                    Plane {
                        data: tail(u),
                        stride: half,
                    },
                    Plane {
                        data: tail(v),
                        stride: half,
                    },
                ],
            )
        }
        PixelFormat::Rgb24 => Err("cameras give no RGB".to_owned()),
    }
}

/// How a buffer becomes a frame.
#[derive(Debug)]
enum Decode {
    Raw { stride: usize },
    Mjpeg(MjpegDecoder),
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

/// Turns the driver's buffers into frames.
struct Unpacker {
    /// The camera and its mode, for logs.
    text: String,
    format: FrameFormat,
    decode: Decode,
    numbering: Numbering,
    corrupt: u64,
    clock: SharedClock,
}

impl Unpacker {
    /// The frame in a buffer; `None`, counted, if it is damaged.
    fn unpack(&mut self, bytes: &[u8], meta: &Metadata, pool: &FramePool) -> Result<Option<Capture>> {
        let sequence = self.numbering.next(meta.sequence);
        let captured_at_ns = self.clock.now_ns().saturating_sub(age_of(meta));
        let Some(mut data) = super::take_buffer(pool, &self.format)? else {
            return Ok(Some(Capture::Dropped));
        };
        match self.fill(bytes, meta, &mut data) {
            Ok(()) => Ok(Some(Capture::Frame(Frame {
                sequence,
                captured_at_ns,
                pts_ns: captured_at_ns,
                format: self.format,
                data,
            }))),
            Err(why) => {
                self.corrupt += 1;
                // The first one says what it is; a camera with a bad cable would fill the log.
                if self.corrupt == 1 {
                    warn!("{}: a picture was dropped: {why}", self.text);
                } else {
                    debug!("{}: a picture was dropped: {why}", self.text);
                }
                Ok(None)
            }
        }
    }

    fn fill(&mut self, bytes: &[u8], meta: &Metadata, out: &mut [u8]) -> std::result::Result<(), String> {
        if meta.flags.contains(Flags::ERROR) {
            return Err("marked as damaged by the driver".to_owned());
        }
        // What follows the bytes used is left from an earlier picture.
        let bytes = &bytes[..bytes.len().min(meta.bytesused as usize)];
        match &mut self.decode {
            Decode::Raw { stride } => {
                raw_image(self.format, *stride, bytes)?.copy_packed(out);
                Ok(())
            }
            Decode::Mjpeg(decoder) => decoder.decode(bytes, out),
        }
    }
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
            if others > 0 && age_of(meta) > STALE_NS && handle.poll(POLLIN, 0)? > 0 {
                others -= 1;
                continue;
            }
            return Ok(take(bytes, meta));
        }
    }
}

impl CameraSource {
    fn open(path: &Path, options: &CaptureOptions, clock: SharedClock) -> Result<Self> {
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
        let modes = modes_of(&device, options.width, options.height).map_err(|why| {
            Error::usage(format!("camera {}: {why}", path.display())).hint(format!(
                "try another node (`segd probe` lists them), or \"gst:v4l2src device={} ! videoconvert ! appsink\"",
                path.display()
            ))
        })?;
        let wanted = Wanted {
            width: options.width,
            height: options.height,
            fps: options.fps,
        };
        let choice = choose_mode(&modes, &wanted).ok_or_else(|| {
            Error::usage(format!("camera {}: none of its modes has a size", path.display()))
        })?;
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
        let rate = device.params().ok().and_then(|p| interval(p.interval).rate());
        let format = FrameFormat {
            pixel: match encoding {
                Encoding::I420 | Encoding::Mjpeg => PixelFormat::I420,
                Encoding::Nv12 => PixelFormat::Nv12,
                Encoding::Yuyv => PixelFormat::Yuyv,
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
        let decode = match encoding {
            Encoding::Mjpeg => Decode::Mjpeg(MjpegDecoder::new(format.width, format.height)?),
            _ => Decode::Raw {
                // Some drivers leave it at 0 for rows without padding.
                stride: (set.stride as usize)
                    .max(format.pixel.plane_size(0, format.width, format.height).row_bytes),
            },
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
                .hint("plug it out and in again, or try another USB port")
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
        Ok(Self {
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
        })
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

fn monotonic_now_ns() -> i128 {
    let now = clock_gettime(ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

fn age_of(meta: &Metadata) -> u64 {
    let taken = i128::from(meta.timestamp.sec) * 1_000_000_000 + i128::from(meta.timestamp.usec) * 1000;
    let monotonic = meta.flags & Flags::TIMESTAMP_MASK == Flags::TIMESTAMP_MONOTONIC;
    age_ns(monotonic_now_ns(), taken, monotonic)
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
            if let Some((bytes, meta)) = self.first.take() {
                if let Some(capture) = self.unpacker.unpack(&bytes, &meta, pool)? {
                    return Ok(capture);
                }
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

    fn format(pixel: PixelFormat, width: usize, height: usize) -> FrameFormat {
        FrameFormat {
            pixel,
            width,
            height,
            color: Colorimetry::default(),
        }
    }

    fn unpacker(format: FrameFormat, decode: Decode) -> Unpacker {
        Unpacker {
            text: "camera".into(),
            format,
            decode,
            numbering: Numbering::default(),
            corrupt: 0,
            clock: RealClock::shared(),
        }
    }

    fn meta(sequence: u32, bytesused: u32, flags: Flags) -> Metadata {
        Metadata {
            bytesused,
            flags,
            field: 1,
            timestamp: v4l::timestamp::Timestamp::new(0, 0),
            sequence,
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        for (errno, transient, part) in [
            (ENOENT, true, "no such device; plug"),
            (ENODEV, true, "gone"),
            (EBUSY, true, "fuser -v /dev/null"),
            (EACCES, false, "group `video`"),
            (ENOTTY, false, "not a video device"),
            (ENOSPC, true, "USB bandwidth"),
            (5, true, "reading failed"),
        ] {
            // /dev/null has been there for long: no race with udev.
            let error = camera_error(
                Path::new("/dev/null"),
                "reading",
                io::Error::from_raw_os_error(errno),
            );
            let text = error.to_string();
            assert_eq!(error.is_transient(), transient, "{text}");
            let (message, hint) = part.split_once("; ").unwrap_or((part, part));
            assert!(text.contains(message) && text.contains(hint), "{text}");
        }
        let fresh = tempfile::NamedTempFile::new().unwrap();
        let error = camera_error(fresh.path(), "opening", io::Error::from_raw_os_error(EACCES));
        assert!(error.is_transient(), "{error}");
    }

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

    #[test]
    fn pictures_are_numbered_over_gaps_wraps_and_counters_that_stand_still() {
        let number = |driver: &[u32]| {
            let mut numbering = Numbering::default();
            let numbers: Vec<u64> = driver.iter().map(|&d| numbering.next(d)).collect();
            (numbers, numbering.lost)
        };
        assert_eq!(number(&[7, 8, 11, 12]), (vec![0, 1, 4, 5], 2));
        assert_eq!(number(&[u32::MAX, 0, 2]), (vec![0, 1, 3], 1));
        assert_eq!(number(&[0, 0, 0]), (vec![0, 1, 2], 0));
        assert_eq!(number(&[500, 0, 1]), (vec![0, 1, 2], 0), "begun anew");
    }

    #[test]
    fn ages_come_from_the_monotonic_clock_alone() {
        assert_eq!(age_ns(5_000, 2_000, true), 3_000);
        assert_eq!(age_ns(5_000, 2_000, false), 0);
        assert_eq!(age_ns(5_000, 6_000, true), 0, "from the future");
        assert_eq!(age_ns(1 << 60, 0, true), 0, "another clock");
        let now = monotonic_now_ns();
        let mut taken = meta(0, 0, Flags::TIMESTAMP_MONOTONIC);
        let micros = (now / 1000 - 50_000) as i64;
        taken.timestamp = v4l::timestamp::Timestamp::new(micros / 1_000_000, micros % 1_000_000);
        let age = age_of(&taken);
        assert!((50_000_000..5_000_000_000).contains(&age), "{age}");
    }

    #[test]
    fn row_padding_and_short_buffers() {
        // 4x2, rows 6 bytes apart: what is in the padding is 99.
        let nv12 = [1, 2, 3, 4, 99, 99, 5, 6, 7, 8, 99, 99, 20, 30, 21, 31];
        let mut unpacker = unpacker(format(PixelFormat::Nv12, 4, 2), Decode::Raw { stride: 6 });
        let mut out = vec![0; 12];
        unpacker
            .fill(&nv12, &meta(0, 16, Flags::empty()), &mut out)
            .unwrap();
        assert_eq!(out, [1, 2, 3, 4, 5, 6, 7, 8, 20, 30, 21, 31]);
        assert!(
            unpacker
                .fill(&nv12, &meta(0, 15, Flags::empty()), &mut out)
                .is_err(),
            "one byte short"
        );
        assert!(
            unpacker
                .fill(&nv12, &meta(0, 16, Flags::ERROR), &mut out)
                .is_err()
        );

        let i420 = [1, 2, 99, 99, 3, 4, 99, 99, 5, 99, 6];
        let image = raw_image(format(PixelFormat::I420, 2, 2), 4, &i420).unwrap();
        let mut out = vec![0; 6];
        image.copy_packed(&mut out);
        assert_eq!(out, [1, 2, 3, 4, 5, 6]);
        let yuyv = [1, 2, 3, 4, 99, 99, 5, 6, 7, 8];
        let image = raw_image(format(PixelFormat::Yuyv, 2, 2), 6, &yuyv).unwrap();
        let mut out = vec![0; 8];
        image.copy_packed(&mut out);
        assert_eq!(out, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(raw_image(format(PixelFormat::Yuyv, 2, 2), 6, &yuyv[..9]).is_err());
    }

    #[test]
    fn damaged_pictures_are_dropped_and_counted() {
        let yuyv = format(PixelFormat::Yuyv, 2, 1);
        let mut unpacker = unpacker(yuyv, Decode::Raw { stride: 4 });
        let pool = FramePool::new(1, 4);
        let bytes = [1, 2, 3, 4];
        assert!(
            unpacker
                .unpack(&bytes, &meta(3, 2, Flags::empty()), &pool)
                .unwrap()
                .is_none()
        );
        let Some(Capture::Frame(frame)) = unpacker
            .unpack(&bytes, &meta(5, 4, Flags::empty()), &pool)
            .unwrap()
        else {
            panic!("no frame");
        };
        assert_eq!((frame.sequence, &*frame.data), (2, &bytes[..]));
        let dropped = unpacker
            .unpack(&bytes, &meta(6, 4, Flags::empty()), &pool)
            .unwrap();
        assert!(matches!(dropped, Some(Capture::Dropped)), "the pool is empty");
        assert_eq!((unpacker.corrupt, unpacker.numbering.lost), (1, 1));
    }

    #[test]
    fn what_drivers_leave_open_about_colour() {
        let color = |e, c, q| {
            let color = colorimetry(e, c, q);
            (color.matrix, color.range)
        };
        use {Colorspace as C, Encoding as E, Quantization as Q};
        assert_eq!(color(E::Mjpeg, C::SRGB, Q::Default), (Matrix::Bt601, Range::Full));
        assert_eq!(
            color(E::Yuyv, C::SRGB, Q::Default),
            (Matrix::Bt601, Range::Limited)
        );
        assert_eq!(
            color(E::Nv12, C::Rec709, Q::Default),
            (Matrix::Bt709, Range::Limited)
        );
        assert_eq!(
            color(E::Nv12, C::Rec709, Q::FullRange),
            (Matrix::Bt709, Range::Full)
        );
        assert_eq!(color(E::Yuyv, C::JPEG, Q::Default), (Matrix::Bt601, Range::Full));
    }

    #[test]
    fn modes_are_read_from_what_the_driver_lists() {
        let list = [(1, 30), (1001, 30000)].map(|(n, d)| FrameIntervalEnum::Discrete(Fraction::new(n, d)));
        assert_eq!(
            rates_of(list.into_iter()),
            Rates::Discrete(vec![
                Interval::of_rate(30.0),
                interval(Fraction::new(1001, 30000))
            ])
        );
        assert_eq!(rates_of(std::iter::empty()), Rates::Unknown);
        let step = v4l::frameinterval::Stepwise {
            min: Fraction::new(1, 60),
            max: Fraction::new(1, 1),
            step: Fraction::new(1, 1),
        };
        assert_eq!(
            rates_of(std::iter::once(FrameIntervalEnum::Stepwise(step))),
            Rates::Range {
                min: Interval::of_rate(60.0),
                max: Interval::of_rate(1.0)
            }
        );
    }
}
