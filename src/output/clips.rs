//! `clips:FOLDER`: a file for each event, with the seconds before it.
//!
//! The output holds the newest encoded units. When an event begins, its file begins with a keyframe before that, out of
//! what is held; nothing is encoded again. A file is called by its event's id, a ULID: `01JZX….mp4`.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ulid::Ulid;

use crate::clock::TimeNs;
use crate::encode::{AccessUnit, EncodeOptions, Encoder};
use crate::output::record::{KEYFRAME_WAIT, READER};
use crate::output::segment::Segment;
use crate::output::shelf::Shelf;
use crate::output::{ClipOptions, Output, OutputOpener, StreamOptions, UnitOutput, Video};
use vision::error::{Error, Result};

/// Beginnings and ends of events that wait for the output at most; further ones are refused, and counted.
const ASKED: usize = 256;

/// Clips that are written at a time; further ones are refused, and counted.
const OPEN: usize = 8;

/// Bytes of units that are held at most: then the seconds before an event get fewer.
const HELD_BYTES: usize = 64 * 1024 * 1024;

/// An event is told of some time after it began. What is held reaches back by this beyond the seconds before it.
const TOLD_LATE: Duration = Duration::from_secs(5);

/// An event's beginning or end, on the pipeline's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Begin(Ulid, TimeNs),
    End(Ulid, TimeNs),
}

/// Where clips are asked for, from any thread: waits for nothing.
#[derive(Debug, Default)]
pub struct ClipDesk {
    asked: Mutex<VecDeque<Asked>>,
    /// Outputs that make clips now.
    outputs: AtomicUsize,
    refused: AtomicU64,
}

impl ClipDesk {
    /// An event has begun, at this time of the pipeline's clock: its clip is to be made. `false` if that is refused,
    /// counted: because no output makes clips now, or too many wait.
    pub fn begin(&self, event: Ulid, at_ns: TimeNs) -> bool {
        self.ask(Asked::Begin(event, at_ns))
    }

    /// The event has ended: its clip ends some seconds later. Nothing, for an event without a clip.
    pub fn end(&self, event: Ulid, at_ns: TimeNs) -> bool {
        self.ask(Asked::End(event, at_ns))
    }

    /// Clips that were asked for and not made.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    fn ask(&self, asked: Asked) -> bool {
        let mut waiting = self.locked();
        let is_taken = self.outputs.load(Relaxed) > 0 && waiting.len() < ASKED;
        if is_taken {
            waiting.push_back(asked);
        } else if matches!(asked, Asked::Begin(..)) {
            self.refused.fetch_add(1, Relaxed);
        }
        is_taken
    }

    fn take(&self) -> Option<Asked> {
        self.locked().pop_front()
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<Asked>> {
        self.asked.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Opens the output.
#[derive(Debug, Clone)]
pub struct ClipsOpener {
    folder: PathBuf,
    encoding: EncodeOptions,
    options: ClipOptions,
    desk: Arc<ClipDesk>,
}

impl ClipsOpener {
    /// An opener for clips in this folder, which are asked for at the desk.
    pub fn new(folder: PathBuf, options: &StreamOptions, desk: Arc<ClipDesk>) -> Self {
        Self {
            folder,
            encoding: options.encoding(),
            options: options.clips,
            desk,
        }
    }
}

impl OutputOpener for ClipsOpener {
    fn name(&self) -> String {
        format!("clips:{}", self.folder.display())
    }

    fn is_live(&self) -> bool {
        false
    }

    fn open(&self, video: &Video) -> Result<Output> {
        let shelf = Shelf::open(&self.folder, self.options.keep, order)?;
        let encoder = video.encoder(&self.encoding)?;
        let reader = encoder.read(&self.name(), READER)?;
        self.desk.outputs.fetch_add(1, Relaxed);
        Ok(Output::Units(
            reader,
            Box::new(Clips {
                shelf,
                encoder,
                options: self.options,
                desk: self.desk.clone(),
                held: Held::default(),
                open: Vec::with_capacity(OPEN),
            }),
        ))
    }
}

/// `01JZX0V8Q4M7T9B2C5D6E7F8G9.mp4`: its id, whose first part is its time.
fn order(name: &str) -> Option<(String, u32)> {
    let id = name.strip_suffix(".mp4")?;
    // Another spelling of an id is no name of ours.
    let is_ours = Ulid::from_string(id).is_ok_and(|ulid| ulid.to_string() == id);
    is_ours.then(|| (id.to_owned(), 0))
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The newest units, none missing between them. The first one is a keyframe.
#[derive(Debug, Default)]
struct Held {
    units: VecDeque<AccessUnit>,
    bytes: usize,
}

impl Held {
    /// Adds the newest one, and lets those go that nobody needs who wants to begin at `from_ns` or later.
    fn add(&mut self, unit: &AccessUnit, from_ns: TimeNs) {
        if self.units.is_empty() && !unit.is_keyframe {
            return;
        }
        self.bytes += unit.data.len();
        self.units.push_back(unit.clone());
        loop {
            let next = self
                .units
                .iter()
                .enumerate()
                .skip(1)
                .find(|(_, unit)| unit.is_keyframe);
            let Some((next, keyframe)) = next else {
                // A keyframe that is larger than all that may be held is held alone.
                if self.bytes > HELD_BYTES && self.units.len() > 1 {
                    self.units.clear();
                    self.bytes = 0;
                }
                break;
            };
            if keyframe.captured_at_ns > from_ns && self.bytes <= HELD_BYTES {
                break;
            }
            self.bytes -= self
                .units
                .drain(..next)
                .map(|unit| unit.data.len())
                .sum::<usize>();
        }
    }

    /// The units from the last keyframe before `from_ns` on; all of them, if none was so early.
    fn since(&self, from_ns: TimeNs) -> impl Iterator<Item = &AccessUnit> {
        let first = self
            .units
            .iter()
            .rposition(|unit| unit.is_keyframe && unit.captured_at_ns <= from_ns);
        self.units.iter().skip(first.unwrap_or(0))
    }
}

/// A clip that is written.
struct Clip {
    event: Ulid,
    segment: Segment,
    /// The last picture's time of capture.
    until_ns: TimeNs,
}

struct Clips {
    shelf: Shelf,
    encoder: Arc<Encoder>,
    options: ClipOptions,
    desk: Arc<ClipDesk>,
    held: Held,
    open: Vec<Clip>,
}

impl Clips {
    fn begin(&mut self, event: Ulid, at_ns: TimeNs) -> Result<()> {
        let from_ns = at_ns.saturating_sub(ns(self.options.before));
        let refuse = |why: &str| {
            self.desk.refused.fetch_add(1, Relaxed);
            tracing::warn!(%event, "no clip is made: {why}");
            Ok(())
        };
        if self.open.len() >= OPEN {
            return refuse("too many are written already");
        }
        let Some(first) = self.held.since(from_ns).next() else {
            return refuse("no picture has come yet");
        };
        let path = self.shelf.folder().join(format!("{event}.mp4"));
        self.shelf.tidy(&paths(&self.open));
        let longest = self.options.before + self.options.longest + KEYFRAME_WAIT;
        let begun = self.shelf.make_room(&path, &paths(&self.open), || {
            match Segment::begin(&path, first, longest) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(None),
                begun => begun.map(Some),
            }
        })?;
        let Some(mut segment) = begun else {
            return refuse("there is one of this event");
        };
        let mut written = paths(&self.open);
        written.push(&path);
        for unit in self.held.since(from_ns) {
            self.shelf.make_room(&path, &written, || segment.push(unit))?;
        }
        self.open.push(Clip {
            event,
            segment,
            until_ns: at_ns.saturating_add(ns(self.options.longest)),
        });
        Ok(())
    }

    fn end(&mut self, event: Ulid, at_ns: TimeNs) {
        let until_ns = at_ns.saturating_add(ns(self.options.after));
        for clip in self.open.iter_mut().filter(|clip| clip.event == event) {
            clip.until_ns = clip.until_ns.min(until_ns);
        }
    }

    /// Completes those that want no picture of this time.
    fn complete(&mut self, now_ns: TimeNs) -> Result<()> {
        while let Some(at) = self.open.iter().position(|clip| clip.until_ns < now_ns) {
            let mut clip = self.open.swap_remove(at);
            let path = clip.segment.path().to_owned();
            let mut written = paths(&self.open);
            written.push(&path);
            self.shelf.make_room(&path, &written, || clip.segment.finish())?;
            tracing::info!(clip = %path.display(), "the event's clip is complete");
        }
        Ok(())
    }
}

/// The files of those that are written.
fn paths(open: &[Clip]) -> Vec<&std::path::Path> {
    open.iter().map(|clip| clip.segment.path()).collect()
}

impl UnitOutput for Clips {
    fn describe(&self) -> String {
        let folder = self.shelf.folder().display();
        self.encoder.describe(format_args!("clips:{folder}"))
    }

    fn push(&mut self, unit: &AccessUnit) -> Result<()> {
        while let Some(asked) = self.desk.take() {
            match asked {
                Asked::Begin(event, at_ns) => self.begin(event, at_ns)?,
                Asked::End(event, at_ns) => self.end(event, at_ns),
            }
        }
        self.complete(unit.captured_at_ns)?;
        let mut flushed = false;
        for at in 0..self.open.len() {
            let (before, rest) = self.open.split_at_mut(at);
            let Some((clip, after)) = rest.split_first_mut() else {
                break;
            };
            let path = clip.segment.path().to_owned();
            let mut written = paths(before);
            written.extend(paths(after));
            written.push(&path);
            flushed |= self
                .shelf
                .make_room(&path, &written, || clip.segment.push(unit))?;
        }
        if flushed && self.shelf.is_low() {
            self.shelf.tidy(&paths(&self.open));
        }
        let held = ns(self.options.before + TOLD_LATE);
        self.held.add(unit, unit.captured_at_ns.saturating_sub(held));
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.complete(TimeNs::MAX)
    }
}

impl Drop for Clips {
    fn drop(&mut self) {
        self.desk.outputs.fetch_sub(1, Relaxed);
        if self.desk.outputs.load(Relaxed) == 0 {
            self.desk.locked().clear();
        }
    }
}

/// The id of an event, as clips are called.
///
/// # Errors
/// Usage, if it is no ULID.
pub fn event_id(text: &str) -> Result<Ulid> {
    Ulid::from_string(text)
        .map_err(|e| Error::usage(format!("event {text:?}: the id is no ULID")).caused_by(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::made_unit as unit;

    fn times<'a>(units: impl Iterator<Item = &'a AccessUnit>) -> Vec<u64> {
        units.map(|unit| unit.captured_at_ns).collect()
    }

    #[test]
    fn what_is_held_begins_with_a_keyframe_and_reaches_back_far_enough() {
        let mut held = Held::default();
        for at in 0..100 {
            held.add(&unit(at, at % 10 == 0, 1), u64::saturating_sub(at, 25));
            assert!(held.units[0].is_keyframe);
            assert!(held.units[0].captured_at_ns <= at.saturating_sub(25));
            assert!(held.units.len() <= 36, "{}", held.units.len());
        }
        assert_eq!(times(held.since(85)), (80..100).collect::<Vec<_>>());
        assert_eq!(times(held.since(80)), (80..100).collect::<Vec<_>>());
        assert_eq!(times(held.since(0)), (70..100).collect::<Vec<_>>(), "the oldest");
    }

    #[test]
    fn what_is_held_is_bounded_in_bytes() {
        let mut held = Held::default();
        for at in 0..20 {
            held.add(&unit(at, true, HELD_BYTES / 4), 0);
        }
        assert_eq!(times(held.units.iter()), (16..20).collect::<Vec<_>>());
        assert_eq!(held.bytes, held.units.iter().map(|u| u.data.len()).sum::<usize>());
        held.add(&unit(20, true, 2 * HELD_BYTES), 0);
        assert_eq!(times(held.units.iter()), [20]);
        // What follows it can't be held, up to the next keyframe.
        for at in 21..25 {
            held.add(&unit(at, at == 24, 1), 0);
        }
        assert_eq!((times(held.units.iter()), held.bytes), (vec![24], 1));
    }

    #[test]
    fn a_desk_without_an_output_refuses_and_a_full_one_counts() {
        let desk = ClipDesk::default();
        let event = Ulid::from_parts(1, 2);
        assert!(!desk.begin(event, 0));
        assert!(!desk.end(event, 0));
        assert_eq!(desk.refused(), 1);
        desk.outputs.store(1, Relaxed);
        for n in 0..ASKED as u128 {
            assert!(desk.begin(Ulid::from_parts(1, n), 0));
        }
        assert!(!desk.begin(event, 0));
        assert_eq!(desk.refused(), 2);
        assert_eq!(desk.take(), Some(Asked::Begin(Ulid::from_parts(1, 0), 0)));
    }

    #[test]
    fn files_are_known_by_their_ids_and_their_order_is_that_of_time() {
        let earlier = Ulid::from_parts(1_000, u128::MAX).to_string();
        let later = Ulid::from_parts(1_001, 0).to_string();
        let key = |name: &str| order(&format!("{name}.mp4")).unwrap();
        assert!(key(&earlier) < key(&later));
        for other in ["holiday", &later.to_lowercase(), &later[1..]] {
            assert_eq!(order(&format!("{other}.mp4")), None, "{other}");
        }
        assert_eq!(order(&later), None);
        assert_eq!(event_id(&later).unwrap().to_string(), later);
        assert_eq!(event_id("x").unwrap_err().exit_code(), 2);
    }
}
