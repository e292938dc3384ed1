use proptest::prelude::*;

use super::*;
use crate::frame::{Colorimetry, Matrix, Plane, Range};

fn input(layout: Layout, dtype: InputType, color: ColorOrder, resize: Resize) -> Input {
    let float = dtype == InputType::F32;
    Input {
        layout,
        dtype,
        color,
        mean: if float {
            [123.675, 116.28, 103.53]
        } else {
            [0.0; 3]
        },
        std: if float { [58.395, 57.12, 57.375] } else { [1.0; 3] },
        resize,
        width: 8,
        height: 8,
        multiple: 1,
        offset: 0,
        pad: 77,
    }
}

fn rgb_bytes() -> Input {
    input(Layout::Nchw, InputType::U8, ColorOrder::Rgb, Resize::Stretch)
}

fn format(pixel: PixelFormat, width: usize, height: usize, color: Colorimetry) -> FrameFormat {
    FrameFormat {
        pixel,
        width,
        height,
        color,
    }
}

fn bytes(input: &Input, image: &ImageRef<'_>, size: InputSize) -> Vec<u8> {
    let mut out = TensorData::U8(Vec::new());
    Preprocessor::new(input, image.format, size).run(image, &mut out);
    match out {
        TensorData::U8(v) => v,
        TensorData::F32(_) => panic!("bytes were asked for"),
    }
}

/// Sample `channel` (Y, U, V or R, G, B) number `x`, `y` of its own grid, the edge repeated.
fn sample(image: &ImageRef<'_>, channel: usize, x: usize, y: usize) -> u64 {
    let f = image.format;
    let chroma = channel > 0 && f.pixel != PixelFormat::Rgb24;
    let (w, h) = match (chroma, f.pixel) {
        (false, _) => (f.width, f.height),
        (true, PixelFormat::Yuyv) => (f.width.div_ceil(2), f.height),
        (true, _) => (f.width.div_ceil(2), f.height.div_ceil(2)),
    };
    let (x, y) = (x.min(w - 1), y.min(h - 1));
    let (plane, at) = match f.pixel {
        PixelFormat::I420 => (channel, x),
        PixelFormat::Nv12 if chroma => (1, 2 * x + channel - 1),
        PixelFormat::Nv12 => (0, x),
        PixelFormat::Yuyv if chroma => (0, 4 * x + 2 * channel - 1),
        PixelFormat::Yuyv => (0, 2 * x),
        PixelFormat::Rgb24 => (0, 3 * x + channel),
    };
    let plane = image.plane(plane);
    u64::from(plane.data[y * plane.stride + at])
}

/// The weights of the samples of an axis of `pixels` (one sample for each `step`) in output `i` of `out`;
/// they sum up to 256 times the box.
fn weights(pixels: usize, step: usize, out: usize, i: usize) -> Vec<(usize, u64)> {
    let samples = pixels.div_ceil(step);
    let boxed = (pixels / (out * step)).clamp(1, 64);
    let boxes = samples.div_ceil(boxed);
    let at = ((i as f64 + 0.5) * pixels as f64 / (out * step * boxed) as f64 - 0.5) * 256.0;
    // Ties are halves of 1/256: the only inexact step above is the division.
    let at = ((at + 0.5 + 1e-9).floor().max(0.0) as usize).min((boxes - 1) * 256);
    let mut all = Vec::new();
    for (index, weight) in [(at / 256, 256 - at % 256), (at / 256 + 1, at % 256)] {
        for k in 0..boxed {
            // The last box is repeated past the end.
            all.push((index.min(boxes - 1) * boxed + k, weight as u64));
        }
    }
    all
}

/// 8-bit R, G, B of output pixel `x`, `y` of a `width` x `height` window, every step spelt out.
fn slow_pixel(image: &ImageRef<'_>, width: usize, height: usize, x: usize, y: usize) -> [u8; 3] {
    let f = image.format;
    let yuv = f.pixel != PixelFormat::Rgb24;
    let channel = |c: usize| {
        let chroma = c > 0 && yuv;
        let across = if chroma { 2 } else { 1 };
        let down = if chroma && f.pixel != PixelFormat::Yuyv {
            2
        } else {
            1
        };
        let (mut sum, mut total) = (0, 0);
        for &(sy, wy) in &weights(f.height, down, height, y) {
            for &(sx, wx) in &weights(f.width, across, width, x) {
                sum += wy * wx * sample(image, c, sx, sy);
                total += wy * wx;
            }
        }
        let unit = if yuv { 64 } else { 1 };
        ((2 * sum * unit + total) / (2 * total)) as i16
    };
    let [a, b, c] = [channel(0), channel(1), channel(2)];
    if yuv {
        YuvToRgb::new(f.color).pixel(a, b, c)
    } else {
        [a as u8, b as u8, c as u8]
    }
}

fn slow(input: &Input, image: &ImageRef<'_>, size: InputSize) -> Vec<f32> {
    let InputSize { width, height } = size;
    let window = Preprocessor::new(input, image.format, size).placement();
    let mut out = vec![0.0; 3 * width * height];
    for y in 0..height {
        for x in 0..width {
            let inside = (window.x..window.x + window.width).contains(&x)
                && (window.y..window.y + window.height).contains(&y);
            let mut pixel = [input.pad; 3];
            if inside {
                pixel = slow_pixel(image, window.width, window.height, x - window.x, y - window.y);
                if input.color == ColorOrder::Bgr {
                    pixel.reverse();
                }
            }
            for (c, value) in pixel.into_iter().enumerate() {
                let (mean, std) = (f64::from(input.mean[c]), f64::from(input.std[c]));
                let value = f32::from(value) * (1.0 / std) as f32 + (-mean / std) as f32;
                let at = match input.layout {
                    Layout::Nchw => (c * height + y) * width + x,
                    Layout::Nhwc => (y * width + x) * 3 + c,
                };
                out[at] = value;
            }
        }
    }
    out
}

fn any_color() -> impl Strategy<Value = Colorimetry> {
    (
        prop_oneof![Just(Matrix::Bt601), Just(Matrix::Bt709), Just(Matrix::Bt2020)],
        prop_oneof![Just(Range::Limited), Just(Range::Full)],
    )
        .prop_map(|(matrix, range)| Colorimetry { matrix, range })
}

fn any_format() -> impl Strategy<Value = FrameFormat> {
    let pixel = prop_oneof![
        Just(PixelFormat::I420),
        Just(PixelFormat::Nv12),
        Just(PixelFormat::Yuyv),
        Just(PixelFormat::Rgb24)
    ];
    (pixel, 1..40_usize, 1..40_usize, any_color()).prop_map(|(p, w, h, c)| format(p, w, h, c))
}

fn any_input() -> impl Strategy<Value = Input> {
    (
        prop_oneof![Just(Layout::Nchw), Just(Layout::Nhwc)],
        prop_oneof![Just(InputType::F32), Just(InputType::U8)],
        prop_oneof![Just(ColorOrder::Rgb), Just(ColorOrder::Bgr)],
        prop_oneof![Just(Resize::Stretch), Just(Resize::Letterbox)],
    )
        .prop_map(|(l, d, c, r)| input(l, d, c, r))
}

proptest! {
    #[test]
    fn equals_the_slow_reference(
        format in any_format(),
        input in any_input(),
        width in 1..40_usize,
        height in 1..40_usize,
        padding in 0..5_usize,
        seed in any::<u64>(),
    ) {
        let size = InputSize { width, height };
        let data: Vec<Vec<u8>> = (0..format.pixel.planes())
            .map(|p| {
                let plane = format.pixel.plane_size(p, format.width, format.height);
                noise((plane.row_bytes + padding) * plane.rows, seed.wrapping_add(p as u64))
            })
            .collect();
        let planes: Vec<Plane<'_>> = data
            .iter()
            .enumerate()
            .map(|(p, data)| Plane {
                data,
                stride: format.pixel.plane_size(p, format.width, format.height).row_bytes + padding,
            })
            .collect();
        let image = ImageRef::new(format, &planes).unwrap();
        let expected = slow(&input, &image, size);
        let mut out = TensorData::U8(Vec::new());
        let mut preprocessor = Preprocessor::new(&input, format, size);
        // Twice at least: nothing may be left over from the last picture.
        for level in Level::available().into_iter().chain([Level::best()]) {
            preprocessor.level = level;
            preprocessor.run(&image, &mut out);
            match (&mut out, input.dtype) {
                (TensorData::F32(values), InputType::F32) => {
                    prop_assert_eq!(&*values, &expected);
                    values.fill(-1.0);
                }
                (TensorData::U8(values), InputType::U8) => {
                    let values: Vec<f32> = values.iter().map(|&v| f32::from(v)).collect();
                    prop_assert_eq!(values, expected.clone());
                }
                _ => prop_assert!(false, "wrong type"),
            }
        }
    }
}

/// Bytes that look random.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

#[test]
fn large_boxes_are_exact() {
    for value in [255_u8, 1, 254] {
        for (w, h) in [(700, 3), (3, 700), (301, 301)] {
            let format = format(PixelFormat::Rgb24, w, h, Colorimetry::default());
            let data = vec![value; 3 * w * h];
            let image = ImageRef::packed(format, &data).unwrap();
            let size = InputSize { width: 2, height: 2 };
            assert_eq!(bytes(&rgb_bytes(), &image, size), [value; 12]);
        }
    }
}

#[test]
fn another_format_rebuilds_the_tables() {
    let size = InputSize { width: 4, height: 4 };
    let small = format(PixelFormat::Rgb24, 2, 2, Colorimetry::default());
    let large = format(PixelFormat::Rgb24, 5, 5, Colorimetry::default());
    let data = noise(75, 3);
    let mut preprocessor = Preprocessor::new(&rgb_bytes(), small, size);
    let mut out = TensorData::F32(Vec::new());
    preprocessor.run(&ImageRef::packed(small, &data).unwrap(), &mut out);
    let image = ImageRef::packed(large, &data).unwrap();
    preprocessor.run(&image, &mut out);
    assert_eq!(preprocessor.format(), large);
    assert_eq!(out, TensorData::U8(bytes(&rgb_bytes(), &image, size)));
}

#[test]
fn red_is_red_in_every_format() {
    let limited = Colorimetry {
        matrix: Matrix::Bt601,
        range: Range::Limited,
    };
    // Red in BT.601, limited range: Y 81, U 90, V 240.
    let cases: [(PixelFormat, Vec<u8>); 4] = [
        (PixelFormat::I420, vec![81, 81, 81, 81, 90, 240]),
        (PixelFormat::Nv12, vec![81, 81, 81, 81, 90, 240]),
        (PixelFormat::Yuyv, vec![81, 90, 81, 240, 81, 90, 81, 240]),
        (PixelFormat::Rgb24, [254, 0, 0].repeat(4)),
    ];
    for (pixel, data) in cases {
        let format = format(pixel, 2, 2, limited);
        let image = ImageRef::packed(format, &data).unwrap();
        let one = InputSize { width: 1, height: 1 };
        assert_eq!(bytes(&rgb_bytes(), &image, one), [254, 0, 0], "{pixel:?}");
        let bgr = Input {
            color: ColorOrder::Bgr,
            ..rgb_bytes()
        };
        assert_eq!(bytes(&bgr, &image, one), [0, 0, 254], "{pixel:?}");
    }
}

#[test]
fn normalised_by_hand() {
    let format = format(PixelFormat::Rgb24, 2, 1, Colorimetry::default());
    let data = [10, 20, 30, 110, 120, 130];
    let image = ImageRef::packed(format, &data).unwrap();
    let mut input = input(Layout::Nchw, InputType::F32, ColorOrder::Bgr, Resize::Fit);
    input.mean = [30.0, 20.0, 0.0];
    input.std = [2.0, 4.0, 0.5];
    let mut out = TensorData::U8(Vec::new());
    let mut preprocessor = Preprocessor::new(&input, format, InputSize { width: 2, height: 1 });
    preprocessor.run(&image, &mut out);
    assert_eq!(out, TensorData::F32(vec![0.0, 50.0, 0.0, 25.0, 20.0, 220.0]));
    input.layout = Layout::Nhwc;
    let mut preprocessor = Preprocessor::new(&input, format, InputSize { width: 2, height: 1 });
    preprocessor.run(&image, &mut out);
    assert_eq!(out, TensorData::F32(vec![0.0, 0.0, 20.0, 50.0, 25.0, 220.0]));
}

#[test]
fn letterbox_is_centred_and_padded() {
    let input = input(Layout::Nhwc, InputType::U8, ColorOrder::Rgb, Resize::Letterbox);
    let wide = format(PixelFormat::Rgb24, 16, 8, Colorimetry::default());
    let size = InputSize { width: 8, height: 8 };
    let placement = Preprocessor::new(&input, wide, size).placement();
    assert_eq!(
        placement,
        Placement {
            x: 0,
            y: 2,
            width: 8,
            height: 4
        }
    );
    let data = vec![200; 3 * 16 * 8];
    let image = ImageRef::packed(wide, &data).unwrap();
    let out = bytes(&input, &image, size);
    for (i, pixel) in out.chunks(3).enumerate() {
        let expected = if (2..6).contains(&(i / 8)) { 200 } else { 77 };
        assert_eq!(pixel, [expected; 3], "pixel {i}");
    }
    let tall = format(PixelFormat::Rgb24, 1, 1000, Colorimetry::default());
    let placement = Preprocessor::new(&input, tall, size).placement();
    assert_eq!(
        placement,
        Placement {
            x: 3,
            y: 0,
            width: 1,
            height: 8
        }
    );
}
