//! Clients know when each picture was taken: the time in RTP packets' headers, read as any client can, beside the
//! pattern in the picture.
#![cfg(feature = "gstreamer")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_rtp as gst_rtp;

use segd::clock::RealClock;
use segd::output::rtsp::{CAPTURE_TIME_URI, RtspOpener};
use segd::output::{Codec, RtspAddress, StreamOptions, Video};
use segd::stamp;
use vision::frame::{Frame, FrameFormat, PixelFormat};
use vision::pool::PooledBuffer;

const FORMAT: (usize, usize) = (320, 240);
/// How old pictures are when they go out.
const AGE_NS: u64 = 400_000_000;

/// What turns a time of segd's clock into nanoseconds of Unix time. The clocks are read one after the other, and again
/// where the thread was interrupted between the two.
fn clock_to_unix_ns() -> u64 {
    loop {
        let before = RealClock::now();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        if RealClock::now() - before < 100_000 {
            return unix - before;
        }
    }
}

/// By presentation time: what packets' headers say, and what GStreamer's own RTP session made of them.
#[derive(Default)]
struct Headers {
    raw_unix_ns: HashMap<gst::ClockTime, u64>,
    meta_unix_ns: HashMap<gst::ClockTime, u64>,
}

fn probe(element: &gst::Element, pad: &str, mut look: impl FnMut(&gst::Pad, &gst::Buffer) + Send + 'static) {
    let look = Mutex::new(move |pad: &gst::Pad, info: &mut gst::PadProbeInfo| {
        if let Some(buffer) = info.buffer() {
            look(pad, buffer);
        }
    });
    element
        .static_pad(pad)
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            look.lock().unwrap()(pad, info);
            gst::PadProbeReturn::Ok
        });
}

/// Watches `address`: the pattern's time and the headers of 20 pictures.
fn watch(address: &RtspAddress, protocol: &str, codec: Codec) -> Vec<(u64, Option<u64>, Option<u64>)> {
    let depay = codec.payloader().replace("pay", "depay");
    let decoder = match codec {
        Codec::H264 => "h264parse ! openh264dec",
        Codec::H265 => "h265parse ! avdec_h265 max-threads=1",
    };
    let line = format!(
        "rtspsrc location={address} protocols={protocol} latency=0 add-reference-timestamp-meta=true ! \
         {depay} name=depay ! {decoder} ! videoconvert ! video/x-raw,format=I420 ! appsink name=out sync=false"
    );
    let pipeline = gst::parse::launch(&line)
        .unwrap()
        .downcast::<gst::Pipeline>()
        .unwrap();
    let headers = Arc::new(Mutex::new(Headers::default()));
    let depay = pipeline.by_name("depay").unwrap();
    let seen = headers.clone();
    probe(&depay, "sink", move |pad, packet| {
        let caps = pad.current_caps().unwrap();
        let described = caps.structure(0).unwrap().get::<&str>("extmap-1");
        assert_eq!(described, Ok(CAPTURE_TIME_URI), "{caps}");
        let rtp = gst_rtp::RTPBuffer::from_buffer_readable(packet).unwrap();
        if let Some(ntp) = rtp.extension_onebyte_header(1, 0) {
            let ntp = u64::from_be_bytes(ntp.try_into().unwrap());
            let unix_ns = gst_rtp::functions::rtcp_ntp_to_unix(ntp);
            seen.lock()
                .unwrap()
                .raw_unix_ns
                .insert(packet.pts().unwrap(), unix_ns);
        }
    });
    let seen = headers.clone();
    probe(&depay, "src", move |_, unit| {
        if let Some(meta) = unit.meta::<gst::ReferenceTimestampMeta>() {
            assert!(
                meta.reference().to_string().starts_with("timestamp/x-ntp"),
                "{meta:?}"
            );
            // Seconds between 1900 and 1970.
            let unix = meta.timestamp() - gst::ClockTime::from_seconds(2_208_988_800);
            seen.lock()
                .unwrap()
                .meta_unix_ns
                .insert(unit.pts().unwrap(), unix.nseconds());
        }
    });
    let sink = pipeline
        .by_name("out")
        .unwrap()
        .downcast::<gst_app::AppSink>()
        .unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut pictures = Vec::new();
    for _ in 0..200 {
        let sample = sink
            .try_pull_sample(gst::ClockTime::from_seconds(10))
            .expect("a picture within 10 s");
        let buffer = sample.buffer().unwrap();
        let (width, height) = FORMAT;
        let Some(pattern_ns) = stamp::read(&buffer.map_readable().unwrap(), width, height, width) else {
            // Before the first keyframe.
            continue;
        };
        let headers = headers.lock().unwrap();
        // The jitter buffer may give the packets of a picture slightly different times.
        let of = |times: &HashMap<gst::ClockTime, u64>| {
            let distance = |of: gst::ClockTime| of.nseconds().abs_diff(buffer.pts().unwrap().nseconds());
            let nearest = times.iter().min_by_key(|(of, _)| distance(**of))?;
            (distance(*nearest.0) < 5_000_000).then_some(*nearest.1)
        };
        pictures.push((pattern_ns, of(&headers.raw_unix_ns), of(&headers.meta_unix_ns)));
        if pictures.len() == 20 {
            break;
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(pictures.len(), 20, "pictures whose pattern is readable");
    pictures
}

#[test]
fn packets_say_when_their_picture_was_taken() {
    gst::init().unwrap();
    let address = RtspAddress {
        host: "127.0.0.1".into(),
        port: 0,
        path: "/test".into(),
        tls: false,
    };
    for (codec, protocol) in [(Codec::H264, "tcp"), (Codec::H264, "udp"), (Codec::H265, "tcp")] {
        let format = FrameFormat::new(PixelFormat::I420, FORMAT.0, FORMAT.1);
        let options = StreamOptions {
            codec,
            ..StreamOptions::default()
        };
        let video = Video::new(format, Some(30.0), true);
        let output = RtspOpener::new(address.clone(), &options).serve(&video).unwrap();
        let address = output.address().clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        // What is sent is old already, so that the time of sending is told from that of capture.
        let feed = std::thread::spawn(move || {
            RealClock::now();
            std::thread::sleep(Duration::from_nanos(AGE_NS));
            for sequence in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let captured_at_ns = RealClock::now() - AGE_NS;
                let mut data = vec![128; format.packed_bytes()];
                assert!(stamp::write(format, &mut data, captured_at_ns));
                video.encoders.push(Frame {
                    sequence,
                    captured_at_ns,
                    pts_ns: captured_at_ns,
                    format,
                    damaged: false,
                    data: PooledBuffer::unpooled(data),
                });
                std::thread::sleep(Duration::from_millis(33));
            }
            drop(output);
        });
        let to_unix_ns = clock_to_unix_ns();
        let pictures = watch(&address, protocol, codec);
        stop.store(true, Ordering::Relaxed);
        feed.join().unwrap();
        let (mut by_header, mut by_meta) = (0, 0);
        for (pattern_ns, raw, meta) in pictures {
            let captured_ns = pattern_ns + to_unix_ns;
            by_header += usize::from(raw.is_some());
            by_meta += usize::from(meta.is_some());
            for header in raw.into_iter().chain(meta) {
                // GStreamer reads its clocks one after the other, on a machine that may be busy, and its jitter buffer
                // may give two pictures the same time.
                assert!(
                    header.abs_diff(captured_ns) < 80_000_000,
                    "{codec} {protocol}: the header says {header}, the picture {captured_ns}"
                );
            }
        }
        // Parsers lose the link between some packets and their picture.
        assert!(
            by_header >= 15 && by_meta >= 10,
            "{codec} {protocol}: {by_header} and {by_meta} of 20 have a time"
        );
    }
}
