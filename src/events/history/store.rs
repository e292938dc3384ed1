//! Writes events into the file, and forgets old ones.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use tracing::warn;

use super::{HistoryOptions, Minute, explain, unix_ms};
use crate::events::event::{Event, Told};
use vision::error::{Error, Result};

/// Marks a file as a history of segd: "segd" in ASCII.
pub(super) const APPLICATION: i64 = 0x7365_6764;
/// The version of the tables.
pub(super) const VERSION: i64 = 1;
/// How long a write waits for another program's.
const BUSY: Duration = Duration::from_millis(200);
/// Events that are forgotten at once, at most: few beside those that the smallest file holds, and the queue waits no longer
/// than that takes.
const CHUNK: i64 = 256;
/// Series that are remembered; one costs a row of its table, so this is far above what zones and classes come to.
const MOST_SERIES: usize = 10_000;

/// A series is what searches can ask for. Its rows are few, and `event_series` finds a series' events in the order of
/// their times, so any mix of filters costs as much as the page that is asked for.
const TABLES: &str = "
    CREATE TABLE series (
        series INTEGER PRIMARY KEY,
        camera TEXT NOT NULL, place TEXT NOT NULL, class TEXT NOT NULL, rule TEXT NOT NULL, kind TEXT NOT NULL,
        UNIQUE (camera, place, class, rule, kind)
    ) STRICT;
    CREATE TABLE event (
        number INTEGER PRIMARY KEY, at INTEGER NOT NULL, series INTEGER NOT NULL, line TEXT NOT NULL
    ) STRICT;
    CREATE INDEX event_at ON event (at);
    CREATE INDEX event_series ON event (series, at);
    CREATE TABLE minute (
        series INTEGER NOT NULL, minute INTEGER NOT NULL, count INTEGER NOT NULL, dwell_s REAL NOT NULL,
        PRIMARY KEY (series, minute)
    ) STRICT, WITHOUT ROWID;
";

/// How full zones were. Earlier files have no such table, so it is made where it lacks; other versions leave it alone.
const FILLINGS: &str = "
    CREATE TABLE IF NOT EXISTS filling (
        minute INTEGER NOT NULL, series INTEGER NOT NULL, known_s REAL NOT NULL, occupied_s REAL NOT NULL,
        area_s REAL NOT NULL, area_most REAL NOT NULL, regions_most INTEGER NOT NULL, tracks_most INTEGER NOT NULL,
        PRIMARY KEY (minute, series)
    ) STRICT, WITHOUT ROWID;
";

/// What stands for rule and type in the series of a zone's minutes, which are no events.
const NO_RULE: &str = "filling";
const NO_KIND: &str = "minute";

/// What a series has in common.
type Series = (String, String, String, &'static str, &'static str);

/// The file, open to be written to.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// Device and number of the file that is open.
    identity: Option<(u64, u64)>,
    keep: Duration,
    max_bytes: u64,
    series: HashMap<Series, i64>,
}

impl Store {
    /// Opens the file, or makes it. One that is broken is moved to `NAME.broken`, and a new one is begun.
    ///
    /// # Errors
    /// Transient: it can't be opened, or it is something else's.
    pub fn open(options: &HistoryOptions) -> Result<Self> {
        match Self::try_open(options) {
            Err(Opening::Broken(why)) => {
                move_away(&options.path, &why)?;
                Self::try_open(options).map_err(Opening::into_error)
            }
            outcome => outcome.map_err(Opening::into_error),
        }
    }

    fn try_open(options: &HistoryOptions) -> std::result::Result<Self, Opening> {
        let path = &options.path;
        let fail = |e: rusqlite::Error| Opening::of(path, e);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(fail)?;
        connection.busy_timeout(BUSY).map_err(fail)?;
        check_owner(&connection, path)?;
        // Takes effect in a new file alone, and gives pages of forgotten events back to the disk.
        connection
            .pragma_update(None, "auto_vacuum", "INCREMENTAL")
            .map_err(fail)?;
        let mode: String = connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
            .map_err(fail)?;
        if mode != "wal" {
            return Err(Opening::Other(
                Error::transient(format!("{}: SQLite can't keep a log beside it", path.display()))
                    .hint("name a file on a local disk"),
            ));
        }
        // What is committed outlives the process; what a loss of power takes are the last moments, never the file.
        for (name, value) in [
            ("synchronous", 1),
            ("cache_size", -512),
            ("wal_autocheckpoint", 256),
            ("journal_size_limit", 1 << 20),
        ] {
            connection.pragma_update(None, name, value).map_err(fail)?;
        }
        make_tables(&mut connection).map_err(fail)?;
        check_owner(&connection, path)?;
        Ok(Self {
            connection,
            path: path.clone(),
            identity: identity(path),
            keep: options.keep,
            max_bytes: options.max_bytes,
            series: HashMap::new(),
        })
    }

    /// Whether the open file still has its name; others may have moved or removed it.
    pub fn is_there(&self) -> bool {
        self.identity.is_some() && identity(&self.path) == self.identity
    }

    /// Writes events, all or none, and forgets the oldest ones if there is no room.
    ///
    /// # Errors
    /// Transient, with the file's name; none of them is written.
    pub fn write(&mut self, events: &[Arc<Told>]) -> Result<()> {
        let written = self.try_write(events);
        if written.is_err() {
            // Rows of series that were rolled back.
            self.series.clear();
        }
        self.checked(written, "events can't be written")?;
        self.make_room()
    }

    /// Forgets the oldest events and minutes while there are too many.
    fn make_room(&mut self) -> Result<()> {
        while self.is_large()? {
            let minutes = self.forget_minutes("minute < (SELECT min(minute) FROM filling) + 60")?;
            if self.forget("1")? + minutes == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Writes how full zones were, all or none, and forgets the oldest if there is no room. A minute that is there already
    /// grows.
    ///
    /// # Errors
    /// Transient, with the file's name; none of them is written.
    pub fn write_minutes(&mut self, minutes: &[Minute]) -> Result<()> {
        let written = self.try_write_minutes(minutes);
        if written.is_err() {
            // Rows of series that were rolled back.
            self.series.clear();
        }
        self.checked(written, "minutes of zones can't be written")?;
        self.make_room()
    }

    fn try_write_minutes(&mut self, minutes: &[Minute]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        for one in minutes {
            let filling = &one.filling;
            let filled = &filling.filled;
            let (zone, class) = (filling.zone.to_string(), filling.class.to_string());
            let key = (one.camera.clone(), zone, class, NO_RULE, NO_KIND);
            let series = number_of(&transaction, &mut self.series, key)?;
            transaction
                .prepare_cached(
                    "INSERT INTO filling VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (minute, series) DO UPDATE SET \
                     known_s = known_s + excluded.known_s, occupied_s = occupied_s + excluded.occupied_s, \
                     area_s = area_s + excluded.area_s, area_most = max(area_most, excluded.area_most), \
                     regions_most = max(regions_most, excluded.regions_most), \
                     tracks_most = max(tracks_most, excluded.tracks_most)",
                )?
                .execute(params![
                    one.minute,
                    series,
                    filled.known_s,
                    filled.occupied_s,
                    filled.area_s,
                    filled.area_most,
                    filled.regions_most,
                    filled.tracks_most
                ])?;
        }
        transaction.commit()
    }

    /// Forgets the minutes that `which` chooses. Gives how many.
    fn forget_minutes(&mut self, which: &str) -> Result<usize> {
        let forgotten = self
            .connection
            .execute(&format!("DELETE FROM filling WHERE {which}"), []);
        let forgotten = forgotten.and_then(|count| {
            if count > 0 {
                free_pages(&self.connection)?;
            }
            Ok(count)
        });
        self.checked(forgotten, "old minutes can't be removed")
    }

    fn try_write(&mut self, events: &[Arc<Told>]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        for told in events {
            let event = &told.event;
            let series = of_series(&transaction, &mut self.series, event)?;
            let at = time_of(event);
            transaction
                .prepare_cached("INSERT INTO event (at, series, line) VALUES (?1, ?2, ?3)")?
                .execute(params![at, series, told.json])?;
            transaction
                .prepare_cached(
                    "INSERT INTO minute (series, minute, count, dwell_s) VALUES (?1, ?2, 1, ?3) ON CONFLICT (series, minute) \
                     DO UPDATE SET count = count + 1, dwell_s = dwell_s + excluded.dwell_s",
                )?
                .execute(params![series, at.div_euclid(60_000), event.dwell_s])?;
        }
        transaction.commit()
    }

    /// Forgets the events that are too old at a time in Unix ms.
    ///
    /// # Errors
    /// Transient, with the file's name.
    pub fn forget_old(&mut self, now_ms: i64) -> Result<()> {
        let keep = i64::try_from(self.keep.as_millis()).unwrap_or(i64::MAX);
        let oldest = now_ms.saturating_sub(keep);
        while self.forget(&format!("at < {oldest}"))? > 0 {}
        self.forget_minutes(&format!("minute < {}", oldest.div_euclid(60_000)))?;
        Ok(())
    }

    /// Forgets the oldest events of those that `which` chooses, a chunk of them, and the minutes before the first that is
    /// left. Gives how many.
    fn forget(&mut self, which: &str) -> Result<usize> {
        let forgotten = forget(&mut self.connection, which);
        self.checked(forgotten, "old events can't be removed")
    }

    /// Moves the file away if it turns out to be broken: the next one that is opened is new.
    fn checked<T>(&self, outcome: rusqlite::Result<T>, what: &str) -> Result<T> {
        outcome.or_else(|e| {
            if e.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) {
                move_away(&self.path, &e)?;
            }
            Err(explain(&self.path, what, e))
        })
    }

    /// Whether what the file holds is more than it may.
    fn is_large(&self) -> Result<bool> {
        let pragma = |name: &str| -> Result<u64> {
            let found = self
                .connection
                .pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            found
                .map(|n| u64::try_from(n).unwrap_or(0))
                .map_err(|e| explain(&self.path, "its size can't be read", e))
        };
        let pages = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
        Ok(pages.saturating_mul(pragma("page_size")?) > self.max_bytes)
    }
}

/// When it was, in Unix ms.
fn time_of(event: &Event) -> i64 {
    humantime::parse_rfc3339(&event.time).map_or(0, unix_ms)
}

/// The number of an event's series.
fn of_series(
    connection: &Connection,
    known: &mut HashMap<Series, i64>,
    event: &Event,
) -> rusqlite::Result<i64> {
    let place = event.zone.as_ref().or(event.line.as_ref()).cloned();
    let key = (
        event.camera.clone(),
        place.unwrap_or_default(),
        event.class.clone(),
        event.rule.as_str(),
        event.kind.as_str(),
    );
    number_of(connection, known, key)
}

/// The number of a series, which is made if it is new.
fn number_of(
    connection: &Connection,
    known: &mut HashMap<Series, i64>,
    key: Series,
) -> rusqlite::Result<i64> {
    if let Some(number) = known.get(&key) {
        return Ok(*number);
    }
    // The update changes nothing; without it, what is there already is not given back.
    let number = connection
        .prepare_cached(
            "INSERT INTO series (camera, place, class, rule, kind) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT DO UPDATE SET camera = excluded.camera RETURNING series",
        )?
        .query_row(params![key.0, key.1, key.2, key.3, key.4], |row| row.get(0))?;
    if known.len() >= MOST_SERIES {
        known.clear();
    }
    known.insert(key, number);
    Ok(number)
}

fn forget(connection: &mut Connection, which: &str) -> rusqlite::Result<usize> {
    let transaction = connection.transaction()?;
    let count = transaction.execute(
        &format!(
            "DELETE FROM event WHERE number IN (SELECT number FROM event WHERE {which} ORDER BY at LIMIT {CHUNK})"
        ),
        [],
    )?;
    if count > 0 {
        // Series by series: its index finds the minutes of each.
        transaction.execute(
            "DELETE FROM minute WHERE series IN (SELECT series FROM series) \
             AND minute < coalesce((SELECT min(at) / 60000 FROM event), 9223372036854775807)",
            [],
        )?;
    }
    transaction.commit()?;
    if count > 0 {
        free_pages(connection)?;
    }
    Ok(count)
}

/// Gives the pages of what was forgotten back to the disk.
fn free_pages(connection: &Connection) -> rusqlite::Result<()> {
    // A statement that gives a row for each page that it frees.
    let mut free = connection.prepare("PRAGMA incremental_vacuum")?;
    let mut pages = free.query([])?;
    while pages.next()?.is_some() {}
    Ok(())
}

fn make_tables(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let is_new: bool =
        transaction.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))?;
    if is_new {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.execute_batch(FILLINGS)?;
    transaction.commit()
}

/// Refuses a database that is another program's, or a later segd's.
fn check_owner(connection: &Connection, path: &Path) -> std::result::Result<(), Opening> {
    let fail = |e: rusqlite::Error| Opening::of(path, e);
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let tables = number("SELECT count(*) FROM sqlite_schema").map_err(fail)?;
    let application = number("PRAGMA application_id").map_err(fail)?;
    let version = number("PRAGMA user_version").map_err(fail)?;
    match (tables, application, version) {
        (0, ..) | (_, APPLICATION, VERSION) => Ok(()),
        (_, APPLICATION, _) => Err(Opening::Other(
            Error::transient(format!(
                "{}: found version {version} of its tables, expected {VERSION}",
                path.display()
            ))
            .hint("name another file, or run the segd that wrote it"),
        )),
        _ => Err(Opening::Other(
            Error::transient(format!(
                "{}: found another program's database, expected a history of segd",
                path.display()
            ))
            .hint("name another file"),
        )),
    }
}

/// Why a file is not open.
enum Opening {
    /// Its pages contradict each other.
    Broken(rusqlite::Error),
    Other(Error),
}

impl Opening {
    fn of(path: &Path, error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt) => Self::Broken(error),
            _ => Self::Other(explain(path, "it can't be opened", error)),
        }
    }

    fn into_error(self) -> Error {
        match self {
            Self::Broken(error) => Error::transient("the history is broken").caused_by(error),
            Self::Other(error) => error,
        }
    }
}

/// The name with more at its end.
pub(super) fn with(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    name.into()
}

/// Moves a broken file out of the way, over the one that was broken before.
fn move_away(path: &Path, why: &rusqlite::Error) -> Result<()> {
    let to = with(path, ".broken");
    warn!(
        "events: {} is broken ({why}): it is moved to {}, and a new one is begun",
        path.display(),
        to.display()
    );
    for more in ["-wal", "-shm"] {
        // Only what belongs to the file that is moved; it may not be there.
        let _ = std::fs::remove_file(with(path, more));
    }
    std::fs::rename(path, &to)
        .map_err(|e| Error::transient(format!("{}: broken, and can't be moved", path.display())).caused_by(e))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}
