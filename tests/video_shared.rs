//! One encoder for all who want the same, clients and recordings.
#![cfg(feature = "gstreamer")]

#[path = "common/drawn.rs"]
mod drawn;
#[path = "common/fed.rs"]
mod fed;

use std::sync::Arc;

use drawn::*;
use fed::*;
use segd::clock::stop_pair;
use segd::encode::{Encoders, ReaderKind};
use segd::mailbox::Received;
use segd::output::{Codec, ServedOutput, StreamOptions, Video};
use vision::pool::PooledBuffer;

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
