//! Pictures that carry their numbers, and what players make of them.
//!
//! Each frame carries its number as black and white blocks, so a test knows which frame it looks at.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video::VideoFrameExt;

use segd::clock::{RealClock, stop_pair};
use segd::encode::Reader;
use segd::mailbox::Received;
use segd::output::{Codec, Output, OutputOpener, StreamOptions, UnitOutput, Video, parse_output};
use vision::frame::{Frame, FrameFormat, PixelFormat};
use vision::pool::{FramePool, PooledBuffer};

pub const BITS: usize = 16;

pub const FRAME_TIME_NS: u64 = 33_333_333;

pub fn format(width: usize, height: usize) -> FrameFormat {
    FrameFormat::new(PixelFormat::I420, width, height)
}

/// Draws a grey picture with `number` as blocks along the top quarter and a luma ramp below.
pub fn draw(format: FrameFormat, number: u64, data: &mut [u8]) {
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

pub fn frame(format: FrameFormat, number: u64, mut data: PooledBuffer) -> Frame {
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
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pub y: Vec<u8>,
    pub u: u8,
    pub v: u8,
}

impl Picture {
    pub fn of(sample: &gst::Sample) -> Self {
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
    pub fn number(&self) -> u64 {
        (0..BITS)
            .map(|bit| {
                let x = (2 * bit + 1) * self.width / (2 * BITS);
                u64::from(self.y[self.height / 8 * self.width + x] > 125) << bit
            })
            .sum()
    }

    /// Checks the ramp and the colours below the number.
    pub fn assert_is_drawn(&self, pushed_width: usize) {
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
pub fn decoder(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 => "h264parse ! openh264dec",
        Codec::H265 => "h265parse ! avdec_h265 max-threads=1",
    }
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what} within 10 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn open_error(output: &str, format: FrameFormat, options: &StreamOptions) -> segd::Error {
    match parse_output(output)
        .unwrap()
        .opener(options)
        .unwrap()
        .expect("an output for pictures")
        .open(&Video::new(format, Some(30.0), true))
    {
        Ok(opened) => panic!("{output} opened: {}", opened.describe()),
        Err(e) => e,
    }
}

/// Decodes a file: its pictures, and their times.
pub fn decode(path: &Path) -> Vec<(Picture, u64)> {
    decode_as(path, Codec::H264)
}

pub fn decode_as(path: &Path, codec: Codec) -> Vec<(Picture, u64)> {
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
pub fn record(
    path: &Path,
    format: FrameFormat,
    options: &StreamOptions,
    count: u64,
    pts_ns: impl Fn(u64) -> u64,
) {
    let opener = parse_output(path.to_str().unwrap())
        .unwrap()
        .opener(options)
        .unwrap()
        .expect("an output for pictures");
    let video = Video::new(format, Some(30.0), false);
    record_with(opener.as_ref(), &video, count, pts_ns);
}

pub fn record_with(opener: &dyn OutputOpener, video: &Video, count: u64, pts_ns: impl Fn(u64) -> u64) {
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
pub fn write(reader: Reader, mut file: Box<dyn UnitOutput>) -> segd::Result<()> {
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
pub fn start_recording(
    path: &Path,
    options: &StreamOptions,
    video: &Video,
) -> std::thread::JoinHandle<segd::Result<()>> {
    let opener = parse_output(path.to_str().unwrap())
        .unwrap()
        .opener(options)
        .unwrap()
        .expect("an output for pictures");
    match opener.open(video).unwrap() {
        Output::Units(reader, file) => std::thread::spawn(move || write(reader, file)),
        other => panic!("{} reads no units", other.describe()),
    }
}

pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
