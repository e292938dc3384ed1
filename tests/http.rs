//! HTTP through the binary: what the pages say, and clients that misbehave.
#![cfg(feature = "gstreamer")]

mod common {
    pub mod daemon;
}

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::daemon::{Daemon, Viewer, rss_mib, small, wait_for};

const SECOND: Duration = Duration::from_secs(1);
const PATTERN: &str = "test://?width=160&height=128&fps=25";

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
fn half_requests_silence_and_heads_without_end_hurt_no_one() {
    let daemon = Daemon::start(&small(PATTERN));
    let (before, files) = (rss_mib(&daemon), daemon.metric("process_open_fds"));
    let connect = || TcpStream::connect(("127.0.0.1", daemon.http)).unwrap();
    let mut silent = Vec::new();
    for index in 0..200 {
        let mut stream = connect();
        let beginning: &[u8] = if index % 4 == 0 { b"" } else { b"GET /met" };
        let _ = stream.write_all(beginning);
        silent.push(stream);
    }
    for _ in 0..5 {
        assert_eq!(daemon.get("/healthz").0, 200);
    }
    let open = daemon.metric("process_open_fds");
    assert!(open < files + 25.0, "{files} to {open} files");

    // Heads without end are answered or cut off long before they are 16 MiB.
    let line = format!("X-Header: {}\r\n", "y".repeat(2000));
    for _ in 0..20 {
        let mut stream = connect();
        stream.set_write_timeout(Some(10 * SECOND)).unwrap();
        let mut sent = stream.write(b"GET / HTTP/1.1\r\n").unwrap();
        while let Ok(count) = stream.write(line.as_bytes()) {
            sent += count;
            assert!(sent < 16 << 20, "segd reads on");
        }
    }
    // Bodies that nobody asked for are not read.
    for _ in 0..5 {
        let mut stream = connect();
        stream
            .write_all(b"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000000\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.set_read_timeout(Some(10 * SECOND)).unwrap();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    }
    let after = rss_mib(&daemon);
    assert!(after < before + 20.0, "{before} to {after} MiB");
    drop(silent);
    wait_for("connections are gone", 30 * SECOND, || {
        daemon.metric("process_open_fds") < files + 5.0
    });
    // Those that are connected don't hold up the end.
    let _silent: Vec<TcpStream> = (0..10).map(|_| connect()).collect();
    let (code, log) = daemon.stop(3 * SECOND);
    assert_eq!(code, Some(0), "{log}");
}
