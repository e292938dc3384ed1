//! `record:FOLDER`: a recording without end, in files of a set length, of which the oldest go.
//!
//! A file is called by the time at which its first picture was taken, in UTC: `2026-11-29T22-41-03Z.mp4`. A further one of
//! the same second is `2026-11-29T22-41-03Z-1.mp4`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::RealClock;
use crate::encode::{AccessUnit, EncodeOptions, Encoder, ReaderKind};
use crate::output::segment::Segment;
use crate::output::shelf::Shelf;
use crate::output::{Output, OutputOpener, RecordOptions, UnitOutput, Video};
use vision::error::{Error, Result};

/// A recording goes on after notices, and no picture is too late for it.
pub(super) const READER: ReaderKind = ReaderKind {
    notices: false,
    low_delay: false,
};

/// Where the source's time jumps by more, a new file begins, so that its name says when.
const BREAK_NS: u64 = 2_000_000_000;

/// Seconds between keyframes at most, by configuration: a file ends with the first one after its length.
pub(super) const KEYFRAME_WAIT: Duration = Duration::from_secs(60);

/// Files of one second at most.
const NUMBERS: u32 = 10_000;

/// Opens a recording.
#[derive(Debug, Clone)]
pub struct RecordOpener {
    folder: PathBuf,
    encoding: EncodeOptions,
    options: RecordOptions,
}

impl RecordOpener {
    /// An opener for recordings in this folder.
    pub fn new(folder: PathBuf, encoding: EncodeOptions, options: RecordOptions) -> Self {
        Self {
            folder,
            encoding,
            options,
        }
    }
}

impl OutputOpener for RecordOpener {
    fn name(&self) -> String {
        format!("record:{}", self.folder.display())
    }

    fn is_live(&self) -> bool {
        false
    }

    fn open(&self, video: &Video) -> Result<Output> {
        let shelf = Shelf::open(&self.folder, self.options.keep, order)?;
        let encoder = video.encoder(&self.encoding)?;
        let reader = encoder.read(&self.name(), READER)?;
        Ok(Output::Units(
            reader,
            Box::new(Recording {
                shelf,
                encoder,
                length: self.options.segment,
                segment: None,
                last_pts_ns: None,
                last: None,
            }),
        ))
    }
}

/// `2026-11-29T22-41-03Z.mp4` and `2026-11-29T22-41-03Z-1.mp4`: its time, and its number.
fn order(name: &str) -> Option<(String, u32)> {
    const FORM: &str = "0000-00-00T00-00-00Z";
    let (time, rest) = name.split_at_checked(FORM.len())?;
    let fits = |(found, expected): (char, char)| match expected {
        '0' => found.is_ascii_digit(),
        _ => found == expected,
    };
    if !time.chars().zip(FORM.chars()).all(fits) {
        return None;
    }
    let number = match rest.strip_suffix(".mp4")? {
        "" => 0,
        more => more.strip_prefix('-')?.parse().ok()?,
    };
    Some((time.to_owned(), number))
}

/// A time as names have it.
fn second(taken: SystemTime) -> String {
    let seconds = humantime::format_rfc3339_seconds(taken).to_string();
    seconds.replace(':', "-")
}

/// The file of a picture that was taken then.
fn path(folder: &Path, second: &str, number: u32) -> PathBuf {
    match number {
        0 => folder.join(format!("{second}.mp4")),
        _ => folder.join(format!("{second}-{number}.mp4")),
    }
}

/// When a picture was taken, by the wall clock as it stands now.
pub(super) fn taken(unit: &AccessUnit) -> SystemTime {
    let ago = Duration::from_nanos(RealClock::now().saturating_sub(unit.captured_at_ns));
    let now = SystemTime::now();
    now.checked_sub(ago).unwrap_or(now)
}

struct Recording {
    shelf: Shelf,
    encoder: Arc<Encoder>,
    length: Duration,
    segment: Option<Segment>,
    /// The source's own time of the unit before.
    last_pts_ns: Option<u64>,
    /// The second of the last file's name, and its number.
    last: Option<(String, u32)>,
}

impl Recording {
    /// Whether this unit begins another file.
    fn begins_another(&self, unit: &AccessUnit, segment: &Segment) -> bool {
        let jumps = self.last_pts_ns.is_some_and(|last| {
            unit.pts_ns < last || unit.pts_ns - last > BREAK_NS.saturating_add(unit.duration_ns)
        });
        // Times are rounded; half a picture earlier is near enough.
        let is_long = || segment.length_at(unit) + Duration::from_nanos(unit.duration_ns / 2) >= self.length;
        unit.is_keyframe && (jumps || is_long())
    }

    fn begin(&mut self, keyframe: &AccessUnit) -> Result<Segment> {
        self.shelf.tidy(&[]);
        let folder = self.shelf.folder();
        let taken = taken(keyframe);
        let longest = self.length + KEYFRAME_WAIT;
        let second = second(taken);
        // A number that is free again, because its file went, would stand before the newer ones.
        let mut number = match &self.last {
            Some((last, number)) if *last == second => number + 1,
            _ => 0,
        };
        let first = path(folder, &second, number);
        let begun = self.shelf.make_room(&first, &[], || {
            loop {
                match Segment::begin(&path(folder, &second, number), keyframe, longest) {
                    Err(e) if e.kind() == ErrorKind::AlreadyExists && number < NUMBERS => number += 1,
                    begun => return begun,
                }
            }
        })?;
        self.last = Some((second, number));
        Ok(begun)
    }

    fn end(&mut self) -> Result<()> {
        let Some(mut segment) = self.segment.take() else {
            return Ok(());
        };
        let path = segment.path().to_owned();
        self.shelf.make_room(&path, &[&path], || segment.finish())
    }
}

impl UnitOutput for Recording {
    fn describe(&self) -> String {
        let folder = self.shelf.folder().display();
        self.encoder.describe(format_args!("record:{folder}"))
    }

    fn push(&mut self, unit: &AccessUnit) -> Result<()> {
        if self
            .segment
            .as_ref()
            .is_some_and(|segment| self.begins_another(unit, segment))
        {
            self.end()?;
        }
        self.last_pts_ns = Some(unit.pts_ns);
        if self.segment.is_none() {
            self.segment = Some(self.begin(unit)?);
        }
        let Some(segment) = &mut self.segment else {
            return Ok(());
        };
        let path = segment.path().to_owned();
        let written = self.shelf.make_room(&path, &[&path], || segment.push(unit))?;
        if !written {
            return Ok(());
        }
        if !path.exists() {
            return Err(Error::fatal(format!("{}: is not there any more", path.display()))
                .hint("it was moved or removed while it was written, or its disk is gone"));
        }
        if self.shelf.is_low() {
            self.shelf.tidy(&[&path]);
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_times_in_order_and_other_files_are_not_ours() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_992_063_700);
        let name = |number| {
            let path = path(Path::new("a"), &second(at), number);
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(name(0), "2026-11-29T22-41-03Z.mp4");
        let mut names = [name(10), name(0), "2026-11-29T22-41-04Z.mp4".into(), name(2)];
        names.sort_by_key(|name| order(name).unwrap());
        assert_eq!(
            names.map(|name| name[19..].to_owned()),
            ["Z.mp4", "Z-2.mp4", "Z-10.mp4", "Z.mp4"]
        );
        for other in [
            "a-2026-11-29T22-41-03Z.mp4",
            "2026-11-29T22-41-03Z.mkv",
            "2026-11-29T22-41-03Z-x.mp4",
            "2026-11-29T22-41-0xZ.mp4",
            "2026-11-29T22-41-03.mp4",
            "äöü-11-29T22-41-03Z.mp4",
            "",
        ] {
            assert_eq!(order(other), None, "{other}");
        }
    }
}
