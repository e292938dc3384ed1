//! RTSP clients: what they see of the frames that were pushed.
#![cfg(feature = "gstreamer")]

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/drawn.rs"]
mod drawn;
#[path = "common/fed.rs"]
mod fed;
#[path = "common/interleaved.rs"]
mod interleaved;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use daemon::make_certificate;
use drawn::*;
use fed::*;
use interleaved::play;
use segd::output::access::TlsFiles;
use segd::output::rtsp::RtspOpener;
use segd::output::{RtspAddress, ServedOutput, StreamOptions, Video};
use vision::pool::FramePool;

#[test]
fn clients_over_tcp_and_udp_see_what_was_pushed_and_leave_each_other_alone() {
    let mut fed = Fed::open(format(640, 480), &StreamOptions::default());
    let tcp = Client::connect(&fed.address, "tcp");
    tcp.watch(15);
    let udp = Client::connect(&fed.address, "udp");
    udp.watch(15);
    fed.wait_for_clients(2);
    tcp.watch(15);
    drop(tcp);
    fed.wait_for_clients(1);
    udp.watch(15);
    assert_eq!(fed.video.encoders.running(), 1, "both read the same encoder");
    drop(udp);
    fed.wait_for_clients(0);
    // The encoder is gone with its last client, and so are its frames.
    wait_until("no encoder at work", || fed.video.encoders.running() == 0);
    wait_until("all buffers in the pool", || {
        fed.pool.available() >= fed.pool.capacity() - 1
    });
    let again = Client::connect(&fed.address, "tcp");
    again.watch(5);
    let output = fed.stop();
    let begun = Instant::now();
    output.finish().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(fed.pool.available(), fed.pool.capacity(), "all buffers are back");
    // The port is free.
    TcpListener::bind((fed.address.host.as_str(), fed.address.port)).unwrap();
}

#[test]
fn a_client_that_joins_later_gets_a_keyframe() {
    let options = StreamOptions {
        keyframe_interval_s: 60.0,
        ..StreamOptions::default()
    };
    let mut fed = Fed::open(format(320, 240), &options);
    let first = Client::connect(&fed.address, "tcp");
    first.watch(30);
    let second = Client::connect(&fed.address, "tcp");
    // Without one it would wait for a minute.
    second.watch(10);
    fed.stop().finish().unwrap();
}

#[test]
fn without_clients_frames_go_nowhere_and_are_no_drops() {
    let format = format(320, 240);
    let address = RtspAddress {
        host: "127.0.0.1".into(),
        port: 0,
        path: "/test".into(),
        tls: false,
    };
    let video = Video::new(format, None, true);
    let opener = RtspOpener::new(address, &StreamOptions::default());
    let output = opener.serve(&video).unwrap();
    let pool = FramePool::new(1, format.packed_bytes());
    for number in 0..100 {
        let data = pool.take().expect("the buffer is back after each push");
        video.encoders.push(frame(format, number, data));
    }
    assert_eq!((output.dropped(), output.clients()), (0, 0));
    assert_eq!((video.encoders.dropped(), video.encoders.encoded()), (0, 0));
    Box::new(output).finish().unwrap();
}

#[test]
fn a_client_that_stops_reading_holds_nobody_up() {
    // Fast and large enough to fill a socket's buffers within seconds.
    let options = StreamOptions {
        bitrate_kbps: Some(20_000),
        ..StreamOptions::default()
    };
    let mut fed = Fed::open(format(640, 480), &options);
    let good = Client::connect(&fed.address, "tcp");
    good.watch(5);
    let stalled = play(&fed.address.to_string());
    fed.wait_for_clients(2);
    let begun = Instant::now();
    let numbers = good.watch(150);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(numbers[149] - numbers[0] < 600, "{numbers:?}");
    let output = fed.stop();
    let begun = Instant::now();
    output.finish().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(stalled);
    assert_eq!(fed.pool.available(), fed.pool.capacity(), "all buffers are back");
}

#[test]
fn addresses_that_cannot_be_served_are_refused_with_the_reason() {
    let options = StreamOptions::default();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let e = open_error(&format!("rtsp://127.0.0.1:{port}/x"), format(64, 64), &options);
    assert!(
        e.to_string().contains("in use") && e.to_string().contains(&port.to_string()),
        "{e}"
    );
    // TEST-NET-3, <https://www.rfc-editor.org/rfc/rfc5737>: nobody's address.
    let mut open = options.clone();
    open.access.insecure = true;
    let e = open_error("rtsp://203.0.113.7:8554/x", format(64, 64), &open);
    assert!(e.to_string().contains("not an address of this machine"), "{e}");
    assert_eq!(e.exit_code(), 2);
}

#[test]
fn over_tls_the_video_is_never_sent_in_clear() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    make_certificate(&certificate, &key, "localhost");
    let mut options = StreamOptions::default();
    options.access.tls = Some(TlsFiles { certificate, key });
    let mut fed = Fed::open_at("rtsps://127.0.0.1:0/test", format(160, 120), &options);
    let answer = |transport: &str| {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-connect"])
            .arg(format!("127.0.0.1:{}", fed.address.port))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = fed.address.to_string().replace("rtsps", "rtsp");
        let request = format!("SETUP {url}/stream=0 RTSP/1.0\r\nCSeq: 1\r\nTransport: {transport}\r\n\r\n");
        // Kept open until the answer has come.
        let mut requests = client.stdin.take().unwrap();
        requests.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        let mut answers = BufReader::new(client.stdout.take().unwrap());
        answers.read_line(&mut line).unwrap();
        client.kill().unwrap();
        client.wait().unwrap();
        line.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(answer("RTP/AVP/TCP;unicast;interleaved=0-1"), "200");
    for clear in [
        "RTP/AVP;unicast;client_port=40000-40001",
        "RTP/AVP/UDP;unicast;client_port=40000-40001",
        "RTP/AVP;multicast",
        "RTP/AVPF;unicast;client_port=40000-40001",
    ] {
        assert_eq!(answer(clear), "461", "{clear}");
    }
    fed.stop().finish().unwrap();
}
