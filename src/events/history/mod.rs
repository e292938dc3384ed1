//! A history of events in an SQLite file (<https://www.sqlite.org/>), kept by age and by size.
//!
//! `store.rs` writes and forgets, `search.rs` reads. One thread writes; whoever reads has a connection of their own, and
//! waits for nobody, because the file keeps a write-ahead log.

pub mod search;
pub mod store;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::ErrorCode;

use super::desk::{Queue, SinkState};
use super::event::Told;
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
/// How often old events are looked for.
const TIDY: Duration = Duration::from_secs(60);

/// Milliseconds since 1970, in UTC.
pub fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Writes events until its stop. What can't be written is kept and tried again while the queue takes what comes, so a disk
/// that is slow, or full for a while, loses nothing until the queue is full.
pub fn run(options: &HistoryOptions, state: &SinkState, from: &Queue, stop: &Stop) {
    let mut writer = Writer {
        options,
        store: None,
        waiting: Vec::with_capacity(BATCH),
        tidied: None,
    };
    loop {
        let ends = stop.is_stopped();
        let wait = if ends { Duration::ZERO } else { LOOK };
        if writer.waiting.is_empty() {
            match from.recv_timeout(wait) {
                Received::Item(told) => writer.waiting.push(told),
                Received::Timeout if ends => return,
                Received::Timeout => {}
                Received::Closed => return,
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
        if outcome.is_ok() {
            state.delivered.fetch_add(count, Relaxed);
        } else if ends {
            while let Received::Item(told) = from.try_recv() {
                writer.waiting.push(told);
            }
            state.failed.fetch_add(writer.waiting.len() as u64, Relaxed);
            return;
        } else {
            // A stop ends the pause, and is followed by one last try.
            stop.wait(PAUSE);
        }
    }
}

/// What the thread has in its hands.
struct Writer<'a> {
    options: &'a HistoryOptions,
    store: Option<Store>,
    waiting: Vec<Arc<Told>>,
    tidied: Option<Instant>,
}

impl Writer<'_> {
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
            run(&options, state, from, stop);
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
