//! The configuration read again while segd runs.
#![cfg(feature = "gstreamer")]

mod common {
    pub mod daemon;
}

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::daemon::{Daemon, Viewer, free_port, small, wait_for};

const SECOND: Duration = Duration::from_secs(1);
const PATTERN: &str = "test://?width=160&height=128&fps=25";

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
        // Counted before it is written: the log may be a moment behind.
        wait_for(part, 10 * SECOND, || {
            let log = daemon.log();
            let mut refusals = log.lines().filter(|l| l.contains("refused, nothing was changed"));
            refusals.any(|line| line.contains(part))
        });
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

/// As a ConfigMap is changed: no signal, the file leads elsewhere.
#[test]
fn a_file_that_is_watched_is_read_again_when_it_changes() {
    let base = small(PATTERN);
    let daemon = Daemon::spawn(&base, free_port(), &[("SEGD_WATCH_CONFIG", "true")]);
    wait_for("ready", 90 * SECOND, || daemon.get("/readyz").0 == 200);
    assert_eq!(daemon.get("/livez"), (200, "alive\n".into()));
    let reloads = |result: &str| daemon.metric(&format!("segd_reloads_total{{result=\"{result}\"}}"));
    daemon.configure(&format!("{base}[overlay]\nclasses = [\"person\"]\n"));
    wait_for("taken", 20 * SECOND, || reloads("taken") == 1.0);
    assert_eq!(daemon.status()["cameras"][0]["classes_shown"][0], "person");
    daemon.configure(&format!("{base}[overlay]\nclasses = [\"persn\"]\n"));
    wait_for("refused", 20 * SECOND, || reloads("refused") == 1.0);
    assert_eq!(daemon.status()["cameras"][0]["classes_shown"][0], "person");
    assert_eq!(reloads("taken"), 1.0);
}
