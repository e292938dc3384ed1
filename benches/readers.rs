//! CPU time that one more reader of an encoder costs, a frame: 640x480 encoded once, into one recording or several.

use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use segd::clock::stop_pair;
use segd::mailbox::Received;
use segd::output::{Output, StreamOptions, Video, parse_output};
use vision::frame::{Frame, FrameFormat, PixelFormat};
use vision::pool::FramePool;

const FRAMES: u64 = 600;

/// CPU time of this process, in milliseconds.
fn cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// A picture of noise that moves, so that there is something to encode.
fn draw(number: u64, data: &mut [u8]) {
    let mut state = 1u32;
    for (at, byte) in data.iter_mut().enumerate() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (64 + (at as u64 + 3 * number) % 128) as u8 + (state >> 29) as u8;
    }
}

/// Milliseconds of CPU a frame with so many recordings.
fn run(folder: &Path, recordings: usize) -> f64 {
    let format = FrameFormat::new(PixelFormat::I420, 640, 480);
    let video = Video::new(format, Some(30.0), false);
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let threads: Vec<_> = (0..recordings)
        .map(|n| {
            let path = folder.path().join(format!("{n}.mkv"));
            let spec = parse_output(path.to_str().expect("a path of text")).expect("an output");
            let opener = spec
                .opener(&StreamOptions::default())
                .expect("an opener")
                .expect("an output for pictures");
            let Output::Units(reader, mut file) = opener.open(&video).expect("a file") else {
                panic!("a recording reads units");
            };
            std::thread::spawn(move || {
                let (_handle, stop) = stop_pair();
                while let Received::Item(unit) = reader.recv(&stop) {
                    file.push(&unit).expect("a unit is written");
                }
                file.finish().expect("the file is complete");
            })
        })
        .collect();
    let pool = FramePool::new(8, format.packed_bytes());
    let before = cpu_ms();
    for sequence in 0..FRAMES {
        let mut data = loop {
            match pool.take() {
                Some(data) => break data,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        draw(sequence, &mut data);
        video.encoders.push(Frame {
            sequence,
            captured_at_ns: 0,
            pts_ns: sequence * 33_333_333,
            format,
            damaged: false,
            data,
        });
    }
    video.encoders.finish();
    for thread in threads {
        thread.join().expect("a recording");
    }
    assert_eq!(video.encoders.encoded(), FRAMES, "encoded once");
    (cpu_ms() - before) / FRAMES as f64
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    // What is made once in a process.
    run(folder.path(), 1);
    let mut before = None;
    for recordings in [1, 2, 3, 4] {
        // The machine does other things as well: the least of some rounds.
        let rounds = (0..5).map(|_| run(folder.path(), recordings));
        let ms = rounds.fold(f64::INFINITY, f64::min);
        match before {
            None => println!("{recordings} recording: {ms:.3} ms of CPU a frame"),
            Some(before) => println!(
                "{recordings} recordings: {ms:.3} ms of CPU a frame, {:+.3} for the last one",
                ms - before
            ),
        }
        before = Some(ms);
    }
}
