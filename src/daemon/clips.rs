//! Events ask for clips: the sink between the events' desk and the cameras' clips.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::{RealClock, Stop, TimeNs};
use crate::events::desk::Sink;
use crate::events::event::{Event, Kind, Rule, Told};
use crate::output::clips::{ClipDesk, event_id};
use vision::error::{Error, Result};

/// A time that is further away comes from a wall clock that was set since.
const FURTHEST: Duration = Duration::from_secs(3600);

/// Asks for the clip of each event of these cameras, by their names.
pub(super) struct Clips(pub(super) Vec<(String, Arc<ClipDesk>)>);

/// The time of the pipelines' clock at a wall time of an event.
fn on_clock(wall: &str, now: SystemTime, now_ns: TimeNs) -> TimeNs {
    let ago = humantime::parse_rfc3339(wall)
        .ok()
        .and_then(|at| now.duration_since(at).ok())
        .filter(|ago| *ago < FURTHEST)
        .unwrap_or_default();
    now_ns.saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(0))
}

impl Clips {
    fn ask(&self, event: &Event) -> Result<()> {
        let Some((_, desk)) = self.0.iter().find(|(name, _)| *name == event.camera) else {
            return Ok(());
        };
        let (now, now_ns) = (SystemTime::now(), RealClock::now());
        let id = event_id(&event.id)?;
        let at = |wall: &str| on_clock(wall, now, now_ns);
        let mut taken = true;
        if event.kind == Kind::Start {
            taken = desk.begin(id, at(&event.since));
        }
        // A crossing has no other end.
        if taken && (event.kind == Kind::End || event.rule == Rule::Crossing) {
            desk.end(id, at(&event.time));
        }
        taken.then_some(()).ok_or_else(|| {
            Error::transient(format!("no clip of event {id}"))
                .hint("the camera's clips output is down, or too many events wait for it")
        })
    }
}

impl Sink for Clips {
    fn tell(&mut self, told: &Told, _stop: &Stop) -> Result<()> {
        self.ask(&told.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_times_are_found_on_the_clock_and_odd_ones_mean_now() {
        let now = humantime::parse_rfc3339("2026-11-29T22:41:03.500Z").unwrap();
        let at = |wall| on_clock(wall, now, 10_000_000_000);
        assert_eq!(at("2026-11-29T22:41:01.250Z"), 7_750_000_000);
        for odd in ["2026-11-29T22:41:04Z", "1970-01-01T00:00:00Z", "now"] {
            assert_eq!(at(odd), 10_000_000_000, "{odd}");
        }
        assert_eq!(at("2026-11-29T22:40:00Z"), 0, "before the clock began");
    }
}
