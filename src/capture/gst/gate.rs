//! Which pictures of a coded stream are whole.
//!
//! A stream that is joined between two keyframes, or that lost packets, still gives pictures: grey ones, with remains of
//! what moves. Here the coded pictures are watched on their way into the decoder, and the pictures on their way out:
//!
//! * What comes before the first keyframe is held back, and the first picture that goes out is a whole one.
//! * After a loss, pictures are marked as damaged until the next keyframe; so are those that the decoder marks itself.
//!
//! Both are bounded: a stream that never has a keyframe is shown after [`MOST_HELD`] pictures, as damaged.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;
use tracing::{debug, info, warn};

/// Coded pictures that are held back at most in wait for a keyframe: a minute at 25 a second, more than the interval of
/// cameras that save bits.
const MOST_HELD: u64 = 1500;
/// Pictures that the decoder marks as damaged, and that are left out at most before the first whole one: streams that
/// refresh bit by bit take a few seconds.
const MOST_LEFT_OUT: u64 = 250;
/// Changes between whole and damaged that are remembered, for pictures that are still in the decoder.
const MOST_CHANGES: usize = 16;
/// A decoder may round a picture's time by so much.
const ROUNDING_NS: u64 = 1_000_000;

/// What becomes of a coded picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coded {
    Decode,
    HoldBack,
}

/// What a decoded picture is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Whole,
    Damaged,
    /// No whole one has come yet.
    TooEarly,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the decoder was given anything.
    begun: bool,
    /// Whether what comes now is whole.
    whole: bool,
    /// From which time on pictures were whole, or damaged, in the order of decoding.
    changes: VecDeque<(u64, bool)>,
    /// Whether a whole picture has gone out, or is waited for no longer.
    shown: bool,
    left_out: u64,
    losses: u64,
}

impl State {
    fn change(&mut self, pts: Option<u64>, whole: bool) {
        self.whole = whole;
        let Some(pts) = pts else {
            self.changes.clear();
            return;
        };
        // Keyframe after keyframe changes nothing, unless time begins again.
        if self
            .changes
            .back()
            .is_some_and(|(from, was)| *was == whole && *from <= pts)
        {
            return;
        }
        if self.changes.len() == MOST_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back((pts, whole));
    }

    fn coded(&mut self, pts: Option<u64>, key: bool, lost: bool, held: u64) -> Coded {
        if key {
            self.begun = true;
            self.change(pts, true);
        } else if !self.begun {
            if held < MOST_HELD {
                return Coded::HoldBack;
            }
            self.begun = true;
            self.shown = true;
            self.change(pts, false);
        } else if lost && self.whole {
            self.losses += 1;
            self.change(pts, false);
        }
        Coded::Decode
    }

    fn decoded(&mut self, pts: Option<u64>, marked: bool) -> Look {
        let whole = match pts {
            // Pictures that come before all that is known need a keyframe that never came.
            Some(pts) if !self.changes.is_empty() => self
                .changes
                .iter()
                .rev()
                .find(|(from, _)| *from <= pts.saturating_add(ROUNDING_NS))
                .is_some_and(|(_, whole)| *whole),
            // Nothing is known of streams that are not coded.
            _ => self.whole || !self.begun,
        };
        if whole && !marked {
            self.shown = true;
            return Look::Whole;
        }
        if self.shown || self.left_out >= MOST_LEFT_OUT {
            self.shown = true;
            return Look::Damaged;
        }
        self.left_out += 1;
        Look::TooEarly
    }
}

/// Watches one pipeline's pictures.
#[derive(Debug)]
pub(super) struct Gate {
    name: String,
    state: Mutex<State>,
    held: AtomicU64,
    damaged: AtomicU64,
}

impl Gate {
    /// For the source `name`, which the log says.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: Mutex::default(),
            held: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        }
    }

    /// Coded pictures that were held back so far.
    pub fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// Pictures that were not whole so far: held back, left out, or passed on as damaged.
    pub fn corrupt(&self) -> u64 {
        self.held() + self.damaged.load(Relaxed)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Watches what goes into `decoder`, if it decodes video.
    pub fn watch(self: &std::sync::Arc<Self>, decoder: &gst::Element) {
        let decodes = decoder.factory().is_some_and(|factory| {
            factory.has_type(gst::ElementFactoryType::DECODER | gst::ElementFactoryType::MEDIA_VIDEO)
        });
        // Bins have decoders inside, which come here themselves.
        if !decodes || decoder.is::<gst::Bin>() {
            return;
        }
        let Some(pad) = decoder.static_pad("sink") else {
            return;
        };
        let gate = self.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| match info.buffer() {
            Some(buffer) if depends_on_others(pad) => gate.on_coded(pad, buffer),
            _ => gst::PadProbeReturn::Ok,
        });
    }

    fn on_coded(&self, pad: &gst::Pad, buffer: &gst::BufferRef) -> gst::PadProbeReturn {
        let flags = buffer.flags();
        let key = !flags.contains(gst::BufferFlags::DELTA_UNIT);
        let lost = flags.intersects(gst::BufferFlags::DISCONT | gst::BufferFlags::CORRUPTED);
        let (coded, losses) = {
            let mut state = self.state();
            let before = state.losses;
            let pts = buffer.pts().map(gst::ClockTime::nseconds);
            let coded = state.coded(pts, key, lost, self.held());
            (coded, (state.losses > before).then_some(state.losses))
        };
        if coded == Coded::HoldBack {
            let held = self.held.fetch_add(1, Relaxed) + 1;
            if held == 1 {
                info!(
                    "{}: joined between two keyframes; waiting for the first whole picture",
                    self.name
                );
                ask_for_keyframe(pad);
            } else if held == MOST_HELD {
                warn!(
                    "{}: no keyframe in {MOST_HELD} pictures; they are shown as they come",
                    self.name
                );
            }
            // The bindings free what is dropped, and GStreamer 1.22 complains that it is gone; what is handled is theirs alone.
            return gst::PadProbeReturn::Handled;
        }
        if let Some(losses) = losses {
            let text = "data were lost on the way; pictures are damaged until the next keyframe";
            if losses == 1 {
                warn!("{}: {text}", self.name);
            } else {
                debug!(losses, "{}: {text}", self.name);
            }
            ask_for_keyframe(pad);
        }
        gst::PadProbeReturn::Ok
    }

    /// What a picture that has come out of the decoder is worth.
    pub fn look_at(&self, buffer: &gst::BufferRef) -> Look {
        let marked = buffer.flags().contains(gst::BufferFlags::CORRUPTED);
        let look = self
            .state()
            .decoded(buffer.pts().map(gst::ClockTime::nseconds), marked);
        if look != Look::Whole {
            self.damaged.fetch_add(1, Relaxed);
        }
        look
    }
}

/// Whether coded pictures of this pad's stream depend on others, and are marked where they do.
fn depends_on_others(pad: &gst::Pad) -> bool {
    pad.current_caps().is_some_and(|caps| {
        caps.structure(0)
            .is_some_and(|s| matches!(s.name().as_str(), "video/x-h264" | "video/x-h265" | "video/mpeg"))
    })
}

/// Cameras that can be asked send a keyframe at once.
fn ask_for_keyframe(pad: &gst::Pad) {
    let event = gst_video::UpstreamForceKeyUnitEvent::builder()
        .all_headers(true)
        .build();
    pad.push_event(event);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Decodes `coded` (time in ms, keyframe, loss before it) in that order, and looks at the pictures in order of time.
    fn looks(state: &mut State, coded: &[(u64, bool, bool)]) -> Vec<Look> {
        let mut held = 0;
        let mut times = Vec::new();
        for (ms, key, lost) in coded {
            match state.coded(Some(ms * MS), *key, *lost, held) {
                Coded::HoldBack => held += 1,
                Coded::Decode => times.push(ms * MS),
            }
        }
        times.sort_unstable();
        times
            .into_iter()
            .map(|pts| state.decoded(Some(pts), false))
            .collect()
    }

    const KEY: bool = true;
    const DELTA: bool = false;

    #[test]
    fn nothing_goes_out_before_the_first_keyframe() {
        let mut state = State::default();
        let coded = [
            (0, DELTA, true),
            (40, DELTA, false),
            (80, KEY, false),
            (120, DELTA, false),
        ];
        assert_eq!(looks(&mut state, &coded), [Look::Whole, Look::Whole]);
    }

    #[test]
    fn pictures_that_lead_the_first_keyframe_are_left_out() {
        // Decoded after it, shown before it, made from what never came.
        let mut state = State::default();
        let coded = [
            (120, KEY, false),
            (40, DELTA, false),
            (80, DELTA, false),
            (160, DELTA, false),
        ];
        assert_eq!(
            looks(&mut state, &coded),
            [Look::TooEarly, Look::TooEarly, Look::Whole, Look::Whole]
        );
    }

    #[test]
    fn after_a_loss_pictures_are_damaged_until_the_next_keyframe() {
        let mut state = State::default();
        let coded = [
            (0, KEY, true),
            (40, DELTA, false),
            (120, DELTA, true),
            (160, DELTA, false),
            (200, KEY, false),
            (240, DELTA, false),
        ];
        use Look::{Damaged, Whole};
        assert_eq!(
            looks(&mut state, &coded),
            [Whole, Whole, Damaged, Damaged, Whole, Whole]
        );
        assert_eq!(state.losses, 1);
    }

    #[test]
    fn time_that_begins_again_is_no_loss() {
        let mut state = State::default();
        let run = [
            (0, KEY, true),
            (40, DELTA, false),
            (80, DELTA, true),
            (120, KEY, false),
        ];
        use Look::{Damaged, Whole};
        assert_eq!(looks(&mut state, &run), [Whole, Whole, Damaged, Whole]);
        assert_eq!(looks(&mut state, &run), [Whole, Whole, Damaged, Whole]);
    }

    #[test]
    fn what_the_decoder_marks_waits_at_first_and_is_damaged_later() {
        let mut state = State::default();
        state.coded(Some(0), KEY, false, 0);
        assert_eq!(state.decoded(Some(0), true), Look::TooEarly);
        assert_eq!(state.decoded(Some(40 * MS), false), Look::Whole);
        assert_eq!(state.decoded(Some(80 * MS), true), Look::Damaged);
    }

    #[test]
    fn a_stream_that_is_never_whole_is_shown_as_damaged() {
        let mut state = State::default();
        for held in 0..MOST_HELD {
            assert_eq!(state.coded(Some(held), DELTA, false, held), Coded::HoldBack);
        }
        assert_eq!(state.coded(Some(MS), DELTA, false, MOST_HELD), Coded::Decode);
        assert_eq!(state.decoded(Some(MS), false), Look::Damaged);

        let mut state = State::default();
        state.coded(Some(0), KEY, false, 0);
        let early = (0..2 * MOST_LEFT_OUT)
            .filter(|n| state.decoded(Some(*n), true) == Look::TooEarly)
            .count();
        assert_eq!(early as u64, MOST_LEFT_OUT);
    }

    #[test]
    fn what_is_not_coded_is_whole() {
        let mut state = State::default();
        assert_eq!(state.decoded(None, false), Look::Whole);
        assert_eq!(state.decoded(Some(7), false), Look::Whole);
    }

    #[test]
    fn changes_are_bounded() {
        let mut state = State::default();
        for n in 0..1000u64 {
            state.coded(Some(2 * n * MS), KEY, false, 0);
            state.coded(Some((2 * n + 1) * MS), DELTA, true, 0);
        }
        assert!(state.changes.len() <= MOST_CHANGES);
        assert_eq!(state.losses, 1000);
    }
}
