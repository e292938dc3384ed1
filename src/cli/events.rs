//! `segd events`: what was told, read from the history, or from the file of JSON lines and those that were kept beside it.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;

use crate::config::{Layer, Origin};
use crate::events::Event;
use crate::events::file::numbered;
use crate::events::history::search::is_database;
use crate::events::history::{Reader, Search, unix_ms};
use vision::error::{Error, Result};
use vision::file;

/// Arguments of `segd events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// The history or the file of JSON lines [default: events.history of the configuration, or else events.file]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Configuration file [default: /etc/segd/segd.toml if it exists]
    #[arg(long, value_name = "FILE", env = "SEGD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Only those of the last while, such as 1h, 30min or 2days
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub since: Option<Duration>,
    /// Only those of this camera
    #[arg(long, value_name = "NAME")]
    pub camera: Option<String>,
    /// Only those of this zone or line
    #[arg(long, value_name = "NAME")]
    pub zone: Option<String>,
    /// Only those of this class
    #[arg(long, value_name = "NAME")]
    pub class: Option<String>,
    /// JSON lines, as they are kept
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// CSV, with a line of names first
    #[arg(long)]
    pub csv: bool,
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| e.to_string())
}

/// Prints the events, oldest first.
///
/// # Errors
/// Usage: no file is named, and the configuration keeps none; fatal: a file can't be read.
pub fn run(args: EventsArgs) -> Result<()> {
    let path = match &args.file {
        Some(path) => path.clone(),
        None => kept(&args)?,
    };
    if path.exists() {
        file::check(&path)
            .map_err(|e| Error::usage(format!("{}: can't be read", path.display())).caused_by(e))?;
    }
    let from = args.since.and_then(|since| SystemTime::now().checked_sub(since));
    let search = Search {
        camera: args.camera.clone(),
        place: args.zone.clone(),
        class: args.class.clone(),
        from_ms: from.map(unix_ms),
        ..Search::default()
    };
    let names = Names {
        camera: args.camera.as_deref(),
        zone: args.zone.as_deref(),
        class: args.class.as_deref(),
        from,
    };
    if args.csv {
        println!("{}", row(HEADER.map(str::to_owned))?);
    }
    let show = |event: &Event, line: &str| {
        if args.json {
            println!("{line}");
        } else if args.csv {
            println!("{}", row(cells(event))?);
        } else {
            println!("{}", for_people(event));
        }
        Ok(())
    };
    let mut odd = 0;
    if is_database(&path).unwrap_or(false) {
        Reader::open(&path)?.each(&search, |line| match serde_json::from_str(line) {
            Ok(event) => show(&event, line),
            Err(_) => {
                odd += 1;
                Ok(())
            }
        })?;
    } else {
        odd = read(&path, &names, show)?;
    }
    if odd > 0 {
        eprintln!("segd: {odd} lines are no events, and were left out");
    }
    Ok(())
}

/// The file that the configuration names.
fn kept(args: &EventsArgs) -> Result<PathBuf> {
    let origin = Origin {
        config: args.config.clone(),
        arguments: Layer::default(),
    };
    let events = origin.events()?;
    let file = events.file.map(|file| file.path);
    let kept = events.history.map(|history| history.path).or(file);
    kept.ok_or_else(|| {
        Error::usage("neither events.history nor events.file is set, so no events are kept")
            .hint("set one in [events], or name a file with --file")
    })
}

/// Which events.
#[derive(Debug, Default)]
struct Names<'a> {
    camera: Option<&'a str>,
    zone: Option<&'a str>,
    class: Option<&'a str>,
    from: Option<SystemTime>,
}

impl Names<'_> {
    fn fit(&self, event: &Event) -> bool {
        let is = |wanted: Option<&str>, found: Option<&str>| wanted.is_none() || wanted == found;
        let place = event.zone.as_deref().or(event.line.as_deref());
        let is_new = self.from.is_none_or(|from| {
            // A time that can't be read is shown rather than hidden.
            humantime::parse_rfc3339(&event.time).map_or(true, |at| at >= from)
        });
        is(self.camera, Some(&event.camera))
            && is(self.zone, place)
            && is(self.class, Some(&event.class))
            && is_new
    }
}

/// Reads the files from the oldest on, and shows the events that fit, with their lines. Gives how many lines are none.
fn read(path: &Path, names: &Names<'_>, mut show: impl FnMut(&Event, &str) -> Result<()>) -> Result<u64> {
    let mut count = 0;
    while numbered(path, count + 1).exists() {
        count += 1;
    }
    let before = (1..=count).rev().map(|number| numbered(path, number));
    let mut odd = 0;
    for (index, file) in before.chain([path.to_owned()]).enumerate() {
        let fail =
            |e: std::io::Error| Error::fatal(format!("{}: can't be read", file.display())).caused_by(e);
        let lines = match File::open(&file) {
            Ok(open) => BufReader::new(open).lines(),
            // Just moved on, or not begun yet.
            Err(e) if e.kind() == ErrorKind::NotFound && count > 0 => continue,
            Err(e) if e.kind() == ErrorKind::NotFound && index == 0 => {
                return Err(fail(e).hint("nothing has happened yet, or it is another file"));
            }
            Err(e) => return Err(fail(e)),
        };
        for line in lines {
            let line = match line {
                Ok(line) => line,
                // Bytes that are no text.
                Err(e) if e.kind() == ErrorKind::InvalidData => {
                    odd += 1;
                    continue;
                }
                Err(e) => return Err(fail(e)),
            };
            match serde_json::from_str::<Event>(&line) {
                Ok(event) if names.fit(&event) => show(&event, &line)?,
                Ok(_) => {}
                Err(_) => odd += 1,
            }
        }
    }
    Ok(odd)
}

const HEADER: [&str; 13] = [
    "time",
    "type",
    "rule",
    "camera",
    "place",
    "direction",
    "class",
    "track",
    "regions",
    "tracks",
    "area",
    "dwell_s",
    "id",
];

fn cells(event: &Event) -> [String; 13] {
    let number = |n: Option<u32>| n.map_or_else(String::new, |n| n.to_string());
    let direction = event.direction.map_or("", |direction| direction.as_str());
    let place = event.zone.as_ref().or(event.line.as_ref());
    [
        event.time.clone(),
        event.kind.as_str().to_owned(),
        event.rule.as_str().to_owned(),
        event.camera.clone(),
        place.cloned().unwrap_or_default(),
        direction.to_owned(),
        event.class.clone(),
        number(event.track),
        number(event.regions),
        number(event.tracks),
        format!("{:.4}", event.area),
        format!("{:.3}", event.dwell_s),
        event.id.clone(),
    ]
}

/// A line of CSV, without its end.
fn row(cells: [String; 13]) -> Result<String> {
    let fail = |why: String| Error::fatal("the events can't be written as CSV").caused_by(why);
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(cells).map_err(|e| fail(e.to_string()))?;
    let bytes = writer.into_inner().map_err(|e| fail(e.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|e| fail(e.to_string()))?;
    Ok(text.trim_end().to_owned())
}

fn for_people(event: &Event) -> String {
    let place = event.zone.as_deref().or(event.line.as_deref()).unwrap_or("");
    let mut text = format!(
        "{}  {:<6}  {:<8}  {} {place}: {}",
        event.time,
        event.kind.as_str(),
        event.rule.as_str(),
        event.camera,
        event.class
    );
    if let Some(track) = event.track {
        text.push_str(&format!(" #{track}"));
    }
    match (event.direction, event.dwell_s > 0.0) {
        (Some(direction), _) => text.push_str(&format!(", to the {}", direction.as_str())),
        (None, true) => text.push_str(&format!(", for {:.1} s", event.dwell_s)),
        (None, false) => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::event::Kind;
    use crate::events::event::tests::event;

    fn line(time: &str, zone: &str, kind: Kind) -> String {
        let event = Event {
            time: time.into(),
            zone: Some(zone.into()),
            ..event(kind)
        };
        serde_json::to_string(&event).unwrap()
    }

    fn shown(path: &Path, names: &Names<'_>) -> (Vec<String>, u64) {
        let mut shown = Vec::new();
        let odd = read(path, names, |event, _| {
            shown.push(format!("{} {}", event.time, event.zone.as_deref().unwrap_or("")));
            Ok(())
        });
        (shown, odd.unwrap())
    }

    #[test]
    fn files_are_read_from_the_oldest_on_and_what_does_not_fit_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        assert!(read(&path, &Names::default(), |_, _| Ok(())).is_err());
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        let at = |hour: u32| format!("2026-01-02T{hour:02}:00:00.000Z");
        write("events.jsonl.2", line(&at(1), "drive", Kind::Start) + "\n");
        write(
            "events.jsonl.1",
            format!("{}\n{{\"v\": 1\n", line(&at(2), "lawn", Kind::Start)),
        );
        write("events.jsonl", line(&at(3), "drive", Kind::End) + "\n");
        let all = ["01:00:00.000Z drive", "02:00:00.000Z lawn", "03:00:00.000Z drive"];
        let (found, odd) = shown(&path, &Names::default());
        assert_eq!(odd, 1);
        assert_eq!(found, all.map(|text| format!("2026-01-02T{text}")));
        let names = Names {
            zone: Some("drive"),
            from: humantime::parse_rfc3339("2026-01-02T02:30:00Z").ok(),
            ..Names::default()
        };
        assert_eq!(shown(&path, &names).0, [format!("2026-01-02T{}", all[2])]);
        let names = Names {
            class: Some("unicorn"),
            ..Names::default()
        };
        assert!(shown(&path, &names).0.is_empty());
        // The file itself has just been moved on.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(shown(&path, &Names::default()).0.len(), 2);
    }

    #[test]
    fn an_event_is_one_line_in_each_form() {
        let event = Event {
            class: "traffic, light".into(),
            ..event(Kind::Update)
        };
        assert_eq!(
            for_people(&event),
            "2026-01-02T03:04:05.678Z  update  presence  door drive: traffic, light #7, for 1.0 s"
        );
        let csv = row(cells(&event)).unwrap();
        assert!(
            csv.starts_with(
                "2026-01-02T03:04:05.678Z,update,presence,door,drive,,\"traffic, light\",7,,,0.2500,1.000,"
            ),
            "{csv}"
        );
        assert_eq!(row(HEADER.map(str::to_owned)).unwrap().matches(',').count(), 12);
    }
}
