//! segd as a service, through the binary: systemd's messages, several cameras, missing sources, signals, a full disk, and
//! the environment.
#![cfg(feature = "gstreamer")]

mod common {
    pub mod daemon;
    pub mod systemd;
}

use std::process::Command;
use std::time::{Duration, Instant};

use common::daemon::{Daemon, Viewer, free_port, small, view, wait_for};
use common::systemd::Systemd;

const SECOND: Duration = Duration::from_secs(1);
const PATTERN: &str = "test://?width=160&height=128&fps=25";

#[test]
fn systemd_hears_ready_after_the_first_frame_then_the_watchdog_while_frames_move() {
    let systemd = Systemd::listen();
    let env = [
        ("NOTIFY_SOCKET", systemd.path.as_str()),
        ("WATCHDOG_USEC", "4000000"),
    ];
    let daemon = Daemon::spawn(&small(PATTERN), free_port(), &env);
    wait_for("READY=1", 90 * SECOND, || systemd.count("READY=1") == 1);
    assert!(daemon.metric("segd_frames_composed_total{camera=\"segd\"}") > 0.0);
    wait_for("WATCHDOG=1", 10 * SECOND, || systemd.count("WATCHDOG=1") >= 3);
    wait_for("STATUS", 10 * SECOND, || {
        let heard = systemd.heard.lock().unwrap();
        heard
            .iter()
            .any(|l| l.starts_with("STATUS=") && l.contains(" fps, mask age "))
    });
    daemon.signal("-HUP");
    wait_for("reloaded", 20 * SECOND, || systemd.count("READY=1") == 2);
    assert_eq!(
        (systemd.count("RELOADING=1"), systemd.count("MONOTONIC_USEC=")),
        (1, 1)
    );
    let (code, log) = daemon.stop(2 * SECOND);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(systemd.count("STOPPING=1"), 1);
}

#[test]
fn the_stream_stays_up_while_the_source_is_away_and_comes_back_with_another_size() {
    let port = free_port();
    let config = |size: &str| small(&format!("test://?{size}&fps=25"));
    let source = Daemon::spawn(&config("width=160&height=128"), port, &[]);
    wait_for("source", 90 * SECOND, || source.get("/readyz").0 == 200);
    let input = small(&format!("rtspt://127.0.0.1:{port}/segd")) + "[overlay]\nlegend = false\n";
    let daemon = Daemon::start(&input);
    let mut viewer = Viewer::watch(&daemon.address());
    viewer.wait_frames(20, 30 * SECOND);
    drop(source);

    wait_for("loss is said", 30 * SECOND, || {
        let (code, text) = daemon.get("/healthz");
        code == 503 && text.contains("source lost")
    });
    assert_eq!(daemon.get("/readyz").0, 503);
    assert_eq!(daemon.metric("segd_source_up{camera=\"segd\"}"), 0.0);
    let notice = daemon.snapshot();
    assert!(
        notice
            .pixels()
            .all(|p| p.0.iter().max().unwrap() - p.0.iter().min().unwrap() < 30),
        "grey"
    );
    viewer.wait_frames(3, 20 * SECOND);

    let source = Daemon::spawn(&config("width=128&height=96"), port, &[]);
    wait_for("the video is back", 60 * SECOND, || {
        daemon.metric("segd_source_up{camera=\"segd\"}") == 1.0
    });
    viewer.wait_frames(20, 20 * SECOND);
    assert_eq!(
        daemon.snapshot().dimensions(),
        (160, 128),
        "the outputs keep their size"
    );
    assert_eq!(
        daemon.metric("segd_source_reconnects_total{camera=\"segd\"}"),
        1.0
    );
    assert!(viewer.is_watching(), "one connection all along");
    drop(source);
}

#[test]
fn a_camera_that_was_never_there_is_waited_for_and_shown_as_missing() {
    let systemd = Systemd::listen();
    let env = [("NOTIFY_SOCKET", systemd.path.as_str())];
    let config = "[capture]\ncamera = \"/dev/video97\"\nwidth = 320\nheight = 240\n\
                  [model]\nbackend = \"tract\"\nsize = 64\n";
    let daemon = Daemon::spawn(config, free_port(), &env);
    wait_for("READY=1", 60 * SECOND, || systemd.count("READY=1") == 1);
    let log = daemon.log();
    assert_eq!(
        log.matches("/dev/video97 is not there: waiting for it").count(),
        1,
        "{log}"
    );
    assert_eq!(daemon.get("/readyz").0, 503);
    assert_eq!(daemon.snapshot().dimensions(), (320, 240));
    view(&daemon.address(), 3, 30 * SECOND).unwrap();
}

#[test]
fn the_line_that_says_how_to_watch_leads_there_from_other_machines() {
    let user = "ann:segd:0123456789abcdef0123456789abcdef";
    for host in ["0.0.0.0", "[::]"] {
        let config = format!(
            "[stream]\noutputs = [\"rtsp://{host}:RTSP/segd\"]\n{}[access]\nusers = [{user:?}]\n",
            small(PATTERN)
        );
        let daemon = Daemon::spawn(&config, free_port(), &[]);
        wait_for("the line", 90 * SECOND, || {
            daemon.log().contains("watch it with: ")
        });
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains("watch it with: ")).unwrap();
        assert!(
            !line.contains(&format!("//{host}")) && !line.contains(&format!("@{host}")),
            "{line}"
        );
        assert!(line.contains("://USER:PASSWORD@"), "{line}");
        assert!(
            line.contains("ffplay") && line.contains("mpv") && !line.contains("vlc"),
            "{line}"
        );
        let page = log.find("see it in a browser: http://127.0.0.1:").expect(&log);
        assert!(
            page < log.find("watch it with: ").unwrap(),
            "the page comes first: {log}"
        );
    }
}

#[test]
fn two_cameras_have_their_own_mounts_on_one_port() {
    let camera = |name: &str, fps: u32| {
        format!("[[camera]]\nname = \"{name}\"\ncapture.input = \"test://?width=160&height=128&fps={fps}\"\n")
    };
    let config = format!(
        "[stream]\noutputs = [\"rtsp://127.0.0.1:RTSP/{{name}}\"]\n[model]\nbackend = \"tract\"\nsize = 64\n{}{}",
        camera("door", 25),
        camera("yard", 10)
    );
    let daemon = Daemon::start(&config);
    // Both want the same model in the same way: it is chosen and said once.
    let log = daemon.log();
    assert_eq!(log.matches("self-test: ").count(), 1, "{log}");
    for name in ["door", "yard"] {
        view(
            &format!("rtsp://127.0.0.1:{}/{name}", daemon.rtsp),
            5,
            30 * SECOND,
        )
        .unwrap();
        assert_eq!(daemon.get_bytes(&format!("/snapshot.jpg?camera={name}")).0, 200);
    }
    // The second gets its share of the CPU.
    let inferences = |name: &str| daemon.metric(&format!("segd_inferences_total{{camera=\"{name}\"}}"));
    let before = inferences("yard");
    wait_for("both infer", 30 * SECOND, || inferences("yard") > before + 5.0);
    let (code, log) = daemon.stop(3 * SECOND);
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_camera_that_fails_leaves_the_others_running_and_is_said() {
    // A damaged picture is no fault that passes, and nothing that the configuration's check without sources sees.
    let pictures = tempfile::tempdir().unwrap();
    std::fs::write(pictures.path().join("a.png"), "no picture").unwrap();
    let config = |second: &str| {
        format!(
            "[stream]\noutputs = [\"rtsp://127.0.0.1:RTSP/{{name}}\"]\n[model]\nbackend = \"tract\"\nsize = 64\n\
             [[camera]]\nname = \"door\"\ncapture.input = {:?}\n[[camera]]\nname = \"yard\"\n\
             capture.input = {second:?}\n",
            pictures.path()
        )
    };
    let systemd = Systemd::listen();
    let env = [
        ("NOTIFY_SOCKET", systemd.path.as_str()),
        ("WATCHDOG_USEC", "4000000"),
    ];
    let daemon = Daemon::spawn(&config(PATTERN), free_port(), &env);
    wait_for("READY=1", 90 * SECOND, || systemd.count("READY=1") == 1);
    let (code, text) = daemon.get("/healthz");
    assert_eq!(code, 503, "{text}");
    assert!(text.contains("door: ended: "), "{text}");
    assert!(!text.contains("yard"), "{text}");
    assert_eq!(daemon.get("/readyz").0, 503);
    let mut viewer = Viewer::watch(&format!("rtsp://127.0.0.1:{}/yard", daemon.rtsp));
    viewer.wait_frames(10, 30 * SECOND);
    let beats = systemd.count("WATCHDOG=1");
    wait_for("the watchdog is fed", 10 * SECOND, || {
        systemd.count("WATCHDOG=1") >= beats + 5
    });
    viewer.wait_frames(10, 30 * SECOND);
    assert_eq!(daemon.metric("segd_healthy{camera=\"yard\"}"), 1.0);
    let (code, log) = daemon.stop(3 * SECOND);
    assert_eq!(code, Some(0), "{log}");

    // None is left: the process ends with the first one's code.
    let mut daemon = Daemon::spawn(&config(pictures.path().to_str().unwrap()), free_port(), &[]);
    let mut code = None;
    wait_for("the end", 90 * SECOND, || {
        code = daemon.child.try_wait().unwrap();
        code.is_some()
    });
    let log = daemon.log();
    assert_eq!(code.and_then(|c| c.code()), Some(2), "{log}");
    assert!(
        log.contains("camera door: ") || log.contains("camera yard: "),
        "{log}"
    );
}

#[test]
fn a_second_signal_ends_it_at_once() {
    // A source that does not let go of its thread: stopping it takes as long as one sleep, 20 s.
    let source = "gst:videotestsrc is-live=true ! video/x-raw,width=160,height=128,framerate=25/1 ! \
                  identity sleep-time=20000000 ! appsink";
    let mut daemon = Daemon::spawn(&small(source), free_port(), &[]);
    wait_for("HTTP", 90 * SECOND, || daemon.get("/healthz").0 != 0);
    wait_for("the source is being opened", 30 * SECOND, || {
        daemon.status()["cameras"][0]["running_s"].as_f64() > Some(3.0)
    });
    daemon.signal("-TERM");
    wait_for("the first signal is heard", 5 * SECOND, || {
        daemon.log().contains("a second one exits at once")
    });
    std::thread::sleep(SECOND);
    assert!(daemon.child.try_wait().unwrap().is_none(), "{}", daemon.log());
    let asked = Instant::now();
    daemon.signal("-INT");
    let status = daemon.child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{}", daemon.log());
    assert!(asked.elapsed() < SECOND);
}

#[test]
fn a_disk_that_is_full_costs_the_recording_alone() {
    // No file of more than 100 KiB; the signal that says so is ignored, as the error is what a full disk gives.
    let before = "trap '' XFSZ; ulimit -f 200";
    let config = format!(
        "[stream]\noutputs = [\"rtsp://127.0.0.1:RTSP/segd\", \"FOLDER/a.mkv\"]\n{}",
        small("test://?width=320&height=240&fps=25")
    );
    let daemon = Daemon::spawn_under(before, &config, free_port(), &[]);
    wait_for("ready", 90 * SECOND, || daemon.get("/readyz").0 == 200);
    let mut viewer = Viewer::watch(&daemon.address());
    viewer.wait_frames(5, 30 * SECOND);
    assert_eq!(
        daemon.metric("segd_encoders{camera=\"segd\"}"),
        1.0,
        "client and recording share the encoder"
    );
    wait_for("the recording fails", 60 * SECOND, || {
        daemon.metric("segd_output_failures_total{camera=\"segd\"}") >= 1.0
    });
    let log = daemon.log();
    assert!(
        log.contains("a.mkv has failed") && log.contains("can't be written"),
        "{log}"
    );
    // It is opened again, beside what it left.
    wait_for("another recording", 30 * SECOND, || {
        daemon.log().contains("the output is open again")
    });
    viewer.wait_frames(25, 20 * SECOND);
    let recordings = std::fs::read_dir(daemon.folder.path()).unwrap();
    let names: Vec<String> = recordings
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.ends_with(".mkv"))
        .collect();
    assert!(names.len() >= 2, "{names:?}");
    let (code, log) = daemon.stop(3 * SECOND);
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn the_environment_stands_over_the_file_and_the_command_line_over_both() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("segd.toml");
    std::fs::write(
        &file,
        "[capture]\ncamera = \"/dev/video97\"\n[model]\nbackend = \"tract\"\nsize = 64\n",
    )
    .unwrap();
    let out = folder.path().join("out/");
    let run = |env: &[(&str, &str)], arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_segd"))
            .arg("--config")
            .arg(&file)
            .args(["--output", &format!("{}/", out.display()), "--frames", "2"])
            .args(arguments)
            .envs(env.iter().copied())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let size = || {
        let first = std::fs::read_dir(&out).unwrap().next().unwrap().unwrap().path();
        let size = image::image_dimensions(first).unwrap();
        std::fs::remove_dir_all(&out).unwrap();
        size
    };
    let env = [
        ("SEGD_INPUT", "test://?fps=25"),
        ("SEGD_CAPTURE_WIDTH", "160"),
        ("SEGD_CAPTURE_HEIGHT", "96"),
    ];
    let (code, log) = run(&env, &["--no-pace"]);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(size(), (160, 96));
    let (code, log) = run(&env, &["--no-pace", "--width", "128"]);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(size(), (128, 96));
    let (code, log) = run(&[("SEGD_CAPTURE_WIDHT", "160")], &[]);
    assert_eq!(code, Some(2), "{log}");
    assert!(
        log.contains("SEGD_CAPTURE_WIDHT") && log.contains("`width`"),
        "{log}"
    );
}
