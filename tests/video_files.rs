//! Files: what players find in them, and what happens to those of earlier runs.
#![cfg(feature = "gstreamer")]

#[path = "common/drawn.rs"]
mod drawn;

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;

use drawn::*;
use segd::output::{Output, StreamOptions, Video, parse_output};
use vision::frame::{Colorimetry, Matrix, Range};
use vision::pool::PooledBuffer;

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

#[test]
fn an_output_that_is_opened_again_keeps_what_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let (video, images) = (folder.path().join("a.mkv"), folder.path().join("images"));
    for name in [video.to_str().unwrap(), &format!("{}/", images.display())] {
        let opener = parse_output(name)
            .unwrap()
            .opener(&StreamOptions::default())
            .unwrap()
            .expect("an output for pictures");
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
        spec.opener(&StreamOptions::default())
            .unwrap()
            .expect("an output for pictures")
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
        .expect("an output for pictures")
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
