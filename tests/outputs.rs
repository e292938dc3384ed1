//! The outputs end to end: what clients and players see of the frames that were pushed.
//!
//! Each frame carries its number as black and white blocks, so a test knows which frame it looks at.
#![cfg(feature = "gstreamer")]

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/interleaved.rs"]
mod interleaved;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video::VideoFrameExt;

use daemon::make_certificate;
use interleaved::play;
use segd::clock::{RealClock, stop_pair};
use segd::encode::{Encoders, Reader, ReaderKind};
use segd::mailbox::Received;
use segd::output::access::TlsFiles;
use segd::output::rtsp::{RtspOpener, RtspOutput};
use segd::output::{
    Codec, Output, OutputOpener, OutputSpec, RtspAddress, ServedOutput, StreamOptions, UnitOutput, Video,
    parse_output,
};
use vision::frame::{Colorimetry, Frame, FrameFormat, Matrix, PixelFormat, Range};
use vision::pool::{FramePool, PooledBuffer};

const BITS: usize = 16;
const FRAME_TIME_NS: u64 = 33_333_333;

fn format(width: usize, height: usize) -> FrameFormat {
    FrameFormat::new(PixelFormat::I420, width, height)
}

/// Draws a grey picture with `number` as blocks along the top quarter and a luma ramp below.
fn draw(format: FrameFormat, number: u64, data: &mut [u8]) {
    let (w, h) = (format.width, format.height);
    for y in 0..h {
        for x in 0..w {
            data[y * w + x] = if y < h / 4 {
                let bit = x * BITS / w;
                if number >> bit & 1 == 1 { 220 } else { 30 }
            } else {
                (40 + 150 * x / w) as u8
            };
        }
    }
    let chroma = w.div_ceil(2) * h.div_ceil(2);
    data[w * h..w * h + chroma].fill(110);
    data[w * h + chroma..w * h + 2 * chroma].fill(150);
}

fn frame(format: FrameFormat, number: u64, mut data: PooledBuffer) -> Frame {
    draw(format, number, &mut data);
    Frame {
        sequence: number,
        captured_at_ns: RealClock::now(),
        pts_ns: number * FRAME_TIME_NS,
        format,
        damaged: false,
        data,
    }
}

/// A decoded picture, without padding.
struct Picture {
    width: usize,
    height: usize,
    y: Vec<u8>,
    u: u8,
    v: u8,
}

impl Picture {
    fn of(sample: &gst::Sample) -> Self {
        let caps = sample.caps().unwrap();
        let info = gstreamer_video::VideoInfo::from_caps(caps).unwrap();
        let buffer = sample.buffer().unwrap();
        let frame = gstreamer_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).unwrap();
        let (width, height) = (info.width() as usize, info.height() as usize);
        let stride = frame.plane_stride()[0] as usize;
        let plane = frame.plane_data(0).unwrap();
        let y = (0..height)
            .flat_map(|row| &plane[row * stride..row * stride + width])
            .copied()
            .collect();
        let middle = |index: u32| {
            let stride = frame.plane_stride()[index as usize] as usize;
            frame.plane_data(index).unwrap()[height / 4 * stride + width / 4]
        };
        Self {
            width,
            height,
            y,
            u: middle(1),
            v: middle(2),
        }
    }

    /// The number drawn by [`draw`].
    fn number(&self) -> u64 {
        (0..BITS)
            .map(|bit| {
                let x = (2 * bit + 1) * self.width / (2 * BITS);
                u64::from(self.y[self.height / 8 * self.width + x] > 125) << bit
            })
            .sum()
    }

    /// Checks the ramp and the colours below the number.
    fn assert_is_drawn(&self, pushed_width: usize) {
        let row = 3 * self.height / 4;
        for x in (0..self.width).step_by(7) {
            let expected = (40 + 150 * x / pushed_width) as i32;
            let found = i32::from(self.y[row * self.width + x]);
            assert!(
                (found - expected).abs() <= 12,
                "luma {found} at {x},{row}; {expected} was pushed"
            );
        }
        assert!(
            self.u.abs_diff(110) <= 6 && self.v.abs_diff(150) <= 6,
            "U {} V {}",
            self.u,
            self.v
        );
    }
}

/// What makes pictures of a stream.
fn decoder(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 => "h264parse ! openh264dec",
        Codec::H265 => "h265parse ! avdec_h265 max-threads=1",
    }
}

/// An RTSP client of its own.
struct Client {
    pipeline: gst::Pipeline,
    sink: gst_app::AppSink,
}

impl Client {
    fn connect(address: &RtspAddress, protocol: &str) -> Self {
        Self::decoding(address, protocol, Codec::H264)
    }

    fn decoding(address: &RtspAddress, protocol: &str, codec: Codec) -> Self {
        let depay = codec.payloader().replace("pay", "depay");
        let pipeline = gst::parse::launch(&format!(
            "rtspsrc location={address} protocols={protocol} latency=0 ! {depay} ! {} ! \
             appsink name=out sync=false max-buffers=2 drop=true",
            decoder(codec)
        ))
        .unwrap()
        .downcast::<gst::Pipeline>()
        .unwrap();
        let sink = pipeline
            .by_name("out")
            .unwrap()
            .downcast::<gst_app::AppSink>()
            .unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        Self { pipeline, sink }
    }

    fn next(&self, timeout: Duration) -> Option<Picture> {
        let timeout = gst::ClockTime::from_mseconds(timeout.as_millis() as u64);
        self.sink.try_pull_sample(timeout).map(|s| Picture::of(&s))
    }

    /// Skips the grey that libav makes of pictures whose keyframe came before the client did.
    fn skip_to_keyframe(&self) {
        let grey = |picture: &Picture| picture.y.iter().filter(|&&y| y == 128).count() > picture.y.len() / 2;
        for _ in 0..60 {
            if !grey(&self.next(Duration::from_secs(10)).expect("a picture within 10 s")) {
                return;
            }
        }
        panic!("no keyframe within 60 pictures");
    }

    /// Looks at `count` pictures: their numbers must rise.
    fn watch(&self, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        for _ in 0..count {
            let picture = self.next(Duration::from_secs(10)).expect("a picture within 10 s");
            picture.assert_is_drawn(picture.width);
            numbers.push(picture.number());
        }
        assert!(numbers.windows(2).all(|n| n[0] < n[1]), "{numbers:?}");
        numbers
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// An RTSP output whose encoders are fed at 30 frames a second by a thread.
struct Fed {
    address: RtspAddress,
    pool: FramePool,
    stop: Arc<AtomicBool>,
    clients: Arc<AtomicUsize>,
    video: Video,
    thread: Option<std::thread::JoinHandle<Box<RtspOutput>>>,
}

impl Fed {
    fn open(format: FrameFormat, options: &StreamOptions) -> Self {
        Self::open_at("rtsp://127.0.0.1:0/test", format, options)
    }

    fn open_at(address: &str, format: FrameFormat, options: &StreamOptions) -> Self {
        let video = Video::new(format, Some(30.0), true);
        let Ok(OutputSpec::Rtsp(address)) = parse_output(address) else {
            panic!("{address} is no RTSP address");
        };
        let output = Box::new(RtspOpener::new(address, options).serve(&video).unwrap());
        let address = output.address().clone();
        let pool = FramePool::new(8, format.packed_bytes());
        let stop = Arc::new(AtomicBool::new(false));
        let clients = Arc::new(AtomicUsize::new(0));
        let (feed_pool, feed_stop, feed_clients) = (pool.clone(), stop.clone(), clients.clone());
        let encoders = video.encoders.clone();
        let thread = std::thread::spawn(move || {
            let begun = Instant::now();
            for number in 0.. {
                if feed_stop.load(Ordering::Relaxed) {
                    break;
                }
                if let Some(data) = feed_pool.take() {
                    encoders.push(frame(format, number, data));
                }
                output.check().unwrap();
                feed_clients.store(output.clients(), Ordering::Relaxed);
                let next = Duration::from_nanos((number + 1) * FRAME_TIME_NS);
                std::thread::sleep(next.saturating_sub(begun.elapsed()));
            }
            output
        });
        Self {
            address,
            pool,
            stop,
            clients,
            video,
            thread: Some(thread),
        }
    }

    /// Stops feeding and gives the output, still open.
    fn stop(&mut self) -> Box<RtspOutput> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }

    fn wait_for_clients(&self, count: usize) {
        wait_until("the number of clients", || {
            self.clients.load(Ordering::Relaxed) == count
        });
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what} within 10 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

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
fn three_clients_and_a_recording_cost_one_encoder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mkv");
    let options = StreamOptions::default();
    let mut fed = Fed::open(format(320, 240), &options);
    let encoders: Arc<Encoders> = fed.video.encoders.clone();
    assert_eq!((encoders.count(), encoders.running()), (1, 0), "nobody reads yet");
    let recording = start_recording(&path, &options, &fed.video);
    let clients = ["tcp", "udp", "tcp"].map(|protocol| Client::connect(&fed.address, protocol));
    for client in &clients {
        client.watch(10);
    }
    fed.wait_for_clients(3);
    assert_eq!((encoders.count(), encoders.running()), (1, 1));
    drop(clients);
    fed.wait_for_clients(0);
    assert_eq!(encoders.running(), 1, "the recording goes on");
    let output = fed.stop();
    encoders.finish();
    recording.join().unwrap().unwrap();
    output.finish().unwrap();
    assert_eq!(encoders.running(), 0);
    // Every picture was encoded once, and the recording has them all.
    let pictures = decode(&path);
    assert_eq!(pictures.len() as u64, encoders.encoded());
    assert!(pictures.len() >= 15, "{} pictures", pictures.len());
    for pair in pictures.windows(2) {
        assert!(pair[0].0.number() < pair[1].0.number());
        pair[1].0.assert_is_drawn(320);
    }

    // Who wants something else gets an encoder of his own.
    let video = Video::new(format(320, 240), Some(30.0), false);
    let smaller = StreamOptions {
        bitrate_kbps: Some(400),
        ..StreamOptions::default()
    };
    let recordings = [("b.mkv", &options), ("c.mp4", &options), ("d.mkv", &smaller)]
        .map(|(name, options)| start_recording(&folder.path().join(name), options, &video));
    assert_eq!((video.encoders.count(), video.encoders.running()), (2, 2));
    for number in 0..20 {
        let data = PooledBuffer::unpooled(vec![0; video.format.packed_bytes()]);
        video.encoders.push(frame(video.format, number, data));
    }
    video.encoders.finish();
    for recording in recordings {
        recording.join().unwrap().unwrap();
    }
    assert_eq!(video.encoders.encoded(), 40);
    for name in ["b.mkv", "c.mp4", "d.mkv"] {
        let numbers = decode(&folder.path().join(name));
        let numbers: Vec<u64> = numbers.iter().map(|(p, _)| p.number()).collect();
        assert_eq!(numbers, (0..20).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn a_recording_that_begins_while_a_client_watches_begins_with_a_keyframe() {
    let folder = tempfile::tempdir().unwrap();
    for codec in Codec::ALL {
        let options = StreamOptions {
            codec,
            keyframe_interval_s: 60.0,
            ..StreamOptions::default()
        };
        let mut fed = Fed::open(format(320, 240), &options);
        let client = Client::decoding(&fed.address, "tcp", codec);
        client.skip_to_keyframe();
        client.watch(10);
        let path = folder.path().join(format!("{}.mkv", codec.name()));
        let recording = start_recording(&path, &options, &fed.video);
        client.watch(20);
        let output = fed.stop();
        fed.video.encoders.finish();
        recording.join().unwrap().unwrap();
        output.finish().unwrap();
        let pictures = decode_as(&path, codec);
        assert!(pictures.len() >= 10, "{codec}: {} pictures", pictures.len());
        assert_eq!(pictures[0].1, 0, "{codec}: the file's time begins at 0");
        for (picture, _) in &pictures {
            picture.assert_is_drawn(320);
        }
    }
}

#[test]
fn a_recording_leaves_notices_out_and_loses_no_picture_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mkv");
    let options = StreamOptions {
        keyframe_interval_s: 60.0,
        ..StreamOptions::default()
    };
    let video = Video::new(format(320, 240), Some(30.0), false);
    let recording = start_recording(&path, &options, &video);
    let encoder = video
        .encoders
        .get(video.format, video.frame_rate, &options.encoding())
        .unwrap();
    let watches = ReaderKind {
        notices: true,
        low_delay: true,
    };
    let watching = encoder.read("watching", watches).unwrap();
    assert_eq!(video.encoders.count(), 1, "it is the recording's");
    let seen = std::thread::spawn(move || {
        let (_handle, stop) = stop_pair();
        let units = std::iter::from_fn(|| match watching.recv(&stop) {
            Received::Item(unit) => Some((unit.is_notice, unit.is_keyframe)),
            _ => None,
        });
        units.collect::<Vec<_>>()
    });
    for (numbers, is_notice) in [(0..10, false), (10..15, true), (15..30, false)] {
        for number in numbers {
            let data = PooledBuffer::unpooled(vec![0; video.format.packed_bytes()]);
            encoder.push(frame(video.format, number, data), is_notice);
        }
    }
    video.encoders.finish();
    recording.join().unwrap().unwrap();
    let seen = seen.join().unwrap();
    assert_eq!(video.encoders.encoded(), 30);
    assert_eq!(seen.iter().filter(|(notice, _)| *notice).count(), 5);
    assert_eq!(seen[15], (false, true), "the first picture after the notices");
    let numbers: Vec<u64> = decode(&path).iter().map(|(p, _)| p.number()).collect();
    assert_eq!(numbers, (0..10).chain(15..30).collect::<Vec<_>>());
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

fn open_error(output: &str, format: FrameFormat, options: &StreamOptions) -> segd::Error {
    match parse_output(output)
        .unwrap()
        .opener(options)
        .unwrap()
        .open(&Video::new(format, Some(30.0), true))
    {
        Ok(opened) => panic!("{output} opened: {}", opened.describe()),
        Err(e) => e,
    }
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
fn encoders_and_sizes_that_do_not_work_are_refused_with_the_reason() {
    let wanted = |encoder: &str| StreamOptions {
        encoder: Some(encoder.into()),
        ..StreamOptions::default()
    };
    let e = open_error("rtsp://127.0.0.1:0/x", format(64, 64), &wanted("quickenc"));
    assert!(
        e.to_string().contains("quickenc") && e.to_string().contains("x264enc"),
        "{e}"
    );
    let e = open_error("rtsp://127.0.0.1:0/x", format(64, 64), &wanted("nvv4l2h264enc"));
    assert!(e.to_string().contains("nvv4l2h264enc"), "{e}");
    let e = open_error("rtsp://127.0.0.1:0/x", format(8, 64), &StreamOptions::default());
    assert!(e.to_string().contains("8x64"), "{e}");
}

/// Decodes a file: its pictures, and their times.
fn decode(path: &Path) -> Vec<(Picture, u64)> {
    decode_as(path, Codec::H264)
}

fn decode_as(path: &Path, codec: Codec) -> Vec<(Picture, u64)> {
    gst::init().unwrap();
    let demux = if path.extension().unwrap() == "mp4" {
        "qtdemux"
    } else {
        "matroskademux"
    };
    let pipeline = gst::parse::launch(&format!(
        "filesrc name=in ! {demux} ! {} ! appsink name=out sync=false",
        decoder(codec)
    ))
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    let source = pipeline.by_name("in").unwrap();
    source.set_property("location", path.to_str().unwrap());
    let sink = pipeline
        .by_name("out")
        .unwrap()
        .downcast::<gst_app::AppSink>()
        .unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut pictures = Vec::new();
    while let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_seconds(10)) {
        let pts = sample.buffer().unwrap().pts().unwrap();
        pictures.push((Picture::of(&sample), pts.nseconds()));
    }
    pipeline.set_state(gst::State::Null).unwrap();
    pictures
}

/// Writes `count` frames to `path`; the frames' times are `pts_ns(number)`.
fn record(
    path: &Path,
    format: FrameFormat,
    options: &StreamOptions,
    count: u64,
    pts_ns: impl Fn(u64) -> u64,
) {
    let opener = parse_output(path.to_str().unwrap())
        .unwrap()
        .opener(options)
        .unwrap();
    let video = Video::new(format, Some(30.0), false);
    record_with(opener.as_ref(), &video, count, pts_ns);
}

fn record_with(opener: &dyn OutputOpener, video: &Video, count: u64, pts_ns: impl Fn(u64) -> u64) {
    let format = video.format;
    let output = opener.open(video).unwrap();
    let pool = FramePool::new(16, format.packed_bytes());
    let frames = (0..count).map(|number| {
        let data = pool.take().expect("a buffer: few are held");
        let mut frame = frame(format, number, data);
        frame.pts_ns = pts_ns(number);
        frame
    });
    match output {
        Output::Frames(mut output) => {
            frames.for_each(|frame| output.push(frame).unwrap());
            output.finish().unwrap();
        }
        Output::Units(reader, file) => {
            let file = std::thread::spawn(move || write(reader, file));
            frames.for_each(|frame| video.encoders.push(frame));
            video.encoders.finish();
            file.join().unwrap().unwrap();
        }
        Output::Served(_) => panic!("{} is served", opener.name()),
    }
    assert_eq!(pool.available(), pool.capacity(), "all buffers are back");
}

/// Writes what a reader reads, to its end.
fn write(reader: Reader, mut file: Box<dyn UnitOutput>) -> segd::Result<()> {
    let (_handle, stop) = stop_pair();
    while let Received::Item(unit) = reader.recv(&stop) {
        file.push(&unit)?;
    }
    match reader.failure() {
        Some(why) => Err(why),
        None => file.finish(),
    }
}

/// A recording at these encoders, which ends with them.
fn start_recording(
    path: &Path,
    options: &StreamOptions,
    video: &Video,
) -> std::thread::JoinHandle<segd::Result<()>> {
    let opener = parse_output(path.to_str().unwrap())
        .unwrap()
        .opener(options)
        .unwrap();
    match opener.open(video).unwrap() {
        Output::Units(reader, file) => std::thread::spawn(move || write(reader, file)),
        other => panic!("{} reads no units", other.describe()),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_output_that_is_opened_again_keeps_what_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let (video, images) = (folder.path().join("a.mkv"), folder.path().join("images"));
    for name in [video.to_str().unwrap(), &format!("{}/", images.display())] {
        let opener = parse_output(name)
            .unwrap()
            .opener(&StreamOptions::default())
            .unwrap();
        for _ in 0..3 {
            let video = Video::new(format(160, 120), Some(30.0), true);
            record_with(opener.as_ref(), &video, 3, |number| number * FRAME_TIME_NS);
        }
    }
    let recordings = names(folder.path());
    assert_eq!(recordings.len(), 4, "{recordings:?}");
    for name in &recordings[..3] {
        assert_eq!(decode(&folder.path().join(name)).len(), 3, "{name}");
    }
    assert_eq!(names(&images).len(), 9);
}

#[test]
fn what_an_earlier_run_left_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    let image_output = format!("{}/", images.display());
    std::fs::create_dir(&images).unwrap();
    let mut kept = vec![images.join("000041.png"), images.join("photograph.png")];
    for name in ["a.mp4", "b.mkv"] {
        kept.push(folder.path().join(name));
    }
    for path in &kept {
        std::fs::write(path, "earlier").unwrap();
    }
    let opener = |output: &str| {
        let spec = parse_output(output).unwrap();
        spec.opener(&StreamOptions::default()).unwrap()
    };
    // Pictures have numbers, which would mix: who converts a file can name another folder.
    let conversion = Video::new(format(160, 120), Some(30.0), false);
    let why = opener(&image_output)
        .open(&conversion)
        .err()
        .expect("pictures are there");
    assert_eq!(why.exit_code(), 2, "{why}");
    assert!(why.to_string().contains(images.to_str().unwrap()), "{why}");
    assert!(why.to_string().contains("name another"), "{why}");
    // A service that starts again records on, beside it.
    let live = Video::new(format(160, 120), Some(30.0), true);
    record_with(opener(&image_output).as_ref(), &live, 2, |n| n * FRAME_TIME_NS);
    assert_eq!(
        names(&images),
        ["000041.png", "000042.png", "000043.png", "photograph.png"]
    );
    for path in &kept[..2] {
        assert_eq!(std::fs::read_to_string(path).unwrap(), "earlier");
    }
    // The newest recording has the name that was asked for, those before it the times of their last change.
    for (frames, live) in [(2, true), (3, false), (4, true)] {
        for path in &kept[2..] {
            let video = Video::new(format(160, 120), Some(30.0), live);
            record_with(opener(path.to_str().unwrap()).as_ref(), &video, frames, |n| {
                n * FRAME_TIME_NS
            });
            assert_eq!(decode(path).len(), frames as usize, "{}", path.display());
        }
    }
    let recordings = names(folder.path());
    assert_eq!(recordings.len(), 9, "{recordings:?}");
    for letter in ["a", "b"] {
        let mut found = Vec::new();
        for name in recordings
            .iter()
            .filter(|n| n.starts_with(letter) && n.contains('Z'))
        {
            // a-2026-11-29T22-41-03Z.mp4, and a number where two are of one second
            let form: String = name[2..22]
                .chars()
                .map(|c| if c.is_ascii_digit() { '9' } else { c })
                .collect();
            assert_eq!(form, "9999-99-99T99-99-99Z", "{name}");
            let path = folder.path().join(name);
            match std::fs::read(&path).unwrap() == b"earlier" {
                true => found.push(0),
                false => found.push(decode(&path).len()),
            }
        }
        found.sort_unstable();
        assert_eq!(found, [0, 2, 3], "{letter}");
    }
}

#[test]
fn a_file_that_appears_while_another_is_written_is_not_replaced_either() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mkv");
    let options = StreamOptions::default();
    let video = Video::new(format(160, 120), Some(30.0), false);
    let recording = start_recording(&path, &options, &video);
    std::fs::write(&path, "another's").unwrap();
    let data = PooledBuffer::unpooled(vec![0; video.format.packed_bytes()]);
    video.encoders.push(frame(video.format, 0, data));
    video.encoders.finish();
    recording.join().unwrap().unwrap();
    let found = names(folder.path());
    assert_eq!(found.len(), 2, "{found:?}");
    // Names sort as `a-TIME.mkv`, `a.mkv`.
    let moved = folder.path().join(&found[0]);
    assert_eq!(std::fs::read_to_string(moved).unwrap(), "another's");
    assert_eq!(decode(&path).len(), 1);
}

#[test]
fn a_recording_that_is_removed_while_it_is_written_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mkv");
    let video = Video::new(format(160, 120), Some(30.0), false);
    let recording = start_recording(&path, &StreamOptions::default(), &video);
    std::fs::remove_file(folder.path().join("a.partial.mkv")).unwrap();
    let mut number = 0;
    wait_until("the recording fails", || {
        let data = PooledBuffer::unpooled(vec![0; video.format.packed_bytes()]);
        video.encoders.push(frame(video.format, number, data));
        number += 1;
        recording.is_finished()
    });
    let why = recording.join().unwrap().unwrap_err();
    assert!(
        why.to_string().contains("a.partial.mkv: is not there any more"),
        "{why}"
    );
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

#[test]
fn files_hold_every_frame_at_its_time_under_the_final_name_alone() {
    let folder = tempfile::tempdir().unwrap();
    for encoder in ["x264enc", "openh264enc"] {
        for ending in ["mp4", "mkv"] {
            let name = format!("{encoder}.{ending}");
            let path = folder.path().join(&name);
            let options = StreamOptions {
                encoder: Some(encoder.into()),
                ..StreamOptions::default()
            };
            let begin = 5_000_000_000;
            record(&path, format(320, 240), &options, 100, |n| {
                begin + n * FRAME_TIME_NS
            });
            let pictures = decode(&path);
            let numbers: Vec<_> = pictures.iter().map(|(p, _)| p.number()).collect();
            assert_eq!(numbers, (0..100).collect::<Vec<_>>(), "{encoder} {name}");
            for (n, (_, pts)) in pictures.iter().enumerate() {
                let expected = n as u64 * FRAME_TIME_NS;
                assert!(pts.abs_diff(expected) <= 1_000_000, "{name}: frame {n} at {pts}");
            }
        }
    }
    assert_eq!(
        names(folder.path()),
        ["openh264enc.mkv", "openh264enc.mp4", "x264enc.mkv", "x264enc.mp4"]
    );
}

#[test]
fn h265_reaches_clients_and_files() {
    let options = StreamOptions {
        codec: Codec::H265,
        keyframe_interval_s: 60.0,
        ..StreamOptions::default()
    };
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.mp4", "a.mkv"] {
        let path = folder.path().join(name);
        record(&path, format(320, 240), &options, 30, |n| n * FRAME_TIME_NS);
        let pictures = decode_as(&path, Codec::H265);
        let numbers: Vec<_> = pictures.iter().map(|(p, _)| p.number()).collect();
        assert_eq!(numbers, (0..30).collect::<Vec<_>>(), "{name}");
        pictures[20].0.assert_is_drawn(320);
    }
    let mut fed = Fed::open(format(320, 240), &options);
    let first = Client::decoding(&fed.address, "tcp", Codec::H265);
    first.skip_to_keyframe();
    first.watch(10);
    // Without a keyframe of its own it would wait for a minute.
    let second = Client::decoding(&fed.address, "udp", Codec::H265);
    second.skip_to_keyframe();
    second.watch(10);
    let output = fed.stop();
    assert!(output.describe().contains("(H.265 by "), "{}", output.describe());
    output.finish().unwrap();
}

#[test]
fn sizes_that_suit_no_default_layout_come_out_straight() {
    let folder = tempfile::tempdir().unwrap();
    for encoder in ["x264enc", "openh264enc"] {
        for (width, height) in [(321, 243), (642, 482), (324, 242), (16, 17)] {
            let path = folder.path().join(format!("{encoder}-{width}.mkv"));
            let options = StreamOptions {
                encoder: Some(encoder.into()),
                bitrate_kbps: Some(4000),
                ..StreamOptions::default()
            };
            record(&path, format(width, height), &options, 5, |n| n * FRAME_TIME_NS);
            let pictures = decode(&path);
            assert_eq!(pictures.len(), 5);
            for (picture, _) in &pictures {
                assert_eq!(
                    (picture.width, picture.height),
                    (width & !1, height & !1),
                    "{encoder}"
                );
                picture.assert_is_drawn(width);
            }
        }
    }
}

#[test]
fn time_that_jumps_back_goes_on_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mkv");
    let options = StreamOptions::default();
    record(&path, format(320, 240), &options, 40, |n| {
        (n % 20) * FRAME_TIME_NS
    });
    let times: Vec<_> = decode(&path).iter().map(|(_, pts)| *pts).collect();
    assert_eq!(times.len(), 40);
    for (n, pts) in times.iter().enumerate() {
        assert!(
            pts.abs_diff(n as u64 * FRAME_TIME_NS) <= 1_000_000,
            "frame {n} at {pts}"
        );
    }
}

#[test]
fn no_frame_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let options = StreamOptions::default();
    record(&folder.path().join("a.mp4"), format(320, 240), &options, 0, |n| n);
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let e = open_error(
        "/nonexistent/folder/a.mp4",
        format(64, 64),
        &StreamOptions::default(),
    );
    assert!(
        e.to_string().contains("create the folder /nonexistent/folder"),
        "{e}"
    );
    assert_eq!(e.exit_code(), 2);
}

#[test]
fn colorimetry_reaches_the_player() {
    let folder = tempfile::tempdir().unwrap();
    for (color, expected) in [
        ((Matrix::Bt601, Range::Limited), "bt601"),
        ((Matrix::Bt601, Range::Full), "1:4:7:1"),
        ((Matrix::Bt709, Range::Limited), "bt709"),
    ] {
        let path = folder.path().join(format!("{expected}.mkv"));
        let mut format = format(320, 240);
        format.color = Colorimetry {
            matrix: color.0,
            range: color.1,
        };
        record(&path, format, &StreamOptions::default(), 3, |n| n * FRAME_TIME_NS);
        let pipeline =
            gst::parse::launch("filesrc name=in ! matroskademux ! h264parse name=parse ! fakesink")
                .unwrap()
                .downcast::<gst::Pipeline>()
                .unwrap();
        let source = pipeline.by_name("in").unwrap();
        source.set_property("location", path.to_str().unwrap());
        pipeline.set_state(gst::State::Paused).unwrap();
        let (state, ..) = pipeline.state(gst::ClockTime::from_seconds(10));
        state.unwrap();
        let pad = pipeline.by_name("parse").unwrap().static_pad("src").unwrap();
        let caps = pad.current_caps().unwrap();
        let found = caps.structure(0).unwrap().get::<String>("colorimetry").unwrap();
        pipeline.set_state(gst::State::Null).unwrap();
        assert_eq!(found, expected);
    }
}

const CHILD_PATH: &str = "SEGD_TEST_CHILD_PATH";
const CHILD_LIMIT: &str = "SEGD_TEST_CHILD_LIMIT";

/// Runs this program again as a recorder ([`recorder_child`]).
fn start_recorder(path: &Path, limit_bytes: Option<u64>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "recorder_child", "--nocapture"])
        .env(CHILD_PATH, path)
        .stdout(Stdio::piped());
    if let Some(limit) = limit_bytes {
        command.env(CHILD_LIMIT, limit.to_string());
    }
    command.spawn().unwrap()
}

/// The child of the tests below: records until it is killed or can't go on.
#[test]
#[ignore = "started by other tests"]
fn recorder_child() {
    let Some(path) = std::env::var_os(CHILD_PATH) else {
        return;
    };
    if let Ok(limit) = std::env::var(CHILD_LIMIT) {
        // A write beyond the limit is to fail, as on a full disk, not to kill.
        signal_hook::flag::register(25, Arc::new(AtomicBool::new(false))).unwrap();
        let limit = Some(limit.parse().unwrap());
        let limits = rustix::process::Rlimit {
            current: limit,
            maximum: limit,
        };
        rustix::process::setrlimit(rustix::process::Resource::Fsize, limits).unwrap();
    }
    let format = format(320, 240);
    let spec = parse_output(PathBuf::from(path).to_str().unwrap()).unwrap();
    let video = Video::new(format, Some(30.0), false);
    let output = spec
        .opener(&StreamOptions::default())
        .unwrap()
        .open(&video)
        .unwrap();
    let Output::Units(reader, file) = output else {
        panic!("no file");
    };
    let mut file = Some(std::thread::spawn(move || write(reader, file)));
    for number in 0..1000 {
        let data = PooledBuffer::unpooled(vec![0; format.packed_bytes()]);
        video.encoders.push(frame(format, number, data));
        if let Some(ended) = file.take_if(|thread| thread.is_finished()) {
            println!("failed: {}", ended.join().unwrap().unwrap_err());
            return;
        }
        println!("pushed {number}");
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("ended");
}

#[test]
fn a_killed_recording_can_be_played_and_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    for extension in ["mp4", "mkv"] {
        let path = folder.path().join(format!("a.{extension}"));
        let mut child = start_recorder(&path, None);
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|l| l.ends_with("pushed 150")));
        child.kill().unwrap();
        child.wait().unwrap();
        let partial = folder.path().join(format!("a.partial.{extension}"));
        assert!(partial.exists() && !path.exists());
        let pictures = decode(&partial);
        // 150 frames of 1/30 s; the last second may be missing.
        assert!(pictures.len() >= 110, "{extension}: {} pictures", pictures.len());
        for (n, (picture, _)) in pictures.iter().enumerate() {
            assert_eq!(picture.number(), n as u64, "{extension}");
        }
        record(&path, format(320, 240), &StreamOptions::default(), 5, |n| {
            n * FRAME_TIME_NS
        });
        assert_eq!(decode(&path).len(), 5);
        assert_eq!(
            decode(&partial).len(),
            pictures.len(),
            "the killed recording is untouched"
        );
    }
}

#[test]
fn a_disk_that_takes_no_more_ends_the_recording_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for extension in ["mp4", "mkv"] {
        let path = folder.path().join(format!("a.{extension}"));
        let child = start_recorder(&path, Some(100_000));
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let failed = text.lines().find_map(|l| l.split_once("failed: "));
        let (_, why) = failed.unwrap_or_else(|| panic!("no error: {text}"));
        assert!(
            why.contains("can't be written") && why.contains("a.partial"),
            "{why}"
        );
        let partial = folder.path().join(format!("a.partial.{extension}"));
        assert!(partial.exists() && !path.exists());
    }
}
