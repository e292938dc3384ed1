//! How recordings are cut, and how much of them is kept.

use std::time::Duration;

/// What is kept of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Files whose end is older go.
    pub age: Duration,
    /// The oldest files go while all of them have more bytes.
    pub bytes: u64,
    /// The oldest files go while the disk has fewer bytes free.
    pub free: u64,
}

/// How a recording without end is cut and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordOptions {
    /// A file ends with the first keyframe after this length.
    pub segment: Duration,
    /// What is kept.
    pub keep: Keep,
}

impl Default for RecordOptions {
    fn default() -> Self {
        Self {
            segment: Duration::from_secs(60),
            keep: Keep {
                age: Duration::from_secs(72 * 3600),
                bytes: 20_000_000_000,
                free: 1_000_000_000,
            },
        }
    }
}

/// What the clip of an event shows, and which clips are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClipOptions {
    /// Before its event.
    pub before: Duration,
    /// After the event's end.
    pub after: Duration,
    /// A clip ends so long after its event's beginning, whatever the event does.
    pub longest: Duration,
    /// What is kept.
    pub keep: Keep,
}

impl Default for ClipOptions {
    fn default() -> Self {
        Self {
            before: Duration::from_secs(5),
            after: Duration::from_secs(5),
            longest: Duration::from_secs(120),
            keep: Keep {
                age: Duration::from_secs(720 * 3600),
                bytes: 10_000_000_000,
                free: 500_000_000,
            },
        }
    }
}
