//! Events of a running segd get their clips.

#![cfg(all(feature = "tract", feature = "gstreamer"))]

use std::time::Duration;

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/onnx.rs"]
mod onnx;
#[path = "common/probe.rs"]
mod probe;

use daemon::{Daemon, wait_for};
use onnx::Tiny;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn an_event_gets_a_clip_of_its_id_beside_the_recording() {
    let model = tempfile::tempdir().unwrap();
    Tiny::default().write(model.path());
    // In a zone that is the whole picture some class always is.
    let daemon = Daemon::start(&format!(
        "[capture]\ninput = \"test://?width=128&height=96&fps=20\"\n[model]\nname = {:?}\nbackend = \"tract\"\n\
         [stream]\noutputs = [\"clips:FOLDER/clips\", \"record:FOLDER/record\"]\n[clips]\nbefore_s = 1\nlongest_s = 2\n\
         [events]\nfile = \"FOLDER/events.jsonl\"\n\
         [[zone]]\nname = \"all\"\npolygon = [[0, 0], [1, 0], [1, 1], [0, 1]]\nclasses = [\"class0\", \"class1\", \
         \"class2\", \"class3\"]\nafter_ms = 2000\n",
        model.path().display()
    ));
    wait_for("a clip", LIMIT, || {
        daemon.log().contains("the event's clip is complete")
    });
    let events = std::fs::read_to_string(daemon.folder.path().join("events.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    assert_eq!(first["type"], "start");
    let clip = format!("clips/{}.mp4", first["id"].as_str().unwrap());
    let path = daemon.folder.path().join(&clip);
    let frames = probe::frames(&path);
    // Two seconds from its beginning on, and what there is before it.
    assert!((30..=85).contains(&frames), "{frames} frames");
    // The page's link leads to the same file.
    let named = first["clip"].as_str().unwrap();
    assert_eq!(named, format!("segd/{}.mp4", first["id"].as_str().unwrap()));
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(daemon.get_bytes(&format!("/events/clips/{named}")), (200, bytes));
    for none in [
        "segd/01JZX0V8Q4M7T9B2C5D6E7F8G9.mp4",
        "segd/..%2F..%2Fevents.jsonl",
        "other/a.mp4",
    ] {
        assert_eq!(daemon.get(&format!("/events/clips/{none}")).0, 404, "{none}");
    }
    assert_eq!(
        daemon.metric("segd_encoders{camera=\"segd\"}"),
        1.0,
        "clips and recording share the encoder"
    );
    let sinks = daemon.status()["events"]["sinks"].clone();
    let sink = sinks
        .as_array()
        .unwrap()
        .iter()
        .find(|sink| sink["kind"] == "clips");
    assert_eq!(sink.unwrap()["lost"], 0, "{sinks}");
    let (code, log) = daemon.stop(Duration::from_secs(10));
    assert_eq!(code, Some(0), "{log}");
}
