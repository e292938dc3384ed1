//! End to end: `segd` as a process, and real RTSP clients. ffprobe and ffmpeg look at what comes.

#[path = "common/interleaved.rs"]
mod interleaved;

use std::io::Read;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use interleaved::play;

/// A running segd; killed when dropped.
struct Daemon {
    child: Child,
    address: String,
}

impl Daemon {
    fn start(extra: &[&str]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("rtsp://127.0.0.1:{port}/segd");
        let child = Command::new(env!("CARGO_BIN_EXE_segd"))
            .args([
                "--input",
                "test://?width=320&height=240&fps=30",
                "--size",
                "96",
                "--backend",
                "tract",
            ])
            .args(["--output", &address])
            .args(extra)
            .env_remove("SEGD_CAMERA")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let daemon = Self { child, address };
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "segd does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        daemon
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Exit code and log, within `limit`.
    fn wait(mut self, limit: Duration) -> (Option<i32>, String) {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut log = String::new();
                self.child
                    .stderr
                    .take()
                    .unwrap()
                    .read_to_string(&mut log)
                    .unwrap();
                return (status.code(), log);
            }
            assert!(Instant::now() < deadline, "segd is still running");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that decodes `frames` frames over `transport`.
fn client(address: &str, transport: &str, frames: u32) -> Child {
    Command::new("ffmpeg")
        .args([
            "-hide_banner",
            "-loglevel",
            "error",
            "-rtsp_transport",
            transport,
            "-i",
            address,
        ])
        .args(["-frames:v", &frames.to_string(), "-f", "framemd5", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ffmpeg is installed")
}

/// The distinct pictures that a client decoded.
fn pictures(client: Child) -> usize {
    let output = client.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut hashes: Vec<&str> = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.rsplit(',').next())
        .collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes.len()
}

#[test]
fn clients_over_tcp_and_udp_see_moving_video_at_the_sources_rate() {
    let daemon = Daemon::start(&[]);
    let probe = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-rtsp_transport",
            "tcp",
            "-show_entries",
            "stream=codec_name,width,height",
        ])
        .args(["-of", "csv=p=0", &daemon.address])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&probe.stdout).trim(), "h264,320,240");
    drop(daemon);
    for transport in ["tcp", "udp"] {
        let daemon = Daemon::start(&[]);
        assert!(
            pictures(client(&daemon.address, transport, 30)) >= 25,
            "{transport}: the picture moves"
        );
    }
}

#[test]
fn one_of_two_clients_is_killed_and_the_other_goes_on() {
    let daemon = Daemon::start(&[]);
    let stays = client(&daemon.address, "tcp", 120);
    let mut dies = client(&daemon.address, "tcp", 100_000);
    std::thread::sleep(Duration::from_millis(1500));
    dies.kill().unwrap();
    dies.wait().unwrap();
    assert!(pictures(stays) >= 100);
    // And there is room for a third.
    assert!(pictures(client(&daemon.address, "tcp", 10)) >= 5);
}

#[test]
fn clients_that_go_in_the_middle_of_a_packet_hurt_nobody() {
    let daemon = Daemon::start(&[]);
    let mut stays = client(&daemon.address, "tcp", 100_000);
    // What is sent to them then fails; each may be closed more than once.
    for _ in 0..15 {
        let clients: Vec<TcpStream> = (0..3).map(|_| play(&daemon.address)).collect();
        std::thread::sleep(Duration::from_millis(50));
        drop(clients);
    }
    assert!(pictures(client(&daemon.address, "tcp", 10)) >= 5);
    assert!(
        stays.try_wait().unwrap().is_none(),
        "another client was disconnected"
    );
    stays.kill().unwrap();
    stays.wait().unwrap();
    daemon.signal("-TERM");
    let (code, log) = daemon.wait(Duration::from_secs(10));
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_signal_stops_it_while_a_client_watches() {
    let daemon = Daemon::start(&[]);
    let mut watching = client(&daemon.address, "tcp", 100_000);
    std::thread::sleep(Duration::from_millis(1000));
    daemon.signal("-TERM");
    let (code, log) = daemon.wait(Duration::from_secs(10));
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("did not end"), "{log}");
    let _ = watching.kill();
    let _ = watching.wait();
}

#[test]
fn the_log_says_what_runs_and_where_to_look() {
    let daemon = Daemon::start(&["--log-format", "json"]);
    let address = daemon.address.clone();
    std::thread::sleep(Duration::from_millis(500));
    daemon.signal("-INT");
    let (code, log) = daemon.wait(Duration::from_secs(10));
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains(&format!("ffplay -fflags nobuffer {address}")),
        "{log}"
    );
    for line in log.lines().filter(|l| !l.starts_with("segd: ")) {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(entry["level"].is_string());
    }
    assert!(log.contains("tract"), "{log}");
}
