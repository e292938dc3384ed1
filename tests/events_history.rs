//! The history of events: through the binary, after a kill, on a full disk, and behind privacy.

#![cfg(all(feature = "tract", feature = "gstreamer"))]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/onnx.rs"]
mod onnx;

use daemon::{Daemon, free_port, wait_for};
use onnx::Tiny;
use segd::events::event::{Event, Kind, Rule, Told, VERSION};
use segd::events::history::{HistoryOptions, Reader, Search, Store};

const LIMIT: Duration = Duration::from_secs(60);

/// A zone that is the whole picture, in which some class always is, and a rule that tells of it again.
fn config(model: &Path, more: &str) -> String {
    format!(
        "[capture]\ninput = \"test://?width=128&height=96&fps=20\"\n[model]\nname = {:?}\nbackend = \"tract\"\n{more}\n\
         [[zone]]\nname = \"all\"\npolygon = [[0, 0], [1, 0], [1, 1], [0, 1]]\ndwell_s = 0.5\n",
        model.display()
    )
}

fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    Tiny::default().write(folder.path());
    folder
}

/// The lines that `segd events` prints.
fn listed(arguments: &[&str]) -> Vec<String> {
    let out = Command::new(env!("CARGO_BIN_EXE_segd"))
        .arg("events")
        .args(arguments)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_history_outlives_a_kill() {
    let model = model();
    let events = "[events]\nhistory = \"FOLDER/events.db\"\nfile = \"FOLDER/events.jsonl\"";
    let mut daemon = Daemon::start(&config(model.path(), events));
    let config_path = daemon.config();
    let config_path = config_path.to_str().unwrap().to_owned();
    let told = daemon.folder.path().join("events.jsonl");
    let told = || std::fs::read_to_string(&told).unwrap_or_default();
    wait_for("a start and a stay", LIMIT, || {
        told().contains("\"start\"") && told().contains("\"update\"")
    });
    let written = || {
        let sinks = daemon.status()["events"]["sinks"].clone();
        let sinks = sinks.as_array().unwrap().iter();
        let history = sinks.clone().find(|sink| sink["kind"] == "history").unwrap();
        history["delivered"].as_u64().unwrap()
    };
    wait_for("both have all", LIMIT, || {
        written() == told().lines().count() as u64
    });
    let page = daemon.get("/events/history.json?zone=all&type=start&limit=1").1;
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["events"][0]["type"], "start");
    // As it runs, and after a kill.
    let kept: Vec<String> = told().lines().map(str::to_owned).collect();
    assert_eq!(listed(&["--config", &config_path, "--json"]), kept);
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    assert_eq!(listed(&["--config", &config_path, "--json"]), kept);
    let none = listed(&["--config", &config_path, "--zone", "lawn", "--csv"]);
    assert_eq!(none.len(), 1, "{none:?}");
    assert!(none[0].starts_with("time,type,"));
    // The next segd goes on in the same file.
    let db = daemon.folder.path().join("events.db");
    let again = Daemon::spawn(
        &config(
            model.path(),
            &format!("[events]\nhistory = {:?}", db.display().to_string()),
        ),
        free_port(),
        &[],
    );
    let db = db.to_str().unwrap();
    wait_for("more", LIMIT, || {
        listed(&["--file", db, "--json"]).len() > kept.len()
    });
    assert_eq!(listed(&["--file", db, "--json"])[..kept.len()], kept);
    drop(again);
}

/// A small disk of memory; gone when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "segd-test"])
            .arg(folder.path())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then_some(Self(folder))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: what is still open on it goes with its process.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_named_and_the_video_goes_on() {
    let Some(disk) = Disk::mount() else {
        eprintln!("SKIPPED: a full disk needs a small tmpfs, and mounting one needs root");
        return;
    };
    let filler = disk.0.path().join("filler");
    let full = std::fs::write(&filler, vec![1; 4 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let model = model();
    let events = format!("[events]\nhistory = \"{}/events.db\"", disk.0.path().display());
    let daemon = Daemon::spawn(&config(model.path(), &events), free_port(), &[]);
    wait_for("the trouble", LIMIT, || {
        let (code, text) = daemon.get("/healthz");
        code == 503 && text.contains("events: history") && text.contains("/events.db")
    });
    let composed = || daemon.metric("segd_frames_composed_total{camera=\"segd\"}");
    let before = composed();
    wait_for("frames", LIMIT, || composed() > before + 30.0);
    assert_eq!(daemon.get("/events/history.json").0, 503);
    // What was told while there was no room has waited.
    std::fs::remove_file(&filler).unwrap();
    wait_for("it works again", LIMIT, || daemon.get("/healthz").0 == 200);
    wait_for("the first event", LIMIT, || {
        daemon
            .get("/events/history.json?type=start")
            .1
            .contains("\"start\"")
    });
    assert_eq!(daemon.status()["events"]["sinks"][0]["lost"], 0);
}

#[test]
fn what_privacy_hides_is_not_kept_unless_allowed() {
    let model = model();
    let classes = |more: &str| {
        let events = format!("[events]\nhistory = \"FOLDER/events.db\"\n{more}");
        let daemon = Daemon::start(&config(model.path(), &events));
        let db = daemon.folder.path().join("events.db");
        let listed = || listed(&["--file", db.to_str().unwrap(), "--json"]);
        wait_for("an event of each class that there is", LIMIT, || {
            let page = daemon.get("/events/history.json?type=update");
            page.0 == 200 && page.1.contains("\"update\"")
        });
        let classes = listed().into_iter().map(|line| {
            let event: Event = serde_json::from_str(&line).unwrap();
            event.class
        });
        classes.collect::<std::collections::BTreeSet<String>>()
    };
    let all = classes("");
    let first = all.first().unwrap().clone();
    assert!(all.len() > 1, "a hidden class among others: {all:?}");
    let hides = format!("[privacy]\nfill = [{first:?}]\n");
    assert!(!classes(&hides).contains(&first), "{first}");
    assert!(
        classes(&format!("hidden = true\n{hides}")).contains(&first),
        "{first}"
    );
}

/// Set for the process that [`writes_until_it_is_killed`].
const PATH: &str = "SEGD_TEST_HISTORY";

fn options(path: PathBuf) -> HistoryOptions {
    HistoryOptions {
        path,
        keep: Duration::from_secs(36_500 * 86_400),
        max_bytes: 1 << 30,
    }
}

fn event(number: u64) -> Arc<Told> {
    Arc::new(Told::new(Event {
        v: VERSION,
        id: number.to_string(),
        kind: Kind::Start,
        rule: Rule::Presence,
        camera: "door".into(),
        zone: Some("drive".into()),
        line: None,
        direction: None,
        class: "car".into(),
        time: "2026-01-02T03:04:05.678Z".into(),
        since: "2026-01-02T03:04:05.678Z".into(),
        mask_age_ms: 1.0,
        area: 0.5,
        regions: Some(1),
        tracks: None,
        track: None,
        bbox: None,
        dwell_s: 0.0,
        score: 1.0,
        snapshot: None,
        clip: None,
    }))
}

/// No test by itself: says each number once it is written, until killed.
#[test]
fn writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(PATH) else {
        return;
    };
    let mut store = Store::open(&options(path.into())).unwrap();
    for number in 0.. {
        store
            .write(&[event(3 * number), event(3 * number + 1), event(3 * number + 2)])
            .unwrap();
        println!("written {}", 3 * number + 2);
    }
}

#[test]
fn what_was_written_is_there_after_each_of_many_kills() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..8_usize {
        let path = folder.path().join(format!("events{round}.db"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["writes_until_it_is_killed", "--exact", "--nocapture"])
            .env(PATH, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines.map_while(Result::ok);
        let mut numbers = said.filter_map(|line| line.rsplit_once("written ")?.1.parse::<u64>().ok());
        // Each time a little later, across checkpoints of the log.
        let last = numbers.by_ref().nth(40 * round + round * round).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let last = numbers.last().unwrap_or(last);
        let reader = Reader::open(&path).unwrap();
        let mut found = Vec::new();
        reader
            .each(&Search::default(), |line| {
                found.push(
                    serde_json::from_str::<Event>(line)
                        .unwrap()
                        .id
                        .parse::<u64>()
                        .unwrap(),
                );
                Ok(())
            })
            .unwrap();
        assert!(found.len() as u64 > last, "{} of {last}", found.len());
        assert_eq!(found.len() % 3, 0, "all of a transaction or none");
        assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>());
        // It can be written to again.
        let mut store = Store::open(&options(path)).unwrap();
        store.write(&[event(0)]).unwrap();
    }
}
