//! Capture on a real V4L2 driver: vivid, the kernel's virtual camera, inside the VM (`make test-vm`). Does nothing
//! unless `SEGD_VIVID=1`: on other machines there is no such camera, and none may be unplugged.
#![cfg(feature = "camera")]

mod common {
    pub mod onnx;
}

use std::time::{Duration, Instant};

use segd::capture::{
    CameraFormat, Capture, CaptureOptions, ControlValue, FrameSource, list_cameras, parse_uri,
};
use segd::clock::RealClock;
use vision::error::{Error, Result};
use vision::frame::PixelFormat;
use vision::pool::FramePool;

const DEVICE: &str = "/dev/video0";

fn in_vm() -> bool {
    std::env::var_os("SEGD_VIVID").is_some_and(|v| v == "1")
}

fn open(options: &CaptureOptions) -> Result<Box<dyn FrameSource>> {
    parse_uri(DEVICE)?.opener(options, RealClock::shared())?.open()
}

fn wanted(width: u32, height: u32, fps: f64) -> CaptureOptions {
    CaptureOptions {
        width,
        height,
        fps,
        ..CaptureOptions::default()
    }
}

/// Reads `count` frames; their numbers and times must rise, and their pictures not be blank.
#[track_caller]
fn read(source: &mut dyn FrameSource, count: usize) -> Duration {
    let pool = FramePool::new(3, source.format().packed_bytes());
    let (mut last, mut frames, began) = (None, 0, Instant::now());
    while frames < count {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{frames} of {count} frames"
        );
        match source.next_frame(&pool, Duration::from_secs(5)).unwrap() {
            Capture::Frame(frame) => {
                let now = (frame.sequence, frame.captured_at_ns);
                assert!(
                    last.is_none_or(|last: (u64, u64)| last.0 < now.0 && last.1 < now.1),
                    "{last:?} {now:?}"
                );
                last = Some(now);
                let plane = frame.image().plane(0).data;
                assert!(plane.iter().any(|&v| v != plane[0]), "a blank picture");
                frames += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    began.elapsed()
}

#[test]
fn each_format_gives_pictures() {
    if !in_vm() {
        return;
    }
    for (asked, pixel) in [
        (CameraFormat::Yu12, PixelFormat::I420),
        (CameraFormat::Nv12, PixelFormat::Nv12),
        (CameraFormat::Yuyv, PixelFormat::Yuyv),
    ] {
        let options = CaptureOptions {
            pixel_format: Some(asked),
            ..wanted(320, 180, 15.0)
        };
        let mut source = open(&options).unwrap();
        assert_eq!(source.format().pixel, pixel);
        read(&mut *source, 5);
        println!("camera {}", source.describe());
    }
    // vivid gives no JPEG.
    let options = CaptureOptions {
        pixel_format: Some(CameraFormat::Mjpg),
        ..wanted(320, 180, 15.0)
    };
    let error = open(&options).err().expect("refused");
    assert_eq!(error.exit_code(), 2, "{error}");
}

#[test]
fn each_size_and_rate_gives_pictures() {
    if !in_vm() {
        return;
    }
    for (width, height, fps) in [
        (640, 480, 30.0),
        (320, 180, 15.0),
        (640, 360, 25.0),
        (1280, 720, 30.0),
    ] {
        let mut source = open(&wanted(width, height, fps)).unwrap();
        let format = source.format();
        assert_eq!((format.width, format.height), (width as usize, height as usize));
        let took = read(&mut *source, 10);
        println!("camera {}: 10 frames in {took:?}", source.describe());
        assert!([PixelFormat::I420, PixelFormat::Nv12, PixelFormat::Yuyv].contains(&format.pixel));
    }
}

#[test]
fn modes_that_do_not_exist_become_the_nearest_that_do() {
    if !in_vm() {
        return;
    }
    for (width, height) in [(650, 490), (100, 100), (4000, 3000), (321, 181)] {
        let mut source = open(&wanted(width, height, 30.0)).unwrap();
        let format = source.format();
        println!("camera asked for {width}x{height}: {}", source.describe());
        assert!(format.width >= 16 && format.height >= 16);
        read(&mut *source, 2);
    }
}

#[test]
fn fractional_rates_are_set_and_told() {
    if !in_vm() {
        return;
    }
    for fps in [29.97, 12.5, 7.5, 59.94] {
        let mut source = open(&wanted(320, 180, fps)).unwrap();
        let rate = source.frame_rate().expect("vivid tells its rate");
        println!("camera asked for {fps}: {}", source.describe());
        assert!(rate > 1.0 && rate <= 61.0, "{rate}");
        read(&mut *source, 5);
    }
}

#[test]
fn controls_are_set_and_wrong_ones_refused() {
    if !in_vm() {
        return;
    }
    let with = |name: &str, value| CaptureOptions {
        controls: vec![(name.to_owned(), value)],
        ..wanted(320, 180, 15.0)
    };
    drop(open(&with("brightness", ControlValue::Number(100))).unwrap());
    let refused = |options: &CaptureOptions| open(options).err().expect("refused").to_string();
    assert!(refused(&with("brightnes", ControlValue::Number(1))).contains("did you mean \"brightness\"?"));
    assert!(refused(&with("brightness", ControlValue::Number(100_000))).contains("expected"));
}

#[test]
fn the_camera_is_listed_with_its_modes_and_controls() {
    if !in_vm() {
        return;
    }
    let cameras = list_cameras();
    let camera = cameras.iter().find(|c| c.path.ends_with("video0")).unwrap();
    assert!(camera.name.contains("vivid"), "{camera:?}");
    assert!(!camera.modes.as_ref().unwrap().is_empty());
    assert!(
        camera.controls.iter().any(|c| c.starts_with("brightness = ")),
        "{camera:?}"
    );
}

#[test]
fn an_unplugged_camera_is_a_transient_error_and_comes_back() {
    if !in_vm() {
        return;
    }
    let options = wanted(320, 180, 15.0);
    let opener = parse_uri(DEVICE)
        .unwrap()
        .opener(&options, RealClock::shared())
        .unwrap();
    let mut source = opener.open().unwrap();
    read(&mut *source, 3);
    // Busy for another one.
    let busy = open(&options).err().expect("busy");
    assert!(
        busy.is_transient() && busy.to_string().contains("another program"),
        "{busy}"
    );
    let unplug = std::thread::spawn(|| std::fs::write("/sys/bus/platform/drivers/vivid/unbind", "vivid.0"));
    let began = Instant::now();
    let pool = FramePool::new(3, source.format().packed_bytes());
    let gone: Error = loop {
        match source.next_frame(&pool, Duration::from_secs(1)) {
            Ok(_) => assert!(began.elapsed() < Duration::from_secs(10), "the loss is not seen"),
            Err(e) => break e,
        }
    };
    assert!(gone.is_transient(), "{gone}");
    println!("camera unplugged: seen after {:?}: {gone}", began.elapsed());
    drop(source);
    unplug.join().unwrap().unwrap();
    assert!(opener.open().err().expect("gone").is_transient());
    std::fs::write("/sys/bus/platform/drivers/vivid/bind", "vivid.0").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut back = loop {
        match opener.open() {
            Ok(source) => break source,
            Err(e) => assert!(Instant::now() < deadline, "{e}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    println!("camera back: {}", back.describe());
    read(&mut *back, 3);
}

/// Writes the network that segd runs inside the VM, where processors are emulated: one convolution, no self-test.
#[test]
fn a_tiny_network_is_written() {
    if let Some(folder) = std::env::var_os("SEGD_TINY_MODEL") {
        common::onnx::Tiny::default().write(std::path::Path::new(&folder));
    }
}
