//! Recordings without end, and clips of events: what is in their files, which files go, and what a kill leaves.
#![cfg(feature = "gstreamer")]

#[path = "common/drawn.rs"]
mod drawn;
#[path = "common/fed.rs"]
mod fed;
#[path = "common/probe.rs"]
mod probe;

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use drawn::*;
use fed::*;
use segd::output::browser::{BrowserOpener, EncoderDesk};
use segd::output::clips::{ClipDesk, ClipsOpener};
use segd::output::{
    ClipOptions, Codec, Keep, Output, OutputOpener, RecordOptions, ServedOutput, StreamOptions, Video,
    parse_output,
};
use ulid::Ulid;
use vision::frame::Frame;
use vision::pool::PooledBuffer;

const ALL: Keep = Keep {
    age: Duration::from_secs(1_000_000),
    bytes: u64::MAX,
    free: 0,
};

/// Recordings of one second each.
fn seconds(keep: Keep) -> StreamOptions {
    StreamOptions {
        keyframe_interval_s: 0.5,
        record: RecordOptions {
            segment: Duration::from_secs(1),
            keep,
        },
        ..StreamOptions::default()
    }
}

/// An output at these encoders, which ends with them.
fn start(opener: &dyn OutputOpener, video: &Video) -> JoinHandle<segd::Result<()>> {
    match opener.open(video).unwrap() {
        Output::Units(reader, output) => std::thread::spawn(move || write(reader, output)),
        other => panic!("{} reads no units", other.describe()),
    }
}

fn recording(folder: &Path, options: &StreamOptions) -> Box<dyn OutputOpener> {
    let spec = parse_output(&format!("record:{}", folder.display())).unwrap();
    spec.opener(options).unwrap().expect("an output for pictures")
}

/// A frame that is taken when its number says.
fn numbered(video: &Video, number: u64) -> Frame {
    let data = PooledBuffer::unpooled(vec![0; video.format.packed_bytes()]);
    Frame {
        captured_at_ns: number * FRAME_TIME_NS,
        ..frame(video.format, number, data)
    }
}

/// The same with noise in its lower half, which takes many bytes.
fn noisy(video: &Video, number: u64) -> Frame {
    let mut frame = numbered(video, number);
    let luma = video.format.width * video.format.height;
    let mut state = number + 1;
    for byte in &mut frame.data[luma / 2..luma] {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    frame
}

/// The files of a recording, the oldest first.
fn kept(folder: &Path) -> Vec<PathBuf> {
    let mut names = names(folder);
    names.sort_by_key(|name| {
        let (time, rest) = name.split_at(20);
        let number = rest.trim_end_matches(".mp4").trim_start_matches('-');
        (time.to_owned(), number.parse().unwrap_or(0_u32))
    });
    names.iter().map(|name| folder.join(name)).collect()
}

fn numbers(path: &Path, codec: Codec) -> Vec<u64> {
    decode_as(path, codec).iter().map(|(p, _)| p.number()).collect()
}

#[test]
fn a_recording_is_cut_at_keyframes_and_holds_every_frame_once() {
    for codec in Codec::ALL {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("made");
        let options = StreamOptions {
            codec,
            ..seconds(ALL)
        };
        let video = Video::new(format(320, 240), Some(30.0), false);
        let output = start(recording(&folder, &options).as_ref(), &video);
        for number in 0..100 {
            video.encoders.push(numbered(&video, number));
        }
        video.encoders.finish();
        output.join().unwrap().unwrap();
        let mut all = Vec::new();
        for path in kept(&folder) {
            let pictures = decode_as(&path, codec);
            assert!(pictures.len() <= 30, "{codec}: {} in a file", pictures.len());
            for (n, (picture, pts)) in pictures.iter().enumerate() {
                let expected = n as u64 * FRAME_TIME_NS;
                assert!(pts.abs_diff(expected) <= 1_000_000, "{codec}: frame {n} at {pts}");
                picture.assert_is_drawn(320);
                all.push(picture.number());
            }
        }
        assert_eq!(all, (0..100).collect::<Vec<_>>(), "{codec}");
        assert_eq!(kept(&folder).len(), 4, "{codec}: {:?}", names(&folder));
        assert_eq!(video.encoders.encoded(), 100);
        // A player knows the length at once: it is in the index.
        for (path, expected) in kept(&folder).iter().zip([1.0, 1.0, 1.0, 0.3333]) {
            let probe = Command::new("ffprobe")
                .args(["-v", "error", "-show_entries", "format=duration"])
                .args(["-of", "csv=p=0"])
                .arg(path)
                .output()
                .expect("ffprobe is installed");
            let said = String::from_utf8(probe.stdout).unwrap();
            let found: f64 = said.trim().parse().expect(&said);
            assert!((found - expected).abs() < 0.005, "{codec}: {said}");
            assert!(
                probe.stderr.is_empty(),
                "{}",
                String::from_utf8_lossy(&probe.stderr)
            );
        }
    }
}

#[test]
fn players_jump_to_any_picture_of_a_complete_file() {
    let folder = tempfile::tempdir().unwrap();
    let options = StreamOptions {
        keyframe_interval_s: 2.0,
        ..seconds(ALL)
    };
    let video = Video::new(format(320, 240), Some(30.0), false);
    let output = start(recording(folder.path(), &options).as_ref(), &video);
    for number in 0..60 {
        video.encoders.push(numbered(&video, number));
    }
    video.encoders.finish();
    output.join().unwrap().unwrap();
    let files = kept(folder.path());
    assert_eq!(files.len(), 1, "there is one keyframe");
    for at in [0.5, 1.2, 1.8] {
        let jumped = Command::new("ffmpeg")
            .args(["-v", "error", "-ss", &at.to_string(), "-i"])
            .arg(&files[0])
            .args([
                "-frames:v",
                "1",
                "-f",
                "rawvideo",
                "-pix_fmt",
                "yuv420p",
                "pipe:1",
            ])
            .output()
            .expect("ffmpeg is installed");
        assert!(
            jumped.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&jumped.stderr)
        );
        let (luma, chroma) = (320 * 240, 160 * 120);
        let middle = 60 * 160 + 80;
        let picture = Picture {
            width: 320,
            height: 240,
            y: jumped.stdout[..luma].to_vec(),
            u: jumped.stdout[luma + middle],
            v: jumped.stdout[luma + chroma + middle],
        };
        picture.assert_is_drawn(320);
        let expected = (at * 30.0) as u64;
        assert!(
            picture.number().abs_diff(expected) <= 1,
            "{} at {at}",
            picture.number()
        );
    }
}

#[test]
fn the_oldest_files_go_and_another_program_s_stay() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("holiday.mp4"), vec![0; 1_000_000]).unwrap();
    std::fs::write(folder.path().join("2020-01-01T00-00-00Z.mp4"), "ours, old").unwrap();
    let keep = Keep {
        bytes: 400_000,
        ..ALL
    };
    let options = StreamOptions {
        bitrate_kbps: Some(1000),
        ..seconds(keep)
    };
    let video = Video::new(format(320, 240), Some(30.0), false);
    let output = start(recording(folder.path(), &options).as_ref(), &video);
    for number in 0..300 {
        video.encoders.push(noisy(&video, number));
    }
    video.encoders.finish();
    output.join().unwrap().unwrap();
    assert!(folder.path().join("holiday.mp4").exists());
    std::fs::remove_file(folder.path().join("holiday.mp4")).unwrap();
    let kept = kept(folder.path());
    let bytes: u64 = kept.iter().map(|path| path.metadata().unwrap().len()).sum();
    let largest = kept.iter().map(|path| path.metadata().unwrap().len()).max();
    assert!(kept.len() >= 2 && kept.len() < 10, "{kept:?}");
    // It is looked at when a file begins.
    assert!(bytes <= 400_000 + largest.unwrap(), "{bytes} bytes");
    assert_eq!(numbers(kept.last().unwrap(), Codec::H264).last(), Some(&299));
    let first = numbers(&kept[0], Codec::H264)[0];
    let all: Vec<u64> = kept.iter().flat_map(|path| numbers(path, Codec::H264)).collect();
    assert_eq!(all, (first..300).collect::<Vec<_>>(), "no gap in what is kept");
}

#[test]
fn where_the_source_s_time_jumps_another_file_begins() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = seconds(ALL);
    options.record.segment = Duration::from_secs(3600);
    let video = Video::new(format(320, 240), Some(30.0), false);
    let output = start(recording(folder.path(), &options).as_ref(), &video);
    // 15 frames, 60 s later 15 more, then from 0 again. Keyframes are every 15 frames.
    for (number, at) in (0..45).zip((0..15).chain(1800..1815).chain(0..15)) {
        let frame = numbered(&video, number);
        video.encoders.push(Frame {
            pts_ns: at * FRAME_TIME_NS,
            ..frame
        });
    }
    video.encoders.finish();
    output.join().unwrap().unwrap();
    let found: Vec<Vec<u64>> = kept(folder.path())
        .iter()
        .map(|path| numbers(path, Codec::H264))
        .collect();
    let expected: [Vec<u64>; 3] = [(0..15).collect(), (15..30).collect(), (30..45).collect()];
    assert_eq!(found, expected);
}

#[test]
fn page_clients_recording_and_clips_cost_one_encoder() {
    let folder = tempfile::tempdir().unwrap();
    let options = seconds(ALL);
    let mut fed = Fed::open(format(320, 240), &options);
    let page = Arc::new(EncoderDesk::default());
    let browsers = BrowserOpener::new(page.clone(), &options)
        .open(&fed.video)
        .unwrap();
    let record = start(
        recording(&folder.path().join("record"), &options).as_ref(),
        &fed.video,
    );
    let clips = ClipsOpener::new(folder.path().join("clips"), &options, Arc::default());
    let clips = start(&clips, &fed.video);
    let viewer = Client::connect(&fed.address, "tcp");
    viewer.watch(10);
    let encoders = fed.video.encoders.clone();
    assert_eq!((encoders.count(), encoders.running()), (1, 1));
    assert!(page.encoder().is_some());
    drop(viewer);
    let output = fed.stop();
    encoders.finish();
    for thread in [record, clips] {
        thread.join().unwrap().unwrap();
    }
    output.finish().unwrap();
    drop(browsers);
    // Every picture was encoded once, and the recording has them all.
    let recorded: usize = kept(&folder.path().join("record"))
        .iter()
        .map(|path| decode(path).len())
        .sum();
    assert_eq!(recorded as u64, encoders.encoded());
    assert!(recorded >= 10, "{recorded}");
    assert!(names(&folder.path().join("clips")).is_empty());
}

#[test]
fn a_clip_has_the_seconds_before_and_after_its_event_and_costs_no_encoding() {
    let folder = tempfile::tempdir().unwrap();
    let options = StreamOptions {
        keyframe_interval_s: 0.5,
        clips: ClipOptions {
            before: Duration::from_secs(1),
            after: Duration::from_secs(2),
            longest: Duration::from_secs(4),
            keep: ALL,
        },
        ..StreamOptions::default()
    };
    let desk = Arc::new(ClipDesk::default());
    let video = Video::new(format(320, 240), Some(30.0), false);
    let opener = ClipsOpener::new(folder.path().to_owned(), &options, desk.clone());
    let events = [1, 2, 3].map(|n| Ulid::from_parts(1000, n));
    assert!(!desk.begin(events[0], 0), "nobody makes clips yet");
    let output = start(&opener, &video);
    let at = |number: u64| number * FRAME_TIME_NS;
    for number in 0..300 {
        if number == 102 {
            // A crossing, which was at frame 100.
            assert!(desk.begin(events[0], at(100)) && desk.end(events[0], at(100)));
        }
        if number == 110 {
            // One that ends, and one that goes on.
            assert!(desk.begin(events[1], at(110)) && desk.begin(events[2], at(110)));
        }
        if number == 140 {
            assert!(desk.end(events[1], at(140)));
        }
        video.encoders.push(numbered(&video, number));
    }
    video.encoders.finish();
    output.join().unwrap().unwrap();
    assert_eq!(video.encoders.encoded(), 300);
    assert_eq!(desk.refused(), 1, "the first one alone");
    // Keyframes are those of numbers that 15 divides.
    for (event, first, last) in [(0, 60, 160), (1, 75, 200), (2, 75, 230)] {
        let path = folder.path().join(format!("{}.mp4", events[event]));
        let expected: Vec<u64> = (first..=last).collect();
        assert_eq!(numbers(&path, Codec::H264), expected, "{event}");
    }
    assert_eq!(names(folder.path()).len(), 3);
    assert!(!desk.begin(events[0], 0), "nobody makes clips any more");
}

const CHILD_FOLDER: &str = "SEGD_TEST_CHILD_FOLDER";

fn child_folder() -> Option<PathBuf> {
    std::env::var_os(CHILD_FOLDER).map(PathBuf::from)
}

/// The child of the test below: records until it is killed.
#[test]
#[ignore = "started by other tests"]
fn keeper_child() {
    let Some(folder) = child_folder() else {
        return;
    };
    let mut options = seconds(ALL);
    options.record.segment = Duration::from_secs(3);
    let video = Video::new(format(320, 240), Some(30.0), false);
    let output = start(recording(&folder, &options).as_ref(), &video);
    for number in 0..1000 {
        let data = PooledBuffer::unpooled(vec![0; video.format.packed_bytes()]);
        video.encoders.push(frame(video.format, number, data));
        println!("pushed {number}");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(output);
}

#[test]
fn a_kill_loses_a_second_at_most_and_the_next_run_goes_on_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "keeper_child", "--nocapture"])
        .env(CHILD_FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|l| l.ends_with("pushed 160")));
    child.kill().unwrap();
    child.wait().unwrap();
    let files = kept(folder.path());
    assert_eq!(files.len(), 2, "{files:?}");
    let all: Vec<u64> = files.iter().flat_map(|path| numbers(path, Codec::H264)).collect();
    // A second is 30 frames; a few are on their way to the file.
    assert!(all.len() >= 161 - 30 - 8, "{} pictures", all.len());
    assert_eq!(all, (0..all.len() as u64).collect::<Vec<_>>());
    let left = std::fs::read(&files[1]).unwrap();
    // ffmpeg takes what is there as well, without a word.
    assert_eq!(probe::frames(&files[1]), numbers(&files[1], Codec::H264).len());

    let video = Video::new(format(320, 240), Some(30.0), false);
    let output = start(recording(folder.path(), &seconds(ALL)).as_ref(), &video);
    for number in 0..10 {
        let data = PooledBuffer::unpooled(vec![0; video.format.packed_bytes()]);
        video.encoders.push(frame(video.format, number, data));
    }
    video.encoders.finish();
    output.join().unwrap().unwrap();
    assert_eq!(std::fs::read(&files[1]).unwrap(), left, "it is untouched");
    let new = kept(folder.path());
    assert_eq!(new.len(), 3, "{new:?}");
    assert_eq!(numbers(&new[2], Codec::H264), (0..10).collect::<Vec<_>>());
}

/// The child of the test below: records on a disk of a megabyte.
#[test]
#[ignore = "started by other tests"]
fn full_disk_child() {
    let Some(folder) = child_folder() else {
        return;
    };
    let options = StreamOptions {
        bitrate_kbps: Some(2000),
        ..seconds(ALL)
    };
    let video = Video::new(format(320, 240), Some(30.0), false);
    let output = start(recording(&folder, &options).as_ref(), &video);
    for number in 0..300 {
        video.encoders.push(noisy(&video, number));
    }
    video.encoders.finish();
    output.join().unwrap().unwrap();
    let files = kept(&folder);
    let all: Vec<u64> = files.iter().flat_map(|path| numbers(path, Codec::H264)).collect();
    assert!(all[0] > 0, "the oldest is gone");
    assert_eq!(
        all,
        (all[0]..300).collect::<Vec<_>>(),
        "no frame is missing in between"
    );
    println!("kept {} files from frame {} on", files.len(), all[0]);
}

#[test]
fn on_a_full_disk_the_oldest_go_and_no_frame_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=1M none \"$0\" || exit 99; exec \"$@\"";
    let ran = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "full_disk_child", "--nocapture"])
        .env(CHILD_FOLDER, folder.path())
        .output();
    let Ok(ran) = ran else {
        eprintln!("skipped: there is no unshare");
        return;
    };
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    if ran.status.code() == Some(99) || said.starts_with("unshare:") {
        eprintln!("skipped: no file system may be mounted here: {said}");
        return;
    }
    assert!(ran.status.success(), "{said}");
    assert!(said.contains("kept "), "{said}");
}
