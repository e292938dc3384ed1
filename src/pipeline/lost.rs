//! The picture that clients see while the source is away.

use std::time::Duration;

use crate::clock::TimeNs;
use vision::frame::FrameFormat;

/// When and how a missing source is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct LostPicture {
    /// Silence after which it is shown; or three frame times, if that is longer.
    pub after: Duration,
    /// From one such picture to the next.
    pub period: Duration,
    /// The format of the outputs while the source has never been there.
    pub format: FrameFormat,
    /// The rate that the outputs are then opened for.
    pub frame_rate: Option<f64>,
}

/// Decides when a picture is due.
#[derive(Debug)]
pub(super) struct Lost {
    options: LostPicture,
    /// When the last frame or the beginning was.
    last_frame_ns: TimeNs,
    last_notice_ns: Option<TimeNs>,
    frame_ns: u64,
}

impl Lost {
    pub(super) fn new(options: LostPicture, now_ns: TimeNs) -> Self {
        Self {
            options,
            last_frame_ns: now_ns,
            last_notice_ns: None,
            frame_ns: 0,
        }
    }

    pub(super) fn options(&self) -> &LostPicture {
        &self.options
    }

    /// A frame has come.
    pub(super) fn frame(&mut self, now_ns: TimeNs, frame_rate: Option<f64>) {
        self.last_frame_ns = now_ns;
        self.last_notice_ns = None;
        self.frame_ns = frame_rate.filter(|r| *r > 0.0).map_or(0, |r| (1e9 / r) as u64);
    }

    /// How long the source is away, if a picture that says so is due now.
    pub(super) fn due(&mut self, now_ns: TimeNs) -> Option<Duration> {
        let silent = now_ns.saturating_sub(self.last_frame_ns);
        let after = (self.options.after.as_nanos() as u64).max(self.frame_ns.saturating_mul(3));
        if silent < after {
            return None;
        }
        let period = self.options.period.as_nanos() as u64;
        if self
            .last_notice_ns
            .is_some_and(|last| now_ns.saturating_sub(last) < period)
        {
            return None;
        }
        self.last_notice_ns = Some(now_ns);
        Some(Duration::from_nanos(silent))
    }
}

/// The time in words: seconds, minutes, hours or days.
pub(super) fn in_words(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vision::frame::PixelFormat;

    fn lost() -> Lost {
        let format = FrameFormat::new(PixelFormat::I420, 64, 32);
        let options = LostPicture {
            after: Duration::from_secs(1),
            period: Duration::from_millis(500),
            format,
            frame_rate: Some(30.0),
        };
        Lost::new(options, 0)
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn a_silent_source_is_shown_at_a_slow_rate_until_it_is_back() {
        let mut lost = lost();
        let times: Vec<u64> = (0..40)
            .map(|i| i * 100)
            .filter(|t| lost.due(t * MS).is_some())
            .collect();
        assert_eq!(times, [1000, 1500, 2000, 2500, 3000, 3500]);
        lost.frame(4000 * MS, Some(30.0));
        assert_eq!(lost.due(4900 * MS), None);
        assert_eq!(lost.due(5200 * MS), Some(Duration::from_millis(1200)));
    }

    #[test]
    fn a_slow_source_is_not_lost_between_its_frames() {
        let mut lost = lost();
        lost.frame(0, Some(0.5));
        assert_eq!(lost.due(5900 * MS), None);
        assert!(lost.due(6000 * MS).is_some());
    }

    #[test]
    fn times_in_words() {
        for (s, text) in [
            (12, "12 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7200, "2 h"),
            (200_000, "2 days"),
        ] {
            assert_eq!(in_words(Duration::from_secs(s)), text);
        }
    }
}
