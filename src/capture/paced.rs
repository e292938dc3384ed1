//! Delivers a recording at its own times, as a camera would, or as fast as it is taken.
//!
//! Either way each frame of the recording is delivered exactly once: where no buffer is free the
//! reader gets [`Capture::Timeout`] and the recording waits.
//!
//! At the recorded pace a frame is due when as much time has passed since the first one as their
//! presentation times differ. A frame that is late by no more than one frame interval is delivered at
//! once and the next one keeps its own time, so jitter does not add up. Where frames come later than
//! that (a slow decoder, a reader that stood still) the whole timeline slips by the delay: frames that
//! were missed are never hurried through as a burst, and what slipped is counted.

use std::time::Duration;

use crate::clock::{SharedClock, Stop, StopHandle, TimeNs, stop_pair};
use vision::error::Result;
use vision::frame::{Frame, FrameFormat};
use vision::pool::FramePool;

use super::options::Pace;
use super::source::{Capture, FrameSource, SourceCounters};

/// A step between presentation times beyond which the recording's clock is taken to have jumped.
const LONGEST_STEP_NS: u64 = 2_000_000_000;

/// How often an empty pool is looked at.
const POOL_POLL: Duration = Duration::from_millis(1);

/// The clock time at which the presentation time `pts_ns` is due.
#[derive(Debug, Clone, Copy)]
struct Timeline {
    at_ns: TimeNs,
    pts_ns: u64,
}

/// A source whose frames are delivered at the pace wanted.
#[derive(Debug)]
pub struct Paced<S> {
    inner: S,
    pace: Pace,
    clock: SharedClock,
    /// Frame that is not due yet, and when it is.
    pending: Option<(Frame, TimeNs)>,
    last: Option<Timeline>,
    slipped_ns: u64,
    /// Waits end with their timeout; this stop never comes.
    never: Stop,
    _never: StopHandle,
}

impl<S: FrameSource> Paced<S> {
    /// Paces `inner`, which delivers without waiting.
    pub fn new(inner: S, pace: Pace, clock: SharedClock) -> Self {
        let (handle, stop) = stop_pair();
        Self {
            inner,
            pace,
            clock,
            pending: None,
            last: None,
            slipped_ns: 0,
            never: stop,
            _never: handle,
        }
    }

    fn interval_ns(&self) -> u64 {
        match self.inner.frame_rate() {
            Some(rate) if rate > 0.0 => (1e9 / rate) as u64,
            _ => 40_000_000,
        }
    }

    /// When a frame with this presentation time is due.
    fn due(&self, pts_ns: u64) -> TimeNs {
        let Some(last) = self.last else {
            return self.clock.now_ns();
        };
        let step = match pts_ns.checked_sub(last.pts_ns) {
            Some(step) if step <= LONGEST_STEP_NS => step,
            _ => self.interval_ns(),
        };
        last.at_ns + step
    }

    /// Waits until a buffer is free; false if none is by `deadline`.
    fn wait_for_buffer(&self, pool: &FramePool, deadline: TimeNs) -> bool {
        while pool.available() == 0 {
            if self.clock.now_ns() >= deadline {
                return false;
            }
            self.clock.wait(POOL_POLL, &self.never);
        }
        true
    }
}

impl<S: FrameSource> FrameSource for Paced<S> {
    fn format(&self) -> FrameFormat {
        self.inner.format()
    }

    fn frame_rate(&self) -> Option<f64> {
        self.inner.frame_rate()
    }

    fn frame_count(&self) -> Option<u64> {
        self.inner.frame_count()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn counters(&self) -> SourceCounters {
        SourceCounters {
            slipped_ns: self.slipped_ns,
            ..self.inner.counters()
        }
    }

    fn next_frame(&mut self, pool: &FramePool, timeout: Duration) -> Result<Capture> {
        let deadline = self.clock.now_ns().saturating_add(timeout.as_nanos() as u64);
        let (mut frame, due) = match self.pending.take() {
            Some(pending) => pending,
            None => {
                if !self.wait_for_buffer(pool, deadline) {
                    return Ok(Capture::Timeout);
                }
                let left = deadline.saturating_sub(self.clock.now_ns());
                match self.inner.next_frame(pool, Duration::from_nanos(left))? {
                    Capture::Frame(frame) => {
                        let due = self.due(frame.pts_ns);
                        (frame, due)
                    }
                    other => return Ok(other),
                }
            }
        };
        if self.pace == Pace::AsFastAsPossible {
            return Ok(Capture::Frame(frame));
        }
        if due > deadline {
            self.clock.wait_until(deadline, &self.never);
            self.pending = Some((frame, due));
            return Ok(Capture::Timeout);
        }
        self.clock.wait_until(due, &self.never);
        let now = self.clock.now_ns();
        let late = now.saturating_sub(due);
        let slip = if late > self.interval_ns() { late } else { 0 };
        self.slipped_ns += slip;
        self.last = Some(Timeline {
            at_ns: due + slip,
            pts_ns: frame.pts_ns,
        });
        frame.captured_at_ns = now;
        Ok(Capture::Frame(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SimulatedClock};
    use std::collections::VecDeque;
    use std::sync::Arc;
    use vision::frame::PixelFormat;

    const MS: u64 = 1_000_000;

    /// Frames with given times; each one takes `cost` of clock time to read.
    #[derive(Debug)]
    struct Script {
        pts_ms: VecDeque<u64>,
        cost_ms: u64,
        clock: Arc<SimulatedClock>,
        sequence: u64,
    }

    fn format() -> FrameFormat {
        FrameFormat::new(PixelFormat::I420, 2, 2)
    }

    impl FrameSource for Script {
        fn format(&self) -> FrameFormat {
            format()
        }
        fn frame_rate(&self) -> Option<f64> {
            Some(10.0)
        }
        fn describe(&self) -> String {
            "script".into()
        }
        fn next_frame(&mut self, pool: &FramePool, _timeout: Duration) -> Result<Capture> {
            let Some(pts) = self.pts_ms.pop_front() else {
                return Ok(Capture::End);
            };
            self.clock.advance(Duration::from_millis(self.cost_ms));
            let Some(data) = pool.take() else {
                return Ok(Capture::Dropped);
            };
            self.sequence += 1;
            Ok(Capture::Frame(Frame {
                sequence: self.sequence - 1,
                captured_at_ns: 0,
                pts_ns: pts * MS,
                format: format(),
                damaged: false,
                data,
            }))
        }
    }

    fn script(pts_ms: &[u64], cost_ms: u64, pace: Pace) -> (Paced<Script>, Arc<SimulatedClock>, FramePool) {
        let clock = SimulatedClock::auto();
        let inner = Script {
            pts_ms: pts_ms.iter().copied().collect(),
            cost_ms,
            clock: clock.clone(),
            sequence: 0,
        };
        let paced = Paced::new(inner, pace, clock.clone());
        (paced, clock, FramePool::new(2, 6))
    }

    /// Milliseconds at which frames came, with a reader that takes `work_ms[i]` after frame i.
    fn times(
        paced: &mut Paced<Script>,
        clock: &SimulatedClock,
        pool: &FramePool,
        work_ms: &[u64],
    ) -> Vec<u64> {
        let mut at = Vec::new();
        loop {
            match paced.next_frame(pool, Duration::from_millis(1000)).unwrap() {
                Capture::Frame(frame) => {
                    assert_eq!(frame.captured_at_ns, clock.now_ns());
                    at.push(frame.captured_at_ns / MS);
                    drop(frame);
                    let work = work_ms.get(at.len() - 1).copied().unwrap_or(0);
                    clock.advance(Duration::from_millis(work));
                }
                Capture::End => return at,
                Capture::Timeout => {}
                Capture::Dropped | Capture::NewFormat => panic!("neither is scripted"),
            }
        }
    }

    #[test]
    fn frames_come_at_their_own_times() {
        let (mut paced, clock, pool) = script(&[500, 600, 650, 900], 0, Pace::Recorded);
        assert_eq!(times(&mut paced, &clock, &pool, &[]), [0, 100, 150, 400]);
        assert_eq!(paced.counters().slipped_ns, 0);
    }

    #[test]
    fn small_delays_do_not_add_up() {
        let (mut paced, clock, pool) = script(&[0, 100, 200, 300, 400], 0, Pace::Recorded);
        // Frame 1 is taken 60 ms late; frame 2 is on time again.
        assert_eq!(times(&mut paced, &clock, &pool, &[160]), [0, 160, 200, 300, 400]);
        assert_eq!(paced.counters().slipped_ns, 0);
    }

    #[test]
    fn a_long_delay_slips_the_timeline_without_a_burst() {
        let (mut paced, clock, pool) = script(&[0, 100, 200, 300, 400], 0, Pace::Recorded);
        assert_eq!(
            times(&mut paced, &clock, &pool, &[0, 1000]),
            [0, 100, 1100, 1200, 1300]
        );
        assert_eq!(paced.counters().slipped_ns, 900 * MS);
    }

    #[test]
    fn a_slow_decoder_delivers_every_frame() {
        let (mut paced, clock, pool) = script(&[0, 100, 200, 300], 250, Pace::Recorded);
        // Each frame takes 250 ms to read; the first sets the timeline.
        assert_eq!(times(&mut paced, &clock, &pool, &[]), [250, 500, 750, 1000]);
        assert_eq!(paced.counters().slipped_ns, 450 * MS);
    }

    #[test]
    fn a_frame_not_due_within_the_timeout_is_kept() {
        let (mut paced, clock, pool) = script(&[0, 1500], 0, Pace::Recorded);
        let wait = Duration::from_millis(600);
        assert!(matches!(
            paced.next_frame(&pool, wait).unwrap(),
            Capture::Frame(_)
        ));
        assert!(matches!(paced.next_frame(&pool, wait).unwrap(), Capture::Timeout));
        assert_eq!(clock.now_ns(), 600 * MS);
        assert!(matches!(paced.next_frame(&pool, wait).unwrap(), Capture::Timeout));
        let Capture::Frame(frame) = paced.next_frame(&pool, wait).unwrap() else {
            panic!("no frame");
        };
        assert_eq!((frame.sequence, frame.captured_at_ns), (1, 1500 * MS));
    }

    #[test]
    fn times_that_jump_go_on_at_the_nominal_rate() {
        let (mut paced, clock, pool) = script(&[0, 100, 5_000_000, 5_000_100, 0, 50], 0, Pace::Recorded);
        assert_eq!(
            times(&mut paced, &clock, &pool, &[]),
            [0, 100, 200, 300, 400, 450]
        );
    }

    #[test]
    fn an_empty_pool_makes_the_recording_wait() {
        for pace in [Pace::Recorded, Pace::AsFastAsPossible] {
            let (mut paced, _clock, pool) = script(&[0, 100, 200], 0, pace);
            let wait = Duration::from_millis(500);
            let mut held: Vec<_> = (0..2)
                .map(|_| match paced.next_frame(&pool, wait).unwrap() {
                    Capture::Frame(frame) => frame,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert!(matches!(paced.next_frame(&pool, wait).unwrap(), Capture::Timeout));
            assert_eq!(pool.exhausted(), 0);
            held.clear();
            let Capture::Frame(frame) = paced.next_frame(&pool, wait).unwrap() else {
                panic!("no frame");
            };
            assert_eq!(frame.sequence, 2, "nothing was lost at {pace:?}");
        }
    }

    #[test]
    fn as_fast_as_possible_never_waits() {
        let (mut paced, clock, pool) = script(&[0, 100, 5000], 0, Pace::AsFastAsPossible);
        let mut seen = 0;
        while let Capture::Frame(frame) = paced.next_frame(&pool, Duration::from_millis(10)).unwrap() {
            assert_eq!(frame.sequence, seen);
            seen += 1;
        }
        assert_eq!((seen, clock.now_ns()), (3, 0));
    }
}
