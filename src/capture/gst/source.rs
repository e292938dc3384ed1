//! Video files, RTSP streams and launch lines, through one GStreamer appsink.
//!
//! Frames leave GStreamer by one copy into a pooled buffer, row padding removed. A recording waits
//! while its frames are not taken; a live stream keeps the newest two and counts the others as lost.
//!
//! * Pictures tagged as rotated are turned. Non-square pixels stay as they are stored (and are logged);
//!   so do interlaced pictures. BT.2020 is taken for BT.709, its nearest.
//! * A file that is cut short or damaged gives its frames until there, a warning, and then its end.
//! * A stream whose format changes is a transient error: it is opened again with its new format.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video::{self as gst_video, VideoFrameExt, VideoFrameRef, VideoInfo};
use tracing::{debug, info, warn};

use crate::clock::SharedClock;
use vision::error::{Error, Result};
use vision::frame::{Colorimetry, Frame, FrameFormat, ImageRef, Matrix, PixelFormat, Plane, Range};
use vision::pool::FramePool;

use super::stream::{BUS_POLL, Item, Stream, start};
use crate::capture::options::CaptureOptions;
use crate::capture::source::{Capture, FrameSource, SourceCounters, take_buffer};
use crate::capture::spec::SourceSpec;

/// How long a damaged recording's last frames may take to leave the decoder.
const DRAIN: Duration = Duration::from_secs(1);

/// One read of the stream.
enum Read {
    Sample(u64, gst::Sample),
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
    /// The sample that told the format, until it is delivered.
    first: Option<(u64, gst::Sample)>,
    caps: gst::Caps,
    info: VideoInfo,
    format: FrameFormat,
    decoder: String,
    frames_expected: Option<u64>,
    /// An error that came while frames were on their way, and when.
    failed: Option<(String, Instant)>,
    /// Numbers the frames before this run of the recording.
    sequence_base: u64,
    delivered_in_run: u64,
    next_sequence: u64,
    loops: u64,
    lost: u64,
    /// Added to the running time of this run of the recording.
    pts_base: u64,
    first_running_time: Option<u64>,
    last_pts: Option<u64>,
}

impl GstSource {
    pub(super) fn open(spec: &SourceSpec, options: &CaptureOptions, clock: SharedClock) -> Result<Self> {
        let name = spec.name();
        let (mut stream, sample) = start(spec, &name, options)?;
        let may_be_live = matches!(spec, SourceSpec::Launch(_) | SourceSpec::Csi(_));
        if !stream.live && may_be_live && stream.runs_live() {
            stream.set_live();
        }
        let (caps, info) = sample_info(&sample.1, &name)?;
        let format = frame_format(&info, &name)?;
        if info.par() != gst::Fraction::new(1, 1) {
            info!(
                "{name}: pixels are not square ({}); they stay as they are stored",
                info.par()
            );
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
            first: Some(sample),
            caps,
            info,
            format,
            frames_expected,
            failed: None,
            sequence_base: 0,
            delivered_in_run: 0,
            next_sequence: 0,
            loops: 0,
            lost: 0,
            pts_base: 0,
            first_running_time: None,
            last_pts: None,
        })
    }

    fn read(&mut self, wait: Duration) -> Read {
        if let Some((number, sample)) = self.first.take() {
            return Read::Sample(number, sample);
        }
        match self.stream.items.recv_timeout(wait) {
            Ok(Item::Sample(number, sample)) => Read::Sample(number, sample),
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
        if !self.options.looped {
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
            let (stream, sample) = start(&self.spec, &self.name, &self.options)?;
            self.stream = stream;
            self.first = Some(sample);
        }
        Ok(())
    }

    fn deliver(&mut self, number: u64, sample: &gst::Sample, pool: &FramePool) -> Result<Capture> {
        if sample.caps().is_some_and(|caps| *caps != *self.caps) {
            self.take_caps(sample)?;
        }
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
        let pts_ns = self.pts(running_time);
        let Some(mut data) = take_buffer(pool, &self.format)? else {
            return Ok(Capture::Dropped);
        };
        self.copy(buffer, &mut data)?;
        let now = self.clock.now_ns();
        Ok(Capture::Frame(Frame {
            sequence,
            // A source that stamps its buffers by another clock shows an absurd age.
            captured_at_ns: now.saturating_sub(if age < 10_000_000_000 { age } else { 0 }),
            pts_ns,
            format: self.format,
            data,
        }))
    }

    /// The frame's own time, rising from frame to frame.
    fn pts(&mut self, running_time: Option<u64>) -> u64 {
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

    fn take_caps(&mut self, sample: &gst::Sample) -> Result<()> {
        let (caps, info) = sample_info(sample, &self.name)?;
        let format = frame_format(&info, &self.name)?;
        if format != self.format {
            return Err(Error::transient(format!(
                "{}: the video's format has changed from {} to {}",
                self.name,
                format_text(&self.format),
                format_text(&format)
            ))
            .hint("it is opened again with the new one"));
        }
        self.caps = caps;
        self.info = info;
        Ok(())
    }

    /// Copies the picture out of `GStreamer`'s memory, whose buffers a decoder or camera has few of.
    fn copy(&self, buffer: &gst::BufferRef, out: &mut [u8]) -> Result<()> {
        let broken =
            |why: String| Error::transient(format!("{}: a buffer that can't be read: {why}", self.name));
        let frame = VideoFrameRef::from_buffer_ref_readable(buffer, &self.info)
            .map_err(|_| broken(format!("not a {:?} picture", self.info.format())))?;
        let mut planes = [Plane { data: &[], stride: 0 }; 3];
        let count = self.format.pixel.planes();
        for (index, plane) in planes.iter_mut().enumerate().take(count) {
            let stride = frame.plane_stride().get(index).copied().unwrap_or(0);
            *plane = Plane {
                data: frame
                    .plane_data(index as u32)
                    .map_err(|e| broken(e.to_string()))?,
                stride: usize::try_from(stride).map_err(|_| broken(format!("stride {stride}")))?,
            };
        }
        ImageRef::new(self.format, &planes[..count])
            .map_err(broken)?
            .copy_packed(out);
        Ok(())
    }
}

impl FrameSource for GstSource {
    fn format(&self) -> FrameFormat {
        self.format
    }

    fn frame_rate(&self) -> Option<f64> {
        rate(&self.info)
    }

    fn frame_count(&self) -> Option<u64> {
        if self.options.looped {
            None
        } else {
            self.frames_expected
        }
    }

    fn describe(&self) -> String {
        let rate = rate(&self.info).map_or_else(String::new, |r| format!(" at {r:.2} fps"));
        format!(
            "{}: {}{rate}, {}",
            self.name,
            format_text(&self.format),
            self.decoder
        )
    }

    fn is_live(&self) -> bool {
        self.stream.live
    }

    fn counters(&self) -> SourceCounters {
        SourceCounters {
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
                Read::Sample(number, sample) => return self.deliver(number, &sample, pool),
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

fn sample_info(sample: &gst::Sample, name: &str) -> Result<(gst::Caps, VideoInfo)> {
    let caps = sample
        .caps_owned()
        .ok_or_else(|| Error::transient(format!("{name}: a picture without a format")))?;
    let info = VideoInfo::from_caps(&caps)
        .map_err(|e| Error::fatal(format!("{name}: a format that is no video: {caps}")).caused_by(e))?;
    Ok((caps, info))
}

fn frame_format(info: &VideoInfo, name: &str) -> Result<FrameFormat> {
    let pixel = match info.format() {
        gst_video::VideoFormat::I420 => PixelFormat::I420,
        gst_video::VideoFormat::Nv12 => PixelFormat::Nv12,
        gst_video::VideoFormat::Yuy2 => PixelFormat::Yuyv,
        other => return Err(Error::fatal(format!("{name}: pictures in {other:?}"))),
    };
    Ok(FrameFormat {
        pixel,
        width: info.width() as usize,
        height: info.height() as usize,
        color: colorimetry(&info.colorimetry()),
    })
}

fn colorimetry(color: &gst_video::VideoColorimetry) -> Colorimetry {
    use gst_video::VideoColorMatrix as M;
    Colorimetry {
        matrix: match color.matrix() {
            M::Bt709 | M::Bt2020 => Matrix::Bt709,
            _ => Matrix::Bt601,
        },
        range: match color.range() {
            gst_video::VideoColorRange::Range0_255 => Range::Full,
            _ => Range::Limited,
        },
    }
}

/// Frames per second, if the caps tell.
fn rate(info: &VideoInfo) -> Option<f64> {
    let fps = info.fps();
    (fps.numer() > 0 && fps.denom() > 0).then(|| f64::from(fps.numer()) / f64::from(fps.denom()))
}

fn format_text(format: &FrameFormat) -> String {
    format!(
        "{:?} {}x{} {:?} {:?}",
        format.pixel, format.width, format.height, format.color.matrix, format.color.range
    )
}

/// The decoder that was plugged in.
fn decoder_name(pipeline: &gst::Pipeline) -> String {
    pipeline
        .iterate_recurse()
        .into_iter()
        .flatten()
        .filter_map(|e| e.factory())
        .find(|f| f.has_type(gst::ElementFactoryType::DECODER | gst::ElementFactoryType::MEDIA_VIDEO))
        .map_or_else(
            || "not decoded".to_owned(),
            |f| format!("decoded by {}", f.name()),
        )
}
