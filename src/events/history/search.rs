//! Reads the file: pages of events for any mix of filters, and counts by hour.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use super::explain;
use super::store::{APPLICATION, with};
use crate::events::event::{Kind, Rule};
use crate::events::filling::Filled;
use vision::error::{Error, Result};

/// What is looked for; what is `None` is not asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// The camera's name.
    pub camera: Option<String>,
    /// The name of the zone or line.
    pub place: Option<String>,
    /// The class's name.
    pub class: Option<String>,
    /// What events tell of.
    pub rule: Option<Rule>,
    /// Where they stand in their course.
    pub kind: Option<Kind>,
    /// From this time on, in Unix ms.
    pub from_ms: Option<i64>,
    /// Before this time, in Unix ms.
    pub until_ms: Option<i64>,
}

/// A place in the order of events: by their times, and those of one time as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    at: i64,
    number: i64,
}

impl Cursor {
    /// After all events.
    const END: Self = Self {
        at: i64::MAX,
        number: i64::MAX,
    };
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.at, self.number)
    }
}

impl FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts = text.split_once('.');
        let read = parts.and_then(|(at, number)| Some((at.parse().ok()?, number.parse().ok()?)));
        read.map(|(at, number)| Self { at, number })
            .ok_or_else(|| format!("found {text:?}, expected what a page before gave as next"))
    }
}

/// A page of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Their JSON, the newest first.
    pub lines: Vec<String>,
    /// Where the next page goes on; `None` if this is the last one.
    pub next: Option<Cursor>,
}

/// What happened in an hour.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hour {
    /// When it began, in Unix ms.
    pub at_ms: i64,
    /// What has begun: presences, crossings and the other rules.
    pub starts: u64,
    /// Events of all types.
    pub events: u64,
    /// How long what ended in it had lasted in all, in seconds.
    pub dwell_s: f64,
    /// How full zones were in it.
    pub filled: Filled,
}

/// Events that a page holds at most.
pub const MOST: usize = 1000;
/// Hours that are counted at most: a month of them.
pub const MOST_HOURS: i64 = 31 * 24;
/// Minutes that are listed at most: a day of them.
pub const MOST_MINUTES: i64 = 24 * 60;
/// How long a read waits for a file that is being recovered.
const BUSY: Duration = Duration::from_secs(1);
const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;

/// The file, open to be read.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    path: PathBuf,
}

/// Whether a file is an SQLite database, by its first bytes.
///
/// # Errors
/// As the system says.
pub fn is_database(path: &Path) -> std::io::Result<bool> {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let mut head = Vec::new();
    File::open(path)?.take(16).read_to_end(&mut head)?;
    Ok(head == MAGIC)
}

impl Reader {
    /// Opens a history, which may be written to at the same time.
    ///
    /// # Errors
    /// Transient: there is none, or it can't be read.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |e| explain(path, "the history can't be read", e);
        if !path.exists() {
            return Err(
                Error::transient(format!("{}: there is no history yet", path.display()))
                    .hint("nothing has happened yet, or it is another file"),
            );
        }
        let connection = Self::connect(path).map_err(fail)?;
        let application: i64 = connection
            .query_row("PRAGMA application_id", [], |row| row.get(0))
            .map_err(fail)?;
        if application != APPLICATION {
            return Err(Error::transient(format!(
                "{}: found another program's database, expected a history of segd",
                path.display()
            )));
        }
        Ok(Self {
            connection,
            path: path.to_owned(),
        })
    }

    fn connect(path: &Path) -> rusqlite::Result<Connection> {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let open = |name: &str| -> rusqlite::Result<Connection> {
            let connection = Connection::open_with_flags(name, flags)?;
            connection.busy_timeout(BUSY)?;
            connection.pragma_update(None, "cache_size", -2048)?;
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
                row.get::<_, i64>(0)
            })?;
            Ok(connection)
        };
        let escaped = percent_encoding::percent_encode(
            std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()),
            &ESCAPED,
        );
        open(&format!("file:{escaped}")).or_else(|e| match with(path, "-wal").exists() {
            true => Err(e),
            // Without a log nobody writes; and who may not write in the folder can't begin one, which SQLite would do.
            false => open(&format!("file:{escaped}?immutable=1")),
        })
    }

    /// A page of at most `limit` events, the newest first, of those before `before`. Takes time for what it gives, not for
    /// what there is.
    ///
    /// # Errors
    /// Transient, with the file's name.
    pub fn page(&self, search: &Search, before: Option<Cursor>, limit: usize) -> Result<Found> {
        let found = self.try_page(search, before, limit.clamp(1, MOST));
        found.map_err(|e| explain(&self.path, "the history can't be read", e))
    }

    fn try_page(&self, search: &Search, before: Option<Cursor>, limit: usize) -> rusqlite::Result<Found> {
        let transaction = self.connection.unchecked_transaction()?;
        let mut before = before.unwrap_or(Cursor::END);
        if let Some(until) = search.until_ms {
            before = before.min(Cursor {
                at: until,
                number: i64::MIN,
            });
        }
        let from = search.from_ms.unwrap_or(i64::MIN);
        // One more than asked for tells whether there is another page.
        let numbers = match self.series(search)? {
            None => self.newest(before, from, limit + 1)?,
            Some(series) => self.newest_of(&series, before, from, limit + 1)?,
        };
        let mut line = self
            .connection
            .prepare_cached("SELECT line FROM event WHERE number = ?1")?;
        let shown = &numbers[..limit.min(numbers.len())];
        let lines = shown
            .iter()
            .map(|cursor| line.query_row([cursor.number], |row| row.get(0)))
            .collect::<rusqlite::Result<_>>()?;
        transaction.finish()?;
        Ok(Found {
            lines,
            next: shown.last().copied().filter(|_| numbers.len() > limit),
        })
    }

    /// The series that fit; `None` if all do.
    fn series(&self, search: &Search) -> rusqlite::Result<Option<Vec<i64>>> {
        let filters = [
            search.camera.as_deref(),
            search.place.as_deref(),
            search.class.as_deref(),
            search.rule.map(Rule::as_str),
            search.kind.map(Kind::as_str),
        ];
        if filters.iter().all(Option::is_none) {
            return Ok(None);
        }
        let mut statement = self.connection.prepare_cached(
            "SELECT series FROM series WHERE coalesce(?1, camera) = camera AND coalesce(?2, place) = place \
             AND coalesce(?3, class) = class AND coalesce(?4, rule) = rule AND coalesce(?5, kind) = kind",
        )?;
        let found = statement.query_map(filters, |row| row.get(0))?;
        found.collect::<rusqlite::Result<_>>().map(Some)
    }

    fn newest(&self, before: Cursor, from: i64, limit: usize) -> rusqlite::Result<Vec<Cursor>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT at, number FROM event WHERE (at, number) < (?1, ?2) AND at >= ?3 \
             ORDER BY at DESC, number DESC LIMIT ?4",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let found = statement.query_map(params![before.at, before.number, from, limit], cursor)?;
        found.collect()
    }

    /// Merges the series, each of which its index gives in order.
    fn newest_of(
        &self,
        series: &[i64],
        before: Cursor,
        from: i64,
        limit: usize,
    ) -> rusqlite::Result<Vec<Cursor>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT at, number FROM event WHERE series = ?1 AND (at, number) < (?2, ?3) AND at >= ?4 \
             ORDER BY at DESC, number DESC LIMIT ?5",
        )?;
        // The newest that were found so far; a series adds none that are older than all of them.
        let mut newest: BinaryHeap<Reverse<Cursor>> = BinaryHeap::with_capacity(limit + 1);
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        for one in series {
            let mut rows = statement.query(params![one, before.at, before.number, from, most])?;
            while let Some(row) = rows.next()? {
                let found = cursor(row)?;
                if newest.len() == limit {
                    if newest.peek().is_some_and(|oldest| found < oldest.0) {
                        break;
                    }
                    newest.pop();
                }
                newest.push(Reverse(found));
            }
        }
        // The reverse of reversed: the newest first.
        Ok(newest.into_sorted_vec().into_iter().map(|one| one.0).collect())
    }

    /// Shows every event that fits, the oldest first.
    ///
    /// # Errors
    /// Transient, with the file's name; or what `show` fails with.
    pub fn each(&self, search: &Search, mut show: impl FnMut(&str) -> Result<()>) -> Result<()> {
        let fail = |e| explain(&self.path, "the history can't be read", e);
        let series = self.series(search).map_err(fail)?;
        let from = search.from_ms.unwrap_or(i64::MIN);
        let until = search.until_ms.unwrap_or(i64::MAX);
        let mut statement = self
            .connection
            .prepare("SELECT series, line FROM event WHERE at >= ?1 AND at < ?2 ORDER BY at, number")
            .map_err(fail)?;
        let mut rows = statement.query([from, until]).map_err(fail)?;
        while let Some(row) = rows.next().map_err(fail)? {
            let of: i64 = row.get(0).map_err(fail)?;
            if series.as_ref().is_none_or(|series| series.contains(&of)) {
                show(row.get_ref(1).and_then(|line| Ok(line.as_str()?)).map_err(fail)?)?;
            }
        }
        Ok(())
    }

    /// What happened in each of the `count` hours up to the one of `now_ms`, the oldest first. The times of `search` are not
    /// asked about.
    ///
    /// # Errors
    /// Transient, with the file's name.
    pub fn hours(&self, search: &Search, now_ms: i64, count: i64) -> Result<Vec<Hour>> {
        let hours = self.try_hours(search, now_ms, count.clamp(1, MOST_HOURS));
        hours.map_err(|e| explain(&self.path, "the history can't be read", e))
    }

    fn try_hours(&self, search: &Search, now_ms: i64, count: i64) -> rusqlite::Result<Vec<Hour>> {
        let last = now_ms.div_euclid(HOUR_MS);
        let first = last - (count - 1);
        let mut hours: BTreeMap<i64, Hour> = (first..=last)
            .map(|hour| {
                let at_ms = hour * HOUR_MS;
                (
                    hour,
                    Hour {
                        at_ms,
                        ..Hour::default()
                    },
                )
            })
            .collect();
        let fitting = self.series(search)?;
        let mut all = self
            .connection
            .prepare_cached("SELECT series, kind FROM series")?;
        let all = all.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
        let mut counted = self.connection.prepare_cached(
            "SELECT minute / 60, sum(count), sum(dwell_s) FROM minute WHERE series = ?1 AND minute >= ?2 AND minute < ?3 \
             GROUP BY minute / 60",
        )?;
        for one in all {
            let (series, kind) = one?;
            if fitting.as_ref().is_some_and(|fitting| !fitting.contains(&series)) {
                continue;
            }
            let mut rows = counted.query([series, first * 60, (last + 1) * 60])?;
            while let Some(row) = rows.next()? {
                let Some(hour) = hours.get_mut(&row.get::<_, i64>(0)?) else {
                    continue;
                };
                let count = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
                hour.events += count;
                if kind == Kind::Start.as_str() {
                    hour.starts += count;
                } else if kind == Kind::End.as_str() {
                    hour.dwell_s += row.get::<_, f64>(2)?;
                }
            }
        }
        let places = self.series(&places_of(search))?;
        self.filled(
            places.as_deref(),
            first * 60,
            (last + 1) * 60,
            |minute, filled| {
                if let Some(hour) = hours.get_mut(&minute.div_euclid(60)) {
                    hour.filled.add(&filled);
                }
            },
        )?;
        Ok(hours.into_values().collect())
    }

    /// How full zones were in each of the `count` minutes up to the one of `now_ms`, the oldest first, each with the time at
    /// which it began in Unix ms. Times, rule and type of `search` are not asked about.
    ///
    /// # Errors
    /// Transient, with the file's name.
    pub fn minutes(&self, search: &Search, now_ms: i64, count: i64) -> Result<Vec<(i64, Filled)>> {
        let minutes = self.try_minutes(&places_of(search), now_ms, count.clamp(1, MOST_MINUTES));
        minutes.map_err(|e| explain(&self.path, "the history can't be read", e))
    }

    fn try_minutes(&self, search: &Search, now_ms: i64, count: i64) -> rusqlite::Result<Vec<(i64, Filled)>> {
        let last = now_ms.div_euclid(MINUTE_MS);
        let first = last - (count - 1);
        let mut minutes: BTreeMap<i64, Filled> = (first..=last).map(|at| (at, Filled::default())).collect();
        let fitting = self.series(search)?;
        self.filled(fitting.as_deref(), first, last + 1, |minute, filled| {
            if let Some(sum) = minutes.get_mut(&minute) {
                sum.add(&filled);
            }
        })?;
        Ok(minutes
            .into_iter()
            .map(|(minute, sum)| (minute * MINUTE_MS, sum))
            .collect())
    }

    /// Shows the minutes from `first` on, before `end`, of these series.
    fn filled(
        &self,
        fitting: Option<&[i64]>,
        first: i64,
        end: i64,
        mut show: impl FnMut(i64, Filled),
    ) -> rusqlite::Result<()> {
        // Earlier files have none until they are written to.
        let kept: bool = self.connection.query_row(
            "SELECT count(*) > 0 FROM sqlite_schema WHERE name = 'filling'",
            [],
            |row| row.get(0),
        )?;
        if !kept {
            return Ok(());
        }
        let mut statement = self.connection.prepare_cached(
            "SELECT minute, series, known_s, occupied_s, area_s, area_most, regions_most, tracks_most FROM filling \
             WHERE minute >= ?1 AND minute < ?2",
        )?;
        let mut rows = statement.query([first, end])?;
        while let Some(row) = rows.next()? {
            let series: i64 = row.get(1)?;
            if fitting.is_none_or(|fitting| fitting.contains(&series)) {
                let filled = Filled {
                    known_s: row.get(2)?,
                    occupied_s: row.get(3)?,
                    area_s: row.get(4)?,
                    area_most: row.get(5)?,
                    regions_most: row.get(6)?,
                    tracks_most: row.get(7)?,
                };
                show(row.get(0)?, filled);
            }
        }
        Ok(())
    }
}

/// The same without what only events have.
fn places_of(search: &Search) -> Search {
    Search {
        rule: None,
        kind: None,
        ..search.clone()
    }
}

/// What has a meaning in an address of SQLite's, and bytes that are no ASCII.
const ESCAPED: percent_encoding::AsciiSet =
    percent_encoding::CONTROLS.add(b'%').add(b'?').add(b'#').add(b' ');

fn cursor(row: &rusqlite::Row<'_>) -> rusqlite::Result<Cursor> {
    Ok(Cursor {
        at: row.get(0)?,
        number: row.get(1)?,
    })
}
