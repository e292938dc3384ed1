//! A fragmented MP4 file that is written from units, and can be played up to its last fragment whenever its writer dies.
//!
//! Fragments take a second at most, so that is what a kill loses. A clean end adds an index of the fragments, in room that
//! was kept for it, so that players know the length and jump at once.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::encode::fragments::{self, Reference, Sample, ticks};
use crate::encode::{AccessUnit, Timeline, period_ns};

/// A fragment that lasts so long is complete.
const FRAGMENT: u64 = ticks(1_000_000_000);
/// A keyframe begins another one if the one before lasts so long.
const FRAGMENT_AT_KEYFRAME: u64 = ticks(500_000_000);

/// A file of one run of units, of which the first is a keyframe.
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    /// Bytes of the file that are whole; whatever is behind them is taken back.
    written: u64,
    /// Where the index goes, and how many places it has room for.
    index_at: u64,
    index_room: usize,
    references: Vec<Reference>,
    /// Fragments so far.
    fragments: u32,
    timeline: Timeline,
    /// The pictures of the fragment that is not written yet: their times, and their bytes, one after the other.
    times: Vec<u64>,
    samples: Vec<Sample>,
    data: Vec<u8>,
    /// Ticks from the last picture to the next, at the stream's rate.
    last_duration: u64,
}

impl Segment {
    /// Makes a file that begins with this keyframe, which has to be pushed after that. Nothing is replaced. `longest` is
    /// how long it will get, for the index.
    ///
    /// # Errors
    /// As the system says; [`ErrorKind::InvalidData`] if the keyframe has no parameter sets.
    pub(super) fn begin(path: &Path, keyframe: &AccessUnit, longest: Duration) -> Result<Self> {
        let (_, mut beginning) = fragments::beginning(keyframe)
            .ok_or_else(|| Error::new(ErrorKind::InvalidData, "the encoder gave no parameter sets"))?;
        let index_at = beginning.len() as u64;
        // Two fragments a second at most.
        let index_room = usize::try_from(2 * longest.as_secs() + 8).unwrap_or(0).min(8192);
        // An index that is shorter leaves room, which needs a head of 8 bytes.
        beginning.extend(fragments::unused(fragments::index_length(index_room) + 8));
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let mut segment = Self {
            path: path.to_owned(),
            file,
            written: 0,
            index_at,
            index_room,
            references: Vec::with_capacity(index_room),
            fragments: 0,
            timeline: Timeline::new(period_ns(keyframe.parameters.frame_rate)),
            times: Vec::new(),
            samples: Vec::new(),
            data: Vec::new(),
            last_duration: 1,
        };
        if let Err(e) = segment.append(&beginning) {
            // There is nothing in it. The error is what counts.
            let _ = std::fs::remove_file(path);
            return Err(e);
        }
        Ok(segment)
    }

    /// Its file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// From its first picture to this one, which would be its next.
    pub(super) fn length_at(&self, unit: &AccessUnit) -> Duration {
        fragments::time(ticks(self.timeline.peek(unit.pts_ns)))
    }

    /// Takes the next unit. Whether a fragment was written.
    ///
    /// # Errors
    /// As the system says. Nothing is lost then: the unit may be pushed again.
    pub(super) fn push(&mut self, unit: &AccessUnit) -> Result<bool> {
        // Asked for once for each unit that is taken: after an error the unit comes again.
        let at = ticks(self.timeline.peek(unit.pts_ns));
        let lasts = self.times.first().map_or(0, |first| at.saturating_sub(*first));
        let is_complete = lasts >= FRAGMENT || unit.is_keyframe && lasts >= FRAGMENT_AT_KEYFRAME;
        if is_complete {
            self.write_fragment(at)?;
        }
        let at = ticks(self.timeline.at(unit.pts_ns));
        let bytes = fragments::append_sample(&mut self.data, unit);
        self.times.push(at);
        self.samples.push(Sample {
            duration: 0,
            bytes,
            is_keyframe: unit.is_keyframe,
        });
        self.last_duration = ticks(unit.duration_ns).max(1);
        Ok(is_complete)
    }

    /// Writes what waits as a fragment; `next` is the time of the picture behind it.
    fn write_fragment(&mut self, next: u64) -> Result<()> {
        let Some(&first) = self.times.first() else {
            return Ok(());
        };
        let ends = self.times.iter().skip(1).copied().chain([next]);
        for ((sample, at), end) in self.samples.iter_mut().zip(&self.times).zip(ends) {
            sample.duration = u32::try_from(end.saturating_sub(*at)).unwrap_or(u32::MAX).max(1);
        }
        let mut fragment = fragments::fragment_head(self.fragments + 1, first, &self.samples);
        fragment.extend_from_slice(&self.data);
        self.append(&fragment)?;
        self.fragments += 1;
        let bytes = u32::try_from(fragment.len()).unwrap_or(u32::MAX);
        let duration = u32::try_from(next.saturating_sub(first)).unwrap_or(u32::MAX);
        match self.references.last_mut() {
            // Players begin to decode wherever the index leads them: it leads to keyframes.
            Some(last) if !self.samples[0].is_keyframe => {
                last.bytes = last.bytes.saturating_add(bytes);
                last.duration = last.duration.saturating_add(duration);
            }
            _ => self.references.push(Reference {
                bytes,
                duration,
                is_keyframe: self.samples[0].is_keyframe,
            }),
        }
        self.times.clear();
        self.samples.clear();
        self.data.clear();
        Ok(())
    }

    /// Appends bytes, all or none.
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(e) = self.file.write_all_at(bytes, self.written) {
            // What is there of it can be played over in any case.
            let _ = self.file.set_len(self.written);
            return Err(e);
        }
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Writes what waits and the index. May be called again after an error.
    ///
    /// # Errors
    /// As the system says.
    pub(super) fn finish(&mut self) -> Result<()> {
        if let Some(&last) = self.times.last() {
            self.write_fragment(last + self.last_duration)?;
        }
        if self.references.len() <= self.index_room {
            let length = fragments::index_length(self.references.len());
            let rest = fragments::index_length(self.index_room) + 8 - length;
            let mut index = fragments::index(rest as u64, &self.references);
            index.extend(&fragments::unused(rest)[..8]);
            self.file.write_all_at(&index, self.index_at)?;
        }
        self.file.sync_all()
    }
}
