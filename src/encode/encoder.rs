//! One encoder: pictures in, access units out, to all its readers.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use crossbeam_channel::{Receiver, Sender, bounded};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::elements::{self, VideoLayout, internal};
use super::fanout::{Fanout, Units, channel};
use super::keyframes::Keyframes;
use super::plan::{ENCODER_NAME, EncoderPlan, EncoderSettings};
use super::{AccessUnit, Codec, Parameters, Queue, ReaderKind};
use crate::clock::{Stop, TimeNs};
use crate::mailbox::Received;
use vision::error::{Error, Result};
use vision::frame::{Frame, FrameFormat};

/// Pictures that wait for a live encoder at most, if somebody watches: the newest are shown.
const QUEUED_LIVE: u64 = 2;
/// If only recordings read: a short shortage of CPU costs them nothing.
const QUEUED_RECORDING: u64 = 8;
/// Pictures that wait for an encoder that loses none.
const QUEUED_LOSSLESS: usize = 4;

/// How long an encoder may take no picture before it counts as stuck.
const STALL: Duration = Duration::from_secs(30);
/// How long the last pictures of a live stream may take.
const FINISH_LIVE: Duration = Duration::from_secs(2);
/// How long the last pictures of a conversion may take.
const FINISH_LOSSLESS: Duration = Duration::from_secs(20);

/// Pictures inside an encoder at most whose times are kept.
const INSIDE: usize = 64;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// What distinguishes an encoder from another.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub(super) format: FrameFormat,
    pub(super) frame_rate: Option<f64>,
    pub(super) settings: EncoderSettings,
    /// The only element that may be used, if one is named.
    pub(super) wanted: Option<String>,
}

/// Counters of all encoders of a pipeline.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Pictures that a live encoder had no time for.
    pub(super) dropped: AtomicU64,
    /// Pictures that were encoded.
    pub(super) encoded: AtomicU64,
}

/// An encoder, which runs while it has a reader.
pub struct Encoder {
    key: Key,
    plan: EncoderPlan,
    layout: VideoLayout,
    /// Whether it waits for its readers, and compose for it.
    lossless: bool,
    period_ns: u64,
    counters: Arc<Counters>,
    fanout: Arc<Fanout>,
    /// Held while it starts or stops.
    lifecycle: Mutex<()>,
    running: ArcSwapOption<Running>,
}

/// The times of a picture inside the encoder.
#[derive(Debug, Clone, Copy)]
struct Times {
    encoder_ns: u64,
    captured_at_ns: TimeNs,
    pts_ns: u64,
    is_notice: bool,
}

/// An encoder at work.
struct Running {
    pipeline: gst::Pipeline,
    bus: gst::Bus,
    appsrc: gst_app::AppSrc,
    room: Arc<Room>,
    inside: Arc<Mutex<VecDeque<Times>>>,
    requests: Arc<Requests>,
    ended: Receiver<()>,
    feed: Mutex<Feed>,
}

/// The state of the side that pushes.
struct Feed {
    timeline: Timeline,
    /// The picture before was a notice.
    after_notice: bool,
}

/// Pictures that wait for the encoder.
struct Room {
    waiting: Mutex<usize>,
    taken: Condvar,
    last_taken: Mutex<Instant>,
}

/// Requests for keyframes, on their way to the encoder.
struct Requests {
    keyframes: Mutex<Keyframes>,
    /// The encoder's source pad, which takes them.
    pad: Option<gst::Pad>,
}

impl Requests {
    fn ask(&self) {
        lock(&self.keyframes).ask();
        self.send();
    }

    /// Passes a request on, if there is one and it may be.
    fn send(&self) {
        // Sent without the lock: it may be the encoder's own thread that comes here.
        let granted = lock(&self.keyframes).grant(Instant::now());
        if granted && let Some(pad) = &self.pad {
            pad.send_event(
                gst_video::UpstreamForceKeyUnitEvent::builder()
                    .all_headers(true)
                    .build(),
            );
        }
    }
}

/// Times for the encoder: from 0 on, always rising. Where the source's time jumps back (a stream that was opened
/// again), they go on one frame's time later.
#[derive(Debug)]
pub(crate) struct Timeline {
    period_ns: u64,
    offset_ns: i128,
    last_ns: Option<u64>,
}

impl Timeline {
    pub(crate) fn new(period_ns: u64) -> Self {
        Self {
            period_ns,
            offset_ns: 0,
            last_ns: None,
        }
    }

    /// Whether a time was asked for yet.
    pub(crate) fn has_begun(&self) -> bool {
        self.last_ns.is_some()
    }

    /// What [`at`](Self::at) would give, without a step on the line.
    pub(crate) fn peek(&self, source_ns: u64) -> u64 {
        let Some(last) = self.last_ns else {
            return 0;
        };
        let wanted = i128::from(source_ns) - self.offset_ns;
        if wanted > i128::from(last) {
            u64::try_from(wanted).unwrap_or(u64::MAX)
        } else {
            last.saturating_add(self.period_ns)
        }
    }

    /// The time on this line of the source's `source_ns`.
    pub(crate) fn at(&mut self, source_ns: u64) -> u64 {
        let at = self.peek(source_ns);
        let offset_ns = i128::from(source_ns) - i128::from(at);
        if self.has_begun() && offset_ns != self.offset_ns {
            tracing::debug!(
                source_ns,
                "the source's time did not rise; it goes on one frame later"
            );
        }
        self.offset_ns = offset_ns;
        self.last_ns = Some(at);
        at
    }
}

/// Nanoseconds from a picture to the next; 30 Hz where the rate isn't known.
pub(crate) fn period_ns(frame_rate: Option<f64>) -> u64 {
    frame_rate
        .filter(|r| r.is_finite() && *r > 0.0)
        .map_or(33_333_333, |r| (1e9 / r) as u64)
        .max(1)
}

/// The times of the unit with the encoder's time `encoder_ns`; those of earlier pictures are gone. `last` are those of the
/// unit before, from which they are counted on if the encoder tells no picture's time.
fn times_of(inside: &mut VecDeque<Times>, last: Option<Times>, encoder_ns: u64) -> Option<Times> {
    // Some encoders keep microseconds.
    let found = inside
        .iter()
        .position(|times| times.encoder_ns.saturating_add(1_000) >= encoder_ns);
    match found {
        Some(at) => {
            inside.drain(..at);
            inside.pop_front()
        }
        None => last.map(|last| {
            let later = encoder_ns.saturating_sub(last.encoder_ns);
            Times {
                encoder_ns,
                captured_at_ns: last.captured_at_ns.saturating_add(later),
                pts_ns: last.pts_ns.saturating_add(later),
                is_notice: last.is_notice,
            }
        }),
    }
}

impl Running {
    fn start(encoder: &Encoder) -> Result<Self> {
        let (layout, plan) = (&encoder.layout, &encoder.plan);
        let appsrc = elements::make_appsrc(layout)?;
        if !encoder.lossless {
            appsrc.set_is_live(true);
            appsrc.set_block(false);
            appsrc.set_max_buffers(QUEUED_LIVE);
            appsrc.set_leaky_type(gst_app::AppLeakyType::Downstream);
        }
        let pipeline = gst::Pipeline::new();
        pipeline.add(&appsrc).map_err(|e| internal("adding appsrc", e))?;
        let last = elements::append_encoder(pipeline.upcast_ref(), appsrc.upcast_ref(), plan)?;
        let parse = elements::make(plan.codec.parser(), "gstreamer1.0-plugins-bad")?;
        // Parameter sets with each keyframe: a reader can begin at any of them.
        parse.set_property("config-interval", -1i32);
        let sink = elements::make("appsink", "gstreamer1.0-plugins-base")?
            .downcast::<gst_app::AppSink>()
            .map_err(|_| Error::fatal("GStreamer: appsink is not an appsink"))?;
        sink.set_property("sync", false);
        sink.set_property("async", false);
        sink.set_property("enable-last-sample", false);
        let stream = gst::Caps::builder(plan.codec.media_type())
            .field("stream-format", "byte-stream")
            .field("alignment", "au")
            .build();
        sink.set_caps(Some(&stream));
        pipeline
            .add_many([&parse, sink.upcast_ref()])
            .map_err(|e| internal("adding an element", e))?;
        let byte_stream = gst::Caps::builder(plan.codec.media_type())
            .field("stream-format", "byte-stream")
            .build();
        last.link_filtered(&parse, &byte_stream)
            .map_err(|e| internal("linking the parser", e))?;
        parse
            .link(&sink)
            .map_err(|e| internal("linking the encoder", e))?;
        let bus = pipeline
            .bus()
            .ok_or_else(|| Error::fatal("GStreamer: a pipeline without a bus"))?;

        let room = Arc::new(Room {
            waiting: Mutex::new(0),
            taken: Condvar::new(),
            last_taken: Mutex::new(Instant::now()),
        });
        let leaving = room.clone();
        if let Some(pad) = appsrc.static_pad("src") {
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                let mut waiting = lock(&leaving.waiting);
                *waiting = waiting.saturating_sub(1);
                *lock(&leaving.last_taken) = Instant::now();
                leaving.taken.notify_one();
                gst::PadProbeReturn::Ok
            });
        }
        let requests = Arc::new(Requests {
            keyframes: Mutex::new(Keyframes::new(Instant::now())),
            pad: pipeline
                .by_name(ENCODER_NAME)
                .and_then(|element| element.static_pad("src")),
        });
        let inside = Arc::new(Mutex::new(VecDeque::with_capacity(INSIDE)));
        let (ended_tx, ended) = bounded(1);
        sink.set_callbacks(encoder.callbacks(&inside, &requests, ended_tx));
        let running = Self {
            pipeline,
            bus,
            appsrc,
            room,
            inside,
            requests,
            ended,
            feed: Mutex::new(Feed {
                timeline: Timeline::new(encoder.period_ns),
                after_notice: false,
            }),
        };
        if running.pipeline.set_state(gst::State::Playing).is_err() {
            let why = running.error().unwrap_or_else(|| "it does not start".into());
            return Err(
                Error::transient(format!("the encoder {} does not start", plan.encoder)).caused_by(why),
            );
        }
        Ok(running)
    }

    /// What the pipeline reported, if it failed.
    fn error(&self) -> Option<String> {
        let message = self.bus.pop_filtered(&[gst::MessageType::Error])?;
        match message.view() {
            gst::MessageView::Error(e) => Some(elements::message_text(e)),
            _ => None,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Encoder {
    pub(super) fn new(
        key: Key,
        plan: EncoderPlan,
        layout: VideoLayout,
        lossless: bool,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            period_ns: period_ns(key.frame_rate),
            key,
            plan,
            layout,
            lossless,
            counters,
            fanout: Arc::default(),
            lifecycle: Mutex::new(()),
            running: ArcSwapOption::empty(),
        }
    }

    pub(super) fn is(&self, key: &Key) -> bool {
        self.key == *key && self.fanout.failure().is_none()
    }

    /// The element that encodes.
    pub fn element(&self) -> &'static str {
        self.plan.encoder
    }

    /// What it makes.
    pub fn codec(&self) -> Codec {
        self.plan.codec
    }

    /// An output that it works for, for people: its name, what it gets and from which element.
    pub fn describe(&self, output: impl fmt::Display) -> String {
        format!("{output} ({} by {})", self.codec(), self.element())
    }

    /// What its units have in common.
    pub fn parameters(&self) -> Parameters {
        Parameters {
            codec: self.plan.codec,
            width: self.layout.size().0,
            height: self.layout.size().1,
            frame_rate: self.key.frame_rate,
            color: self.key.format.color,
        }
    }

    /// What becomes of the units: each finds its picture's times, and goes to the readers.
    fn callbacks(
        &self,
        inside: &Arc<Mutex<VecDeque<Times>>>,
        requests: &Arc<Requests>,
        ended: Sender<()>,
    ) -> gst_app::AppSinkCallbacks {
        let (inside, requests, fanout) = (inside.clone(), requests.clone(), self.fanout.clone());
        let (counters, duration_ns) = (self.counters.clone(), self.period_ns);
        let parameters = Arc::new(self.parameters());
        let mut last = None;
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let Some(buffer) = sample.buffer() else {
                    return Ok(gst::FlowSuccess::Ok);
                };
                // Some encoders count from a time of their own, which their segment says.
                let segment = sample.segment().and_then(|s| s.downcast_ref::<gst::ClockTime>());
                let Some(time) = segment.and_then(|s| s.to_running_time(buffer.pts())) else {
                    return Ok(gst::FlowSuccess::Ok);
                };
                let Some(times) = times_of(&mut lock(&inside), last, time.nseconds()) else {
                    return Ok(gst::FlowSuccess::Ok);
                };
                last = Some(times);
                let bytes = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
                let unit = AccessUnit {
                    data: bytes.as_slice().into(),
                    pts_ns: times.pts_ns,
                    captured_at_ns: times.captured_at_ns,
                    duration_ns,
                    is_keyframe: !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT),
                    is_notice: times.is_notice,
                    parameters: parameters.clone(),
                };
                counters.encoded.fetch_add(1, Relaxed);
                if unit.is_keyframe {
                    lock(&requests.keyframes).made();
                }
                if fanout.deliver(&unit) {
                    lock(&requests.keyframes).ask();
                }
                Ok(gst::FlowSuccess::Ok)
            })
            .eos(move |_| {
                // Whoever waits for it looks once.
                let _ = ended.try_send(());
            })
            .build()
    }

    /// Adds a reader whose units go to `queue`; the first one starts the encoder. It begins with a keyframe.
    ///
    /// # Errors
    /// Transient, if the encoder has failed or does not start.
    pub fn attach(
        self: &Arc<Self>,
        name: &str,
        kind: ReaderKind,
        queue: Box<dyn Queue>,
    ) -> Result<Membership> {
        let held = lock(&self.lifecycle);
        if let Some(why) = self.failure() {
            return Err(why);
        }
        let (id, dropped) = self.fanout.add(name, kind, queue);
        match self.running.load_full() {
            Some(running) => running.requests.ask(),
            None => match Running::start(self) {
                Ok(running) => {
                    tracing::debug!(encoder = self.plan.encoder, "the encoder starts");
                    self.running.store(Some(Arc::new(running)));
                }
                Err(why) => {
                    self.fanout.remove(id);
                    return Err(why);
                }
            },
        }
        self.set_queue();
        let membership = Membership {
            encoder: self.clone(),
            id,
            dropped,
        };
        // It may have failed since it was looked at; then this reader was not told.
        match self.failure() {
            None => Ok(membership),
            Some(why) => {
                // The membership leaves, which needs it.
                drop(held);
                Err(why)
            }
        }
    }

    /// Adds a reader with a queue that it takes its units from.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn read(self: &Arc<Self>, name: &str, kind: ReaderKind) -> Result<Reader> {
        let (queue, units) = channel(self.lossless);
        let membership = self.attach(name, kind, queue)?;
        Ok(Reader { units, membership })
    }

    fn detach(&self, id: u64) {
        let _held = lock(&self.lifecycle);
        self.fanout.remove(id);
        if self.fanout.has_readers(false) {
            self.set_queue();
        } else {
            self.stop();
        }
    }

    /// Ends the pipeline; its thread ends with it.
    fn stop(&self) {
        if let Some(running) = self.running.swap(None) {
            tracing::debug!(encoder = self.plan.encoder, "the encoder stops");
            // Not with the last reference: compose may hold one for a moment.
            let _ = running.pipeline.set_state(gst::State::Null);
        }
    }

    /// How many pictures may wait.
    fn set_queue(&self) {
        if let (Some(running), false) = (&*self.running.load(), self.lossless) {
            running.appsrc.set_max_buffers(match self.fanout.is_low_delay() {
                true => QUEUED_LIVE,
                false => QUEUED_RECORDING,
            });
        }
    }

    /// A keyframe soon: someone has begun to watch.
    pub fn request_keyframe(&self) {
        if let Some(running) = &*self.running.load() {
            running.requests.ask();
        }
    }

    /// Whether it encodes.
    pub fn is_running(&self) -> bool {
        self.running.load().is_some()
    }

    /// Whether anyone reads; of a notice, whether anyone shows it.
    pub(super) fn has_readers(&self, notice: bool) -> bool {
        self.is_running() && self.fanout.has_readers(notice)
    }

    /// Why there are no more units, if it has failed.
    pub fn failure(&self) -> Option<Error> {
        let why = self.fanout.failure().clone()?;
        Some(Error::transient(format!("the encoder {} has failed", self.plan.encoder)).caused_by(why))
    }

    /// Encodes a picture. A live encoder that is late drops the oldest one that waits, counted; another makes the caller
    /// wait. A failure is told to the readers.
    pub fn push(&self, frame: Frame, is_notice: bool) {
        let Some(running) = self.running.load_full() else {
            return;
        };
        if let Err(why) = self.push_to(&running, frame, is_notice) {
            self.fanout.fail(why);
        }
    }

    fn push_to(&self, running: &Running, frame: Frame, is_notice: bool) -> Result<(), String> {
        if frame.format != self.layout.format() {
            return Err(format!(
                "a frame of {:?} came; the encoder was opened for {:?}",
                frame.format,
                self.layout.format()
            ));
        }
        if let Some(why) = running.error() {
            return Err(why);
        }
        if self.lossless {
            self.wait_for_room(running)?;
        } else if running.appsrc.current_level_buffers() >= running.appsrc.max_buffers() {
            self.counters.dropped.fetch_add(1, Relaxed);
            self.check_stall(running)?;
        }
        running.requests.send();
        let mut feed = lock(&running.feed);
        // Recordings go on here.
        if std::mem::replace(&mut feed.after_notice, is_notice) && !is_notice {
            running.appsrc.send_event(
                gst_video::DownstreamForceKeyUnitEvent::builder()
                    .all_headers(true)
                    .build(),
            );
        }
        let encoder_ns = feed.timeline.at(frame.pts_ns);
        {
            let mut inside = lock(&running.inside);
            if inside.len() >= INSIDE {
                inside.pop_front();
            }
            inside.push_back(Times {
                encoder_ns,
                captured_at_ns: frame.captured_at_ns,
                pts_ns: frame.pts_ns,
                is_notice,
            });
        }
        let mut buffer = self
            .layout
            .buffer(frame.data, gst::ClockTime::from_nseconds(encoder_ns))
            .map_err(|e| e.to_string())?;
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_duration(gst::ClockTime::from_nseconds(self.period_ns));
        }
        match running.appsrc.push_buffer(buffer) {
            // The last reader has just gone.
            Ok(_) | Err(gst::FlowError::Flushing | gst::FlowError::Eos) => Ok(()),
            Err(e) => Err(running
                .error()
                .unwrap_or_else(|| format!("it takes no pictures: {e}"))),
        }
    }

    fn check_stall(&self, running: &Running) -> Result<(), String> {
        if lock(&running.room.last_taken).elapsed() < STALL {
            return Ok(());
        }
        Err(format!("it took no picture for {} s", STALL.as_secs()))
    }

    /// Waits until there is room for another picture, and takes it.
    fn wait_for_room(&self, running: &Running) -> Result<(), String> {
        let begun = Instant::now();
        let mut waiting = lock(&running.room.waiting);
        while *waiting >= QUEUED_LOSSLESS {
            let woken = running
                .room
                .taken
                .wait_timeout(waiting, Duration::from_millis(100));
            waiting = woken.unwrap_or_else(|e| e.into_inner()).0;
            if *waiting >= QUEUED_LOSSLESS {
                if let Some(why) = running.error() {
                    return Err(why);
                }
                // All readers have gone.
                if !self.is_running() {
                    return Ok(());
                }
                if begun.elapsed() > STALL {
                    return Err(format!("it took no picture for {} s", STALL.as_secs()));
                }
            }
        }
        *waiting += 1;
        Ok(())
    }

    /// Encodes what waits; then the readers' queues end.
    pub(super) fn finish(&self) {
        let Some(running) = self.running.load_full() else {
            return;
        };
        // An error shows on the bus.
        let _ = running.appsrc.end_of_stream();
        let limit = match self.lossless {
            true => FINISH_LOSSLESS,
            false => FINISH_LIVE,
        };
        let begun = Instant::now();
        loop {
            if running.ended.recv_timeout(Duration::from_millis(20)).is_ok() {
                break self.fanout.close();
            }
            if let Some(why) = running.error() {
                break self.fanout.fail(why);
            }
            if begun.elapsed() > limit {
                break self.fanout.fail(format!(
                    "its last pictures did not come within {} s",
                    limit.as_secs()
                ));
            }
        }
        let _held = lock(&self.lifecycle);
        self.stop();
    }
}

/// A reader's place at an encoder, left when dropped. The last one to leave stops the encoder.
pub struct Membership {
    encoder: Arc<Encoder>,
    id: u64,
    dropped: Arc<AtomicU64>,
}

impl Membership {
    /// Units that this reader has lost because its queue was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// The encoder that it reads.
    pub fn encoder(&self) -> &Arc<Encoder> {
        &self.encoder
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.encoder.detach(self.id);
    }
}

/// A reader that takes its units from a queue: 256 of them and 8 MiB in a live pipeline, where a full queue drops all up to
/// the next keyframe, counted; otherwise the encoder waits for it.
pub struct Reader {
    units: Units,
    membership: Membership,
}

impl Reader {
    /// The next unit, waited for until there are no more or the stop. Units that wait already come before the stop.
    pub fn recv(&self, stop: &Stop) -> Received<AccessUnit> {
        self.units.recv(stop)
    }

    /// The next unit, waited for so long at most.
    pub fn recv_timeout(&self, timeout: Duration) -> Option<AccessUnit> {
        self.units.recv_timeout(timeout)
    }

    /// Units that were lost because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.membership.dropped()
    }

    /// Why there are no more units, if the encoder has failed.
    pub fn failure(&self) -> Option<Error> {
        self.membership.encoder.failure()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_finds_its_picture_s_times_whatever_was_dropped_before_it() {
        let times = |encoder_ns| Times {
            encoder_ns,
            captured_at_ns: encoder_ns + 7,
            pts_ns: 0,
            is_notice: false,
        };
        let mut inside: VecDeque<Times> = [0, 33_000_000, 66_000_000, 100_000_000].map(times).into();
        let first = times_of(&mut inside, None, 0).unwrap();
        assert_eq!(first.captured_at_ns, 7);
        // 33 ms was dropped; the encoder has cut nanoseconds off, or rounded up.
        let third = times_of(&mut inside, Some(first), 66_000_500).unwrap();
        assert_eq!(third.encoder_ns, 66_000_000);
        let fourth = times_of(&mut inside, Some(third), 99_999_600).unwrap();
        assert_eq!(fourth.encoder_ns, 100_000_000);
        // One that the encoder made up.
        let fifth = times_of(&mut inside, Some(fourth), 133_000_000).unwrap();
        assert_eq!((fifth.captured_at_ns, fifth.pts_ns), (133_000_007, 33_000_000));
        assert!(times_of(&mut inside, None, 133_000_000).is_none());
    }

    #[test]
    fn a_timeline_begins_at_0_and_always_rises() {
        let mut line = Timeline::new(10);
        assert!(!line.has_begun());
        let at: Vec<u64> = [500, 510, 530, 100, 110, 110]
            .into_iter()
            .map(|t| line.at(t))
            .collect();
        assert_eq!(at, [0, 10, 30, 40, 50, 60]);
        assert!(line.has_begun());
    }

    #[test]
    fn a_period_is_always_something() {
        assert_eq!(period_ns(Some(25.0)), 40_000_000);
        for odd in [None, Some(0.0), Some(-1.0), Some(f64::NAN), Some(f64::INFINITY)] {
            assert_eq!(period_ns(odd), 33_333_333);
        }
        assert_eq!(period_ns(Some(1e12)), 1);
    }
}
