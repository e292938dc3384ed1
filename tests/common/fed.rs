//! An RTSP output that is fed, and clients that watch it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use crate::drawn::{FRAME_TIME_NS, Picture, decoder, frame, wait_until};
use segd::output::rtsp::{RtspOpener, RtspOutput};
use segd::output::{Codec, OutputSpec, RtspAddress, ServedOutput, StreamOptions, Video, parse_output};
use vision::frame::FrameFormat;
use vision::pool::FramePool;

/// An RTSP client of its own.
pub struct Client {
    pipeline: gst::Pipeline,
    sink: gst_app::AppSink,
}

impl Client {
    pub fn connect(address: &RtspAddress, protocol: &str) -> Self {
        Self::decoding(address, protocol, Codec::H264)
    }

    pub fn decoding(address: &RtspAddress, protocol: &str, codec: Codec) -> Self {
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

    pub fn next(&self, timeout: Duration) -> Option<Picture> {
        let timeout = gst::ClockTime::from_mseconds(timeout.as_millis() as u64);
        self.sink.try_pull_sample(timeout).map(|s| Picture::of(&s))
    }

    /// Skips the grey that libav makes of pictures whose keyframe came before the client did.
    pub fn skip_to_keyframe(&self) {
        let grey = |picture: &Picture| picture.y.iter().filter(|&&y| y == 128).count() > picture.y.len() / 2;
        for _ in 0..60 {
            if !grey(&self.next(Duration::from_secs(10)).expect("a picture within 10 s")) {
                return;
            }
        }
        panic!("no keyframe within 60 pictures");
    }

    /// Looks at `count` pictures: their numbers must rise.
    pub fn watch(&self, count: usize) -> Vec<u64> {
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
pub struct Fed {
    pub address: RtspAddress,
    pub pool: FramePool,
    pub stop: Arc<AtomicBool>,
    pub clients: Arc<AtomicUsize>,
    pub video: Video,
    pub thread: Option<std::thread::JoinHandle<Box<RtspOutput>>>,
}

impl Fed {
    pub fn open(format: FrameFormat, options: &StreamOptions) -> Self {
        Self::open_at("rtsp://127.0.0.1:0/test", format, options)
    }

    pub fn open_at(address: &str, format: FrameFormat, options: &StreamOptions) -> Self {
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
    pub fn stop(&mut self) -> Box<RtspOutput> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }

    pub fn wait_for_clients(&self, count: usize) {
        wait_until("the number of clients", || {
            self.clients.load(Ordering::Relaxed) == count
        });
    }
}
