//! Who may watch, and over what: users, open addresses, TLS.
#![cfg(feature = "gstreamer")]

mod common {
    pub mod daemon;
}

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::daemon::{Daemon, Viewer, free_port, make_certificate, small, view, wait_for};

const SECOND: Duration = Duration::from_secs(1);
const PATTERN: &str = "test://?width=160&height=128&fps=25";

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
    // Over HTTP there is a password as well now.
    wait_for("taken", 30 * SECOND, || {
        daemon.log().contains("the configuration was read again")
    });
    assert_eq!(daemon.get("/metrics").0, 401);
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
