//! Video files, RTSP streams and launch lines, through one GStreamer appsink.
//!
//! Frames leave GStreamer by one copy into a pooled buffer, row padding removed. A recording waits
//! while its frames are not taken; a live stream does so until its first frame is, then keeps the newest two and counts
//! the others as lost.
//!
//! * Pictures tagged as rotated are turned, and scaled to square pixels. Interlaced pictures stay as they are.
//! * A file that is cut short or damaged gives its frames until there, a warning, and then its end.
//! * A picture whose size or colours change within a stream is the first one of a new format.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video::{self as gst_video, VideoInfo};
use tracing::{debug, info, warn};

use crate::clock::{SharedClock, Stop};
use vision::error::{Error, Result};
use vision::frame::{Frame, FrameFormat};
use vision::pool::FramePool;

use super::picture::{self, format_of, rate};
use super::stream::{BUS_POLL, Item, Opening, Picture, Stream, start};
use crate::capture::files::cut_short;
use crate::capture::options::CaptureOptions;
use crate::capture::source::{Capture, FrameSource, SourceCounters, take_buffer};
use crate::capture::spec::SourceSpec;

/// How long a damaged recording's last frames may take to leave the decoder.
const DRAIN: Duration = Duration::from_secs(1);

/// One read of the stream.
enum Read {
    Picture(Picture),
    Nothing,
    End,
    Failed(String),
}

/// An opened file, RTSP stream or launch line.
#[derive(Debug)]
pub(super) struct GstSource {
    spec: SourceSpec,
    options: CaptureOptions,
    clock: SharedClock,
    name: String,
    stream: Stream,
    /// Ends its opening again.
    stop: Stop,
    /// The picture that told the format, until it is delivered.
    first: Option<Picture>,
    caps: gst::Caps,
    info: VideoInfo,
    format: FrameFormat,
    decoder: String,
    /// The rate of a recording that tells no times, if one is asked for.
    untimed_fps: Option<f64>,
    frames_expected: Option<u64>,
    /// An error that came while frames were on their way, and when.
    failed: Option<(String, Instant)>,
    /// Numbers the frames before this run of the recording.
    sequence_base: u64,
    delivered_in_run: u64,
    next_sequence: u64,
    loops: u64,
    lost: u64,
    /// Pictures that were not whole, in the pipelines before this one.
    corrupt_before: u64,
    /// Added to the running time of this run of the recording.
    pts_base: u64,
    first_running_time: Option<u64>,
    last_pts: Option<u64>,
}

impl GstSource {
    pub(super) fn open(
        spec: &SourceSpec,
        options: &CaptureOptions,
        clock: SharedClock,
        stop: &Stop,
    ) -> Result<Self> {
        let name = spec.name();
        let (mut stream, first) = start(Opening {
            spec,
            name: &name,
            options,
            stop,
        })?;
        let may_be_live = matches!(spec, SourceSpec::Launch(_) | SourceSpec::Csi(_));
        if !stream.live && may_be_live && stream.runs_live() {
            stream.set_live();
        }
        let caps = caps_of(&first.sample, &name)?;
        let (info, format) = format_of(&caps, &name)?;
        if info.par() != gst::Fraction::new(1, 1) {
            warn!(
                "{name}: pixels are not square ({}), and the line's end leaves no place to scale them",
                info.par()
            );
        }
        let mut untimed_fps = None;
        if let SourceSpec::File(path) = spec {
            if let Some(why) = cut_short(path) {
                warn!("{name}: cut short: {why}; what is there is played");
            }
            if !has_demuxer(&stream.built.pipeline) {
                untimed_fps = options.untimed_fps;
                info!(
                    "{name}: a stream without a file around it; taken at {} fps (--fps sets another rate)",
                    untimed_fps.or(rate(&info)).unwrap_or(25.0)
                );
            }
        }
        if info.interlace_mode() != gst_video::VideoInterlaceMode::Progressive {
            info!("{name}: the video is interlaced; it stays as it is");
        }
        let frames_expected = match (spec, rate(&info)) {
            (SourceSpec::File(_), Some(rate)) => stream
                .built
                .pipeline
                .query_duration::<gst::ClockTime>()
                .map(|d| (d.nseconds() as f64 * rate / 1e9).round() as u64),
            _ => None,
        };
        Ok(Self {
            spec: spec.clone(),
            options: options.clone(),
            clock,
            decoder: decoder_name(&stream.built.pipeline),
            name,
            stream,
            stop: stop.clone(),
            first: Some(first),
            caps,
            info,
            format,
            untimed_fps,
            frames_expected,
            failed: None,
            sequence_base: 0,
            delivered_in_run: 0,
            next_sequence: 0,
            loops: 0,
            lost: 0,
            corrupt_before: 0,
            pts_base: 0,
            first_running_time: None,
            last_pts: None,
        })
    }

    fn read(&mut self, wait: Duration) -> Read {
        if let Some(picture) = self.first.take() {
            return Read::Picture(picture);
        }
        match self.stream.items.recv_timeout(wait) {
            Ok(Item::Picture(picture)) => Read::Picture(picture),
            Ok(Item::End) => match self.failed.take().map(|f| f.0).or_else(|| self.stream.poll_bus()) {
                Some(error) => Read::Failed(error),
                None => Read::End,
            },
            Err(RecvTimeoutError::Disconnected) => Read::Failed("the pipeline is gone".to_owned()),
            Err(RecvTimeoutError::Timeout) => {
                if self.failed.is_none() {
                    self.failed = self.stream.poll_bus().map(|e| (e, Instant::now()));
                }
                match &self.failed {
                    // A recording's frames before the damage are still on their way.
                    Some((_, since)) if !self.stream.live && since.elapsed() < DRAIN => Read::Nothing,
                    Some((error, _)) => Read::Failed(error.clone()),
                    None => Read::Nothing,
                }
            }
        }
    }

    /// What an end means: another run, the end, or an error.
    fn ended(&mut self, error: Option<String>) -> Result<Option<Capture>> {
        let network = matches!(self.spec, SourceSpec::Rtsp(_) | SourceSpec::Csi(_));
        if self.stream.live {
            return match error {
                Some(error) => Err(Error::transient(format!("{}: {error}", self.name))),
                None if network => Err(Error::transient(format!("{}: the stream has ended", self.name))),
                None => Ok(Some(Capture::End)),
            };
        }
        if let Some(error) = &error {
            if self.delivered_in_run == 0 {
                return Err(Error::fatal(format!("{}: {error}", self.name)));
            }
            warn!(
                "{}: damaged or cut short; {} frames were read: {error}",
                self.name, self.delivered_in_run
            );
        }
        // What was read from a pipe is gone.
        if !self.options.looped || self.stream.pipe.is_some() {
            return Ok(Some(Capture::End));
        }
        if self.delivered_in_run == 0 {
            return Err(Error::fatal(format!("{}: not a single frame came", self.name)));
        }
        self.begin_again(error.is_some())?;
        Ok(None)
    }

    fn begin_again(&mut self, damaged: bool) -> Result<()> {
        self.sequence_base = self.next_sequence;
        self.delivered_in_run = 0;
        self.failed = None;
        self.loops += 1;
        let interval = rate(&self.info).map_or(40_000_000, |r| (1e9 / r) as u64);
        self.pts_base =
            (self.last_pts.unwrap_or(0) + interval).saturating_sub(self.first_running_time.unwrap_or(0));
        self.stream.handover.arrived.store(0, Ordering::Relaxed);
        let pipeline = &self.stream.built.pipeline;
        if damaged
            || pipeline
                .seek_simple(
                    gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT,
                    gst::ClockTime::ZERO,
                )
                .is_err()
        {
            debug!("{}: opened again from the start", self.name);
            self.corrupt_before += self.stream.built.gate.corrupt();
            let (stream, first) = start(Opening {
                spec: &self.spec,
                name: &self.name,
                options: &self.options,
                stop: &self.stop,
            })?;
            self.stream = stream;
            self.first = Some(first);
        }
        Ok(())
    }

    fn deliver(&mut self, picture: Picture, pool: &FramePool) -> Result<Capture> {
        if picture.sample.caps().is_some_and(|caps| *caps != *self.caps) && self.take_caps(&picture.sample)? {
            self.first = Some(picture);
            return Ok(Capture::NewFormat);
        }
        let Picture {
            number,
            sample,
            damaged,
        } = picture;
        let Some(buffer) = sample.buffer() else {
            return Ok(Capture::Dropped);
        };
        let sequence = self.sequence_base + number;
        self.lost += sequence.saturating_sub(self.next_sequence);
        self.next_sequence = sequence + 1;
        self.delivered_in_run += 1;

        let running_time = buffer.pts().and_then(|pts| {
            let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
            Some(segment.to_running_time(pts)?.nseconds())
        });
        let age = match running_time {
            Some(at) if self.stream.live => self
                .stream
                .built
                .pipeline
                .current_running_time()
                .map_or(0, |now| now.nseconds().saturating_sub(at)),
            _ => 0,
        };
        let pts_ns = self.pts(running_time, sequence);
        let Some(mut data) = take_buffer(pool, &self.format)? else {
            return Ok(Capture::Dropped);
        };
        picture::copy(buffer, &self.info, self.format, &mut data)
            .map_err(|why| Error::transient(format!("{}: a buffer that can't be read: {why}", self.name)))?;
        let now = self.clock.now_ns();
        Ok(Capture::Frame(Frame {
            sequence,
            // A source that stamps its buffers by another clock shows an absurd age.
            captured_at_ns: now.saturating_sub(if age < 10_000_000_000 { age } else { 0 }),
            pts_ns,
            format: self.format,
            damaged,
            data,
        }))
    }

    /// The frame's own time, rising from frame to frame.
    fn pts(&mut self, running_time: Option<u64>, sequence: u64) -> u64 {
        if let Some(fps) = self.untimed_fps {
            return (sequence as f64 * 1e9 / fps).round() as u64;
        }
        if self.first_running_time.is_none() {
            self.first_running_time = running_time;
        }
        let interval = rate(&self.info).map_or(40_000_000, |r| (1e9 / r) as u64);
        let pts = match (running_time, self.last_pts) {
            (Some(at), Some(last)) => (self.pts_base + at).max(last + 1),
            (Some(at), None) => self.pts_base + at,
            (None, Some(last)) => last + interval,
            (None, None) => 0,
        };
        self.last_pts = Some(pts);
        pts
    }

    /// Whether pictures have another format from this one on.
    fn take_caps(&mut self, sample: &gst::Sample) -> Result<bool> {
        let caps = caps_of(sample, &self.name)?;
        let (info, format) = format_of(&caps, &self.name)?;
        let changed = format != self.format;
        if changed {
            info!(
                "{}: pictures were {}, and are {} from here on",
                self.name,
                picture::text(&self.format),
                picture::text(&format)
            );
        }
        (self.caps, self.info, self.format) = (caps, info, format);
        Ok(changed)
    }
}

impl FrameSource for GstSource {
    fn format(&self) -> FrameFormat {
        self.format
    }

    fn frame_rate(&self) -> Option<f64> {
        self.untimed_fps.or(rate(&self.info))
    }

    fn frame_count(&self) -> Option<u64> {
        if self.options.looped {
            None
        } else {
            self.frames_expected
        }
    }

    fn describe(&self) -> String {
        let rate = self
            .frame_rate()
            .map_or_else(String::new, |r| format!(" at {r:.2} fps"));
        format!(
            "{}: {}{rate}, {}",
            self.name,
            picture::text(&self.format),
            self.decoder
        )
    }

    fn is_live(&self) -> bool {
        self.stream.live
    }

    fn counters(&self) -> SourceCounters {
        SourceCounters {
            corrupt: self.corrupt_before + self.stream.built.gate.corrupt(),
            lost: self.lost,
            loops: self.loops,
            ..SourceCounters::default()
        }
    }

    fn next_frame(&mut self, pool: &FramePool, timeout: Duration) -> Result<Capture> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.read(left.min(BUS_POLL)) {
                Read::Picture(picture) => return self.deliver(picture, pool),
                Read::Nothing if left.is_zero() => return Ok(Capture::Timeout),
                Read::Nothing => {}
                Read::End => {
                    if let Some(end) = self.ended(None)? {
                        return Ok(end);
                    }
                }
                Read::Failed(error) => {
                    if let Some(end) = self.ended(Some(error))? {
                        return Ok(end);
                    }
                }
            }
        }
    }
}

fn caps_of(sample: &gst::Sample, name: &str) -> Result<gst::Caps> {
    sample
        .caps_owned()
        .ok_or_else(|| Error::transient(format!("{name}: a picture without a format")))
}

/// Whether the pipeline takes a file apart; a stream without a file around it tells no times.
fn has_demuxer(pipeline: &gst::Pipeline) -> bool {
    let mut elements = pipeline.iterate_recurse().into_iter().flatten();
    elements.any(|element| {
        element
            .factory()
            .and_then(|factory| factory.metadata("klass").map(|klass| klass.contains("Demux")))
            .unwrap_or(false)
    })
}

/// The decoder that was plugged in.
fn decoder_name(pipeline: &gst::Pipeline) -> String {
    pipeline
        .iterate_recurse()
        .into_iter()
        .flatten()
        .filter_map(|e| e.factory())
        .find(|f| {
            // Of MJPEG pictures are decoded, not video.
            let media = [
                gst::ElementFactoryType::MEDIA_VIDEO,
                gst::ElementFactoryType::MEDIA_IMAGE,
            ];
            media
                .iter()
                .any(|kind| f.has_type(gst::ElementFactoryType::DECODER | *kind))
        })
        .map_or_else(
            || "not decoded".to_owned(),
            |f| format!("decoded by {}", f.name()),
        )
}
