//! Which frames are segmented: the few from which all others' masks can be made.
//!
//! A pure state machine over frame times and what motion estimation saw. A frame becomes a key, in this order,
//! because
//! - there is no key yet, or a scene cut lies behind it;
//! - `every` frames have passed, if that is set; then nothing else counts;
//! - the picture has changed so much that the last key's mask can't be moved onto it;
//! - the last key's mask would be older than the limit before another frame's could be there;
//! - the picture stands still and the mask has not been looked at for a while.
//!
//! A mask's age is the time since the picture was last seen to be the one it was made from: at a still scene masks
//! don't age.

use std::time::Duration;

use serde::Serialize;

use crate::clock::TimeNs;
use vision::propagate::{Fit, Smoothing};

/// What decides which frames are segmented.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleOptions {
    /// Every n-th frame, and no other except after a cut.
    pub every: Option<u32>,
    /// CPU that the whole process may use, in cores: inferences go where the picture changes most.
    pub cpu_budget: Option<f64>,
    /// Age that masks should not exceed.
    pub max_mask_age: Duration,
    /// Age from which masks are not shown.
    pub hide_after: Duration,
    /// At least this long between the starts of two inferences.
    pub min_interval: Duration,
    /// A frame that is being segmented may wait this long for its own mask.
    pub wait: Duration,
    /// Move masks with the picture between inferences.
    pub propagate: bool,
    /// How much the previous key counts in a key's labels; only if masks are moved.
    pub smooth: Smoothing,
}

impl Default for ScheduleOptions {
    fn default() -> Self {
        Self {
            every: None,
            cpu_budget: None,
            max_mask_age: Duration::from_millis(100),
            hide_after: Duration::from_secs(1),
            min_interval: Duration::ZERO,
            wait: Duration::from_millis(30),
            propagate: true,
            smooth: Smoothing::default(),
        }
    }
}

impl ScheduleOptions {
    /// Whether motion between pictures is looked at.
    pub fn follows_motion(&self) -> bool {
        self.propagate || self.every.is_none()
    }

    /// Every frame that the network has time for, the newest mask as it is.
    pub fn hold() -> Self {
        Self {
            every: Some(1),
            wait: Duration::ZERO,
            propagate: false,
            smooth: Smoothing::OFF,
            hide_after: Duration::MAX,
            ..Self::default()
        }
    }
}

/// Why a frame is segmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// No frame was before.
    First,
    /// A scene cut.
    Cut,
    /// Its turn at a fixed rate.
    Every,
    /// What is seen has changed.
    Changed,
    /// The mask gets too old.
    Age,
    /// A look at a still scene.
    Refresh,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 6] = [
        Self::First,
        Self::Cut,
        Self::Every,
        Self::Changed,
        Self::Age,
        Self::Refresh,
    ];

    /// Lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Cut => "cut",
            Self::Every => "every",
            Self::Changed => "changed",
            Self::Age => "age",
            Self::Refresh => "refresh",
        }
    }
}

/// Share of the picture that may change before the next frame is segmented, within the age limit alone ...
const CHANGED: f32 = 0.25;
/// ... and where a CPU budget says how much there is to spend.
const CHANGED_IN_BUDGET: f32 = 0.08;
/// Frames at least between keys for a change.
const CHANGED_DISTANCE: u32 = 2;
/// A still scene is looked at again after this time.
const REFRESH_NS: u64 = 1_000_000_000;
/// Inferences that may be saved up in a CPU budget.
const SAVED: f64 = 2.0;
/// An inference that is expected to take more than this share of the time it has may as well come too late.
const IN_TIME: f64 = 0.8;
/// If more than this share of the inferences comes too late for its frame, masks are asked for one frame earlier; a wait
/// in vain then makes one frame's mask too old, in place of two ...
const SOME_LATE: f64 = 0.01;
/// ... and if more than this share does, as early as the late ones need: one frame in a hundred may show a mask that is
/// too old.
const MANY_LATE: f64 = 0.025;
/// Inferences over which that share is averaged.
const LATE_OVER: f64 = 64.0;

/// What is known when a frame comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// The frame's time.
    pub now_ns: TimeNs,
    /// Whether the newest key explains this frame, and how well. `None` before the first key.
    pub fit: Option<Fit>,
    /// A cut lies between the newest key and this frame.
    pub cut: bool,
    /// Keys that wait for their mask.
    pub in_flight: usize,
}

/// Decides frame by frame.
#[derive(Debug, Clone)]
pub struct Scheduler {
    options: ScheduleOptions,
    /// Time and distance of the newest key.
    key_ns: TimeNs,
    frames_since: u32,
    /// When the picture was last seen to be the newest key's.
    fresh_ns: TimeNs,
    last_ns: Option<TimeNs>,
    interval_ns: f64,
    latency_ns: Option<f64>,
    /// Share of the inferences that took longer than frames wait, and what the last of them took.
    late_share: f64,
    late_ns: f64,
    cost_ns: Option<f64>,
    /// CPU that may be spent on inferences now.
    credit_ns: f64,
    /// Cores that everything else uses.
    other_cores: f64,
}

impl Scheduler {
    /// For one inference at a time.
    pub fn new(options: ScheduleOptions) -> Self {
        Self {
            options,
            key_ns: 0,
            frames_since: 0,
            fresh_ns: 0,
            last_ns: None,
            interval_ns: 0.0,
            latency_ns: None,
            late_share: 0.0,
            late_ns: 0.0,
            cost_ns: None,
            credit_ns: 0.0,
            other_cores: 0.0,
        }
    }

    /// The options.
    pub fn options(&self) -> &ScheduleOptions {
        &self.options
    }

    /// Tells what an inference took, from the request to the mask, and its CPU time.
    pub fn finished(&mut self, latency_ns: u64, cpu_ns: u64) {
        let follow = |known: Option<f64>, new: u64, rise: f64| {
            let new = new as f64;
            // Up fast, down slowly: what is to come should rather be over- than underestimated.
            Some(known.map_or(new, |k| k + (new - k) * if new > k { rise } else { 0.1 }))
        };
        self.latency_ns = follow(self.latency_ns, latency_ns, 0.4);
        let is_late = u128::from(latency_ns) > self.options.wait.as_nanos();
        self.late_share += (f64::from(u8::from(is_late)) - self.late_share) / LATE_OVER;
        if is_late {
            self.late_ns = latency_ns as f64;
        }
        self.cost_ns = follow(self.cost_ns, cpu_ns, 0.2);
    }

    /// Decides by these options from now on; what was learnt of the network's speed stays.
    pub fn set_options(&mut self, options: ScheduleOptions) {
        self.options = options;
    }

    /// Changes the least time between two inferences.
    pub fn set_min_interval(&mut self, interval: Duration) {
        self.options.min_interval = interval;
    }

    /// Tells how many cores the process uses besides inference.
    pub fn others_use(&mut self, cores: f64) {
        self.other_cores = cores;
    }

    /// How long a mask that was asked for takes, as far as known.
    pub fn expected_latency(&self) -> Option<Duration> {
        self.latency_ns.map(|ns| Duration::from_nanos(ns as u64))
    }

    /// Whether the frame becomes a key, and why.
    pub fn decide(&mut self, seen: &Seen) -> Option<Reason> {
        let passed_ns = self.last_ns.map_or(0, |last| seen.now_ns.saturating_sub(last));
        self.last_ns = Some(seen.now_ns);
        self.frames_since = self.frames_since.saturating_add(1);
        // A pause of the source is no frame interval.
        if (1_000_000..1_000_000_000).contains(&passed_ns) {
            let passed = passed_ns as f64;
            self.interval_ns = match self.interval_ns {
                0.0 => passed,
                known => known + (passed - known) * 0.1,
            };
        }
        self.earn(passed_ns);
        let reason = self.reason(seen)?;
        self.key_ns = seen.now_ns;
        self.fresh_ns = seen.now_ns;
        self.frames_since = 0;
        self.credit_ns -= self.cost_ns.unwrap_or(0.0);
        Some(reason)
    }

    fn earn(&mut self, passed_ns: u64) {
        if let (Some(budget), Some(cost)) = (self.options.cpu_budget, self.cost_ns) {
            let cores = (budget - self.other_cores).max(0.02 * budget);
            let most = SAVED * cost;
            self.credit_ns = (self.credit_ns + cores * passed_ns as f64).min(most);
        }
    }

    fn reason(&mut self, seen: &Seen) -> Option<Reason> {
        let fit = seen.fit.filter(|_| !seen.cut);
        let stands = fit.is_some_and(|fit| fit.stands());
        if stands {
            self.fresh_ns = seen.now_ns;
        }
        if seen.in_flight > 0 {
            return None;
        }
        let Some(fit) = fit else {
            return Some(if seen.fit.is_none() {
                Reason::First
            } else {
                Reason::Cut
            });
        };
        let since_key = seen.now_ns.saturating_sub(self.key_ns);
        if u128::from(since_key) < self.options.min_interval.as_nanos() {
            return None;
        }
        if let Some(every) = self.options.every {
            return (self.frames_since >= every).then_some(Reason::Every);
        }
        let limited = self.options.cpu_budget.is_some();
        if limited && self.credit_ns < 0.0 {
            return None;
        }
        let limit = if limited { CHANGED_IN_BUDGET } else { CHANGED };
        if fit.changed > limit && (limited || self.frames_since >= CHANGED_DISTANCE) {
            return Some(Reason::Changed);
        }
        if stands {
            return (since_key >= REFRESH_NS).then_some(Reason::Refresh);
        }
        let age = seen.now_ns.saturating_sub(self.fresh_ns) as f64;
        let limit = self.options.max_mask_age.as_nanos() as f64 + self.interval_ns / 4.0;
        let limit = limit.min(self.options.hide_after.as_nanos() as f64);
        (age + self.lead_ns() > limit).then_some(Reason::Age)
    }

    /// How far ahead a mask must be asked for, so that hardly a frame shows one that is too old: not at all where its
    /// frame waits for it and rarely in vain; otherwise as many frames as it takes.
    fn lead_ns(&self) -> f64 {
        let Some(latency) = self.latency_ns.filter(|_| self.interval_ns > 0.0) else {
            return 0.0;
        };
        let wait = self.options.wait.as_nanos() as f64;
        let frames = if latency > wait {
            (latency / IN_TIME / self.interval_ns).ceil()
        } else if self.late_share > MANY_LATE {
            // Outliers are not worth more than two.
            (self.late_ns / self.interval_ns).ceil().min(2.0)
        } else if self.late_share > SOME_LATE || latency > IN_TIME * wait {
            1.0
        } else {
            0.0
        };
        frames * self.interval_ns
    }

    /// How long the frame that was just made a key should wait for its mask: not at all where it would likely wait
    /// in vain.
    pub fn wait_for_own(&self) -> Duration {
        let wait = self.options.wait;
        match self.expected_latency() {
            Some(latency) if latency > wait => Duration::ZERO,
            _ => wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u64 = 33_333_333;

    /// Runs frames at 30 a second; a mask is there `late` frames after its key. Gives the keys with their reasons.
    fn run(
        options: ScheduleOptions,
        frames: u64,
        late: u64,
        latency_ms: u64,
        fit: impl Fn(u64) -> (Fit, bool),
    ) -> Vec<(u64, Reason)> {
        let mut scheduler = Scheduler::new(options);
        let mut keys: Vec<(u64, Reason)> = Vec::new();
        let mut waiting: Vec<u64> = Vec::new();
        for n in 0..frames {
            let before = waiting.len();
            waiting.retain(|&key| key + late > n);
            for _ in waiting.len()..before {
                scheduler.finished(latency_ms * 1_000_000, 20_000_000);
            }
            let (fit, cut) = fit(n);
            let seen = Seen {
                now_ns: 1_000_000_000 + n * FRAME,
                fit: (!keys.is_empty()).then_some(fit),
                cut,
                in_flight: waiting.len(),
            };
            if let Some(reason) = scheduler.decide(&seen) {
                keys.push((n, reason));
                waiting.push(n);
            }
        }
        keys
    }

    fn moving(_: u64) -> (Fit, bool) {
        let fit = Fit {
            changed: 0.02,
            motion: 3.0,
            still: false,
        };
        (fit, false)
    }

    fn still(_: u64) -> (Fit, bool) {
        let fit = Fit {
            still: true,
            ..Fit::default()
        };
        (fit, false)
    }

    fn frames(keys: &[(u64, Reason)]) -> Vec<u64> {
        keys.iter().map(|k| k.0).collect()
    }

    #[test]
    fn within_the_wait_a_key_is_made_when_the_next_frame_would_exceed_the_limit() {
        // Frames 1 to 3 are 33, 67 and 100 ms away from the key; the 4th would be 133.
        let keys = run(ScheduleOptions::default(), 13, 1, 20, moving);
        assert_eq!(
            keys,
            [
                (0, Reason::First),
                (4, Reason::Age),
                (8, Reason::Age),
                (12, Reason::Age)
            ]
        );
    }

    #[test]
    fn a_slower_network_is_asked_earlier() {
        // 50 ms are two frames: asked for at the second frame, there at the fourth, when the last is 133 ms old;
        // so it is asked for at the first frame at which 67 ms of lead leave no more than the limit.
        let keys = run(ScheduleOptions::default(), 12, 2, 50, moving);
        assert_eq!(frames(&keys), [0, 2, 4, 6, 8, 10]);
        let options = ScheduleOptions {
            max_mask_age: Duration::from_millis(200),
            ..ScheduleOptions::default()
        };
        assert_eq!(frames(&run(options, 16, 2, 50, moving)), [0, 5, 10, 15]);
    }

    /// Ages in frames of the masks that are shown at 30 frames a second, when the n-th key's mask takes
    /// `latency_ms(n)` and frames wait for their own as they are told to.
    fn ages(options: ScheduleOptions, frames: u64, latency_ms: impl Fn(usize) -> u64) -> Vec<u64> {
        let mut scheduler = Scheduler::new(options);
        let mut shown = None;
        // The key in flight: its frame, when its mask is there, and how long that took.
        let mut flying: Option<(u64, u64, u64)> = None;
        let mut keys = 0;
        let mut ages = Vec::new();
        for n in 0..frames {
            let now_ns = 1_000_000_000 + n * FRAME;
            let mut land = |flying: &mut Option<(u64, u64, u64)>, scheduler: &mut Scheduler, by_ns: u64| {
                if let Some((key, _, took)) = flying.take_if(|f| f.1 <= by_ns) {
                    scheduler.finished(took, 20_000_000);
                    shown = Some(key);
                }
            };
            land(&mut flying, &mut scheduler, now_ns);
            let reason = scheduler.decide(&Seen {
                now_ns,
                fit: (keys > 0).then_some(moving(n).0),
                cut: false,
                in_flight: usize::from(flying.is_some()),
            });
            if reason.is_some() {
                let took = latency_ms(keys) * 1_000_000;
                flying = Some((n, now_ns + took, took));
                keys += 1;
                let wait_ns = scheduler.wait_for_own().as_nanos() as u64;
                land(&mut flying, &mut scheduler, now_ns + wait_ns);
            }
            ages.extend(shown.map(|key| n - key));
        }
        ages
    }

    #[test]
    fn no_mask_is_older_than_the_limit_where_some_come_too_late_for_their_frame() {
        let limit = 3;
        for slow in [31, 34, 38, 45] {
            let ages = ages(ScheduleOptions::default(), 400, |key| {
                if key % 3 == 0 { slow } else { 27 }
            });
            assert_eq!(ages.iter().max(), Some(&limit), "{slow} ms");
        }
        // Some take longer than the others make expect.
        for every in [5, 10, 20, 30, 50, 70, 150] {
            let ages = ages(ScheduleOptions::default(), 8000, |key| {
                if key % every == 3 { 45 } else { 14 }
            });
            let over = ages.iter().filter(|age| **age > limit).count();
            assert!(over <= 80, "one in {every}: {over} of 8000 frames");
        }
        // And not one is asked for early where all are there in time.
        let ages = ages(ScheduleOptions::default(), 400, |_| 22);
        assert_eq!(ages.iter().filter(|age| **age == limit).count(), 100);
    }

    #[test]
    fn a_network_that_cannot_keep_the_limit_is_always_busy() {
        let keys = run(ScheduleOptions::default(), 20, 6, 190, moving);
        assert_eq!(frames(&keys), [0, 6, 12, 18]);
    }

    #[test]
    fn a_still_scene_is_looked_at_once_a_second() {
        let keys = run(ScheduleOptions::default(), 100, 1, 20, still);
        assert_eq!(
            keys,
            [
                (0, Reason::First),
                (31, Reason::Refresh),
                (62, Reason::Refresh),
                (93, Reason::Refresh)
            ]
        );
    }

    #[test]
    fn masks_age_from_the_moment_the_scene_moves() {
        let keys = run(ScheduleOptions::default(), 30, 1, 20, |n| {
            if n < 20 { still(n) } else { moving(n) }
        });
        // Still until frame 19; frame 23 would be 133 ms from there.
        assert_eq!(keys[1], (23, Reason::Age));
    }

    #[test]
    fn a_cut_is_segmented_at_once() {
        for options in [
            ScheduleOptions::default(),
            ScheduleOptions {
                every: Some(10),
                ..ScheduleOptions::default()
            },
            ScheduleOptions {
                min_interval: Duration::from_secs(5),
                ..ScheduleOptions::default()
            },
        ] {
            let keys = run(options, 9, 1, 20, |n| (moving(n).0, n == 6));
            assert!(keys.contains(&(6, Reason::Cut)), "{keys:?}");
        }
    }

    #[test]
    fn a_cut_while_the_network_is_busy_is_segmented_next() {
        // The key at frame 4 is in flight for 3 frames; the cut before frame 5 is seen until it has a key.
        let keys = run(ScheduleOptions::default(), 9, 3, 20, |n| {
            (moving(n).0, (5..8).contains(&n))
        });
        assert_eq!(&keys[1..3], [(4, Reason::Age), (7, Reason::Cut)]);
    }

    #[test]
    fn every_nth_frame() {
        let options = ScheduleOptions {
            every: Some(3),
            ..ScheduleOptions::default()
        };
        assert_eq!(frames(&run(options, 10, 1, 20, moving)), [0, 3, 6, 9]);
        let options = ScheduleOptions::hold();
        assert_eq!(frames(&run(options, 4, 1, 20, moving)), [0, 1, 2, 3]);
        assert_eq!(
            frames(&run(options, 7, 3, 90, moving)),
            [0, 3, 6],
            "as often as there is time"
        );
    }

    #[test]
    fn a_change_is_segmented() {
        let changed = |n| {
            let mut fit = moving(n).0;
            fit.changed = if n == 2 || n == 3 { 0.4 } else { 0.02 };
            (fit, false)
        };
        let keys = run(ScheduleOptions::default(), 8, 1, 20, changed);
        assert_eq!(keys, [(0, Reason::First), (2, Reason::Changed), (6, Reason::Age)]);
    }

    #[test]
    fn inferences_per_second_are_limited() {
        let options = ScheduleOptions {
            min_interval: Duration::from_millis(500),
            ..ScheduleOptions::default()
        };
        assert_eq!(frames(&run(options, 40, 1, 20, moving)), [0, 16, 32]);
    }

    #[test]
    fn a_cpu_budget_is_kept() {
        let options = ScheduleOptions {
            cpu_budget: Some(0.1),
            ..ScheduleOptions::default()
        };
        let busy = |_| {
            let fit = Fit {
                changed: 0.5,
                motion: 9.0,
                still: false,
            };
            (fit, false)
        };
        // An inference costs 20 ms: 5 a second, and nothing is kept for all else.
        let keys = run(options, 300, 1, 20, busy);
        assert!((48..=54).contains(&keys.len()), "{} in 10 s", keys.len());
        assert_eq!(keys[1].1, Reason::Changed);
    }

    #[test]
    fn a_frame_waits_for_its_mask_only_where_it_comes_in_time() {
        let mut scheduler = Scheduler::new(ScheduleOptions::default());
        assert_eq!(scheduler.wait_for_own(), Duration::from_millis(30));
        scheduler.finished(90_000_000, 80_000_000);
        assert_eq!(scheduler.wait_for_own(), Duration::ZERO);
    }
}
