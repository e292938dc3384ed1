//! RTSP clients that misbehave: half requests, garbage, headers without end, and some that stop reading.
#![cfg(feature = "gstreamer")]

mod common {
    pub mod daemon;
}

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use common::daemon::{Daemon, Viewer, rss_mib, small, view, wait_for};

const SECOND: Duration = Duration::from_secs(1);
const PATTERN: &str = "test://?width=160&height=128&fps=25";

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
