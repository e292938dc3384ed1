//! segd as a service, through the binary: health, systemd's messages, reload, missing sources, who may watch, and
//! clients that misbehave.
#![cfg(feature = "gstreamer")]

mod common {
    pub mod daemon;
}

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::daemon::{Daemon, Viewer, free_port, make_certificate, small, view, wait_for};

const SECOND: Duration = Duration::from_secs(1);
const PATTERN: &str = "test://?width=160&height=128&fps=25";

/// What systemd would hear.
struct Systemd {
    heard: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
    path: String,
}

impl Systemd {
    fn listen() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify").to_str().unwrap().to_owned();
        let socket = UnixDatagram::bind(&path).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let list = heard.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n) = socket.recv(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
                list.lock().unwrap().extend(text.lines().map(str::to_owned));
            }
        });
        Self {
            heard,
            _folder: folder,
            path,
        }
    }

    fn count(&self, start: &str) -> usize {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|l| l.starts_with(start)).count()
    }
}

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
fn health_says_how_it_is() {
    let daemon = Daemon::start(&small(PATTERN));
    wait_for("healthy", 30 * SECOND, || daemon.get("/healthz").0 == 200);
    let inferences = "segd_inferences_total{camera=\"segd\"}";
    wait_for("masks", 30 * SECOND, || daemon.metric(inferences) > 1.0);
    let metrics = daemon.get("/metrics").1;
    for name in [
        "segd_frames_captured_total{camera=\"segd\"}",
        "segd_frames_dropped_total{camera=\"segd\",queue=\"compose\"}",
        "segd_stage_seconds_bucket{camera=\"segd\",stage=\"infer\",le=\"+Inf\"}",
        "segd_mask_age_seconds_count{camera=\"segd\"}",
        "segd_inferences_total{camera=\"segd\"}",
        "segd_source_reconnects_total{camera=\"segd\"}",
        "segd_source_frames_lost_total{camera=\"segd\"}",
        "segd_clients{camera=\"segd\"}",
        "segd_provider_info{camera=\"segd\",backend=\"tract\",provider=\"CPU\"",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(name), "{name} is not in {metrics}");
    }
    let picture = daemon.snapshot();
    assert_eq!(picture.dimensions(), (160, 128));
    let status = daemon.status();
    assert_eq!(status["ready"], true);
    assert_eq!(status["cameras"][0]["network"]["backend"], "tract");
    // No client, then one, then none.
    let gauge = "segd_clients{camera=\"segd\"}";
    assert_eq!(daemon.metric(gauge), 0.0);
    let mut viewer = Viewer::watch(&daemon.address());
    viewer.wait_frames(5, 30 * SECOND);
    assert_eq!(daemon.metric(gauge), 1.0);
    drop(viewer);
    wait_for("no client", 10 * SECOND, || daemon.metric(gauge) == 0.0);
}

#[test]
fn a_reload_changes_what_it_can_under_a_client_that_goes_on_watching() {
    let base = small(PATTERN);
    let daemon = Daemon::start(&base);
    let mut viewer = Viewer::watch(&daemon.address());
    viewer.wait_frames(5, 30 * SECOND);
    let network = |daemon: &Daemon| daemon.get("/metrics").1.matches("segd_provider_info{").count();
    assert_eq!(network(&daemon), 1);

    // Overlay and classes at once.
    daemon.configure(&format!(
        "{base}[overlay]\nvisualize = \"mask\"\nclasses = [\"person\"]\n"
    ));
    daemon.signal("-HUP");
    wait_for("taken", 20 * SECOND, || {
        daemon.metric("segd_reloads_total{result=\"taken\"}") == 1.0
    });
    assert_eq!(daemon.status()["cameras"][0]["classes_shown"][0], "person");
    wait_for("a mask on black", 10 * SECOND, || {
        let picture = daemon.snapshot();
        let dark = picture.pixels().filter(|p| p.0.iter().all(|&v| v < 40)).count();
        dark * 2 > picture.pixels().len()
    });

    // A bad configuration changes nothing and says why.
    for (text, part) in [
        ("[overlay]\nclasses = [\"persn\"]\n", "persn"),
        ("[modle]\n", "modle"),
        ("[model]\nname = \"nonsuch\"\n", "nonsuch"),
        ("[privacy]\nmax_mask_age_ms = 0\n", "privacy.max_mask_age_ms = 0"),
    ] {
        let refused = daemon.metric("segd_reloads_total{result=\"refused\"}");
        let source = format!("[capture]\ninput = \"{PATTERN}\"\n{text}");
        daemon.configure(&source);
        daemon.signal("-HUP");
        wait_for("refused", 20 * SECOND, || {
            daemon.metric("segd_reloads_total{result=\"refused\"}") == refused + 1.0
        });
        let log = daemon.log();
        let line = log
            .lines()
            .rfind(|l| l.contains("refused, nothing was changed"))
            .unwrap();
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(daemon.status()["cameras"][0]["classes_shown"][0], "person");

    // Another model: prepared beside the old one, swapped between two frames.
    let inferences = "segd_inferences_total{camera=\"segd\"}";
    daemon.configure(&base.replace("size = 64", "size = 96"));
    daemon.signal("-HUP");
    wait_for("taken", 60 * SECOND, || {
        daemon.metric("segd_reloads_total{result=\"taken\"}") == 2.0
    });
    let before = daemon.metric(inferences);
    wait_for("masks of the new model", 30 * SECOND, || {
        daemon.metric(inferences) > before + 3.0
    });
    assert!(daemon.log().contains("the new model is ready"));
    wait_for("its size in the log", 10 * SECOND, || {
        daemon.log().contains("size=\"96x")
    });
    assert_eq!(daemon.get("/healthz"), (200, "ok\n".into()));

    // What needs a restart is said.
    daemon.configure(&format!("{base}[access]\nmax_bitrate_kbps = 900\n"));
    daemon.signal("-HUP");
    wait_for("said", 60 * SECOND, || {
        daemon
            .log()
            .contains("access.max_bitrate_kbps has changed: that takes effect at the next start")
    });
    viewer.wait_frames(5, 10 * SECOND);
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
fn a_hangup_without_a_configuration_file_is_answered() {
    if std::path::Path::new("/etc/segd/segd.toml").exists() {
        eprintln!("NOT TESTED: this system has a configuration file of its own");
        return;
    }
    let http = free_port();
    let mut child = Command::new(env!("CARGO_BIN_EXE_segd"))
        .args([
            "--input",
            PATTERN,
            "--backend",
            "tract",
            "--size",
            "64",
            "--output",
            "null://",
        ])
        .args(["--http", &format!("127.0.0.1:{http}")])
        .env_remove("SEGD_CONFIG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = Arc::new(Mutex::new(String::new()));
    let (mut stderr, text) = (child.stderr.take().unwrap(), log.clone());
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = stderr.read(&mut bytes) {
            text.lock()
                .unwrap()
                .push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
    });
    let said = |part: &str| log.lock().unwrap().contains(part);
    wait_for("ready", 90 * SECOND, || said(" ready "));
    let signal = |name: &str| {
        let sent = Command::new("kill")
            .args([name, &child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    };
    signal("-HUP");
    wait_for("an answer", 20 * SECOND, || {
        said("there is no configuration file to read again")
    });
    signal("-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
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
    }
}

#[test]
fn users_watch_with_their_password_alone() {
    let entry = |name: &str, password: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_segd"))
            .args(["hash-password", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(password.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let users = |list: &[String]| format!("{}[access]\nusers = {list:?}\n", small(PATTERN));
    let ann = entry("ann", "first secret\n");
    let daemon = Daemon::start(&users(std::slice::from_ref(&ann)));
    let with = |user: &str| format!("rtsp://{user}127.0.0.1:{}/segd", daemon.rtsp);
    let refused = |user: &str| {
        let why = view(&with(user), 3, 20 * SECOND).unwrap_err();
        assert!(why.contains("401"), "{why}");
    };
    refused("");
    refused("ann:wrong@");
    refused("bob:first%20secret@");
    view(&with("ann:first%20secret@"), 3, 30 * SECOND).unwrap();

    // Another user after a reload; who watches goes on.
    let mut viewer = Viewer::watch(&with("ann:first%20secret@"));
    viewer.wait_frames(3, 20 * SECOND);
    let bob = entry("bob", "second");
    daemon.configure(&users(&[bob]));
    daemon.signal("-HUP");
    wait_for("taken", 30 * SECOND, || {
        daemon.metric("segd_reloads_total{result=\"taken\"}") == 1.0
    });
    view(&with("bob:second@"), 3, 30 * SECOND).unwrap();
    refused("ann:first%20secret@");
    viewer.wait_frames(5, 10 * SECOND);
    let log = daemon.log();
    for secret in ["secret", "second", ann.rsplit(':').next().unwrap()] {
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
}

#[test]
fn open_addresses_without_users_are_refused() {
    let output = |extra: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_segd"))
            .args([
                "--input",
                PATTERN,
                "--backend",
                "tract",
                "--size",
                "64",
                "--frames",
                "3",
            ])
            .args([
                "--http",
                "",
                "--output",
                &format!("rtsp://0.0.0.0:{}/segd", free_port()),
            ])
            .args(extra)
            .output()
            .unwrap()
    };
    let refused = output(&[]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(
        text.contains("there are no users") && text.contains("--insecure"),
        "{text}"
    );
    assert!(output(&["--insecure"]).status.success());
}

/// The name in the certificate that a server shows.
fn served_name(port: u16) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let name = text.lines().find_map(|l| l.trim().strip_prefix("subject=CN = "));
    name.unwrap_or_default().to_owned()
}

/// Exit code and messages of `segd check-config` on the daemon's configuration.
fn check_config(daemon: &Daemon) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_segd"))
        .args(["check-config", "--no-source"])
        .arg(daemon.config())
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn rtsps_serves_its_certificate_and_a_new_one_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    make_certificate(&certificate, &key, "first");
    let config = format!(
        "[stream]\noutputs = [\"rtsps://127.0.0.1:RTSP/segd\"]\n{}[access]\ncertificate = {certificate:?}\nkey = {key:?}\n",
        small(PATTERN)
    );
    let daemon = Daemon::start(&config);
    assert_eq!(served_name(daemon.rtsp), "first");
    let address = format!("rtsps://127.0.0.1:{}/segd", daemon.rtsp);
    view(&address, 3, 30 * SECOND).unwrap();
    let mut viewer = Viewer::watch(&address);
    viewer.wait_frames(3, 20 * SECOND);
    // Files that are no certificate: the old one serves on.
    std::fs::write(&certificate, "no certificate").unwrap();
    wait_for("said", 20 * SECOND, || {
        daemon.log().contains("the old one stays in use")
    });
    assert_eq!(served_name(daemon.rtsp), "first");
    // A certificate whose key has not come: likewise.
    let other_key = folder.path().join("other.key");
    make_certificate(&certificate, &other_key, "second");
    wait_for("said", 20 * SECOND, || {
        daemon.log().contains("no TLS client can connect with these")
    });
    assert_eq!(served_name(daemon.rtsp), "first");
    let checked = check_config(&daemon);
    assert_eq!(checked.0, Some(2), "{}", checked.1);
    assert!(
        checked.1.contains("tls.crt and ") && checked.1.contains("the key must be the one"),
        "{}",
        checked.1
    );
    std::fs::rename(&other_key, &key).unwrap();
    wait_for("the new certificate", 20 * SECOND, || {
        served_name(daemon.rtsp) == "second"
    });
    let checked = check_config(&daemon);
    assert_eq!(checked.0, Some(0), "{}", checked.1);
    viewer.wait_frames(5, 10 * SECOND);
    // No clear text on the port.
    let why = view(&daemon.address(), 1, 5 * SECOND).unwrap_err();
    assert!(!why.is_empty());
}

fn rss_mib(daemon: &Daemon) -> f64 {
    daemon.metric("process_resident_memory_bytes") / 1048576.0
}

#[test]
fn half_open_connections_garbage_and_huge_headers_hurt_no_one() {
    let daemon = Daemon::start(&small(PATTERN));
    let mut viewer = Viewer::watch(&daemon.address());
    viewer.wait_frames(10, 30 * SECOND);
    let (before, files) = (rss_mib(&daemon), daemon.metric("process_open_fds"));
    let connect = || TcpStream::connect(("127.0.0.1", daemon.rtsp));

    // A thousand that say nothing, or begin a request and stop.
    let mut half_open = Vec::new();
    for index in 0..1000 {
        let mut stream = connect().unwrap();
        if index % 2 == 0 {
            let _ = stream.write_all(b"DESCRIBE rtsp://127.0.0.1/segd RTSP/1.0\r\nCSeq: ");
        }
        half_open.push(stream);
    }
    viewer.wait_frames(5, 10 * SECOND);
    let open = daemon.metric("process_open_fds");
    assert!(open < files + 150.0, "{files} to {open} files");
    view(&daemon.address(), 3, 30 * SECOND).expect("there is room for one who means it");
    drop(half_open);
    let mut silent = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", daemon.http)).unwrap();
        let _ = stream.write_all(b"GET /met");
        silent.push(stream);
    }
    for _ in 0..5 {
        assert_eq!(daemon.get("/healthz").0, 200);
    }
    drop(silent);

    // Garbage of several kinds.
    let long = "x".repeat(1 << 20);
    for garbage in [
        vec![0u8; 4096],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\r\n\r\n\r\n".to_vec(),
        b"$\x00\xff\xff".to_vec(),
        b"SETUP rtsp://x RTSP/9.9\r\nCSeq: -1\r\nTransport: \xff\xfe;;;=\r\n\r\n".to_vec(),
        b"PLAY * RTSP/1.0\r\nContent-Length: 99999999999\r\n\r\n".to_vec(),
        b"ANNOUNCE rtsp://x/ RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 2000000000\r\n\r\nxxxx".to_vec(),
        format!("OPTIONS rtsp://127.0.0.1/{long} RTSP/1.0\r\n\r\n").into_bytes(),
        format!("OPTIONS * RTSP/1.0\r\nX: {long}\r\n\r\n").into_bytes(),
    ] {
        let mut stream = connect().unwrap();
        let _ = stream.write_all(&garbage);
        let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
        let _ = stream.read(&mut [0; 1024]);
    }
    // Long headers that stop in the middle of a line, for as long as it takes to be sent away for it.
    let line = format!("X-Header: {}\r\n", "y".repeat(2000));
    let mut stopped: Vec<TcpStream> = Vec::new();
    for lines in [3, 40, 400] {
        let mut stream = connect().unwrap();
        stream
            .set_write_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let _ = stream.write_all(format!("OPTIONS * RTSP/1.0\r\n{}", line.repeat(lines)).as_bytes());
        stopped.push(stream);
    }
    for stream in &mut stopped {
        stream.set_read_timeout(Some(30 * SECOND)).unwrap();
        // An answer or none, and the end.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    // Headers without end, for some seconds, on several connections.
    let deadline = Instant::now() + 4 * SECOND;
    let mut streams: Vec<TcpStream> = (0..4).map(|_| connect().unwrap()).collect();
    for stream in &mut streams {
        let _ = stream.write_all(b"OPTIONS * RTSP/1.0\r\n");
        stream
            .set_write_timeout(Some(Duration::from_millis(100)))
            .unwrap();
    }
    let mut sent = 0;
    while Instant::now() < deadline {
        for stream in &mut streams {
            sent += stream.write(line.as_bytes()).unwrap_or(0);
        }
    }
    let after = rss_mib(&daemon);
    eprintln!("{} MiB of headers: {before:.0} to {after:.0} MiB RSS", sent >> 20);
    drop(streams);
    viewer.wait_frames(10, 10 * SECOND);
    assert!(viewer.is_watching());
    assert!(after < before + 100.0, "{before} to {after} MiB");
    wait_for("connections are gone", 30 * SECOND, || {
        daemon.metric("process_open_fds") < files + 10.0
    });
    // GStreamer's own complaints would be one for each turn of a loop without end.
    let log = daemon.log();
    assert!(
        !log.contains("CRITICAL") && !log.contains("WARNING **"),
        "{log:.2000}"
    );
}

#[test]
fn a_client_that_stops_reading_is_dropped_and_the_limit_holds() {
    let config = format!(
        "{}[access]\nmax_clients = 2\n",
        small("test://?width=640&height=480&fps=25")
    );
    let daemon = Daemon::start(&config);
    let mut good = Viewer::watch(&daemon.address());
    good.wait_frames(5, 30 * SECOND);
    let mut frozen = Viewer::watch(&daemon.address());
    frozen.wait_frames(5, 30 * SECOND);
    // Two watch; a third is told that there is no room.
    let why = view(&daemon.address(), 1, 10 * SECOND).unwrap_err();
    assert!(why.contains("503") || why.contains("453"), "{why}");
    let stop = Command::new("kill")
        .args(["-STOP", &frozen.pid().to_string()])
        .status();
    assert!(stop.unwrap().success());
    let gauge = "segd_clients{camera=\"segd\"}";
    wait_for("the frozen one is dropped", 90 * SECOND, || {
        daemon.metric(gauge) == 1.0
    });
    good.wait_frames(25, 10 * SECOND);
    view(&daemon.address(), 3, 30 * SECOND).expect("its place is free");
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
        daemon.log().contains("stream: open again")
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
