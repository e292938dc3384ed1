//! The program as a person runs it: what bad input gives (one clear line, the right exit code, no half-written
//! output), and short runs from a source to a file.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use predicates::prelude::*;

fn segd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_segd"))
        .args(args)
        .env_remove("SEGD_CAMERA")
        .env_remove("SEGD_INPUT")
        .env("SEGD_LOG", "warn")
        .output()
        .expect("segd runs")
}

/// Runs segd, which must fail with `code` and one line that has all of `expected`.
#[track_caller]
fn refused(args: &[&str], code: i32, expected: &[&str]) {
    let output = segd(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    let line: Vec<&str> = stderr.lines().filter(|l| l.starts_with("segd: ")).collect();
    let line = line.last().copied().unwrap_or_default();
    for text in expected {
        assert!(
            predicate::str::contains(*text).eval(line),
            "{args:?}: {text:?} is not in {stderr:?}"
        );
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// The built-in backend at a small size.
const QUICK: [&str; 4] = ["--backend", "tract", "--size", "64"];

/// Gives every frame of `input` to `output`.
fn convert(input: &str, output: &Path) -> Output {
    let output = output.to_str().unwrap();
    segd(&[&["--input", input, "--no-pace", "--output", output], &QUICK[..]].concat())
}

#[track_caller]
fn succeeded(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}

/// A video of `frames` frames of a test pattern, made by segd itself.
fn make_video(path: &Path, frames: u32) {
    let input = format!("test://?width=160&height=128&fps=25&frames={frames}");
    succeeded(&convert(&input, path));
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn no_pace_gives_every_frame_exactly_once() {
    let folder = tempfile::tempdir().unwrap();
    let video = folder.path().join("a.mkv");
    make_video(&video, 30);
    let frames = folder.path().join("frames");
    succeeded(&convert(video.to_str().unwrap(), &frames.join("")));
    assert_eq!(names(&frames).len(), 30);
    assert_eq!(
        names(folder.path()),
        ["a.mkv", "frames"],
        "nothing unfinished is left"
    );
}

#[test]
fn several_inputs_are_played_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let video = folder.path().join("a.mkv");
    make_video(&video, 10);
    let frames = folder.path().join("frames");
    let (video, out) = (video.to_str().unwrap(), frames.join(""));
    let small = "test://?width=96&height=64&fps=25&frames=7";
    let end = ["--no-pace", "--output", out.to_str().unwrap()];
    let output = segd(&[&["--input", video, small, video], &end[..], &QUICK].concat());
    succeeded(&output);
    // The output keeps the format that it began with.
    let sizes: Vec<(u32, u32)> = names(&frames)
        .iter()
        .map(|name| image::image_dimensions(frames.join(name)).unwrap())
        .collect();
    assert_eq!(sizes, vec![(160, 128); 27]);
    // 96x64 in 160x128 leaves black bars above and below; the other pictures have none.
    let brightest = |frame: usize, rows: std::ops::Range<u32>| {
        let picture = image::open(frames.join(format!("{frame:06}.png")))
            .unwrap()
            .into_luma8();
        rows.flat_map(|y| (0..160).map(move |x| (x, y)))
            .map(|(x, y)| picture.get_pixel(x, y)[0])
            .max()
    };
    assert!(brightest(13, 0..8) < Some(20), "{:?}", brightest(13, 0..8));
    assert!(
        brightest(13, 120..128) < Some(20),
        "{:?}",
        brightest(13, 120..128)
    );
    for (frame, rows) in [(13, 20..108), (5, 0..8), (20, 0..8)] {
        assert!(brightest(frame, rows.clone()) > Some(60), "{frame} {rows:?}");
    }
}

#[test]
fn wrong_arguments_are_refused_with_what_was_expected() {
    refused(
        &["--input", "test://", "--model", "voc12"],
        2,
        &["voc12", "voc21"],
    );
    refused(
        &["--input", "test://", "--classes", "persn"],
        2,
        &["persn", "did you mean \"person\"?"],
    );
    refused(
        &["--input", "test://", "--alpha", "1.5"],
        2,
        &["alpha = 1.5", "0 to 1"],
    );
    refused(
        &["--input", "test://", "--output", "http://x/y"],
        2,
        &["http://x/y"],
    );
    refused(
        &["--input", "test://", "--output", "video.avi"],
        2,
        &["video.avi", ".mp4"],
    );
    refused(
        &["--input", "test://", "--encoder", "nosuchenc"],
        2,
        &["nosuchenc"],
    );
    refused(&["--input", "tset://"], 2, &["tset"]);
    refused(&["--input", "rtsp://127.0.0.1/x", "--no-pace"], 2, &["--no-pace"]);
    refused(&["--config", "/no/such/segd.toml"], 2, &["/no/such/segd.toml"]);
    let unknown_option = segd(&["--inptu", "test://"]);
    assert_eq!(unknown_option.status.code(), Some(2));
}

#[test]
fn configuration_errors_name_the_line_and_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("segd.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "[capture]\ninput = \"test://\"\n[overlay]\nalpah = 1\n").unwrap();
    refused(
        &["--config", path],
        2,
        &["segd.toml, line 4", "alpah", "did you mean `alpha`?"],
    );
    refused(&["check-config", path], 2, &["segd.toml, line 4"]);
    std::fs::write(
        &file,
        "[capture]\ninput = \"test://\"\n[overlay]\nclasses = [\"unicorn\"]\n",
    )
    .unwrap();
    refused(&["check-config", path], 2, &["unicorn"]);
    std::fs::write(
        &file,
        "[capture]\ninput = \"test://\"\n[model]\nbackend = \"tensorflow\"\n",
    )
    .unwrap();
    refused(
        &["check-config", path],
        2,
        &["model.backend", "tensorflow", "tract"],
    );
    std::fs::write(
        &file,
        "[capture]\ninput = \"test://\"\n[overlay]\nclasses = [\"person\"]\n",
    )
    .unwrap();
    let good = segd(&["check-config", path]);
    assert!(good.status.success());
    assert!(String::from_utf8_lossy(&good.stdout).contains(": ok"));
}

#[test]
fn bad_sources_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    refused(
        &["--input", &path("missing.mp4"), "--output", "null://"],
        2,
        &["missing.mp4"],
    );
    std::fs::write(path("text.mp4"), "this is no video").unwrap();
    refused(
        &["--input", &path("text.mp4"), "--output", "null://"],
        2,
        &["text.mp4"],
    );
    std::fs::write(path("empty.mp4"), "").unwrap();
    refused(
        &["--input", &path("empty.mp4"), "--output", "null://"],
        2,
        &["empty.mp4", "empty"],
    );
    refused(
        &["--input", "gst:videotestsrc ! fakesink", "--output", "null://"],
        2,
        &["appsink"],
    );
    refused(
        &["--camera", "/dev/null", "--output", "null://"],
        2,
        &["/dev/null"],
    );
    refused(
        &["--camera", "csi://first", "--output", "null://"],
        2,
        &["csi://first", "csi://0"],
    );
    if !Path::new("/usr/lib/aarch64-linux-gnu").exists() {
        refused(
            &["--camera", "csi://0", "--output", "null://"],
            2,
            &["csi://0", "nvarguscamerasrc (Jetson)", "gstreamer1.0-libcamera"],
        );
    }
}

#[test]
fn a_file_that_is_cut_short_gives_the_frames_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let video = folder.path().join("a.mkv");
    make_video(&video, 60);
    let bytes = std::fs::read(&video).unwrap();
    let cut = folder.path().join("cut.mkv");
    std::fs::write(&cut, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let frames = folder.path().join("frames");
    let output = convert(cut.to_str().unwrap(), &frames.join(""));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    let got = names(&frames).len();
    assert!((10..60).contains(&got), "{got} frames: {stderr}");
}

#[test]
fn outputs_that_cannot_be_written_are_refused_and_leave_nothing() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().port();
    let address = format!("rtsp://127.0.0.1:{port}/segd");
    let args = [&["--input", "test://"], &QUICK[..], &["--output"]].concat();
    refused(
        &[&args[..], &[&address]].concat(),
        1,
        &[&port.to_string(), "in use"],
    );
    refused(
        &[&args[..], &["/no/such/folder/a.mkv"]].concat(),
        2,
        &["/no/such/folder"],
    );
}

#[test]
fn a_full_disk_ends_the_run_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args([
            "-t",
            "tmpfs",
            "-o",
            "size=64k",
            "segd-test",
            disk.to_str().unwrap(),
        ])
        .output()
        .is_ok_and(|o| o.status.success());
    if !mounted {
        eprintln!("SKIPPED: a full disk needs a small tmpfs, and mounting one needs root");
        return;
    }
    let file = disk.join("a.mkv");
    let output = convert("test://?width=640&height=480&frames=600", &file);
    let finished = file.exists();
    let unmounted = Command::new("umount")
        .arg(&disk)
        .status()
        .is_ok_and(|s| s.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(unmounted);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("a.partial.mkv: the disk is full"), "{stderr}");
    assert!(!finished, "a half-written file has not its final name");
}

#[test]
fn a_model_whose_file_was_changed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/voc21");
    for entry in std::fs::read_dir(&model).unwrap().flatten() {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().to_str().unwrap();
    for precision in ["fp32", "int8"] {
        let name = format!("{precision}.onnx");
        let file = folder.path().join(&name);
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        let arguments = "--input test:// --output null:// --backend tract --precision";
        let mut arguments: Vec<&str> = arguments.split(' ').collect();
        arguments.extend([precision, "--model", path]);
        refused(&arguments, 1, &[&name, "sha256"]);
    }
    refused(
        &["--input", "test://", "--model", "/no/such/model"],
        2,
        &["/no/such/model"],
    );
}

/// segd's arguments for a recording of a test pattern that goes on until it is stopped.
fn recording(file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segd"));
    command
        .args([
            "--input",
            "test://?width=160&height=128&fps=25",
            "--http",
            "",
            "--output",
        ])
        .arg(file)
        .args(QUICK)
        .env("SEGD_LOG", "trace");
    command
}

#[test]
fn a_log_that_nobody_reads_or_that_has_no_room_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    for (name, stderr) in [("pipe.mkv", Stdio::piped()), ("full.mkv", full.into())] {
        let file = folder.path().join(name);
        let mut child = recording(&file)
            .args(["--frames", "40"])
            .stderr(stderr)
            .spawn()
            .unwrap();
        // The reader goes away before anything is written.
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{name}");
        assert!(file.metadata().unwrap().len() > 1000, "{name}");
    }
    assert_eq!(
        names(folder.path()),
        ["full.mkv", "pipe.mkv"],
        "nothing unfinished is left"
    );
}

#[test]
fn a_signal_ends_a_run_in_order_whose_log_has_no_reader() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.mkv");
    let mut child = recording(&file).stderr(Stdio::piped()).spawn().unwrap();
    let started = || {
        std::fs::read_dir(folder.path())
            .unwrap()
            .flatten()
            .any(|f| f.metadata().is_ok_and(|m| m.len() > 1000))
    };
    let mut stderr = child.stderr.take().unwrap();
    while !started() {
        // What is written is read, so that nobody waits for room.
        std::io::Read::read(&mut stderr, &mut [0; 4096]).unwrap();
    }
    drop(stderr);
    let stopped = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(stopped.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(names(folder.path()), ["a.mkv"]);
}

#[test]
fn a_report_whose_reader_is_gone_ends_quietly_and_one_without_room_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("segd.toml");
    let config = "[capture]\ninput = \"test://\"\n[model]\nbackend = \"tract\"\nsize = 64\n\
                  [stream]\noutputs = [\"null://\"]\n";
    std::fs::write(&file, config).unwrap();
    let path = file.to_str().unwrap();
    for arguments in [
        &["models"][..],
        &["models", "--json"],
        &["probe", "--backend", "tract"],
        &["check-config", path],
        &["hash-password", "ann"],
        &["bench", "--backend", "tract", "--size", "64", "--frames", "20"],
    ] {
        let run = |stdout: Stdio| {
            let mut child = Command::new(env!("CARGO_BIN_EXE_segd"))
                .args(arguments)
                .env("SEGD_LOG", "warn")
                .stdin(Stdio::piped())
                .stdout(stdout)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            drop(child.stdout.take());
            let mut password = child.stdin.take().unwrap();
            let _ = std::io::Write::write_all(&mut password, b"secret\n");
            drop(password);
            let output = child.wait_with_output().unwrap();
            (
                output.status.code(),
                String::from_utf8_lossy(&output.stderr).into_owned(),
            )
        };
        assert_eq!(run(Stdio::piped()), (Some(0), String::new()), "{arguments:?}");
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let (code, stderr) = run(full.into());
        assert_eq!(code, Some(1), "{arguments:?}: {stderr}");
        assert!(
            stderr.starts_with("segd: standard output can't be written: No space left"),
            "{arguments:?}: {stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn a_variable_that_is_empty_counts_as_not_set() {
    let source = "test://?frames=3&width=64&height=64";
    for name in [
        "SEGD_MODEL",
        "SEGD_BACKEND",
        "SEGD_CONFIG",
        "SEGD_LOG",
        "SEGD_LOG_FORMAT",
        "SEGD_MODELS",
        "SEGD_CAMERA",
        "SEGD_STREAM_BITRATE_KBPS",
        "SEGD_OVERLAY_CLASSES",
        "SEGD_MASKS_EVERY",
        "ORT_DYLIB_PATH",
        // Nothing means no plug-ins to GStreamer, and the working directory to others.
        "GST_PLUGIN_SYSTEM_PATH_1_0",
        "TMPDIR",
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_segd"))
            .args([
                "--input",
                source,
                "--no-pace",
                "--output",
                "null://",
                "--size",
                "64",
            ])
            .env_remove("SEGD_INPUT")
            .env(name, "")
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {stderr}");
    }
}

#[test]
fn options_for_all_commands_stand_anywhere() {
    for arguments in [
        &["--log-level", "warn", "models"][..],
        &["models", "--log-format", "json"],
        &["--log-format", "json", "hash-password", "--help"],
    ] {
        succeeded(&segd(arguments));
    }
    let output = segd(&["--width", "320", "models"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("--width") && stderr.contains("segd run"),
        "{stderr}"
    );
}

#[test]
fn a_camera_that_is_missing_at_the_start_is_not_waited_for_when_told_so() {
    let arguments = ["--camera", "/dev/video97", "--output", "null://", "--http", ""];
    let not_waiting = [&arguments[..], &["--no-wait"], &QUICK].concat();
    refused(&not_waiting, 1, &["/dev/video97 is not there", "--no-wait"]);
}

#[test]
fn what_a_start_refuses_is_refused_by_check_config() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("segd.toml");
    let path = file.to_str().unwrap();
    for (line, part) in [
        (
            "health.max_mask_age_ms = 0",
            "health.max_mask_age_ms = 0, expected 1 to",
        ),
        ("stream.encoder = \"nosuchenc\"", "nosuchenc"),
        ("stream.outputs = [\"/no/such/folder/a.mkv\"]", "/no/such/folder"),
    ] {
        std::fs::write(&file, format!("capture.input = \"test://\"\n{line}\n")).unwrap();
        refused(&["check-config", path], 2, &[part]);
        refused(&["--config", path], 2, &[part]);
    }
}

/// A pipe that nobody writes into.
fn pipe(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

#[test]
fn a_pipe_in_place_of_a_file_is_said_to_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    pipe(Path::new(&path("pipe")));
    let config = |name: &str, text: &str| {
        let text = text.replace("PIPE", &path("pipe"));
        std::fs::write(path(name), format!("[capture]\ninput = \"test://\"\n{text}")).unwrap();
        path(name)
    };
    let outputs = |address: &str| format!("[stream]\noutputs = [\"{address}\"]\n");
    let tls = outputs("rtsps://127.0.0.1:0/a") + "[access]\ncertificate = \"PIPE\"\nkey = \"PIPE\"\n";
    refused(
        &["check-config", &config("tls.toml", &tls)],
        2,
        &["pipe: can't be read: is a pipe"],
    );
    refused(
        &["--watch-config", "--config", &path("pipe")],
        2,
        &["--watch-config", "is a pipe"],
    );
    std::fs::rename(path("pipe"), path("pipe.mkv")).unwrap();
    let output = config("output.toml", &outputs(&path("pipe.mkv")));
    refused(
        &["check-config", &output],
        2,
        &["pipe.mkv: a recording is a file", "is a pipe"],
    );
    std::fs::rename(path("pipe.mkv"), path("pipe")).unwrap();
    let scenes = outputs(&format!("scenes:{}", path("pipe")));
    let scenes = config("scenes.toml", &scenes);
    let run = [
        "--config",
        &scenes,
        "--http",
        "",
        "--input",
        "test://?width=64&height=64&frames=3",
    ];
    let output = segd(&[&run, &QUICK[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("a pipe that no program reads"), "{said}");
    refused(
        &["events", "--file", &path("pipe")],
        2,
        &["pipe: can't be read: is a pipe"],
    );
}

#[test]
fn events_are_listed_whatever_the_cameras_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    std::fs::write(&file, "no event\n").unwrap();
    let config = folder.path().join("segd.toml");
    // As with a camera that is not plugged in now.
    std::fs::write(&config, format!("[events]\nfile = \"{}\"\n", file.display())).unwrap();
    let output = segd(&["events", "--config", config.to_str().unwrap()]);
    succeeded(&output);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("1 lines are no events"), "{said}");
}

#[test]
fn a_hangup_while_it_starts_does_not_end_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("segd.toml");
    // The configuration is waited for, so it can't have got further.
    pipe(&config);
    let child = Command::new(env!("CARGO_BIN_EXE_segd"))
        .args(["--config", config.to_str().unwrap(), "--frames", "3"])
        .args([
            "--input",
            "test://?width=64&height=64&frames=3",
            "--output",
            "null://",
        ])
        .args(["--backend", "tract", "--size", "64", "--http", ""])
        .env("SEGD_LOG", "info")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    // Its handler is there once it waits: /proc shows which signals are caught.
    let catches_hangups = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))
            .unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 1
    };
    while !catches_hangups() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    let mut waiting = std::fs::File::options().write(true).open(&config).unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "[overlay]\nalpha = 0.3\n").unwrap();
    std::fs::rename(&file, &config).unwrap();
    std::io::Write::write_all(&mut waiting, b"[overlay]\nalpha = 0.4\n").unwrap();
    drop(waiting);
    let output = child.wait_with_output().unwrap();
    succeeded(&output);
}

#[test]
fn a_file_that_may_not_grow_is_an_error_and_no_end() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.mkv");
    let segd = env!("CARGO_BIN_EXE_segd");
    // In blocks of 512 bytes (POSIX, ulimit).
    let run = Command::new("sh")
        .args(["-c", "ulimit -f 16; exec \"$@\"", "sh", segd])
        .args([
            "--input",
            "test://?width=320&height=240&frames=400",
            "--no-pace",
            "--every",
            "400",
        ])
        .args([
            "--backend",
            "tract",
            "--size",
            "64",
            "--output",
            output.to_str().unwrap(),
        ])
        .env("SEGD_LOG", "warn")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(1), "{said}");
    assert!(said.contains("out.partial.mkv: can't be written"), "{said}");
}
