//! The pixel stages on one 640x480 (and one 1280x720) picture. Times are CPU time of the thread, so that other
//! work on the machine matters little.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};

use segd::frame::{FrameFormat, ImageRef, Mask, PixelFormat};
use segd::infer::{InputSize, Output, Placement, TensorData};
use segd::model::contract::{Class, ColorOrder, Grid, Input, InputType, Layout, Resize};
use segd::overlay::{OverlayOptions, Painter, Visualize};
use segd::postprocess::Postprocessor;
use segd::preprocess::Preprocessor;

/// Time that the calling thread spent on a CPU.
struct ThreadTime;

impl ThreadTime {
    fn now() -> Duration {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }
}

impl Measurement for ThreadTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        Self::now()
    }

    fn end(&self, start: Duration) -> Duration {
        Self::now() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Bytes of a smooth picture with some noise.
fn picture(format: FrameFormat) -> Vec<u8> {
    let noise = (0..format.packed_bytes() as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 28) as u8);
    noise
        .zip(0_usize..)
        .map(|(noise, i)| (i % format.width / 4) as u8 / 2 + 60 + noise)
        .collect()
}

fn preprocess(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("preprocess");
    let input = Input {
        layout: Layout::Nchw,
        dtype: InputType::F32,
        color: ColorOrder::Rgb,
        mean: [123.675, 116.28, 103.53],
        std: [58.395, 57.12, 57.375],
        resize: Resize::Fit,
        width: 512,
        height: 512,
        multiple: 32,
        offset: 0,
        pad: 0,
    };
    let cases = [
        (PixelFormat::I420, (640, 480), (512, 384)),
        (PixelFormat::Nv12, (640, 480), (512, 384)),
        (PixelFormat::Yuyv, (640, 480), (512, 384)),
        (PixelFormat::Rgb24, (640, 480), (512, 384)),
        (PixelFormat::I420, (640, 480), (384, 288)),
        (PixelFormat::I420, (1280, 720), (384, 224)),
    ];
    for (pixel, (w, h), (width, height)) in cases {
        let format = FrameFormat::new(pixel, w, h);
        let data = picture(format);
        let image = ImageRef::packed(format, &data).expect("a packed picture");
        let mut preprocessor = Preprocessor::new(&input, format, InputSize { width, height });
        let mut out = TensorData::F32(Vec::new());
        let id = BenchmarkId::new(format!("{pixel:?}"), format!("{w}x{h} to {width}x{height}"));
        group.bench_function(id, |b| b.iter(|| preprocessor.run(black_box(&image), &mut out)));
    }
    group.finish();
}

/// Logits of objects of different sizes on background: each object a bump, all classes with a ripple.
fn logits(classes: usize, width: usize, height: usize) -> Vec<f32> {
    let objects = [
        (15, 0.3, 0.6, 0.2),
        (15, 0.45, 0.55, 0.15),
        (7, 0.75, 0.6, 0.18),
        (2, 0.4, 0.8, 0.1),
        (12, 0.85, 0.2, 0.08),
        (5, 0.1, 0.15, 0.07),
    ];
    let mut values = Vec::with_capacity(classes * width * height);
    for class in 0..classes {
        for y in 0..height {
            for x in 0..width {
                let (fx, fy) = (x as f32 / width as f32, y as f32 / height as f32);
                let mut v = ((fx * 23.0 + class as f32).sin() + (fy * 17.0 - class as f32 * 1.7).sin()) * 0.8;
                if class == 0 {
                    v += 6.0;
                }
                for &(of, cx, cy, radius) in &objects {
                    if of == class {
                        let distance = ((fx - cx).powi(2) + (fy - cy).powi(2)).sqrt();
                        v += 14.0 / (1.0 + ((distance - radius) * 60.0).exp());
                    }
                }
                values.push(v);
            }
        }
    }
    values
}

fn mask_of(classes: usize, cells: (usize, usize), input: InputSize, (w, h): (usize, usize)) -> Mask {
    let mut mask = Mask::zeros(w, h);
    let placement = Placement {
        x: 0,
        y: 0,
        width: input.width,
        height: input.height,
    };
    let output = Output::Logits {
        classes,
        height: cells.1,
        width: cells.0,
        values: logits(classes, cells.0, cells.1),
    };
    Postprocessor::new(Grid::HalfPixel, input, placement, w, h).run(&output, &mut mask);
    mask
}

fn argmax(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("argmax");
    let input = InputSize {
        width: 512,
        height: 384,
    };
    let placement = Placement {
        x: 0,
        y: 0,
        width: 512,
        height: 384,
    };
    for (classes, (width, height), (w, h)) in [
        (21, (64, 48), (640, 480)),
        (21, (64, 48), (1280, 720)),
        (11, (128, 96), (640, 480)),
        (21, (512, 384), (640, 480)),
    ] {
        let output = Output::Logits {
            classes,
            height,
            width,
            values: logits(classes, width, height),
        };
        let mut post = Postprocessor::new(Grid::HalfPixel, input, placement, w, h);
        let mut mask = Mask::zeros(w, h);
        let id = BenchmarkId::new(
            format!("{classes} classes"),
            format!("{width}x{height} to {w}x{h}"),
        );
        group.bench_function(id, |b| b.iter(|| post.run(black_box(&output), &mut mask)));
    }
    group.finish();
}

fn overlay(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("overlay");
    let classes: Vec<Class> = (0..21_u8)
        .map(|i| Class {
            name: format!("class {i}"),
            color: [i.wrapping_mul(60), i.wrapping_mul(90), 255 - i],
            background: i == 0,
        })
        .collect();
    let input = InputSize {
        width: 512,
        height: 384,
    };
    let mut case = |pixel: PixelFormat, (w, h): (usize, usize), mode: Visualize, legend: bool| {
        let format = FrameFormat::new(pixel, w, h);
        let data = picture(format);
        let image = ImageRef::packed(format, &data).expect("a packed picture");
        let mask = mask_of(21, (64, 48), input, (w, h));
        let options = OverlayOptions {
            mode,
            legend,
            ..OverlayOptions::default()
        };
        let mut painter = Painter::new(format, &classes, options);
        let mut out = vec![0; painter.output_format().packed_bytes()];
        let name = if legend { "with legend" } else { "" };
        let id = BenchmarkId::new(format!("{pixel:?} {mode}"), format!("{w}x{h} {name}"));
        group.bench_function(id, |b| {
            b.iter(|| painter.paint(black_box(&image), Some(&mask), &mut out))
        });
    };
    let vga = (640, 480);
    case(PixelFormat::I420, vga, Visualize::Overlay, false);
    case(PixelFormat::I420, vga, Visualize::Overlay, true);
    case(PixelFormat::Nv12, vga, Visualize::Overlay, false);
    case(PixelFormat::Yuyv, vga, Visualize::Overlay, false);
    case(PixelFormat::Rgb24, vga, Visualize::Overlay, false);
    case(PixelFormat::I420, vga, Visualize::Mask, false);
    case(PixelFormat::I420, vga, Visualize::Contour, false);
    case(PixelFormat::I420, vga, Visualize::SideBySide, false);
    case(PixelFormat::I420, (1280, 720), Visualize::Overlay, false);
    group.finish();
}

criterion_group! {
    name = kernels;
    config = Criterion::default()
        .with_measurement(ThreadTime)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30);
    targets = preprocess, argmax, overlay
}
criterion_main!(kernels);
