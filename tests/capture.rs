//! Sources of frames, read for real: small videos made on the spot, images, devices that are not there.
#![cfg(feature = "gstreamer")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;

use segd::Error;
use segd::capture::test::read_stamp;
use segd::capture::{Capture, CaptureOptions, FrameSource, Pace, RtspTransport, parse_uri};
use segd::clock::RealClock;
use vision::frame::{Frame, PixelFormat};
use vision::pool::FramePool;

/// Runs a launch line to its end.
fn launch(line: &str) {
    gst::init().unwrap();
    let pipeline = gst::parse::launch(line).unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let message = bus
        .timed_pop_filtered(
            gst::ClockTime::from_seconds(30),
            &[gst::MessageType::Eos, gst::MessageType::Error],
        )
        .expect("the video is made within 30 s");
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(matches!(message.view(), gst::MessageView::Eos(_)), "{message:?}");
}

/// An H.264 video of `frames` pictures at 25 fps.
fn video(dir: &Path, name: &str, size: (u32, u32), frames: u32, mux: &str) -> PathBuf {
    let path = dir.join(name);
    launch(&format!(
        "videotestsrc num-buffers={frames} pattern=ball ! video/x-raw,format=I420,width={},height={},framerate=25/1 \
         ! x264enc speed-preset=ultrafast key-int-max=10 ! {mux} ! filesink location=\"{}\"",
        size.0,
        size.1,
        path.display()
    ));
    path
}

fn unpaced() -> CaptureOptions {
    CaptureOptions {
        pace: Pace::AsFastAsPossible,
        ..CaptureOptions::default()
    }
}

fn open(uri: &str, options: &CaptureOptions) -> Result<Box<dyn FrameSource>, Error> {
    parse_uri(uri)?.opener(options, RealClock::shared())?.open()
}

fn open_error(uri: &str) -> Error {
    let error = open(uri, &unpaced()).err().expect("an error");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    error
}

/// Reads up to `most` frames.
fn read(source: &mut dyn FrameSource, most: usize, mut each: impl FnMut(&Frame)) -> usize {
    let pool = FramePool::new(2, source.format().packed_bytes());
    let mut count = 0;
    while count < most {
        match source.next_frame(&pool, Duration::from_secs(10)).unwrap() {
            Capture::Frame(frame) => {
                assert_eq!(frame.sequence, count as u64);
                each(&frame);
                count += 1;
            }
            Capture::End => break,
            other => panic!("{other:?} after {count} frames"),
        }
    }
    count
}

#[test]
fn every_frame_of_a_file_comes_once_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for (name, mux) in [("a.mp4", "mp4mux"), ("a b.mkv", "matroskamux")] {
        let path = video(dir.path(), name, (320, 240), 50, mux);
        let mut source = open(path.to_str().unwrap(), &unpaced()).unwrap();
        assert_eq!(source.frame_rate(), Some(25.0));
        assert!(source.frame_count().is_some_and(|n| n.abs_diff(50) <= 1));
        assert!(
            source.describe().contains("I420 320x240"),
            "{}",
            source.describe()
        );
        let mut last = None;
        let count = read(source.as_mut(), 1000, |frame| {
            assert_eq!(frame.format.pixel, PixelFormat::I420);
            assert!(last.is_none_or(|last| frame.pts_ns > last));
            assert!(
                frame.pts_ns.abs_diff(frame.sequence * 40_000_000) < 2_000_000,
                "{}",
                frame.pts_ns
            );
            last = Some(frame.pts_ns);
        });
        assert_eq!(count, 50, "{name}");
    }
}

#[test]
fn odd_sizes_lose_no_pixel() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("odd.mkv");
    launch(&format!(
        "videotestsrc num-buffers=3 pattern=white ! video/x-raw,format=I420,width=321,height=243,framerate=25/1 \
         ! avenc_ffv1 ! matroskamux ! filesink location=\"{}\"",
        path.display()
    ));
    let mut source = open(path.to_str().unwrap(), &unpaced()).unwrap();
    let format = source.format();
    assert_eq!((format.width, format.height), (321, 243));
    let count = read(source.as_mut(), 10, |frame| {
        let image = frame.image();
        for y in 0..243 {
            assert!(image.plane(0).row(y, 321).iter().all(|&v| v == 235), "row {y}");
        }
        assert!(image.plane(1).row(121, 161).iter().all(|&v| v == 128));
    });
    assert_eq!(count, 3);
}

#[test]
fn a_looped_file_goes_on_with_rising_times() {
    let dir = tempfile::tempdir().unwrap();
    let path = video(dir.path(), "loop.mp4", (160, 120), 10, "mp4mux");
    let options = CaptureOptions {
        looped: true,
        ..unpaced()
    };
    let mut source = open(path.to_str().unwrap(), &options).unwrap();
    let mut times = Vec::new();
    assert_eq!(read(source.as_mut(), 35, |frame| times.push(frame.pts_ns)), 35);
    assert_eq!(source.counters().loops, 3);
    for (n, pair) in times.windows(2).enumerate() {
        let step = pair[1] - pair[0];
        assert!(step.abs_diff(40_000_000) < 2_000_000, "step {n} is {step} ns");
    }
}

#[test]
fn a_paced_file_takes_its_own_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = video(dir.path(), "paced.mp4", (160, 120), 10, "mp4mux");
    let mut source = open(path.to_str().unwrap(), &CaptureOptions::default()).unwrap();
    let mut at = Vec::new();
    assert_eq!(
        read(source.as_mut(), 100, |frame| at.push(frame.captured_at_ns)),
        10
    );
    let took = at[9] - at[0];
    assert!(took >= 358_000_000, "nine intervals of 40 ms passed in {took} ns");
}

#[test]
fn a_file_cut_short_gives_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    for (name, mux) in [("cut.mkv", "matroskamux"), ("cut.mp4", "mp4mux faststart=true")] {
        let whole = video(dir.path(), "whole", (320, 240), 100, mux);
        let bytes = std::fs::read(&whole).unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, &bytes[..bytes.len() * 6 / 10]).unwrap();
        let mut source = open(path.to_str().unwrap(), &unpaced()).unwrap();
        let count = read(source.as_mut(), 1000, |_| {});
        assert!((20..100).contains(&count), "{name}: {count} frames");
        let options = CaptureOptions {
            looped: true,
            ..unpaced()
        };
        let mut source = open(path.to_str().unwrap(), &options).unwrap();
        let mut last = 0;
        read(source.as_mut(), 2 * count + 1, |frame| {
            assert!(frame.sequence == 0 || frame.pts_ns > last);
            last = frame.pts_ns;
        });
        // How many frames come out just before the damage varies by a few with the decoder's timing.
        assert!(
            (1..=3).contains(&source.counters().loops),
            "{name}: {:?}",
            source.counters()
        );
    }
    // The index of a plain mp4 stands at its end.
    let whole = video(dir.path(), "plain.mp4", (320, 240), 30, "mp4mux");
    let bytes = std::fs::read(&whole).unwrap();
    std::fs::write(&whole, &bytes[..bytes.len() / 2]).unwrap();
    let error = open_error(whole.to_str().unwrap());
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("plain.mp4: not a video"), "{error}");
}

#[test]
fn what_is_no_video_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("text.mp4"), "once upon a time\n".repeat(500)).unwrap();
    std::fs::write(path("empty.mp4"), "").unwrap();
    std::fs::write(
        path("noise.mp4"),
        (0..9000u32)
            .map(|i| ((i * i * 31) >> 7) as u8)
            .collect::<Vec<_>>(),
    )
    .unwrap();
    launch(&format!(
        "audiotestsrc num-buffers=20 ! wavenc ! filesink location=\"{}\"",
        path("sound.wav")
    ));
    for (name, part) in [
        ("text.mp4", "not a video that can be played"),
        ("noise.mp4", "not a video that can be played"),
        ("empty.mp4", "the file is empty"),
        ("sound.wav", "no video stream"),
        ("tex.mp4", "text.mp4\"?"),
        ("/nonexistent/a.mp4", "No such file"),
    ] {
        let error = open_error(&if name.starts_with('/') {
            name.to_owned()
        } else {
            path(name)
        });
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(error.to_string().contains(part), "{name}: {error}");
    }
}

#[test]
fn a_launch_line_is_a_source() {
    let mut source = open(
        "gst:videotestsrc num-buffers=7 ! video/x-raw,format=NV12,width=322,height=200,framerate=30/1 ! appsink",
        &unpaced(),
    )
    .unwrap();
    assert_eq!(source.format().pixel, PixelFormat::Nv12);
    assert_eq!(read(source.as_mut(), 100, |_| {}), 7);

    let mut source = open(
        "gst:videotestsrc is-live=true num-buffers=4 ! video/x-raw,format=YUY2,width=321,height=201 ! appsink",
        &CaptureOptions::default(),
    )
    .unwrap();
    assert_eq!(source.format().pixel, PixelFormat::Yuyv);
    assert_eq!(read(source.as_mut(), 100, |_| {}), 4);

    let error = open_error("gst:videotestsrc num-buffers=7 ! video/x-raw,format=RGB ! appsink");
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(
        text.contains("videoconvert") || text.contains("could not link"),
        "{text}"
    );
    let error = open_error("gst:filesrc location=/nonexistent/x ! decodebin ! videoconvert ! appsink");
    assert!(
        error.is_transient() && error.to_string().contains("filesrc"),
        "{error}"
    );
}

#[test]
fn a_live_source_that_is_not_read_keeps_the_newest() {
    let mut source = open(
        "gst:videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=64,framerate=100/1 ! appsink",
        &CaptureOptions::default(),
    )
    .unwrap();
    let pool = FramePool::new(4, source.format().packed_bytes());
    let mut next = || match source.next_frame(&pool, Duration::from_secs(5)).unwrap() {
        Capture::Frame(frame) => frame.sequence,
        other => panic!("{other:?}"),
    };
    let before = (0..3).map(|_| next()).last().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let after = next();
    assert!(after > before + 10, "{before} then {after}");
    assert!(source.counters().lost >= after - before - 1 - 3);
}

/// Reads to the end: for each frame its width, height and whether it is damaged.
fn read_all(source: &mut dyn FrameSource) -> Vec<(usize, usize, bool)> {
    let mut pool = FramePool::new(2, source.format().packed_bytes());
    let mut seen = Vec::new();
    loop {
        match source.next_frame(&pool, Duration::from_secs(10)).unwrap() {
            Capture::Frame(frame) => seen.push((frame.format.width, frame.format.height, frame.damaged)),
            Capture::NewFormat => pool = FramePool::new(2, source.format().packed_bytes()),
            Capture::End => return seen,
            other => panic!("{other:?} after {} frames", seen.len()),
        }
    }
}

#[test]
fn a_format_that_changes_goes_on_as_another_one() {
    let mut source = open(
        "gst:concat name=c ! appsink \
         videotestsrc num-buffers=3 ! video/x-raw,format=I420,width=64,height=64,framerate=25/1 ! c. \
         videotestsrc num-buffers=2 ! video/x-raw,format=NV12,width=96,height=64,framerate=25/1 ! c.",
        &unpaced(),
    )
    .unwrap();
    let seen = read_all(source.as_mut());
    let expected = [[(64, 64, false); 3].as_slice(), &[(96, 64, false); 2]].concat();
    assert_eq!(seen, expected);
    assert_eq!(source.format().pixel, PixelFormat::Nv12);
}

#[test]
fn pixels_that_are_not_square_become_square() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d1.mkv");
    launch(&format!(
        "videotestsrc num-buffers=3 ! video/x-raw,format=I420,width=352,height=576,framerate=25/1,pixel-aspect-ratio=24/11 \
         ! x264enc speed-preset=ultrafast ! matroskamux ! filesink location=\"{}\"",
        path.display()
    ));
    let mut source = open(path.to_str().unwrap(), &unpaced()).unwrap();
    assert_eq!(read_all(source.as_mut()), [(768, 576, false); 3]);
    let line = "gst:videotestsrc num-buffers=3 ! video/x-raw,format=YUY2,width=64,height=96,pixel-aspect-ratio=3/1 ! appsink";
    let mut source = open(line, &unpaced()).unwrap();
    assert_eq!(read_all(source.as_mut()), [(192, 96, false); 3]);
}

#[test]
fn a_streams_own_color_tags_win_over_its_files() {
    use vision::frame::{Colorimetry, Matrix, Range};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("full.mp4");
    launch(&format!(
        "videotestsrc num-buffers=3 ! video/x-raw,format=I420,width=64,height=64,framerate=25/1,colorimetry=(string)1:3:5:1 \
         ! x264enc speed-preset=ultrafast ! mp4mux ! filesink location=\"{}\"",
        path.display()
    ));
    // The file says BT.601 in limited range: primaries, transfer, matrix of 16 bits each, and one for full range.
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes
        .windows(8)
        .position(|w| w == b"colrnclx")
        .expect("a tag of the file")
        + 8;
    bytes[at..at + 7].copy_from_slice(&[0, 6, 0, 6, 0, 6, 0]);
    std::fs::write(&path, bytes).unwrap();
    let source = open(path.to_str().unwrap(), &unpaced()).unwrap();
    assert_eq!(
        source.format().color,
        Colorimetry {
            matrix: Matrix::Bt709,
            range: Range::Full
        }
    );
}

#[test]
fn transparent_parts_of_a_video_are_white() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clear.avi");
    // Red that can't be seen.
    let make = "videotestsrc num-buffers=2 pattern=solid-color foreground-color=0x00ff0000";
    launch(&format!(
        "{make} ! video/x-raw,format=RGBA,width=64,height=64,framerate=25/1 ! pngenc ! avimux ! filesink location=\"{}\"",
        path.display()
    ));
    let line = format!("gst:{make} ! video/x-raw,format=A420,width=64,height=64,framerate=25/1 ! appsink");
    for uri in [path.to_str().unwrap(), &line] {
        let mut source = open(uri, &unpaced()).unwrap();
        let count = read(source.as_mut(), 10, |frame| {
            let image = frame.image();
            assert!(image.plane(0).row(20, 64).iter().all(|&y| y == 235), "{uri}");
            assert!(image.plane(1).row(10, 32).iter().all(|&u| u == 128), "{uri}");
        });
        assert_eq!(count, 2, "{uri}");
    }
}

/// A video of 60 pictures, a keyframe every 20, of which the first 10 are missing.
fn begins_between_keyframes(dir: &Path, encoder: &str, parser: &str) -> PathBuf {
    gst::init().unwrap();
    let path = dir.join("late.mkv");
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc num-buffers=60 pattern=ball ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 \
         ! {encoder} ! {parser} name=cut ! matroskamux ! filesink location=\"{}\"",
        path.display()
    ))
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    let pad = pipeline.by_name("cut").unwrap().static_pad("src").unwrap();
    let passed = std::sync::atomic::AtomicU32::new(0);
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        match passed.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0..10 => gst::PadProbeReturn::Handled,
            _ => gst::PadProbeReturn::Ok,
        }
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    let message = pipeline.bus().unwrap().timed_pop_filtered(
        gst::ClockTime::from_seconds(30),
        &[gst::MessageType::Eos, gst::MessageType::Error],
    );
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(matches!(
        message.expect("made within 30 s").view(),
        gst::MessageView::Eos(_)
    ));
    path
}

#[test]
fn nothing_goes_out_before_the_first_whole_picture() {
    let encoders = [
        (
            "x264enc speed-preset=ultrafast tune=zerolatency key-int-max=20 option-string=scenecut=0",
            "h264parse",
        ),
        (
            "x265enc speed-preset=ultrafast tune=zerolatency key-int-max=20 option-string=scenecut=0:min-keyint=20",
            "h265parse",
        ),
    ];
    for (encoder, parser) in encoders {
        let dir = tempfile::tempdir().unwrap();
        let path = begins_between_keyframes(dir.path(), encoder, parser);
        let mut source = open(path.to_str().unwrap(), &unpaced()).unwrap();
        assert_eq!(read_all(source.as_mut()), [(160, 120, false); 40], "{encoder}");
        assert_eq!(source.counters().corrupt, 10, "{encoder}");
    }
}

#[test]
fn a_pipe_is_a_source() {
    let dir = tempfile::tempdir().unwrap();
    let whole = video(dir.path(), "whole.mkv", (160, 120), 25, "matroskamux");
    let bytes = std::fs::read(whole).unwrap();
    let pipe = dir.path().join("pipe.mkv");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let target = pipe.clone();
    let writer = std::thread::spawn(move || std::fs::write(target, bytes).unwrap());
    let mut source = open(pipe.to_str().unwrap(), &unpaced()).unwrap();
    assert_eq!(read(source.as_mut(), 100, |_| {}), 25);
    writer.join().unwrap();
}

#[test]
fn the_rate_of_a_stream_without_times_can_be_set() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("raw.h264");
    launch(&format!(
        "videotestsrc num-buffers=10 ! video/x-raw,format=I420,width=64,height=64,framerate=25/1 \
         ! x264enc speed-preset=ultrafast ! h264parse ! video/x-h264,stream-format=byte-stream \
         ! filesink location=\"{}\"",
        path.display()
    ));
    let options = CaptureOptions {
        untimed_fps: Some(8.0),
        ..unpaced()
    };
    let mut source = open(path.to_str().unwrap(), &options).unwrap();
    assert_eq!(source.frame_rate(), Some(8.0));
    let mut times = Vec::new();
    assert_eq!(read(source.as_mut(), 100, |frame| times.push(frame.pts_ns)), 10);
    assert_eq!((times[0], times[1], times[9]), (0, 125_000_000, 1_125_000_000));
    // A file that tells its times keeps them.
    let timed = video(dir.path(), "timed.mp4", (64, 64), 5, "mp4mux");
    assert_eq!(
        open(timed.to_str().unwrap(), &options).unwrap().frame_rate(),
        Some(25.0)
    );
}

#[test]
fn a_cut_is_seen_in_what_muxers_write() {
    use segd::capture::files::cut_short;
    let dir = tempfile::tempdir().unwrap();
    for mux in [
        "mp4mux",
        "mp4mux fragment-duration=200",
        "matroskamux",
        "avimux",
        "mpegtsmux",
    ] {
        let path = video(dir.path(), "whole", (64, 64), 50, mux);
        assert_eq!(cut_short(&path), None, "{mux}");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() * 55 / 100 - 1]).unwrap();
        assert!(cut_short(&path).is_some(), "{mux}");
    }
}

#[test]
fn a_rotated_video_is_turned() {
    let dir = tempfile::tempdir().unwrap();
    let path = video(dir.path(), "turned.mp4", (320, 240), 5, "mp4mux");
    // The track header's matrix (ISO/IEC 14496-12, 8.3.2), as phones write it for upright pictures.
    let mut bytes = std::fs::read(&path).unwrap();
    let header = bytes.windows(4).position(|w| w == b"tkhd").unwrap();
    let matrix = [0, 0x10000, 0, -0x10000, 0, 0, 240 << 16, 0, 0x4000_0000i32];
    for (n, value) in matrix.iter().enumerate() {
        let at = header + 4 + 40 + 4 * n;
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    let mut source = open(path.to_str().unwrap(), &unpaced()).unwrap();
    assert_eq!((source.format().width, source.format().height), (240, 320));
    assert_eq!(read(source.as_mut(), 100, |_| {}), 5);
}

#[test]
fn a_network_stream_that_is_not_there_is_transient_and_tells_no_password() {
    // Port 9 (discard) has no server here.
    let error = open_error("rtsp://bob:secret@127.0.0.1:9/cam");
    assert!(error.is_transient());
    let text = error.to_string();
    assert!(text.contains("127.0.0.1") && !text.contains("secret"), "{text}");
}

#[test]
fn the_test_pattern_counts_itself() {
    let mut source = open("test://?frames=5&width=160&height=120&format=yuyv", &unpaced()).unwrap();
    assert_eq!(
        read(source.as_mut(), 100, |frame| assert_eq!(
            read_stamp(&frame.image()),
            Some(frame.sequence)
        )),
        5
    );
}

#[cfg(feature = "camera")]
#[test]
fn a_camera_that_is_not_there_is_waited_for() {
    let error = open_error("/dev/video987");
    assert!(error.is_transient());
    let text = error.to_string();
    assert!(
        text.contains("/dev/video987") && text.contains("plug the camera in"),
        "{text}"
    );
    let error = open_error("/dev/null");
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("not a video device"), "{error}");
}

#[test]
fn a_reader_that_stops_in_the_middle_ends_the_pipeline() {
    let dir = tempfile::tempdir().unwrap();
    let path = video(dir.path(), "half.mp4", (160, 120), 100, "mp4mux");
    for taken in [0, 1, 30] {
        let mut source = open(path.to_str().unwrap(), &unpaced()).unwrap();
        assert_eq!(read(source.as_mut(), taken, |_| {}), taken);
        // GStreamer's thread waits in a full queue now; dropping must not wait for it.
        let started = std::time::Instant::now();
        drop(source);
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

/// What a camera does besides serving pictures.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Camera {
    Plain,
    /// Loses a packet now and then.
    Lossy,
    /// Sends what these elements make of the pictures.
    Encoding(&'static str),
}

/// An RTSP server on this machine with one camera; stopped when dropped.
struct Server {
    port: i32,
    context: gst::glib::MainContext,
    main_loop: gst::glib::MainLoop,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(camera: Camera) -> Self {
        use gstreamer_rtsp_server::prelude::*;
        gst::init().unwrap();
        let context = gst::glib::MainContext::new();
        let main_loop = gst::glib::MainLoop::new(Some(&context), false);
        let (port_tx, port_rx) = std::sync::mpsc::channel();
        let (thread_context, thread_loop) = (context.clone(), main_loop.clone());
        let thread = std::thread::spawn(move || {
            let server = gstreamer_rtsp_server::RTSPServer::new();
            server.set_service("0");
            server.set_address("127.0.0.1");
            let factory = gstreamer_rtsp_server::RTSPMediaFactory::new();
            let encoding = match camera {
                Camera::Encoding(elements) => elements,
                Camera::Plain | Camera::Lossy => {
                    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=5 ! rtph264pay"
                }
            };
            factory.set_launch(&format!(
                "( videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=240,framerate=25/1 \
                 ! {encoding} name=pay0 )"
            ));
            if camera == Camera::Lossy {
                factory.connect_media_configure(|_, media| {
                    let bin = media.element().downcast::<gst::Bin>().unwrap();
                    let pad = bin.by_name("pay0").unwrap().static_pad("src").unwrap();
                    let passed = std::sync::atomic::AtomicU32::new(0);
                    pad.add_probe(
                        gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST,
                        move |_, _| match passed.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 23 {
                            22 => gst::PadProbeReturn::Handled,
                            _ => gst::PadProbeReturn::Ok,
                        },
                    );
                });
            }
            server.mount_points().unwrap().add_factory("/cam", factory);
            let id = server.attach(Some(&thread_context)).unwrap();
            port_tx.send(server.bound_port()).unwrap();
            thread_loop.run();
            // `SourceId::remove` knows the default context alone.
            if let Some(source) = thread_context.find_source_by_id(&id) {
                source.destroy();
            }
            server.client_filter(Some(&mut |_, _| gstreamer_rtsp_server::RTSPFilterResult::Remove));
            while thread_context.pending() {
                thread_context.iteration(false);
            }
        });
        Self {
            port: port_rx.recv().unwrap(),
            context,
            main_loop,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let main_loop = self.main_loop.clone();
        self.context.invoke(move || main_loop.quit());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn an_rtsp_stream_is_read_live_and_its_end_is_transient() {
    for transport in [RtspTransport::Auto, RtspTransport::Tcp] {
        let server = Server::start(Camera::Plain);
        let clock = RealClock::shared();
        let uri = format!("rtsp://someone:secret@127.0.0.1:{}/cam", server.port);
        let options = CaptureOptions {
            rtsp_transport: transport,
            open_timeout_ms: 30_000,
            ..CaptureOptions::default()
        };
        let opener = parse_uri(&uri).unwrap().opener(&options, clock.clone()).unwrap();
        assert!(!opener.name().contains("secret"));
        let mut source = opener.open().unwrap();
        assert_eq!((source.format().width, source.format().height), (320, 240));
        assert!(!source.describe().contains("secret"));
        let pool = FramePool::new(2, source.format().packed_bytes());
        let (mut count, mut last) = (0, None);
        while count < 20 {
            match source.next_frame(&pool, Duration::from_secs(20)).unwrap() {
                Capture::Frame(frame) => {
                    assert!(
                        last.is_none_or(|(sequence, pts)| frame.sequence > sequence && frame.pts_ns > pts)
                    );
                    last = Some((frame.sequence, frame.pts_ns));
                    assert!(frame.captured_at_ns <= clock.now_ns());
                    count += 1;
                }
                other => panic!("{other:?} after {count} frames"),
            }
        }
        drop(server);
        let stopped = std::time::Instant::now();
        let error = loop {
            assert!(
                stopped.elapsed() < Duration::from_secs(60),
                "the stream goes on without its server"
            );
            match source.next_frame(&pool, Duration::from_secs(20)) {
                Ok(Capture::Frame(_)) => {}
                Ok(other) => panic!("{transport:?}: {other:?}"),
                Err(error) => break error,
            }
        };
        assert!(error.is_transient(), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn cameras_of_other_encodings_are_read_over_rtsp() {
    for (encoding, decoder) in [
        ("jpegenc ! rtpjpegpay", "jpeg"),
        (
            "vp8enc deadline=1 cpu-used=8 keyframe-max-dist=10 ! rtpvp8pay",
            "vp8",
        ),
        (
            "vp9enc deadline=1 cpu-used=8 keyframe-max-dist=10 ! rtpvp9pay",
            "vp9",
        ),
        (
            "x265enc tune=zerolatency speed-preset=ultrafast key-int-max=5 ! rtph265pay",
            "265",
        ),
    ] {
        let server = Server::start(Camera::Encoding(encoding));
        let options = CaptureOptions {
            rtsp_transport: RtspTransport::Tcp,
            open_timeout_ms: 30_000,
            ..CaptureOptions::default()
        };
        let mut source = open(&format!("rtsp://127.0.0.1:{}/cam", server.port), &options)
            .unwrap_or_else(|e| panic!("{encoding}: {e}"));
        let text = source.describe();
        assert!(
            text.contains("320x240") && text.contains(decoder),
            "{encoding}: {text}"
        );
        let pool = FramePool::new(2, source.format().packed_bytes());
        let (mut whole, mut damaged) = (0, 0);
        while whole < 5 {
            match source.next_frame(&pool, Duration::from_secs(20)).unwrap() {
                // A busy machine drops packets that come too late.
                Capture::Frame(frame) if frame.damaged => {
                    damaged += 1;
                    assert!(damaged < 250, "{encoding}: {whole} whole pictures");
                }
                Capture::Frame(frame) => {
                    // The bars of the test picture: white at the left, dark at the right.
                    let row = frame.image().plane(0).row(20, 320).to_vec();
                    assert!(
                        row[10] > 170 && row[300] < 60,
                        "{encoding}: {} {}",
                        row[10],
                        row[300]
                    );
                    whole += 1;
                }
                other => panic!("{encoding}: {other:?} after {whole} whole pictures"),
            }
        }
    }
}

#[test]
fn pictures_after_a_loss_are_damaged_until_the_next_keyframe() {
    let server = Server::start(Camera::Lossy);
    let options = CaptureOptions {
        rtsp_transport: RtspTransport::Tcp,
        open_timeout_ms: 30_000,
        ..CaptureOptions::default()
    };
    let uri = format!("rtsp://127.0.0.1:{}/cam", server.port);
    let mut source = open(&uri, &options).unwrap();
    let pool = FramePool::new(2, source.format().packed_bytes());
    let mut seen: Vec<bool> = Vec::new();
    // About every 23rd packet is lost; a keyframe comes with every fifth picture. A busy machine drops further packets, and
    // pictures that are not read in time: how long damage lasts depends on that, and its end does not.
    let ended = |seen: &[bool]| seen.windows(2).filter(|pair| *pair == [true, false]).count();
    while ended(&seen) < 15 {
        assert!(seen.len() < 1500, "damage ended {} times", ended(&seen));
        match source.next_frame(&pool, Duration::from_secs(20)).unwrap() {
            Capture::Frame(frame) => seen.push(frame.damaged),
            other => panic!("{other:?} after {} frames", seen.len()),
        }
    }
    let damaged = seen.iter().filter(|damaged| **damaged).count();
    assert!(!seen[0], "a whole picture comes first");
    assert!(source.counters().corrupt >= damaged as u64);
}
