//! The pixel stages on one 640x480 (and one 1280x720) picture. Times are CPU time of the thread, so that other
//! work on the machine matters little.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

use tract_int8::depthwise::{Axis, Filter, Geometry, Scratch, convolve, convolve_reference};
use tract_int8::int8::{conv, filter, lanes, planes};
use vision::answer::Answer;
use vision::decode::SemanticDecoder;
use vision::frame::{FrameFormat, ImageRef, LabelMap, PixelFormat};
use vision::infer::tract::TractBackend;
use vision::infer::{Backend, InputSize, Outputs, Placement, TensorData};
use vision::model::Model;
use vision::model::contract::{Class, ColorOrder, Grid, Input, InputType, Layout, Precision, Resize};
use vision::overlay::{Behind, OverlayOptions, Painter, Visualize};
use vision::preprocess::Preprocessor;
use vision::propagate::{
    Keys, LogitSmoother, Luma, MotionField, Smoothing, Tiles, Vector, warp_labels, warp_labels_reference,
};

#[path = "common/thread_time.rs"]
mod thread_time;

use thread_time::ThreadTime;

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

fn mask_of(classes: usize, cells: (usize, usize), input: InputSize, (w, h): (usize, usize)) -> LabelMap {
    let mut mask = LabelMap::zeros(w, h);
    let placement = Placement {
        x: 0,
        y: 0,
        width: input.width,
        height: input.height,
    };
    let output = Answer::Logits {
        classes,
        height: cells.1,
        width: cells.0,
        values: logits(classes, cells.0, cells.1),
    };
    SemanticDecoder::new(Grid::HalfPixel, input, placement, w, h).run(&output, &mut mask);
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
        let output = Answer::Logits {
            classes,
            height,
            width,
            values: logits(classes, width, height),
        };
        let mut post = SemanticDecoder::new(Grid::HalfPixel, input, placement, w, h);
        let mut mask = LabelMap::zeros(w, h);
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
            thing: false,
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
    let format = FrameFormat::new(PixelFormat::I420, vga.0, vga.1);
    let data = picture(format);
    let image = ImageRef::packed(format, &data).expect("a packed picture");
    let mask = mask_of(21, (64, 48), input, vga);
    for (name, behind) in [("blur", Behind::Blur), ("color", Behind::Color([0, 177, 64]))] {
        let options = OverlayOptions {
            behind: Some(behind),
            ..OverlayOptions::default()
        };
        let mut painter = Painter::new(format, &classes, options);
        let mut out = vec![0; format.packed_bytes()];
        group.bench_function(BenchmarkId::new("I420 background", name), |b| {
            b.iter(|| painter.paint(black_box(&image), Some(&mask), &mut out))
        });
    }
    group.finish();
}

/// Luma of random points, interpolated, seen from (`dx`, `dy`).
fn scene(format: FrameFormat, dx: f32, dy: f32) -> Vec<u8> {
    let point = |x: i32, y: i32| {
        let mixed = ((x * 7919) ^ (y * 104_729)) as u32;
        let mixed = (mixed ^ (mixed >> 13)).wrapping_mul(2_654_435_761);
        ((mixed ^ (mixed >> 16)) % 200) as f32 + 28.0
    };
    let mut data = vec![128; format.packed_bytes()];
    for y in 0..format.height {
        for x in 0..format.width {
            let (u, v) = ((x as f32 + dx) / 14.0, (y as f32 + dy) / 14.0);
            let (x0, y0) = (u.floor(), v.floor());
            let (fx, fy) = (u - x0, v - y0);
            let (x0, y0) = (x0 as i32, y0 as i32);
            let upper = point(x0, y0) * (1.0 - fx) + point(x0 + 1, y0) * fx;
            let lower = point(x0, y0 + 1) * (1.0 - fx) + point(x0 + 1, y0 + 1) * fx;
            data[y * format.width + x] = (upper * (1.0 - fy) + lower * fy) as u8;
        }
    }
    data
}

fn propagate(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("propagate");
    let format = FrameFormat::new(PixelFormat::I420, 640, 480);
    let input = InputSize {
        width: 512,
        height: 384,
    };
    // A camera that turns back and forth, 4 pixels a frame, and one that stands.
    let pan: Vec<Vec<u8>> = [0.0, 4.0, 8.0, 12.0, 8.0, 4.0]
        .map(|dx| scene(format, dx, dx / 2.0))
        .to_vec();
    let image = |data| ImageRef::packed(format, data).expect("a packed picture");
    let mut luma = Luma::new(640, 480);
    group.bench_function("luma 640x480", |b| {
        b.iter(|| luma.read(black_box(&image(&pan[0]))))
    });
    for (name, frames) in [("pan", &pan[..]), ("still", &pan[..1])] {
        let mut keys: Keys<()> = Keys::new(640, 480, 2);
        keys.advance(&image(&frames[0]), 0);
        keys.start(0, 0);
        keys.deliver(0, ());
        let mut n = 0;
        group.bench_function(format!("luma, cut and motion 640x480 {name}"), |b| {
            b.iter(|| {
                n += 1;
                keys.advance(black_box(&image(&frames[n % frames.len()])), n as u64)
            })
        });
    }
    let mask = mask_of(21, (64, 48), input, (640, 480));
    let mut tiles = Tiles::default();
    group.bench_function("tiles 640x480", |b| b.iter(|| tiles.read(black_box(&mask))));
    let mut shifted = MotionField::still(luma.columns(), luma.rows(), luma.scale());
    shifted.vectors.fill(Vector { dx: 37, dy: -18 });
    let mut zoomed = shifted.clone();
    for (at, vector) in zoomed.vectors.iter_mut().enumerate() {
        let (x, y) = ((at % zoomed.columns) as i16, (at / zoomed.columns) as i16);
        *vector = Vector {
            dx: 3 * (x - 20),
            dy: 3 * (y - 15),
        };
    }
    let mut out = LabelMap::zeros(640, 480);
    for (name, field) in [("pan", &shifted), ("zoom", &zoomed)] {
        group.bench_function(format!("warp 640x480 {name}"), |b| {
            b.iter(|| warp_labels(black_box(&mask), &tiles, field, &mut out))
        });
    }
    group.bench_function("warp 640x480 zoom, reference", |b| {
        b.iter(|| warp_labels_reference(black_box(&mask), &zoomed, &mut out))
    });
    let placement = Placement {
        x: 0,
        y: 0,
        width: 512,
        height: 384,
    };
    let grid = vision::propagate::CellGrid::new(Grid::HalfPixel, input, placement, (640, 480), (64, 48));
    let mut values = logits(21, 64, 48);
    let mut smoother = LogitSmoother::default();
    group.bench_function("smooth 21 classes, 64x48", |b| {
        b.iter(|| smoother.mix(black_box(&mut values), &grid, Some(&zoomed), Smoothing::default()))
    });
    group.finish();
}

/// The depthwise convolutions of the networks: channels, input, taps, stride, dilation.
const DEPTHWISE: [(usize, [usize; 2], usize, usize, usize); 5] = [
    (32, [192, 256], 3, 1, 1),
    (96, [192, 256], 3, 2, 1),
    (144, [96, 128], 5, 2, 1),
    (672, [24, 32], 5, 1, 1),
    (1152, [24, 32], 5, 1, 2),
];

fn depthwise(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("depthwise");
    for (channels, [height, width], taps, stride, dilation) in DEPTHWISE {
        let zeros = (taps - 1) * dilation / 2;
        let axis = |side| Axis::new(side, (zeros, zeros), taps, stride, dilation).expect("a convolution");
        let geometry = Geometry {
            down: axis(height),
            across: axis(width),
        };
        let numbers = |count| -> Vec<f32> { (0..count).map(|i| (i as f32 * 0.7).sin()).collect() };
        let input = numbers(channels * geometry.input());
        let (kernel, bias) = (numbers(channels * taps * taps), numbers(channels));
        let filter = Filter {
            taps: &kernel,
            bias: &bias,
            limits: Some([0.0, 6.0]),
        };
        let mut output = vec![0.0; channels * geometry.output()];
        let mut scratch = Scratch::default();
        let name = format!("{channels}x{height}x{width} {taps}x{taps}/{stride} dilation {dilation}");
        group.bench_function(&name, |b| {
            b.iter(|| convolve(&geometry, &filter, black_box(&input), &mut output, &mut scratch))
        });
        group.bench_function(format!("{name}, reference"), |b| {
            b.iter(|| convolve_reference(&geometry, &filter, black_box(&input), &mut output))
        });
    }
    group.finish();
}

/// A convolution of the 8-bit networks.
struct Int8 {
    inputs: usize,
    outputs: usize,
    /// Each channel has its own kernel.
    is_depthwise: bool,
    /// Height and width.
    input: [usize; 2],
    taps: usize,
    stride: usize,
}

const fn int8_layer(
    channels: [usize; 2],
    is_depthwise: bool,
    input: [usize; 2],
    taps: usize,
    stride: usize,
) -> Int8 {
    Int8 {
        inputs: channels[0],
        outputs: channels[1],
        is_depthwise,
        input,
        taps,
        stride,
    }
}

const INT8: [Int8; 6] = [
    int8_layer([3, 32], false, [384, 512], 3, 2),
    int8_layer([16, 96], false, [192, 256], 1, 1),
    int8_layer([96, 96], true, [192, 256], 3, 2),
    int8_layer([240, 240], true, [48, 64], 5, 1),
    int8_layer([192, 1152], false, [24, 32], 1, 1),
    int8_layer([1152, 192], false, [24, 32], 1, 1),
];

/// In each form that the CPU runs; `portable` is the reference of the others.
fn int8(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("int8");
    for layer in INT8 {
        let Int8 {
            inputs,
            outputs,
            is_depthwise,
            input: [height, width],
            taps,
            stride,
        } = layer;
        let zeros = taps / 2;
        let axis = |side| Axis::new(side, (zeros, zeros), taps, stride, 1).expect("a convolution");
        let geometry = Geometry {
            down: axis(height),
            across: axis(width),
        };
        let seen = if is_depthwise { 1 } else { inputs };
        let weights: Vec<i8> = (0..outputs * seen * taps * taps)
            .map(|i| (i * 7 % 127) as i8 - 63)
            .collect();
        let filter = filter::Filter::new(&filter::Stored {
            outputs,
            inputs,
            is_depthwise,
            taps: [taps, taps],
            weights: &weights,
            bias: &vec![0; outputs],
            scales: &vec![0.001; outputs],
            input_zero: 0,
            output_zero: 3,
        })
        .expect("a filter");
        let input = vec![[7_u8; 4]; planes::planes(inputs) * planes::plane_len(geometry.input())];
        let mut output = vec![[0_u8; 4]; planes::planes(outputs) * planes::plane_len(geometry.output())];
        let mut scratch = Vec::new();
        let kind = if is_depthwise { "depthwise " } else { "" };
        for level in lanes::Level::available() {
            let name = format!(
                "{kind}{inputs}x{height}x{width} to {outputs}, {taps}x{taps}/{stride}, {}",
                level.as_str()
            );
            group.bench_function(&name, |b| {
                b.iter(|| {
                    conv::convolve(
                        level,
                        &geometry,
                        &filter,
                        0,
                        black_box(&input),
                        &mut output,
                        &mut scratch,
                    )
                })
            });
        }
    }
    group.finish();
}

/// The default network in fp32: tract as segd prepares it, tract by itself, and ONNX Runtime.
fn network(c: &mut Criterion<ThreadTime>) {
    use tract_onnx::prelude::*;
    let mut group = c.benchmark_group("network");
    group.sample_size(10);
    let folder = std::path::Path::new("models/voc21");
    let model = Model::open(folder).expect("the default model");
    let size = InputSize {
        width: 512,
        height: 384,
    };
    let input = TensorData::zeros(InputType::F32, size);
    let precision = Some(Precision::Fp32);
    let mut backends: Vec<Box<dyn Backend>> = vec![Box::new(TractBackend::new(precision))];
    let options = vision::infer::ort::OrtOptions {
        precision,
        ..Default::default()
    };
    match vision::infer::ort::OrtBackend::load(options) {
        Ok(ort) => backends.push(Box::new(ort)),
        Err(why) => eprintln!("without ONNX Runtime: {why}"),
    }
    for backend in backends {
        let mut segmenter = backend.prepare(&model, size).expect("a network");
        let mut output = Outputs::default();
        group.bench_function(BenchmarkId::new(backend.name(), "512x384"), |b| {
            b.iter(|| segmenter.run(black_box(&input), &mut output))
        });
    }
    let alone = || {
        let model = tract_onnx::onnx().model_for_path(folder.join("fp32.onnx"))?;
        let fact = f32::fact([1, 3, size.height, size.width]);
        let plan = model
            .with_input_fact(0, fact.into())?
            .into_optimized()?
            .into_runnable()?;
        TypedSimpleState::new(&plan)
    };
    let mut state = alone().expect("tract's plan");
    let tensor = Tensor::zero::<f32>(&[1, 3, size.height, size.width]).expect("a tensor");
    let tensor = TValue::from_const(Arc::new(tensor));
    group.bench_function("tract's own operators/512x384", |b| {
        b.iter(|| state.run(tvec!(tensor.clone())).expect("an answer"))
    });
    group.finish();
}

criterion_group! {
    name = kernels;
    config = Criterion::default()
        .with_measurement(ThreadTime)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30);
    targets = preprocess, argmax, propagate, overlay, depthwise, int8, network
}
criterion_main!(kernels);
