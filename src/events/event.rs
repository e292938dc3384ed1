//! The one form that events have, wherever they go. docs/event.schema.json describes it.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::gate::Direction;
use crate::clock::{SharedClock, TimeNs};

/// The version of the form: it changes when something that was there means something else, or is gone.
pub const VERSION: u32 = 1;

/// Where an event stands in the course of what it tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It has begun. A crossing is nothing but this.
    Start,
    /// It has lasted for `dwell_s`.
    Update,
    /// It has ended.
    End,
}

/// What an event tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A class, or a track of it, is in a zone.
    Presence,
    /// There is more of a class in a zone than `at_most`.
    AtMost,
    /// A class has not been in a zone for `none_for_s`.
    Absence,
    /// A track has crossed a line.
    Crossing,
}

impl Kind {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Update => "update",
            Self::End => "end",
        }
    }
}

impl Rule {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Presence => "presence",
            Self::AtMost => "at-most",
            Self::Absence => "absence",
            Self::Crossing => "crossing",
        }
    }
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`VERSION`].
    pub v: u32,
    /// A ULID, the same from start to end.
    pub id: String,
    /// Where it stands in its course.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// What it tells of.
    pub rule: Rule,
    /// The camera's name.
    pub camera: String,
    /// The zone's name; `None` at a line.
    pub zone: Option<String>,
    /// The line's name; `None` in a zone.
    pub line: Option<String>,
    /// To which side of the line.
    pub direction: Option<Direction>,
    /// The class's name.
    pub class: String,
    /// When the picture was taken that showed it, in UTC, as RFC 3339 has it.
    pub time: String,
    /// When the first of the pictures was taken that showed it without a break.
    pub since: String,
    /// How old the picture's mask was.
    pub mask_age_ms: f64,
    /// The share of the zone that the class, or the track, takes; of the picture, at a line.
    pub area: f64,
    /// Connected regions of the class in the zone; `None` for a track. Never a number of people.
    pub regions: Option<u32>,
    /// Tracks of the class in the zone; `None` for a track, and where the network tells no objects apart.
    pub tracks: Option<u32>,
    /// The track's number.
    pub track: Option<u32>,
    /// The smallest rectangle around it: left, top, width and height as shares of the picture; `None` for nothing.
    #[serde(rename = "box")]
    pub bbox: Option<[f64; 4]>,
    /// From `since` to `time`.
    pub dwell_s: f64,
    /// How sure the network is, 0 to 1.
    pub score: f64,
    /// The name of its picture in the folder of pictures, if one is kept. It may be gone by now.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// The name of its clip as the page gives it, if its camera keeps clips: `CAMERA/ID.mp4`. It is whole some seconds after the
    /// end.
    #[serde(default)]
    pub clip: Option<String>,
}

/// An event and its JSON, made once for all that it is told to.
#[derive(Debug)]
pub struct Told {
    /// The event.
    pub event: Event,
    /// In one line, without its end.
    pub json: String,
}

impl Told {
    /// With its JSON.
    pub fn new(event: Event) -> Self {
        // An event holds nothing that JSON can't: names are texts, and what is not finite becomes null.
        let json = serde_json::to_string(&event).unwrap_or_default();
        Self { event, json }
    }
}

/// Tells when a picture was taken, by the wall clock.
#[derive(Debug, Clone)]
pub struct WallTime {
    now: SystemTime,
    now_ns: TimeNs,
}

impl WallTime {
    /// By the wall clock as it stands now. A wall clock that jumps moves later events, and no time between two of them.
    pub fn now(clock: &SharedClock) -> Self {
        Self {
            now: SystemTime::now(),
            now_ns: clock.now_ns(),
        }
    }

    /// The wall's time at a time of the clock.
    pub fn of(&self, at: TimeNs) -> SystemTime {
        let apart = Duration::from_nanos(self.now_ns.abs_diff(at));
        let moved = match at <= self.now_ns {
            true => self.now.checked_sub(apart),
            false => self.now.checked_add(apart),
        };
        moved.unwrap_or(self.now)
    }

    /// The same in UTC, as RFC 3339 has it, to the millisecond.
    pub fn text(&self, at: TimeNs) -> String {
        text(self.of(at))
    }
}

/// A time in UTC, as RFC 3339 has it, to the millisecond.
pub fn text(time: SystemTime) -> String {
    // The form knows the years up to 9999, and none before 1970.
    let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(time.clamp(SystemTime::UNIX_EPOCH, latest)).to_string()
}

/// The event whose id, with this ending, is a file's name; `None` for files of others.
pub fn of_file(name: &str, ending: &str) -> Option<Ulid> {
    let id = name.strip_suffix(ending)?;
    // Another spelling of an id is no name of ours.
    Ulid::from_string(id).ok().filter(|ulid| ulid.to_string() == id)
}

/// A new event's id.
pub fn new_id(at: SystemTime) -> String {
    Ulid::from_datetime(at).to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock::SimulatedClock;

    /// An event with all that a track in a zone has.
    pub(crate) fn event(kind: Kind) -> Event {
        Event {
            v: VERSION,
            id: new_id(SystemTime::UNIX_EPOCH),
            kind,
            rule: Rule::Presence,
            camera: "door".into(),
            zone: Some("drive".into()),
            line: None,
            direction: None,
            class: "person".into(),
            time: "2026-01-02T03:04:05.678Z".into(),
            since: "2026-01-02T03:04:04.678Z".into(),
            mask_age_ms: 12.5,
            area: 0.25,
            regions: None,
            tracks: None,
            track: Some(7),
            bbox: Some([0.1, 0.2, 0.3, 0.4]),
            dwell_s: 1.0,
            score: 0.75,
            snapshot: None,
            clip: None,
        }
    }

    #[test]
    fn the_json_is_one_line_and_is_read_back() {
        let event = event(Kind::Update);
        let told = Told::new(event.clone());
        assert!(!told.json.contains('\n'));
        assert_eq!(serde_json::from_str::<Event>(&told.json).unwrap(), event);
        let value: serde_json::Value = serde_json::from_str(&told.json).unwrap();
        assert_eq!(
            (&value["type"], &value["rule"]),
            (&"update".into(), &"presence".into())
        );
        assert_eq!(value["line"], serde_json::Value::Null);
    }

    #[test]
    fn a_time_is_when_the_picture_was_taken() {
        let clock = SimulatedClock::manual();
        clock.advance(Duration::from_secs(100));
        let clock: SharedClock = clock;
        let wall = WallTime::now(&clock);
        let ago = |s: u64| wall.of(clock.now_ns() - s * 1_000_000_000);
        assert_eq!(ago(0), wall.now);
        assert_eq!(wall.now.duration_since(ago(40)).unwrap(), Duration::from_secs(40));
        assert_eq!(text(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            text(SystemTime::UNIX_EPOCH - Duration::from_secs(9)),
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn ids_are_in_the_order_of_their_times() {
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        let ids = [1, 2, 1000, 1_000_000_000].map(|s| new_id(at(s)));
        assert!(ids.is_sorted() && ids.iter().all(|id| id.len() == 26));
        assert_ne!(new_id(at(1)), new_id(at(1)));
    }
}
