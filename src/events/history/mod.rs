//! A history of events in an SQLite file (<https://www.sqlite.org/>), kept by age and by size.
//!
//! `store.rs` writes and forgets, `search.rs` reads. One thread writes; whoever reads has a connection of their own, and
//! waits for nobody, because the file keeps a write-ahead log.

pub mod search;
pub mod store;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::ErrorCode;

use super::desk::{CameraState, Queue, SinkState};
use super::event::Told;
use super::filling::Filling;
use crate::clock::Stop;
use crate::mailbox::Received;
use vision::error::{Error, Result};

pub use search::{Cursor, Found, Hour, Reader, Search};
pub use store::Store;

/// Where the history is, and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryOptions {
    /// The SQLite file. Two more stand beside it while it is open, `NAME-wal` and `NAME-shm`.
    pub path: PathBuf,
    /// Events that are older are forgotten.
    pub keep: Duration,
    /// The oldest events are forgotten before the file gets larger, in bytes.
    pub max_bytes: u64,
}

/// Events that are written at once, at most.
const BATCH: usize = 256;
/// How long the thread waits for an event before it looks at its stop.
const LOOK: Duration = Duration::from_millis(200);
/// Between two tries to write what could not be written.
const PAUSE: Duration = Duration::from_secs(1);
/// Minutes of zones that wait for the disk; when there are more the oldest are dropped, and the log says how many.
const WAITING_MINUTES: usize = 4096;
/// How often old events are looked for.
const TIDY: Duration = Duration::from_secs(60);

/// Milliseconds since 1970, in UTC.
pub fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn this_minute() -> i64 {
    unix_ms(SystemTime::now()).div_euclid(60_000)
}

/// A minute of a class in a zone.
#[derive(Debug, Clone, PartialEq)]
pub struct Minute {
    /// Which one, counted from 1970 on.
    pub minute: i64,
    /// The camera's name.
    pub camera: String,
    /// What was seen.
    pub filling: Filling,
}

/// Writes events, and each minute how full the zones of `cameras` were, until its stop. What can't be written is kept and tried again while the queue takes what comes, so a disk
/// that is slow, or full for a while, loses nothing until the queue is full.
pub fn run(
    options: &HistoryOptions,
    cameras: &[Arc<CameraState>],
    state: &SinkState,
    from: &Queue,
    stop: &Stop,
) {
    let mut writer = Writer {
        options,
        store: None,
        cameras,
        waiting: Vec::with_capacity(BATCH),
        minute: None,
        minutes: VecDeque::new(),
        lost_minutes: 0,
        tidied: None,
    };
    loop {
        let ends = stop.is_stopped();
        writer.sum_up(this_minute(), ends);
        let wait = if ends { Duration::ZERO } else { LOOK };
        if writer.waiting.is_empty() {
            match from.recv_timeout(wait) {
                Received::Item(told) => writer.waiting.push(told),
                Received::Timeout if !ends => {}
                Received::Timeout | Received::Closed => {
                    writer.sum_up(this_minute(), true);
                    state.set(&writer.step());
                    return;
                }
            }
        }
        while writer.waiting.len() < BATCH
            && let Received::Item(told) = from.try_recv()
        {
            writer.waiting.push(told);
        }
        let count = writer.waiting.len() as u64;
        let outcome = writer.step();
        state.set(&outcome);
        // Of two things to write one may fail.
        let left = writer.waiting.len() as u64;
        state.delivered.fetch_add(count - left, Relaxed);
        if outcome.is_ok() {
            continue;
        }
        if ends {
            while let Received::Item(told) = from.try_recv() {
                writer.waiting.push(told);
            }
            state.failed.fetch_add(writer.waiting.len() as u64, Relaxed);
            return;
        }
        // A stop ends the pause, and is followed by one last try.
        stop.wait(PAUSE);
    }
}

/// What the thread has in its hands.
struct Writer<'a> {
    options: &'a HistoryOptions,
    cameras: &'a [Arc<CameraState>],
    store: Option<Store>,
    waiting: Vec<Arc<Told>>,
    /// The minute that is summed up.
    minute: Option<i64>,
    minutes: VecDeque<Minute>,
    lost_minutes: u64,
    tidied: Option<Instant>,
}

impl Writer<'_> {
    /// Takes what the cameras have seen, once a minute and at the end.
    fn sum_up(&mut self, now: i64, ends: bool) {
        let minute = *self.minute.get_or_insert_with(|| {
            // What was seen while nobody kept it belongs to no minute.
            self.cameras
                .iter()
                .for_each(|camera| drop(camera.take_fillings()));
            now
        });
        if minute == now && !ends {
            return;
        }
        self.minute = Some(now);
        for camera in self.cameras {
            let fillings = camera.take_fillings().into_iter();
            self.minutes.extend(fillings.map(|filling| Minute {
                minute,
                camera: camera.name.clone(),
                filling,
            }));
        }
        let excess = self.minutes.len().saturating_sub(WAITING_MINUTES);
        self.minutes.drain(..excess);
        self.lost_minutes += excess as u64;
    }

    /// Writes what waits, and forgets what is old. The file is opened at once, so that a wrong one is known before anything
    /// happens.
    fn step(&mut self) -> Result<()> {
        let outcome = self.try_step();
        if outcome.is_err() {
            // It may be another disk by now.
            self.store = None;
        }
        outcome
    }

    fn try_step(&mut self) -> Result<()> {
        let store = match &mut self.store {
            Some(store) if store.is_there() => store,
            _ => self.store.insert(Store::open(self.options)?),
        };
        if !self.waiting.is_empty() {
            store.write(&self.waiting)?;
            self.waiting.clear();
        }
        if !self.minutes.is_empty() {
            store.write_minutes(self.minutes.make_contiguous())?;
            self.minutes.clear();
            if self.lost_minutes > 0 {
                tracing::warn!(lost = self.lost_minutes, "events: minutes of zones were lost");
                self.lost_minutes = 0;
            }
        }
        if self.tidied.is_none_or(|at| at.elapsed() >= TIDY) {
            store.forget_old(unix_ms(SystemTime::now()))?;
            self.tidied = Some(Instant::now());
        }
        Ok(())
    }
}

/// What SQLite said of a file, and what to do.
fn explain(path: &std::path::Path, what: &str, error: rusqlite::Error) -> Error {
    let hint = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "make room on the disk",
        Some(ErrorCode::CannotOpen) => "create the folder, or name a file that this user may write",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => "name a file that this user may write",
        Some(ErrorCode::NotADatabase) => "it is no history of segd: name another file",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another program holds it",
        _ => "look at the disk",
    };
    Error::transient(format!("{}: {what}", path.display()))
        .caused_by(error)
        .hint(hint)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::EventDesk;
    use crate::events::event::tests::event;
    use crate::events::event::{Event, Kind, Rule, text};
    use crate::events::filling::Filled;

    fn options(folder: &std::path::Path) -> HistoryOptions {
        HistoryOptions {
            path: folder.join("events.db"),
            keep: Duration::from_secs(36_500 * 86_400),
            max_bytes: 64 << 20,
        }
    }

    fn at(ms: i64) -> String {
        text(SystemTime::UNIX_EPOCH + Duration::from_millis(ms.unsigned_abs()))
    }

    /// An event whose id is its number among all.
    fn told(number: usize, ms: i64, zone: &str, class: &str, kind: Kind) -> Arc<Told> {
        Arc::new(Told::new(Event {
            id: number.to_string(),
            time: at(ms),
            zone: Some(zone.into()),
            class: class.into(),
            ..event(kind)
        }))
    }

    fn ids(lines: &[String]) -> Vec<usize> {
        let id = |line: &String| serde_json::from_str::<Event>(line).unwrap().id.parse().unwrap();
        lines.iter().map(id).collect()
    }

    fn wait_for(mut ready: impl FnMut() -> bool) {
        let limit = Instant::now() + Duration::from_secs(30);
        while !ready() {
            assert!(Instant::now() < limit);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn attach(desk: &EventDesk, options: HistoryOptions) {
        desk.attach("history", "here".into(), move |state, from, stop| {
            run(&options, &[], state, from, stop);
        })
        .unwrap();
    }

    const ZONES: [&str; 3] = ["drive", "lawn", "street"];
    const CLASSES: [&str; 2] = ["car", "person"];
    const KINDS: [Kind; 3] = [Kind::Start, Kind::Update, Kind::End];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn pages_together_are_what_a_plain_search_finds(
            events in prop::collection::vec((0..50_i64, 0..3_usize, 0..2_usize, 0..3_usize), 0..60),
            zone in prop::option::of(0..3_usize),
            class in prop::option::of(0..2_usize),
            kind in prop::option::of(0..3_usize),
            from in prop::option::of(0..50_i64),
            until in prop::option::of(0..50_i64),
            limit in 1..20_usize,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut store = Store::open(&options(folder.path())).unwrap();
            let made: Vec<_> = events
                .iter()
                .enumerate()
                .map(|(n, (ms, z, c, k))| told(n, *ms, ZONES[*z], CLASSES[*c], KINDS[*k]))
                .collect();
            for some in made.chunks(7) {
                store.write(some).unwrap();
            }
            let search = Search {
                place: zone.map(|z| ZONES[z].into()),
                class: class.map(|c| CLASSES[c].into()),
                kind: kind.map(|k| KINDS[k]),
                from_ms: from,
                until_ms: until,
                ..Search::default()
            };
            let mut expected: Vec<(i64, usize)> = events
                .iter()
                .enumerate()
                .filter(|(_, (ms, z, c, k))| {
                    zone.is_none_or(|zone| zone == *z)
                        && class.is_none_or(|class| class == *c)
                        && kind.is_none_or(|kind| kind == *k)
                        && from.is_none_or(|from| *ms >= from)
                        && until.is_none_or(|until| *ms < until)
                })
                .map(|(n, (ms, ..))| (*ms, n))
                .collect();
            expected.sort_unstable();
            let oldest_first: Vec<usize> = expected.iter().map(|(_, n)| *n).collect();
            let reader = Reader::open(&options(folder.path()).path).unwrap();
            let (mut found, mut before) = (Vec::new(), None);
            loop {
                let page = reader.page(&search, before, limit).unwrap();
                prop_assert!(page.lines.len() <= limit);
                found.extend(ids(&page.lines));
                match page.next {
                    Some(next) => {
                        prop_assert_eq!(page.lines.len(), limit);
                        before = Some(next.to_string().parse().unwrap());
                    }
                    None => break,
                }
            }
            found.reverse();
            prop_assert_eq!(&found, &oldest_first);
            let mut all = Vec::new();
            reader.each(&search, |line| { all.push(line.to_owned()); Ok(()) }).unwrap();
            prop_assert_eq!(ids(&all), oldest_first);
        }
    }

    #[test]
    fn hours_are_counted_up_to_now() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&options(folder.path())).unwrap();
        let hour = 3_600_000;
        let events = [
            told(0, hour - 1, "drive", "car", Kind::Start),
            told(1, hour, "drive", "car", Kind::Start),
            told(2, hour + 1, "lawn", "car", Kind::Start),
            told(3, 2 * hour - 1, "drive", "car", Kind::End),
            told(4, 2 * hour, "drive", "car", Kind::Update),
        ];
        store.write(&events).unwrap();
        let reader = Reader::open(&options(folder.path()).path).unwrap();
        let counts = |search: &Search| -> Vec<(i64, u64, u64, f64)> {
            let hours = reader.hours(search, 3 * hour + 5, 3).unwrap();
            hours
                .iter()
                .map(|one| (one.at_ms / hour, one.starts, one.events, one.dwell_s))
                .collect()
        };
        assert_eq!(
            counts(&Search::default()),
            [(1, 2, 3, 1.0), (2, 0, 1, 0.0), (3, 0, 0, 0.0)]
        );
        let of_lawn = Search {
            place: Some("lawn".into()),
            ..Search::default()
        };
        assert_eq!(counts(&of_lawn)[0], (1, 1, 1, 0.0));
        let crossings = Search {
            rule: Some(Rule::Crossing),
            ..Search::default()
        };
        assert_eq!(counts(&crossings)[0], (1, 0, 0, 0.0));
    }

    fn minute(minute: i64, zone: &str, occupied_s: f64, area: f64) -> Minute {
        Minute {
            minute,
            camera: "door".into(),
            filling: Filling {
                zone: zone.into(),
                class: "car".into(),
                filled: Filled {
                    known_s: 60.0,
                    occupied_s,
                    area_s: 60.0 * area,
                    area_most: 2.0 * area,
                    regions_most: 3,
                    tracks_most: 1,
                },
            },
        }
    }

    #[test]
    fn minutes_of_zones_are_summed_for_what_fits() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&options(folder.path())).unwrap();
        store
            .write_minutes(&[
                minute(59, "drive", 60.0, 0.9),
                minute(60, "drive", 30.0, 0.2),
                minute(60, "lawn", 0.0, 0.0),
                minute(62, "drive", 60.0, 0.4),
            ])
            .unwrap();
        // A restart within a minute goes on with it.
        store.write_minutes(&[minute(62, "drive", 0.0, 0.1)]).unwrap();
        let reader = Reader::open(&options(folder.path()).path).unwrap();
        let drive = Search {
            place: Some("drive".into()),
            ..Search::default()
        };
        let now = 62 * 60_000 + 5;
        let of = |search: &Search| -> Vec<(i64, f64, f64, f64)> {
            let minutes = reader.minutes(search, now, 3).unwrap();
            let one = |(at, f): &(i64, Filled)| (at / 60_000, f.known_s, f.occupied_s, f.area());
            minutes.iter().map(one).collect()
        };
        assert_eq!(
            of(&drive),
            [
                (60, 60.0, 30.0, 0.2),
                (61, 0.0, 0.0, 0.0),
                (62, 120.0, 60.0, 0.25)
            ]
        );
        assert_eq!(of(&Search::default())[0], (60, 120.0, 30.0, 0.1));
        let hours = reader.hours(&drive, now, 2).unwrap();
        assert_eq!(
            hours
                .iter()
                .map(|hour| hour.filled.occupied_s)
                .collect::<Vec<_>>(),
            [60.0, 90.0]
        );
        assert_eq!(
            (hours[1].filled.area_most, hours[1].filled.regions_most),
            (0.8, 3)
        );
        assert_eq!(hours[1].events, 0, "a minute is no event");
        store.forget_old(unix_ms(SystemTime::UNIX_EPOCH)).unwrap();
        assert_eq!(of(&drive).len(), 3);
    }

    #[test]
    fn minutes_of_zones_are_forgotten_by_age_and_size() {
        let folder = tempfile::tempdir().unwrap();
        let options = HistoryOptions {
            keep: Duration::from_secs(600),
            max_bytes: 1 << 20,
            ..options(folder.path())
        };
        let mut store = Store::open(&options).unwrap();
        let many: Vec<Minute> = (0..20_000).map(|at| minute(at, "drive", 1.0, 0.1)).collect();
        for some in many.chunks(1000) {
            store.write_minutes(some).unwrap();
        }
        let reader = Reader::open(&options.path).unwrap();
        let last = reader.minutes(&Search::default(), 19_999 * 60_000, 1000).unwrap();
        assert!(last.iter().all(|(_, filled)| filled.known_s == 60.0));
        assert!(std::fs::metadata(&options.path).unwrap().len() <= options.max_bytes);
        store.forget_old(20_000 * 60_000).unwrap();
        let last = reader.minutes(&Search::default(), 19_999 * 60_000, 1000).unwrap();
        let known = last.iter().filter(|(_, filled)| filled.known_s > 0.0).count();
        assert_eq!(known, 10);
    }

    #[test]
    fn what_a_camera_sees_is_kept_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        let desk = EventDesk::new(["door"]);
        let camera = desk.cameras()[0].clone();
        let (cameras, at) = (desk.cameras().to_vec(), options.clone());
        desk.attach("history", "here".into(), move |state, from, stop| {
            run(&at, &cameras, state, from, stop);
        })
        .unwrap();
        wait_for(|| options.path.exists() && Reader::open(&options.path).is_ok());
        let mut state = crate::events::desk::ZoneState::new("drive", "car");
        state.occupied = Some(true);
        state.area = 0.25;
        for second in 0..4_u64 {
            camera.update(second * 1_000_000_000, |zones| *zones = vec![state.clone()]);
        }
        desk.close();
        let reader = Reader::open(&options.path).unwrap();
        let now = unix_ms(SystemTime::now());
        let minutes = reader.minutes(&Search::default(), now, 3).unwrap();
        let sum = |of: &dyn Fn(&Filled) -> f64| minutes.iter().map(|(_, f)| of(f)).sum::<f64>();
        assert_eq!((sum(&|f| f.known_s), sum(&|f| f.area_s)), (3.0, 0.75));
    }

    #[test]
    fn what_is_old_is_forgotten_with_its_minutes() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&HistoryOptions {
            keep: Duration::from_secs(86_400),
            ..options(folder.path())
        })
        .unwrap();
        let day = 86_400_000;
        store
            .write(&[
                told(0, 10, "drive", "car", Kind::Start),
                told(1, day, "drive", "car", Kind::End),
            ])
            .unwrap();
        let reader = Reader::open(&options(folder.path()).path).unwrap();
        let left = || ids(&reader.page(&Search::default(), None, 10).unwrap().lines);
        store.forget_old(day + 10).unwrap();
        assert_eq!(left(), [1, 0]);
        store.forget_old(day + 11).unwrap();
        assert_eq!(left(), [1]);
        let hours = reader.hours(&Search::default(), day, 25).unwrap();
        let events: Vec<u64> = hours.iter().map(|hour| hour.events).collect();
        assert_eq!((events[0], events[24]), (0, 1));
    }

    #[test]
    fn a_file_stays_below_its_size_and_keeps_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let options = HistoryOptions {
            max_bytes: 1 << 20,
            ..options(folder.path())
        };
        let mut store = Store::open(&options).unwrap();
        let mut count = 0;
        for _ in 0..30 {
            let some: Vec<_> = (count..count + BATCH)
                .map(|n| told(n, n as i64 * 1000, "drive", "car", Kind::Start))
                .collect();
            store.write(&some).unwrap();
            count += BATCH;
        }
        drop(store);
        let size = std::fs::metadata(&options.path).unwrap().len();
        assert!(size <= options.max_bytes, "{size}");
        let reader = Reader::open(&options.path).unwrap();
        let newest = ids(&reader.page(&Search::default(), None, 500).unwrap().lines);
        let expected: Vec<usize> = (count - 500..count).rev().collect();
        assert_eq!(newest, expected);
        let first = Search {
            until_ms: Some(1000 * BATCH as i64),
            ..Search::default()
        };
        assert!(
            reader.page(&first, None, 1).unwrap().lines.is_empty(),
            "the oldest went"
        );
    }

    #[test]
    fn a_file_that_another_program_holds_loses_nothing_and_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        let desk = EventDesk::new(["door"]);
        attach(&desk, options.clone());
        wait_for(|| options.path.exists() && Reader::open(&options.path).is_ok());
        let other = rusqlite::Connection::open(&options.path).unwrap();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        for _ in 0..40 {
            desk.publish(event(Kind::Start));
        }
        wait_for(|| {
            desk.troubles()
                .iter()
                .any(|why| why.contains("another program holds it"))
        });
        assert_eq!(desk.sinks()[0].delivered.load(Relaxed), 0);
        other.execute_batch("COMMIT").unwrap();
        wait_for(|| desk.sinks()[0].delivered.load(Relaxed) == 40);
        wait_for(|| desk.troubles().is_empty());
        assert_eq!(desk.sinks()[0].lost(), 0);
        let reader = Reader::open(&options.path).unwrap();
        assert_eq!(
            reader.page(&Search::default(), None, 100).unwrap().lines.len(),
            40
        );
    }

    #[test]
    fn a_queue_that_is_full_drops_the_oldest_and_the_end_counts_what_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(&folder.path().join("none"));
        let desk = EventDesk::new(["door"]);
        attach(&desk, options);
        wait_for(|| {
            desk.troubles()
                .iter()
                .any(|why| why.contains("create the folder"))
        });
        let many = super::super::desk::QUEUE + BATCH + 10;
        for _ in 0..many {
            desk.publish(event(Kind::Update));
        }
        let state = desk.sinks()[0].clone();
        assert!(state.lost() >= 10, "{}", state.lost());
        desk.close();
        assert_eq!((state.delivered.load(Relaxed), state.lost()), (0, many as u64));
    }

    #[test]
    fn a_file_that_is_none_of_segd_s_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        std::fs::write(&options.path, "name = \"a text\"\n".repeat(100)).unwrap();
        let why = Store::open(&options).unwrap_err().to_string();
        assert!(
            why.contains("events.db") && why.contains("no history of segd"),
            "{why}"
        );
        std::fs::remove_file(&options.path).unwrap();
        let other = rusqlite::Connection::open(&options.path).unwrap();
        other.execute_batch("CREATE TABLE theirs (a)").unwrap();
        for why in [
            Store::open(&options).unwrap_err().to_string(),
            Reader::open(&options.path).unwrap_err().to_string(),
        ] {
            assert!(why.contains("another program's database"), "{why}");
        }
        assert!(other.execute_batch("INSERT INTO theirs VALUES (1)").is_ok());
    }

    #[test]
    fn a_later_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        drop(Store::open(&options).unwrap());
        let other = rusqlite::Connection::open(&options.path).unwrap();
        other.pragma_update(None, "user_version", 2).unwrap();
        let why = Store::open(&options).unwrap_err().to_string();
        assert!(
            why.contains("found version 2") && why.contains("expected 1"),
            "{why}"
        );
    }

    #[test]
    fn a_broken_file_is_moved_away_and_a_new_one_is_begun() {
        use std::os::unix::fs::FileExt;
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        let mut store = Store::open(&options).unwrap();
        let some: Vec<_> = (0..500)
            .map(|n| told(n, n as i64, "drive", "car", Kind::Start))
            .collect();
        store.write(&some).unwrap();
        drop(store);
        // All pages but the first: the tables' own.
        let file = std::fs::File::options().write(true).open(&options.path).unwrap();
        let size = file.metadata().unwrap().len();
        file.write_all_at(&vec![0xa5; size as usize - 4096], 4096)
            .unwrap();
        let desk = EventDesk::new(["door"]);
        attach(&desk, options.clone());
        desk.publish(event(Kind::Start));
        wait_for(|| desk.sinks()[0].delivered.load(Relaxed) == 1);
        assert!(store::with(&options.path, ".broken").exists());
        let reader = Reader::open(&options.path).unwrap();
        assert_eq!(reader.page(&Search::default(), None, 100).unwrap().lines.len(), 1);
    }
}
