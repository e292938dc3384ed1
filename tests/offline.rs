//! Recordings of a list, each into a file of its own, shared out among processes, and done once.

#![cfg(all(feature = "tract", feature = "gstreamer", feature = "embed-model"))]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A folder with `count` recordings of five pictures each, and a list that names them.
fn recordings(count: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("in")).unwrap();
    let mut list = String::from("# recordings\n\n");
    for n in 0..count {
        let path = format!("in/r{n}");
        fs::create_dir(at(&path)).unwrap();
        for picture in 0..5_u8 {
            let level = 40 * picture;
            image::RgbImage::from_pixel(64, 48, image::Rgb([level, 128, 255 - level]))
                .save(at(&format!("{path}/{picture}.png")))
                .unwrap();
        }
        list.push_str(&format!("{path}\n"));
    }
    fs::write(at("list.txt"), list).unwrap();
    folder
}

fn segd(folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segd"));
    command
        .current_dir(folder)
        .args(["--input", "@list.txt", "--no-pace", "--output", "out/{stem}.mkv"])
        .args(["--backend", "tract", "--size", "64", "--no-selftest"])
        .args(more)
        .env(
            "SEGD_MODELS",
            Path::new(env!("CARGO_MANIFEST_DIR")).join("models"),
        )
        .env_remove("SEGD_CAMERA")
        .env_remove("SEGD_CONFIG");
    command
}

/// Exit code, standard output, standard error.
fn run(folder: &Path, more: &[&str]) -> (i32, String, String) {
    let done = segd(folder, more).output().unwrap();
    (
        done.status.code().unwrap(),
        String::from_utf8(done.stdout).unwrap(),
        String::from_utf8(done.stderr).unwrap(),
    )
}

/// Names and times of change of what lies in the outputs' folder.
fn outputs(folder: &Path) -> BTreeMap<String, std::time::SystemTime> {
    let entries = fs::read_dir(folder.join("out")).unwrap().map(Result::unwrap);
    entries
        .map(|e| {
            let modified = e.metadata().unwrap().modified().unwrap();
            (e.file_name().into_string().unwrap(), modified)
        })
        .collect()
}

fn names(folder: &Path) -> Vec<String> {
    outputs(folder).into_keys().collect()
}

fn manifest(path: PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn shards_do_each_recording_once_and_the_next_run_only_what_is_missing() {
    let folder = recordings(3);
    let folder = folder.path();
    let (code, said, log) = run(folder, &["--shard", "1/2"]);
    assert_eq!(code, 0, "{log}");
    assert!(said.starts_with("1 made, 0 skipped, 0 failed: "), "{said}");
    assert_eq!(names(folder), ["manifest-1-of-2.jsonl", "r1.mkv"]);

    // Another number of processes: what is there is not made again.
    let (code, said, log) = run(folder, &[]);
    assert_eq!(code, 0, "{log}");
    assert!(said.starts_with("2 made, 1 skipped, 0 failed: "), "{said}");
    let before = outputs(folder);
    let all = [
        "manifest-1-of-2.jsonl",
        "manifest.jsonl",
        "r0.mkv",
        "r1.mkv",
        "r2.mkv",
    ];
    assert_eq!(names(folder), all);

    let lines = manifest(folder.join("out/manifest.jsonl"));
    assert_eq!(lines.len(), 2);
    for (line, n) in lines.iter().zip([0, 2]) {
        assert_eq!(line["input"], format!("in/r{n}"));
        assert_eq!(line["output"], format!("out/r{n}.mkv"));
        assert_eq!(line["model"], "voc21");
        assert_eq!(line["model_sha256"].as_str().unwrap().len(), 64);
        assert_eq!(line["error"], Value::Null);
        assert_eq!(line["made"]["backend"], "tract");
        assert_eq!(line["made"]["frames"], 5);
        assert_eq!(line["made"]["inferences"], 5);
    }

    let (code, said, _) = run(folder, &[]);
    assert_eq!(code, 0);
    assert!(said.starts_with("0 made, 3 skipped, 0 failed: "), "{said}");
    assert_eq!(outputs(folder), before);

    fs::remove_file(folder.join("out/r1.mkv")).unwrap();
    let (code, said, _) = run(folder, &[]);
    assert_eq!(code, 0);
    assert!(said.starts_with("1 made, 2 skipped, 0 failed: "), "{said}");
    assert_eq!(names(folder), all);

    // What another model made is neither kept in silence nor made anew.
    let (code, _, log) = run(folder, &["--model", "voc21-fast"]);
    assert_eq!(code, 1);
    assert!(
        log.contains("was made by voc21 (") && log.contains("the model is voc21-fast ("),
        "{log}"
    );
    assert_eq!(names(folder), all);
}

#[test]
fn a_recording_that_fails_is_recorded_and_the_others_go_on() {
    let folder = recordings(2);
    let folder = folder.path();
    fs::write(folder.join("in/broken.mp4"), "no video").unwrap();
    fs::write(
        folder.join("list.txt"),
        "in/r0\nin/broken.mp4\nin/missing.mp4\nin/r1\n",
    )
    .unwrap();
    let (code, said, log) = run(folder, &[]);
    assert_eq!(code, 1, "{log}");
    assert!(said.starts_with("2 made, 0 skipped, 2 failed: "), "{said}");
    assert!(log.contains("2 of the recordings have failed"), "{log}");
    assert_eq!(names(folder), ["manifest.jsonl", "r0.mkv", "r1.mkv"]);
    let lines = manifest(folder.join("out/manifest.jsonl"));
    let errors: Vec<bool> = lines.iter().map(|line| line["error"].is_string()).collect();
    assert_eq!(errors, [false, true, true, false]);
    assert!(lines[1]["made"].is_null());

    // Mended, it is made by the next run.
    fs::create_dir(folder.join("in/missing.mp4")).unwrap();
    fs::copy(folder.join("in/r0/0.png"), folder.join("in/missing.mp4/0.png")).unwrap();
    let (code, said, _) = run(folder, &[]);
    assert_eq!(code, 1);
    assert!(said.starts_with("1 made, 2 skipped, 1 failed: "), "{said}");
}

#[test]
fn what_a_signal_interrupts_is_not_finished() {
    let folder = recordings(1);
    let folder = folder.path();
    // Without end.
    let child = segd(folder, &["--loop"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = || {
        fs::read_dir(folder.join("out")).is_ok_and(|entries| {
            entries
                .flatten()
                .filter(|e| e.file_name().to_string_lossy().starts_with(".unfinished-"))
                .any(|e| fs::read_dir(e.path()).is_ok_and(|inside| inside.count() > 0))
        })
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !begun() {
        assert!(Instant::now() < deadline, "no output is begun");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let done = child.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&done.stderr);
    // No scheduler takes it for done.
    assert_eq!(done.status.code(), Some(1), "{log}");
    assert!(log.contains("1 of this shard's recordings are left"), "{log}");
    assert!(String::from_utf8_lossy(&done.stdout).starts_with("0 made, 0 skipped, 0 failed: "));
    assert_eq!(names(folder), [""; 0], "{log}");
}

#[test]
fn what_can_not_be_meant_is_refused_before_anything_is_made() {
    let folder = recordings(1);
    let folder = folder.path();
    let base = ["--backend", "tract", "--size", "64"];
    for (arguments, said) in [
        (
            &["--input", "@list.txt", "--output", "{stem}.mkv"][..],
            "--no-pace",
        ),
        (&["--input", "@list.txt", "--no-pace"], "one --output"),
        (
            &["--input", "@list.txt", "--no-pace", "--output", "a.mkv"],
            "{stem}.mkv",
        ),
        (
            &["--input", "@none.txt", "--no-pace", "--output", "{stem}.mkv"],
            "none.txt",
        ),
        (&["--input", "in/r0", "--shard", "0/2"], "@LIST"),
        (&["--shard", "0/2"], "--input"),
        (
            &["--input", "@list.txt", "--no-pace", "--shard", "2/2"],
            "such as 0/4",
        ),
        (
            &["--input", "@list.txt", "--no-pace", "--output", "{stem}.xyz"],
            ".xyz",
        ),
    ] {
        let done = Command::new(env!("CARGO_BIN_EXE_segd"))
            .current_dir(folder)
            .args(arguments)
            .args(base)
            .env_remove("SEGD_CAMERA")
            .env_remove("SEGD_CONFIG")
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {log}");
        assert!(log.contains(said), "{arguments:?}: {log}");
    }
    assert!(!folder.join("out").exists());
}
