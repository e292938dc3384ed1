//! Events of a running segd: into its sinks, over HTTP, in its health and its metrics.

#![cfg(all(feature = "tract", feature = "gstreamer"))]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/onnx.rs"]
mod onnx;
#[path = "common/schema.rs"]
mod schema;

use daemon::{Daemon, free_port, wait_for};
use onnx::Tiny;

const LIMIT: Duration = Duration::from_secs(60);

/// A zone that is the whole picture, in which some class always is, and rules that tell of it again.
fn config(model: &Path, events: &str) -> String {
    format!(
        "[capture]\ninput = \"test://?width=128&height=96&fps=20\"\n[model]\nname = {:?}\nbackend = \"tract\"\n{events}\n\
         [[zone]]\nname = \"all\"\npolygon = [[0, 0], [1, 0], [1, 1], [0, 1]]\nclasses = [\"class0\", \"class1\", \"class2\", \
         \"class3\"]\ndwell_s = 0.5\n",
        model.display()
    )
}

fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    Tiny::default().write(folder.path());
    folder
}

#[track_caller]
fn check(line: &str) -> serde_json::Value {
    let value = serde_json::from_str(line).unwrap();
    let faults = schema::faults(&schema::of_events(), &value, "event");
    assert!(faults.is_empty(), "{faults:?}");
    value
}

#[test]
fn events_go_to_a_file_over_http_and_into_the_metrics() {
    let model = model();
    let daemon = Daemon::start(&config(model.path(), "[events]\nfile = \"FOLDER/events.jsonl\""));
    let path = daemon.folder.path().join("events.jsonl");
    let text = || std::fs::read_to_string(&path).unwrap_or_default();
    wait_for("a start and a stay", LIMIT, || {
        text().contains("\"start\"") && text().contains("\"update\"")
    });
    for line in text().lines() {
        let event = check(line);
        assert_eq!(
            (&event["camera"], &event["zone"]),
            (&"segd".into(), &"all".into())
        );
    }
    assert!(
        daemon
            .get("/metrics")
            .1
            .contains("segd_events_total{camera=\"segd\",place=\"all\",rule=\"presence\",type=\"start\"}")
    );
    assert!(
        daemon.status()["events"]["sinks"][0]["delivered"]
            .as_u64()
            .unwrap()
            >= 2
    );
    assert_eq!(daemon.get("/healthz"), (200, "ok\n".to_owned()));

    // A zone that comes with a reload is told of at once to who listens.
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.http)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(
        stream,
        "GET /events?camera=segd HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    .unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.is_empty()), "the head");
    let more = "[[zone]]\nname = \"new\"\npolygon = [[0, 0], [1, 0], [1, 1]]\nclasses = [\"class0\", \"class1\", \"class2\", \"class3\"]\n";
    daemon.configure(&(config(model.path(), "[events]\nfile = \"FOLDER/events.jsonl\"") + more));
    daemon.signal("-HUP");
    let data = lines.filter_map(|line| line.strip_prefix("data: ").map(check));
    let of_new = data.into_iter().find(|event| event["zone"] == "new").unwrap();
    assert_eq!(of_new["type"], "start");

    // A zone that goes ends what has begun in it.
    daemon.configure(&config(model.path(), "[events]\nfile = \"FOLDER/events.jsonl\""));
    daemon.signal("-HUP");
    let id = of_new["id"].as_str().unwrap();
    wait_for("its end", LIMIT, || {
        text()
            .lines()
            .any(|line| line.contains(id) && line.contains("\"end\""))
    });
    let (code, _) = daemon.stop(Duration::from_secs(10));
    assert_eq!(code, Some(0));
}

#[test]
fn a_sink_that_fails_is_unwell_and_the_video_goes_on() {
    let model = model();
    let events = "[events]\nfile = \"FOLDER/none/events.jsonl\"";
    let daemon = Daemon::spawn(&config(model.path(), events), free_port(), &[]);
    wait_for("the trouble", LIMIT, || {
        let (code, text) = daemon.get("/healthz");
        code == 503 && text.contains("events: file") && text.contains("none/events.jsonl")
    });
    assert_eq!(
        daemon.metric(&format!(
            "segd_event_sink_up{{sink=\"file\",to=\"{}/none/events.jsonl\"}}",
            daemon.folder.path().display()
        )),
        0.0
    );
    let composed = || daemon.metric("segd_frames_composed_total{camera=\"segd\"}");
    let before = composed();
    wait_for("frames", LIMIT, || composed() > before + 10.0);
    let lost = daemon.status()["events"]["sinks"][0]["lost"].as_u64().unwrap();
    assert!(lost > 0);
    // The next event arrives once the folder is there.
    std::fs::create_dir(daemon.folder.path().join("none")).unwrap();
    let more = "[[zone]]\nname = \"new\"\npolygon = [[0, 0], [1, 0], [1, 1]]\nclasses = [\"class0\", \"class1\", \"class2\", \"class3\"]\n";
    daemon.configure(&(config(model.path(), events) + more));
    daemon.signal("-HUP");
    wait_for("it works again", LIMIT, || daemon.get("/healthz").0 == 200);
    let text = std::fs::read_to_string(daemon.folder.path().join("none/events.jsonl")).unwrap();
    assert!(text.lines().map(check).count() > 0);
}

#[test]
fn a_standard_output_that_takes_nothing_is_said() {
    let model = model();
    let config = config(model.path(), "[events]\nfile = \"-\"");
    let daemon = Daemon::spawn_under("exec >/dev/full", &config, free_port(), &[]);
    wait_for("the trouble", LIMIT, || {
        let (code, text) = daemon.get("/healthz");
        code == 503 && text.contains("standard output can't be written")
    });
    let composed = || daemon.metric("segd_frames_composed_total{camera=\"segd\"}");
    let before = composed();
    wait_for("frames", LIMIT, || composed() > before + 5.0);
    let sink = &daemon.status()["events"]["sinks"][0];
    assert!(sink["lost"].as_u64().unwrap() > 0, "{sink}");
    assert_eq!(sink["delivered"], 0);
}

#[test]
fn sinks_change_with_a_reload_and_those_that_stay_go_on() {
    let model = model();
    let first = "[events]\nfile = \"FOLDER/first.jsonl\"\nhistory = \"FOLDER/events.db\"";
    let daemon = Daemon::start(&config(model.path(), first));
    let text = |name: &str| std::fs::read_to_string(daemon.folder.path().join(name)).unwrap_or_default();
    wait_for("a start", LIMIT, || text("first.jsonl").contains("\"start\""));
    let delivered = |kind: &str| {
        let status = daemon.status();
        let sinks = status["events"]["sinks"].as_array().unwrap().clone();
        let sink = sinks.iter().find(|sink| sink["kind"] == kind)?;
        Some((
            sink["to"].as_str().unwrap().to_owned(),
            sink["delivered"].as_u64().unwrap(),
        ))
    };
    wait_for("the first events in the history", LIMIT, || {
        delivered("history").is_some_and(|(_, count)| count >= text("first.jsonl").lines().count() as u64)
    });
    let before = text("first.jsonl");
    let kept = delivered("history").unwrap().1;
    // A zone that comes with the same reload is told of to the new file alone.
    let second = "[events]\nfile = \"FOLDER/second.jsonl\"\nhistory = \"FOLDER/events.db\"";
    let more = "[[zone]]\nname = \"new\"\npolygon = [[0, 0], [1, 0], [1, 1]]\nclasses = [\"class0\", \"class1\", \"class2\", \"class3\"]\n";
    daemon.configure(&(config(model.path(), second) + more));
    daemon.signal("-HUP");
    wait_for("the new zone", LIMIT, || text("second.jsonl").contains("\"new\""));
    assert!(!text("first.jsonl")[before.len()..].contains("\"new\""));
    assert!(delivered("file").unwrap().0.ends_with("second.jsonl"));
    wait_for("the history has both", LIMIT, || {
        delivered("history").unwrap().1 > kept
    });
    daemon.configure(&config(model.path(), ""));
    daemon.signal("-HUP");
    wait_for("none are left", LIMIT, || {
        delivered("file").is_none() && delivered("history").is_none()
    });
    assert_eq!(daemon.get("/healthz"), (200, "ok\n".to_owned()));
    assert!(!daemon.log().contains("takes effect at the next start"));
}

#[test]
fn what_begins_has_its_picture_in_the_folder_and_over_http() {
    let model = model();
    let pictures = tempfile::tempdir().unwrap();
    let events = format!(
        "[events]\nfile = \"FOLDER/events.jsonl\"\nsnapshots = {:?}",
        pictures.path().display().to_string()
    );
    let daemon = Daemon::start(&config(model.path(), &events));
    let text = || std::fs::read_to_string(daemon.folder.path().join("events.jsonl")).unwrap_or_default();
    wait_for("a start and a stay", LIMIT, || {
        text().contains("\"start\"") && text().contains("\"update\"")
    });
    let events: Vec<serde_json::Value> = text().lines().map(check).collect();
    for event in &events {
        let named = event["snapshot"].as_str().map(str::to_owned);
        let expected = format!("segd/{}.jpg", event["id"].as_str().unwrap());
        assert_eq!(named, (event["type"] == "start").then_some(expected));
    }
    let first = events[0]["snapshot"].as_str().unwrap();
    wait_for("its picture", LIMIT, || pictures.path().join(first).exists());
    let bytes = std::fs::read(pictures.path().join(first)).unwrap();
    let picture = image::load_from_memory(&bytes).unwrap();
    assert_eq!((picture.width(), picture.height()), (128, 96));
    assert_eq!(
        daemon.get_bytes(&format!("/events/snapshots/{first}")),
        (200, bytes)
    );
    assert_eq!(daemon.get("/events/snapshots/segd/none.jpg").0, 404);
    assert_eq!(daemon.get("/events/snapshots/segd/..%2F..%2Fevents.jsonl").0, 404);
    // Without a folder no picture is named.
    let none = "[events]\nfile = \"FOLDER/events.jsonl\"";
    let more = "[[zone]]\nname = \"new\"\npolygon = [[0, 0], [1, 0], [1, 1]]\nclasses = [\"class0\", \"class1\", \"class2\", \"class3\"]\n";
    daemon.configure(&(config(model.path(), none) + more));
    daemon.signal("-HUP");
    wait_for("the new zone", LIMIT, || text().contains("\"new\""));
    let last = text();
    let of_new = last
        .lines()
        .map(check)
        .find(|event| event["zone"] == "new")
        .unwrap();
    assert_eq!(of_new["snapshot"], serde_json::Value::Null);
    assert_eq!(daemon.get("/healthz"), (200, "ok\n".to_owned()));
}

#[test]
fn with_regions_an_event_tells_of_a_track() {
    let model = model();
    let text = config(model.path(), "[events]\nfile = \"FOLDER/events.jsonl\"")
        .replace("backend = \"tract\"", "backend = \"tract\"\nregions = true");
    let daemon = Daemon::start(&text);
    let path = daemon.folder.path().join("events.jsonl");
    let text = || std::fs::read_to_string(&path).unwrap_or_default();
    wait_for("a track in the zone", LIMIT, || {
        text()
            .lines()
            .any(|line| check(line)["track"].as_u64().is_some_and(|track| track > 0))
    });
    let (code, log) = daemon.stop(Duration::from_secs(10));
    assert_eq!(code, Some(0), "{log}");
}
