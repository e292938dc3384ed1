//! A running pipeline: its samples in a bounded queue, its errors, and how it is started.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, TrySendError, bounded};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::AppSinkCallbacks;
use tracing::{debug, warn};

use vision::error::{Error, Result};

use super::build::{self, Built, Decoding};
use super::csi;
use super::fifo;
use super::gate::Look;
use super::trust::{Refused, Trust};
use crate::capture::credentials::mask_credentials;
use crate::capture::meant::meant;
use crate::capture::options::CaptureOptions;
use crate::capture::spec::SourceSpec;
use crate::clock::Stop;

/// Samples between GStreamer's thread and the reader.
const QUEUED: usize = 2;
/// How often the bus is looked at while nothing comes.
pub(super) const BUS_POLL: Duration = Duration::from_millis(20);

/// A decoded picture.
#[derive(Debug)]
pub(super) struct Picture {
    /// How many came before it.
    pub number: u64,
    pub sample: gst::Sample,
    pub damaged: bool,
}

/// What GStreamer's thread hands over.
pub(super) enum Item {
    Picture(Picture),
    End,
}

/// What is opened, and how.
#[derive(Clone, Copy)]
pub(super) struct Opening<'a> {
    pub spec: &'a SourceSpec,
    /// For logs and errors.
    pub name: &'a str,
    pub options: &'a CaptureOptions,
    /// Ends the opening.
    pub stop: &'a Stop,
}

/// Shared with the appsink's callbacks.
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// Whether the oldest sample makes room when the queue is full.
    live: AtomicBool,
    closing: AtomicBool,
    pub arrived: AtomicU64,
}

/// A running pipeline; stopped when dropped.
#[derive(Debug)]
pub(super) struct Stream {
    pub built: Built,
    pub items: Receiver<Item>,
    pub handover: Arc<Handover>,
    pub live: bool,
    /// The pipe that the video is read from, if it is one.
    pub pipe: Option<File>,
    missing: Option<String>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.handover.closing.store(true, Ordering::Release);
        let _ = self.built.pipeline.set_state(gst::State::Null);
    }
}

impl Stream {
    /// Starts a pipeline, which waits while its pictures are not taken until it is [set live](Self::set_live).
    fn start(built: Built) -> Result<Self, String> {
        let (tx, items) = bounded(QUEUED);
        let handover = Arc::new(Handover::default());
        let (shared, evict) = (handover.clone(), items.clone());
        let hand_over = move |mut item| {
            loop {
                if shared.closing.load(Ordering::Acquire) {
                    return false;
                }
                item = if shared.live.load(Ordering::Acquire) {
                    match tx.try_send(item) {
                        Ok(()) => return true,
                        Err(TrySendError::Disconnected(_)) => return false,
                        Err(TrySendError::Full(back)) => {
                            let _ = evict.try_recv();
                            back
                        }
                    }
                } else {
                    // Short, because `closing` and `live` may change meanwhile.
                    match tx.send_timeout(item, BUS_POLL) {
                        Ok(()) => return true,
                        Err(SendTimeoutError::Disconnected(_)) => return false,
                        Err(SendTimeoutError::Timeout(back)) => back,
                    }
                };
            }
        };
        let at_end = hand_over.clone();
        let (shared, gate) = (handover.clone(), built.gate.clone());
        built.appsink.set_callbacks(
            AppSinkCallbacks::builder()
                .new_sample(move |sink| {
                    let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                    let look = sample.buffer().map_or(Look::Whole, |buffer| gate.look_at(buffer));
                    if look == Look::TooEarly {
                        return Ok(gst::FlowSuccess::Ok);
                    }
                    let picture = Picture {
                        number: shared.arrived.fetch_add(1, Ordering::Relaxed),
                        sample,
                        damaged: look == Look::Damaged,
                    };
                    if hand_over(Item::Picture(picture)) {
                        Ok(gst::FlowSuccess::Ok)
                    } else {
                        Err(gst::FlowError::Flushing)
                    }
                })
                .eos(move |_| {
                    at_end(Item::End);
                })
                .build(),
        );
        let mut stream = Self {
            built,
            items,
            handover,
            live: false,
            pipe: None,
            missing: None,
        };
        match stream.built.pipeline.set_state(gst::State::Playing) {
            Ok(_) => Ok(stream),
            Err(_) => Err(stream
                .poll_bus()
                .unwrap_or_else(|| "the pipeline doesn't start".to_owned())),
        }
    }

    /// Takes the messages that wait; the first error's text.
    pub fn poll_bus(&mut self) -> Option<String> {
        let bus = self.built.pipeline.bus()?;
        while let Some(message) = bus.pop() {
            match message.view() {
                gst::MessageView::Error(error) => return Some(build::error_text(error)),
                gst::MessageView::Warning(warning) => {
                    debug!("{}", mask_credentials(&warning.error().to_string()));
                }
                gst::MessageView::Element(element) => {
                    self.missing = build::missing_plugin(element).or(self.missing.take());
                }
                _ => {}
            }
        }
        None
    }

    /// From here on the oldest picture makes room for a new one.
    pub fn set_live(&mut self) {
        self.live = true;
        self.handover.live.store(true, Ordering::Release);
    }

    /// Whether the pipeline has a live source, which a launch line only tells once it runs. A sink that
    /// does not synchronise says no for itself: what stands before it is asked.
    pub fn runs_live(&self) -> bool {
        let mut query = gst::query::Latency::new();
        self.built
            .appsink
            .static_pad("sink")
            .is_some_and(|pad| pad.peer_query(&mut query) && query.result().0)
    }
}

/// A running pipeline and its first picture.
type Started = (Stream, Picture);

/// Starts a pipeline and waits for its first picture.
pub(super) fn start(opening: Opening<'_>) -> Result<Started> {
    let Opening {
        spec, name, options, ..
    } = opening;
    let timeout = options.open_timeout();
    let sensor = match spec {
        SourceSpec::Csi(sensor) => sensor,
        // What was read from a pipe can't be read again: there is one attempt.
        SourceSpec::File(path) if fifo::is_pipe(path) => {
            let pipe = fifo::wait_for_data(path, opening.stop)?;
            let started = start_within(timeout, opening, Decoding::Any, &mut Arc::default(), Some(pipe))?;
            return started.ok_or_else(|| silence(spec, name, timeout));
        }
        // decodebin keeps back the errors of an element while it plugs it, and drops them where plugging
        // succeeds: a demuxer that gives up within that time (about one start in a hundred for a file
        // without its index) leaves a pipeline that waits for ever. So silence is tried a second time.
        // https://gitlab.freedesktop.org/gstreamer/gstreamer/-/blob/1.22/subprojects/gst-plugins-base/gst/playback/gstdecodebin2.c
        SourceSpec::File(_) => {
            if let Some(started) = start_decoding(timeout / 4, opening)? {
                return Ok(started);
            }
            debug!("{name}: no frame and no error; started again");
            return start_decoding(timeout - timeout / 4, opening)?
                .ok_or_else(|| silence(spec, name, timeout));
        }
        _ => {
            return start_decoding(timeout, opening)?.ok_or_else(|| silence(spec, name, timeout));
        }
    };
    build::init()?;
    let has = |name: &str| gst::ElementFactory::find(name).is_some();
    let mut failed = None;
    // An element that is installed may still find no camera of its kind.
    for plan in csi::plans(*sensor, options, &has)? {
        let spec = SourceSpec::Launch(plan.line);
        let opening = Opening {
            spec: &spec,
            ..opening
        };
        let why = match start_within(timeout, opening, Decoding::Any, &mut Arc::default(), None) {
            Ok(Some(started)) => return Ok(started),
            Ok(None) => silence(&spec, name, timeout),
            Err(why) => why,
        };
        let why = Error::transient(format!("{name} by {}", plan.element)).caused_by(why);
        failed = Some(why.hint("check the camera's ribbon cable, and that no other program has it open"));
    }
    Err(failed
        .unwrap_or_else(|| Error::usage(format!("{name}: no element on this machine reads such a camera"))))
}

/// The error of a source that gave neither a picture nor an error.
fn silence(spec: &SourceSpec, name: &str, timeout: Duration) -> Error {
    let text = format!("{name}: no frame within {} s", timeout.as_secs_f64());
    match spec {
        SourceSpec::File(_) => Error::fatal(text).hint("the file may lie on a disk that hangs"),
        _ => Error::transient(text).hint("check that the device is on and the address is right"),
    }
}

/// As [`start_within`]; where a hardware decoder gives no picture in time, a second time without any.
fn start_decoding(timeout: Duration, opening: Opening<'_>) -> Result<Option<Started>> {
    let mut hardware = Arc::default();
    let started = start_within(timeout, opening, Decoding::Any, &mut hardware, None);
    let why = match (&started, hardware.get()) {
        (Ok(Some(_)), _) | (_, None) => return started,
        _ if opening.stop.is_stopped() => return started,
        (Ok(None), Some(_)) => format!("no picture within {} s", timeout.as_secs_f64()),
        (Err(why), Some(_)) => why.to_string(),
    };
    warn!(
        "{}: the decoder {} is installed but does not work, the CPU decodes: {why}",
        opening.name,
        hardware.get().map_or("", String::as_str)
    );
    start_within(timeout, opening, Decoding::OnCpu, &mut hardware, None)
}

/// Starts a pipeline; none if neither a picture nor an error came in time. `hardware` gets the name of the hardware decoder
/// that was plugged in, if one was. `pipe` is read in place of the file that the source names.
///
/// A stream that is there and has no whole picture yet is given its time.
fn start_within(
    timeout: Duration,
    opening: Opening<'_>,
    decoding: Decoding,
    hardware: &mut Arc<OnceLock<String>>,
    pipe: Option<File>,
) -> Result<Option<Started>> {
    let Opening {
        spec,
        name,
        options,
        stop,
    } = opening;
    let network = matches!(spec, SourceSpec::Rtsp(_));
    let trust = network.then(|| Trust::new(options)).transpose()?;
    let from_uri = |uri: &str| build::from_uri(uri, name, options, decoding, trust.as_ref());
    let built = match (spec, &pipe) {
        (SourceSpec::File(_), Some(pipe)) => from_uri(&format!("fd://{}", pipe.as_raw_fd()))?,
        (SourceSpec::File(path), None) => from_uri(&file_uri(path)?)?,
        (SourceSpec::Rtsp(uri), _) => from_uri(uri)?,
        (SourceSpec::Launch(line), _) => build::from_launch(line, name, options)?,
        (
            SourceSpec::Camera(_)
            | SourceSpec::Csi(_)
            | SourceSpec::Images(_)
            | SourceSpec::Test(_)
            | SourceSpec::Playlist(_),
            _,
        ) => {
            return Err(Error::fatal(format!("{name} is not read through GStreamer")));
        }
    };
    *hardware = built.hardware.clone();
    let open_error = |why: &str, missing: Option<&str>| {
        open_error(
            spec,
            name,
            why,
            missing,
            trust.as_ref().and_then(|trust| trust.refused()),
        )
    };
    let mut stream = Stream::start(built).map_err(|e| open_error(&e, None))?;
    stream.pipe = pipe;
    let mut deadline = Instant::now() + timeout;
    let mut held = 0;
    loop {
        match stream.items.recv_timeout(BUS_POLL) {
            Ok(Item::Picture(picture)) => {
                // Not before: the first picture is a whole one, and one that took its place might be damaged.
                if network {
                    stream.set_live();
                }
                return Ok(Some((stream, picture)));
            }
            Ok(Item::End) => {
                let why = stream.poll_bus().unwrap_or_else(|| match stream.built.gate.corrupt() {
                    0 => "it ended before the first frame".to_owned(),
                    n => format!("it ended before the first whole picture; {n} depend on a keyframe that is not there"),
                });
                return Err(open_error(&why, stream.missing.as_deref()));
            }
            Err(_) => {
                let why = stream.poll_bus();
                // Streams that nothing takes end in an error about links, which says less.
                let why = if stream.built.no_video.load(Ordering::Acquire) {
                    Some("it has no video stream".to_owned())
                } else {
                    why
                };
                if let Some(why) = why {
                    return Err(open_error(&why, stream.missing.as_deref()));
                }
            }
        }
        if stop.is_stopped() {
            return Err(Error::transient(format!("{name}: stopped while it was opened")));
        }
        let now = Instant::now();
        if stream.built.gate.held() > held {
            held = stream.built.gate.held();
            deadline = now + timeout;
        }
        if now >= deadline {
            return Ok(None);
        }
    }
}

/// The error of a source that did not open.
fn open_error(
    spec: &SourceSpec,
    name: &str,
    why: &str,
    missing: Option<&str>,
    refused: Option<Refused>,
) -> Error {
    if let Some(refused) = refused {
        return Error::transient(format!("{name}: {}", refused.why)).hint(refused.hint);
    }
    if let Some(missing) = missing {
        return Error::fatal(format!("{name}: GStreamer has no {missing}")).hint(
            "install the plugin that has it (Debian: gstreamer1.0-libav, gstreamer1.0-plugins-good, -bad or -ugly)",
        );
    }
    match spec {
        SourceSpec::Rtsp(_) => {
            let error = Error::transient(format!("{name}: {why}"));
            if why.contains("Unauthorized") || why.contains("401") {
                error.hint("check the user name and the password: rtsp://user:password@host/path")
            } else {
                error.hint("check that the device is on and the address is right")
            }
        }
        SourceSpec::Launch(_) if why.contains("not-negotiated") => Error::usage(format!("{name}: {why}"))
            .hint("put \"! videoconvert\" before the appsink: segd takes I420, NV12 or YUY2"),
        SourceSpec::Launch(_) => {
            Error::transient(format!("{name}: {why}")).hint("try the line with gst-launch-1.0")
        }
        _ => Error::usage(format!("{name}: not a video that can be played: {why}")),
    }
}

/// The `file://` address of a path.
///
/// # Errors
/// Usage, if there is no such file, with the name that was probably meant.
fn file_uri(path: &Path) -> Result<String> {
    let meta = std::fs::metadata(path).map_err(|e| {
        let error = Error::usage(format!("{}: can't be read", path.display())).caused_by(e);
        match neighbour(path) {
            Some(name) => error.hint(format!(
                "did you mean {:?}?",
                path.with_file_name(name).display().to_string()
            )),
            None => error,
        }
    })?;
    if meta.file_type().is_socket() {
        return Err(
            Error::usage(format!("{}: a socket, which is no video", path.display()))
                .hint("read what serves it: an rtsp:// address, or a gst: line that begins with its source"),
        );
    }
    if meta.is_file() && meta.len() == 0 {
        return Err(Error::usage(format!("{}: the file is empty", path.display())));
    }
    // Opening tells what the permissions allow, in the system's own words.
    std::fs::File::open(path)
        .map_err(|e| Error::usage(format!("{}: can't be read", path.display())).caused_by(e))?;
    let absolute = std::path::absolute(path)
        .map_err(|e| Error::usage(format!("{}: can't be made absolute", path.display())).caused_by(e))?;
    build::init()?;
    gst::glib::filename_to_uri(&absolute, None)
        .map(Into::into)
        .map_err(|e| Error::usage(format!("{}: no usable file name", path.display())).caused_by(e))
}

/// A file beside `path` whose name is nearly the same.
fn neighbour(path: &Path) -> Option<String> {
    let wanted = path.file_name()?.to_str()?;
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let names: Vec<String> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .take(10_000)
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    meant(wanted, &names).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_picture_waits_and_those_after_it_make_room() {
        let line = "videotestsrc num-buffers=20 ! video/x-raw,format=I420,width=64,height=64 ! appsink";
        let built = build::from_launch(line, "line", &CaptureOptions::default()).unwrap();
        let mut stream = Stream::start(built).unwrap();
        let wait_for = |stream: &Stream, count: u64| {
            let deadline = Instant::now() + Duration::from_secs(20);
            while stream.handover.arrived.load(Ordering::Relaxed) < count {
                assert!(Instant::now() < deadline, "{count} pictures within 20 s");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let next = |stream: &Stream| match stream.items.recv_timeout(Duration::from_secs(20)) {
            Ok(Item::Picture(picture)) => Some(picture.number),
            Ok(Item::End) => None,
            Err(error) => panic!("{error}"),
        };
        // The queue is full, and the next picture stands before it.
        wait_for(&stream, QUEUED as u64 + 1);
        assert_eq!(next(&stream), Some(0));
        stream.set_live();
        wait_for(&stream, 20);
        while let Some(number) = next(&stream) {
            assert!(number >= 17, "{number} is none of the newest");
        }
    }
}
