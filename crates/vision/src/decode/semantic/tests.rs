use proptest::prelude::*;

use super::*;

/// Every logit at every pixel, then the largest; every step spelt out.
fn slow(
    grid: Grid,
    size: InputSize,
    placement: Placement,
    mask: (usize, usize),
    (classes, height, width): (usize, usize, usize),
    values: &[f32],
) -> Vec<u8> {
    let position = |pixel: usize, pixels: usize, start: usize, length: usize, side: usize, cells: usize| {
        let input = start as f64 + (pixel as f64 + 0.5) * length as f64 / pixels as f64;
        let last = (cells - 1) as f64;
        let cell = match grid {
            Grid::HalfPixel => input * cells as f64 / side as f64 - 0.5,
            Grid::AlignCorners if side == 1 => 0.0,
            Grid::AlignCorners => (input - 0.5) * last / (side - 1) as f64,
        };
        let cell = cell.max(0.0).min(last);
        let first = cell.floor();
        let second = (first + 1.0).min(last);
        (first as usize, second as usize, cell - first)
    };
    let mut out = Vec::new();
    for y in 0..mask.1 {
        let (y0, y1, fy) = position(y, mask.1, placement.y, placement.height, size.height, height);
        for x in 0..mask.0 {
            let (x0, x1, fx) = position(x, mask.0, placement.x, placement.width, size.width, width);
            let logit = |class: usize| {
                let cell = |y: usize, x: usize| {
                    let v = values[(class * height + y) * width + x];
                    let v = if v.is_nan() {
                        f32::MIN
                    } else {
                        v.clamp(f32::MIN, f32::MAX)
                    };
                    f64::from(v)
                };
                let left = cell(y0, x0) * (1.0 - fy) + cell(y1, x0) * fy;
                let right = cell(y0, x1) * (1.0 - fy) + cell(y1, x1) * fy;
                left * (1.0 - fx) + right * fx
            };
            let mut best = 0;
            for class in 1..classes {
                if logit(class) > logit(best) {
                    best = class;
                }
            }
            out.push(best as u8);
        }
    }
    out
}

fn whole(size: InputSize) -> Placement {
    Placement {
        x: 0,
        y: 0,
        width: size.width,
        height: size.height,
    }
}

/// Logits with what is hard: many ties, values one rounding apart, huge ones beside small ones, NaN, infinities.
fn any_logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => (-3..4_i32).prop_map(|v| v as f32),
        6 => -10.0..10.0_f32,
        3 => prop_oneof![Just(1.0_f32), Just(1.0_f32.next_up()), Just(1.0_f32.next_down())],
        2 => prop_oneof![Just(1e30_f32), Just(1e30_f32.next_up()), Just(-1e30_f32), Just(1e-40_f32)],
        1 => prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
    ]
}

#[derive(Debug, Clone)]
struct Case {
    grid: Grid,
    size: InputSize,
    placement: Placement,
    mask: (usize, usize),
    shape: (usize, usize, usize),
    values: Vec<f32>,
}

/// Pictures of up to 40 x 40 in inputs of up to 40 x 40 with up to 12 x 12 cells. `spread` leaves logits as they
/// are, or makes neighbours alike, so that cells agree.
fn any_case() -> impl Strategy<Value = Case> {
    let sides = (1..40_usize, 1..40_usize, 1..40_usize, 1..40_usize);
    let shape = (1..6_usize, 1..12_usize, 1..12_usize);
    (
        sides,
        shape,
        any::<[prop::sample::Index; 4]>(),
        any::<(bool, bool)>(),
    )
        .prop_flat_map(|((w, h, in_w, in_h), shape, window, (align, alike))| {
            let size = InputSize {
                width: in_w,
                height: in_h,
            };
            let (x, y) = (window[0].index(in_w), window[1].index(in_h));
            let placement = Placement {
                x,
                y,
                width: 1 + window[2].index(in_w - x),
                height: 1 + window[3].index(in_h - y),
            };
            let grid = if align {
                Grid::AlignCorners
            } else {
                Grid::HalfPixel
            };
            let count = shape.0 * shape.1 * shape.2;
            prop::collection::vec(any_logit(), count).prop_map(move |mut values| {
                if alike {
                    for i in 1..values.len() {
                        if i % 5 != 0 {
                            values[i] = values[i - 1];
                        }
                    }
                }
                Case {
                    grid,
                    size,
                    placement,
                    mask: (w, h),
                    shape,
                    values,
                }
            })
        })
}

fn fast(case: &Case, post: &mut SemanticDecoder) -> Vec<u8> {
    let (classes, height, width) = case.shape;
    let mut mask = LabelMap::zeros(1, 1);
    let output = Answer::Logits {
        classes,
        height,
        width,
        values: case.values.clone(),
    };
    post.run(&output, &mut mask);
    assert_eq!((mask.width, mask.height), case.mask);
    mask.labels
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn equals_upsampling_then_argmax(case in any_case()) {
        let mut post = SemanticDecoder::new(case.grid, case.size, case.placement, case.mask.0, case.mask.1);
        let expected = slow(case.grid, case.size, case.placement, case.mask, case.shape, &case.values);
        prop_assert_eq!(fast(&case, &mut post), expected.clone());
        // Again with what the first left behind.
        prop_assert_eq!(fast(&case, &mut post), expected);
    }

    #[test]
    fn labels_come_from_the_nearest_cell(
        (w, h, cells_w, cells_h) in (1..40_usize, 1..40_usize, 1..40_usize, 1..40_usize),
        seed in any::<u64>(),
    ) {
        let labels: Vec<u8> = (0..cells_w * cells_h).map(|i| (seed.rotate_left(i as u32) ^ i as u64) as u8).collect();
        let size = InputSize { width: 2 * cells_w, height: 2 * cells_h };
        let mut post = SemanticDecoder::new(Grid::HalfPixel, size, whole(size), w, h);
        let mut mask = LabelMap::zeros(1, 1);
        post.run(&Answer::Labels { height: cells_h, width: cells_w, labels: labels.clone() }, &mut mask);
        for y in 0..h {
            for x in 0..w {
                // The cell that holds the pixel's centre; on an edge between two, the later.
                let (cx, cy) = ((2 * x + 1) * cells_w / (2 * w), (2 * y + 1) * cells_h / (2 * h));
                prop_assert_eq!(mask.labels[y * w + x], labels[cy * cells_w + cx]);
            }
        }
    }
}

/// Rounding makes these two interpolated values equal in `f32`, where the earlier class would win by the tie;
/// the cells say that class 1 wins everywhere.
#[test]
fn winners_by_one_rounding_step_stay_winners() {
    let size = InputSize {
        width: 16,
        height: 16,
    };
    let big = 16_777_216.0_f32;
    let case = Case {
        grid: Grid::HalfPixel,
        size,
        placement: whole(size),
        mask: (16, 16),
        shape: (2, 1, 2),
        values: vec![1.0, big, 1.0_f32.next_up(), big.next_up()],
    };
    let mut post = SemanticDecoder::new(case.grid, size, case.placement, 16, 16);
    assert_eq!(fast(&case, &mut post), vec![1; 256]);
    assert_eq!(
        slow(
            case.grid,
            size,
            case.placement,
            case.mask,
            case.shape,
            &case.values
        ),
        vec![1; 256]
    );
}

#[test]
fn a_class_that_wins_in_no_cell_may_win_between_them() {
    // Classes 0 and 1 win one cell each; class 2 is second in both and wins in the middle.
    let size = InputSize { width: 8, height: 1 };
    let case = Case {
        grid: Grid::HalfPixel,
        size,
        placement: whole(size),
        mask: (8, 1),
        shape: (3, 1, 2),
        values: vec![10.0, -10.0, -10.0, 10.0, 4.0, 4.0],
    };
    let mut post = SemanticDecoder::new(case.grid, size, case.placement, 8, 1);
    // Class 0 falls through 4 at 0.3 of the way from pixel 1.5 to 5.5: pixel 2.7.
    assert_eq!(fast(&case, &mut post), [0, 0, 0, 2, 2, 1, 1, 1]);
}

#[test]
fn ties_and_not_a_number() {
    let size = InputSize { width: 2, height: 1 };
    let run = |values: Vec<f32>| {
        let case = Case {
            grid: Grid::HalfPixel,
            size,
            placement: whole(size),
            mask: (2, 1),
            shape: (2, 1, 2),
            values,
        };
        fast(
            &case,
            &mut SemanticDecoder::new(case.grid, size, case.placement, 2, 1),
        )
    };
    assert_eq!(run(vec![1.0, 2.0, 1.0, 2.0]), [0, 0]);
    assert_eq!(run(vec![f32::NAN, -5.0, -7.0, f32::NAN]), [1, 0]);
    assert_eq!(run(vec![f32::NAN; 4]), [0, 0]);
    assert_eq!(run(vec![1e30, f32::NEG_INFINITY, f32::INFINITY, -1e30]), [1, 1]);
}

#[test]
fn full_size_logits_and_another_size_afterwards() {
    let size = InputSize { width: 4, height: 2 };
    let mut post = SemanticDecoder::new(Grid::HalfPixel, size, whole(size), 4, 2);
    let mut mask = LabelMap::zeros(0, 0);
    let wanted = [0, 1, 2, 0, 2, 1, 0, 1];
    let values = (0..24)
        .map(|i| if wanted[i % 8] == i / 8 { 1.0 } else { 0.0 })
        .collect();
    post.run(
        &Answer::Logits {
            classes: 3,
            height: 2,
            width: 4,
            values,
        },
        &mut mask,
    );
    assert_eq!(mask.labels, wanted.map(|w| w as u8));
    post.run(
        &Answer::Labels {
            height: 1,
            width: 2,
            labels: vec![7, 9],
        },
        &mut mask,
    );
    assert_eq!(mask.labels, [7, 7, 9, 9, 7, 7, 9, 9]);
}
