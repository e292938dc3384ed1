use proptest::prelude::*;

use super::*;
use crate::frame::{Colorimetry, Matrix, Plane, Range};

fn class(name: &str, color: [u8; 3], background: bool) -> Class {
    Class {
        name: name.into(),
        color,
        background,
        thing: false,
    }
}

fn classes() -> Vec<Class> {
    vec![
        class("background", [0, 0, 0], true),
        class("red", [255, 0, 0], false),
        class("green", [0, 200, 10], false),
        class("grey", [90, 90, 90], false),
    ]
}

fn options(mode: Visualize, alpha: f32) -> OverlayOptions {
    OverlayOptions {
        mode,
        alpha,
        legend: false,
        ..OverlayOptions::default()
    }
}

fn format(pixel: PixelFormat, width: usize, height: usize, color: Colorimetry) -> FrameFormat {
    FrameFormat {
        pixel,
        width,
        height,
        color,
    }
}

/// Sample `channel` of the pixel at `x`, `y`.
fn sample(image: &ImageRef<'_>, channel: usize, x: usize, y: usize) -> u8 {
    let (plane, at, y) = match (image.format.pixel, channel) {
        (PixelFormat::I420, 0) | (PixelFormat::Nv12, 0) => (0, x, y),
        (PixelFormat::I420, c) => (c, x / 2, y / 2),
        (PixelFormat::Nv12, c) => (1, x / 2 * 2 + c - 1, y / 2),
        (PixelFormat::Yuyv, 0) => (0, 2 * x, y),
        (PixelFormat::Yuyv, c) => (0, x / 2 * 4 + 2 * c - 1, y),
        (PixelFormat::Rgb24, c) => (0, 3 * x + c, y),
    };
    let plane = image.plane(plane);
    plane.data[y * plane.stride + at]
}

/// What a pixel's sample becomes, in 256ths.
fn painted(
    image: &ImageRef<'_>,
    labels: Option<&[u8]>,
    options: &OverlayOptions,
    channel: usize,
    x: usize,
    y: usize,
) -> u32 {
    let f = image.format;
    let source = u32::from(sample(image, channel, x, y)) * 256;
    let black = u32::from(ink::code(f, [0; 3])[channel]) * 256;
    let opaque_black = matches!(options.mode, Visualize::Mask | Visualize::Labels);
    let nothing = if opaque_black { black } else { source };
    let Some(labels) = labels else { return nothing };
    let at = |x: usize, y: usize| labels[y * f.width + x];
    let label = at(x, y);
    if options.mode == Visualize::Labels {
        let value = if channel == 0 || f.pixel == PixelFormat::Rgb24 {
            label
        } else {
            128
        };
        return u32::from(value) * 256;
    }
    let classes = classes();
    let Some(class) = classes.get(usize::from(label)) else {
        return nothing;
    };
    let drawn = options
        .shown
        .as_ref()
        .map_or(!class.background, |shown| shown.contains(&label));
    if !drawn {
        return nothing;
    }
    let mut a = ink::opacity(options.alpha);
    if opaque_black {
        a = 256;
    }
    if options.mode == Visualize::Contour {
        let r = contour::radius(f.height);
        let mut border = false;
        for ny in y.saturating_sub(r)..=(y + r).min(f.height - 1) {
            for nx in x.saturating_sub(r)..=(x + r).min(f.width - 1) {
                border |= at(nx, ny) != label;
            }
        }
        a = if border { 256 } else { 0 };
    }
    let ink = u32::from(ink::code(f, class.color)[channel]);
    source / 256 * (256 - u32::from(a)) + ink * u32::from(a)
}

/// The whole output, every pixel by itself.
fn slow(image: &ImageRef<'_>, labels: Option<&[u8]>, options: &OverlayOptions) -> Vec<u8> {
    let f = image.format;
    let yuv = f.pixel != PixelFormat::Rgb24;
    let half = if yuv { f.width.div_ceil(2) * 2 } else { f.width };
    let side_by_side = options.mode == Visualize::SideBySide;
    let out_width = if side_by_side { 2 * half } else { f.width };
    let value = |channel: usize, x: usize, y: usize| {
        // Past the right edge of a half the last column is repeated, past the bottom the last row.
        let y = y.min(f.height - 1);
        let right = side_by_side && x >= half;
        let x = if right { x - half } else { x }.min(f.width - 1);
        let labels = if side_by_side && !right { None } else { labels };
        painted(image, labels, options, channel, x, y)
    };
    let mut out = Vec::new();
    if !yuv {
        for y in 0..f.height {
            for x in 0..out_width {
                out.extend((0..3).map(|c| ((value(c, x, y) + 128) / 256) as u8));
            }
        }
        return out;
    }
    for y in 0..f.height {
        out.extend((0..out_width).map(|x| ((value(0, x, y) + 128) / 256) as u8));
    }
    for c in 1..3 {
        for y in 0..f.height.div_ceil(2) {
            for x in 0..out_width.div_ceil(2) {
                let (x, y) = (2 * x, 2 * y);
                // An odd picture that is not doubled ends with half a block.
                let right = (x + 1).min(out_width - 1);
                let sum: u32 = [(x, y), (right, y), (x, y + 1), (right, y + 1)]
                    .map(|(x, y)| value(c, x, y))
                    .iter()
                    .sum();
                out.push(((sum + 512) / 1024) as u8);
            }
        }
    }
    out
}

fn any_format() -> impl Strategy<Value = FrameFormat> {
    let pixel = prop_oneof![
        Just(PixelFormat::I420),
        Just(PixelFormat::Nv12),
        Just(PixelFormat::Yuyv),
        Just(PixelFormat::Rgb24)
    ];
    let color = (
        prop_oneof![Just(Matrix::Bt601), Just(Matrix::Bt709), Just(Matrix::Bt2020)],
        prop_oneof![Just(Range::Limited), Just(Range::Full)],
    );
    (pixel, 1..40_usize, 1..40_usize, color)
        .prop_map(|(p, w, h, (matrix, range))| format(p, w, h, Colorimetry { matrix, range }))
}

fn any_mode() -> impl Strategy<Value = Visualize> {
    prop::sample::select(Visualize::value_variants())
}

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

/// Labels 0 to 5 in blocks of `block` pixels; 4 and 5 have no class.
fn label_blocks(f: FrameFormat, block: usize, seed: u64) -> Vec<u8> {
    let random = noise(f.width * f.height, seed);
    (0..f.width * f.height)
        .map(|i| {
            let (x, y) = (i % f.width / block, i / f.width / block);
            random[y * f.width + x] % 6
        })
        .collect()
}

fn with_image<R>(f: FrameFormat, padding: usize, seed: u64, then: impl FnOnce(&ImageRef<'_>) -> R) -> R {
    let size = |p: usize| f.pixel.plane_size(p, f.width, f.height);
    let data: Vec<Vec<u8>> = (0..f.pixel.planes())
        .map(|p| noise((size(p).row_bytes + padding) * size(p).rows, seed + p as u64))
        .collect();
    let planes: Vec<Plane<'_>> = data
        .iter()
        .enumerate()
        .map(|(p, data)| Plane {
            data,
            stride: size(p).row_bytes + padding,
        })
        .collect();
    then(&ImageRef::new(f, &planes).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn equals_the_slow_reference(
        format in any_format(),
        mode in any_mode(),
        alpha in prop_oneof![Just(0.0_f32), Just(1.0), 0.0..1.0_f32],
        shown in prop_oneof![Just(None), Just(Some(vec![0, 2]))],
        block in 1..20_usize,
        with_mask in prop::bool::weighted(0.9),
        padding in 0..5_usize,
        seed in 0..u64::MAX / 2,
    ) {
        let options = OverlayOptions { mode, alpha, shown, legend: false, ..OverlayOptions::default() };
        let labels = label_blocks(format, block, seed ^ 0xabcdef);
        let mask = LabelMap { width: format.width, height: format.height, labels };
        let mask = with_mask.then_some(&mask);
        with_image(format, padding, seed, |image| {
            let mut painter = Painter::new(format, &classes(), options.clone());
            let expected = slow(image, mask.map(|m| m.labels.as_slice()), &options);
            prop_assert_eq!(painter.output_format().packed_bytes(), expected.len());
            // Longer than needed, with what another picture left behind.
            let mut out = vec![123; expected.len() + 3];
            for _ in 0..2 {
                painter.paint(image, mask, &mut out);
                prop_assert_eq!(&out[..expected.len()], &expected);
                prop_assert_eq!(&out[expected.len()..], &[123; 3]);
            }
            Ok(())
        })?;
    }

    #[test]
    fn legends_fit_any_picture(format in any_format(), mode in any_mode(), block in 1..40_usize, seed in 0..1000_u64) {
        let mask = LabelMap { width: format.width, height: format.height, labels: label_blocks(format, block, seed) };
        let options = OverlayOptions { legend: true, ..options(mode, 0.5) };
        with_image(format, 1, seed, |image| {
            let mut painter = Painter::new(format, &classes(), options);
            let mut out = vec![0; painter.output_format().packed_bytes()];
            painter.paint(image, Some(&mask), &mut out);
        });
    }
}

#[test]
fn a_red_class_is_red_in_every_format() {
    let limited = Colorimetry::default();
    for pixel in [PixelFormat::I420, PixelFormat::Nv12, PixelFormat::Yuyv] {
        let f = format(pixel, 2, 2, limited);
        // Mid-grey.
        let data = vec![128; f.packed_bytes()];
        let image = ImageRef::packed(f, &data).unwrap();
        let mask = LabelMap {
            width: 2,
            height: 2,
            labels: vec![1; 4],
        };
        let mut painter = Painter::new(f, &classes(), options(Visualize::Overlay, 1.0));
        assert_eq!(painter.output_format(), format(PixelFormat::I420, 2, 2, limited));
        let mut out = vec![0; 6];
        painter.paint(&image, Some(&mask), &mut out);
        assert_eq!(out, [81, 81, 81, 81, 90, 240], "{pixel:?}");
        // Half: between 128 and red. One red pixel of four: a quarter of red's chroma.
        let mut painter = Painter::new(f, &classes(), options(Visualize::Overlay, 0.5));
        painter.paint(&image, Some(&mask), &mut out);
        assert_eq!(out, [105, 105, 105, 105, 109, 184], "{pixel:?}");
        let one = LabelMap {
            labels: vec![0, 0, 1, 0],
            ..mask
        };
        let mut painter = Painter::new(f, &classes(), options(Visualize::Mask, 0.0));
        painter.paint(&image, Some(&one), &mut out);
        assert_eq!(out, [16, 16, 81, 16, 119, 156], "{pixel:?}");
        let mut painter = Painter::new(f, &classes(), options(Visualize::Labels, 0.0));
        painter.paint(&image, Some(&one), &mut out);
        assert_eq!(out, [0, 0, 1, 0, 128, 128], "{pixel:?}");
    }
    let f = format(PixelFormat::Rgb24, 2, 1, limited);
    let image = ImageRef::packed(f, &[100, 100, 100, 7, 8, 9]).unwrap();
    let mask = LabelMap {
        width: 2,
        height: 1,
        labels: vec![1, 0],
    };
    let mut painter = Painter::new(f, &classes(), options(Visualize::SideBySide, 0.5));
    assert_eq!(painter.output_format().width, 4);
    let mut out = vec![0; 12];
    painter.paint(&image, Some(&mask), &mut out);
    assert_eq!(out, [100, 100, 100, 7, 8, 9, 178, 50, 50, 7, 8, 9]);
}

#[test]
fn masks_of_another_size_are_not_drawn() {
    let f = format(PixelFormat::I420, 4, 2, Colorimetry::default());
    let data: Vec<u8> = (0..12).collect();
    let image = ImageRef::packed(f, &data).unwrap();
    let mut out = vec![0; 12];
    let mut painter = Painter::new(f, &classes(), OverlayOptions::default());
    let mask = LabelMap {
        width: 2,
        height: 4,
        labels: vec![1; 8],
    };
    painter.paint(&image, Some(&mask), &mut out);
    assert_eq!(out, data);
}

#[test]
fn legend_names_what_is_drawn_and_present() {
    let f = format(PixelFormat::Rgb24, 120, 60, Colorimetry::default());
    let data = vec![255; f.packed_bytes()];
    let image = ImageRef::packed(f, &data).unwrap();
    // 7200 pixels: 8 of red, 6 of green (too few), the rest background.
    let mut mask = LabelMap::zeros(120, 60);
    mask.labels[7000..7008].fill(1);
    mask.labels[7100..7106].fill(2);
    let all = OverlayOptions::default();
    let mut painter = Painter::new(f, &classes(), all);
    let mut out = vec![0; f.packed_bytes()];
    painter.paint(&image, Some(&mask), &mut out);
    let pixel = |x: usize, y: usize| out[3 * (120 * y + x)..][..3].to_vec();
    let shade = 90; // 255 * (256 - 166) / 256
    assert_eq!(pixel(3, 3), [255; 3]);
    assert_eq!(pixel(4, 4), [shade; 3]);
    assert_eq!(pixel(8, 8), [255, 0, 0]);
    assert_eq!(pixel(15, 15), [255, 0, 0]);
    assert_eq!(pixel(16, 15), [shade; 3]);
    // Box: 4 + 8 + 4 + 3 letters of 8 + 4 columns, one line of 8 rows between gaps of 4.
    assert_eq!((pixel(47, 19), pixel(48, 19)), (vec![shade; 3], vec![255; 3]));
    assert_eq!(pixel(47, 20), [255; 3]);
    // The stem of `r`, whose glyph's first row with pixels has its left ones set.
    let white = (20..44)
        .flat_map(|x| (8..16).map(move |y| (x, y)))
        .filter(|&(x, y)| pixel(x, y) == [255; 3]);
    assert!((20..90).contains(&white.count()));
}

#[test]
fn names_of_modes() {
    for mode in Visualize::value_variants() {
        assert_eq!(mode.as_str().parse(), Ok(*mode));
        assert_eq!(serde_json::to_string(mode).unwrap(), format!("\"{mode}\""));
        assert_eq!(mode.to_possible_value().unwrap().get_name(), mode.as_str());
    }
    let error = "sidebyside".parse::<Visualize>().unwrap_err();
    assert!(
        error.contains("sidebyside") && error.contains("side-by-side"),
        "{error}"
    );
}

#[test]
fn objects_have_colours_outlines_labels_and_a_count_of_their_own() {
    let f = format(PixelFormat::I420, 320, 240, Colorimetry::default());
    let data = vec![100; f.packed_bytes()];
    let image = ImageRef::packed(f, &data).unwrap();
    let mut mask = LabelMap::zeros(320, 240);
    let mut square = |number: u8, left: usize| {
        for y in 100..180 {
            mask.labels[y * 320 + left..y * 320 + left + 80].fill(number);
        }
    };
    square(1, 20);
    square(2, 200);
    square(3, 110);
    let object = |class: u16, track: u32| Segment {
        instance: Some(track),
        track: Some(track),
        score: 0.87,
        ..Segment::of_class(class)
    };
    let mut segments = vec![Segment::of_class(0), object(1, 7), object(1, 8), object(2, 9)];
    segments[3].doubtful = true;
    let mut painter = Painter::new(
        f,
        &classes(),
        OverlayOptions {
            mode: Visualize::Instances,
            ..OverlayOptions::default()
        },
    );
    let mut out = vec![0; f.packed_bytes()];
    painter.paint_segments(&image, Some((&mask, &segments)), &mut out);
    let luma = |out: &[u8], x: usize, y: usize| out[y * 320 + x];
    let code = |number: u32| ink::code(f, objects::color(number));
    let half = |code: u8| ((100 * 128 + u32::from(code) * 128 + 128) >> 8) as u8;
    for (number, left) in [(7, 20), (8, 200)] {
        assert_eq!(
            luma(&out, left + 40, 150),
            half(code(number)[0]),
            "inside {number}"
        );
        assert_eq!(luma(&out, left, 150), code(number)[0], "the outline of {number}");
        let chroma = out[320 * 240 + 75 * 160 + (left + 40) / 2];
        assert_eq!(chroma, half(code(number)[1]), "inside {number}");
    }
    assert_ne!(code(7), code(8));
    assert_eq!(luma(&out, 150, 150), 100, "what is doubtful is not drawn");
    let white = |out: &[u8], xs: std::ops::Range<usize>, ys: std::ops::Range<usize>| {
        ys.flat_map(|y| xs.clone().map(move |x| (x, y)))
            .filter(|&(x, y)| luma(out, x, y) == 235)
            .count()
    };
    assert!(white(&out, 20..140, 100..114) > 60, "the label of 7");
    assert!(white(&out, 200..320, 100..114) > 60, "the label of 8");
    assert_eq!(white(&out, 110..190, 116..180), 0);
    // "red 2": the count stands behind the name.
    let with_both = white(&out, 44..64, 4..20);
    segments[2].instance = None;
    segments[2].track = None;
    painter.paint_segments(&image, Some((&mask, &segments)), &mut out);
    assert_ne!(white(&out, 44..64, 4..20), with_both);
    assert_eq!(
        luma(&out, 240, 150),
        half(ink::code(f, [255, 0, 0])[0]),
        "stuff has its class's colour"
    );
}

#[test]
fn panoptic_paints_classes_and_outlines_objects() {
    let f = FrameFormat::new(PixelFormat::I420, 320, 240);
    let picture = vec![100; f.packed_bytes()];
    let image = ImageRef::packed(f, &picture).unwrap();
    let mut mask = LabelMap::zeros(320, 240);
    for (y, row) in mask.labels.chunks_exact_mut(320).enumerate() {
        match y {
            100..180 => row[20..100].fill(1),
            200.. => row.fill(2),
            _ => {}
        }
    }
    let thing = Segment {
        instance: Some(0),
        track: Some(5),
        score: 0.6,
        ..Segment::of_class(1)
    };
    let segments = [Segment::of_class(0), thing, Segment::of_class(2)];
    let paint = |score: f32| {
        let options = OverlayOptions {
            mode: Visualize::Panoptic,
            score,
            legend: false,
            ..OverlayOptions::default()
        };
        let mut out = vec![0; f.packed_bytes()];
        Painter::new(f, &classes(), options).paint_segments(&image, Some((&mask, &segments)), &mut out);
        [(60, 150), (20, 150), (160, 220), (160, 20)].map(|(x, y)| out[y * 320 + x])
    };
    let class = |class: usize| {
        let code = ink::code(f, classes()[class].color)[0];
        ((100 * 128 + u32::from(code) * 128 + 128) >> 8) as u8
    };
    let own = ink::code(f, objects::color(5))[0];
    assert_eq!(paint(0.6), [class(1), own, class(2), 100]);
    assert_eq!(paint(0.7), [100, 100, class(2), 100], "too unsure");
}

#[test]
fn what_is_drawn_stays_and_the_rest_is_exchanged() {
    let format = FrameFormat::new(PixelFormat::Yuyv, 16, 8);
    let picture = vec![200; format.packed_bytes()];
    let image = ImageRef::packed(format, &picture).unwrap();
    let mut mask = LabelMap::zeros(16, 8);
    for row in mask.labels.chunks_exact_mut(16) {
        row[4..8].fill(1);
        row[8..].fill(2);
    }
    let options = OverlayOptions {
        shown: Some(vec![2]),
        behind: Some(Behind::Color([0; 3])),
        ..OverlayOptions::default()
    };
    let mut painter = Painter::new(format, &classes(), options);
    let mut out = vec![0; painter.output_format().packed_bytes()];
    painter.paint(&image, Some(&mask), &mut out);
    for row in out[..16 * 8].chunks_exact(16) {
        assert_eq!((row[6], row[9]), (16, 200), "{row:?}");
    }
    painter.paint(&image, None, &mut out);
    assert_eq!(out[..16 * 8], [16; 16 * 8], "without a mask all of it is behind");
}
