//! Decoders of objects against plain references that look at each pixel by itself.

use proptest::prelude::*;

use super::boxes_masks::pasted;
use super::semantic::cells::{CellAxis, CellMap};
use super::*;
use crate::redact::{How, RedactOptions, Redactor};
use crate::tensor::Elements;

mod classes_boxes;

/// A contract of a background and `things` classes of things, then `stuff` of stuff.
fn contract(output: &str, things: usize, stuff: usize) -> Contract {
    let class =
        |number: usize, rest: &str| format!("[[classes]]\nname = \"c{number}\"\ncolor = [9, 9, 9]\n{rest}\n");
    let classes: String = (1..=things)
        .map(|n| class(n, "thing = true"))
        .chain((things + 1..=things + stuff).map(|n| class(n, "")))
        .collect();
    let text = format!(
        r#"
        format = 2
        name = "made"
        [input]
        layout = "nchw"
        dtype = "f32"
        color = "rgb"
        resize = "stretch"
        width = 16
        height = 16
        [output]
        {output}
        {}
        {classes}
        [[files]]
        path = "made.onnx"
        precision = "fp32"
        backends = ["tract"]
        sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        "#,
        class(0, "background = true")
    );
    Contract::parse(&text, "made").unwrap()
}

const SIZE: InputSize = InputSize {
    width: 16,
    height: 16,
};

/// All of the input.
const EVERYWHERE: Placement = Placement {
    x: 0,
    y: 0,
    width: SIZE.width,
    height: SIZE.height,
};

/// A picture in the input: all of it, or a window.
fn window() -> impl Strategy<Value = Placement> {
    (0..6_usize, 0..6_usize).prop_map(|(x, y)| Placement {
        x,
        y,
        width: SIZE.width - 2 * x,
        height: SIZE.height - 2 * y,
    })
}

/// Outputs by name, of floats.
fn outputs(list: &[(&str, &[usize], &[f32])]) -> Outputs {
    let mut outputs = Outputs::default();
    for (index, (name, shape, values)) in list.iter().enumerate() {
        outputs.write(index, name, shape, Elements::F32(values));
    }
    outputs
}

/// Numbers that repeat from a seed.
fn numbers(seed: u64, count: usize, low: f32, high: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..count).map(|_| low + (high - low) * next()).collect()
}

struct Decoded {
    map: LabelMap,
    segments: Vec<Segment>,
}

impl Decoded {
    /// For each pixel the class, and for pixels of objects the object's number.
    fn at(&self, pixel: usize) -> (u16, Option<u32>) {
        let segment = self.segments[usize::from(self.map.labels[pixel])];
        (segment.class, segment.instance)
    }
}

fn run(
    contract: &Contract,
    window: Placement,
    picture: (usize, usize),
    hidden: &Hidden,
    mut outputs: Outputs,
) -> Result<Decoded> {
    let mut decoder = decoder(contract, "made", SIZE, window, picture);
    decoder.hide(hidden);
    let mut answer = Answer::empty();
    decoder.read(&mut outputs, &mut answer)?;
    let (mut map, mut segments) = (LabelMap::zeros(0, 0), Vec::new());
    // Twice: nothing of the first time may be left.
    decoder.decode(&answer, &mut map, &mut segments);
    let once = map.labels.clone();
    decoder.decode(&answer, &mut map, &mut segments);
    assert_eq!(once, map.labels);
    assert_eq!((map.width, map.height), picture);
    assert!(segments.len() <= 255 && map.labels.iter().all(|&n| usize::from(n) < segments.len()));
    Ok(Decoded { map, segments })
}

/// A value of a grid at a pixel, interpolated.
fn value(columns: &CellAxis, rows: &CellAxis, x: usize, y: usize, at: impl Fn(usize, usize) -> f32) -> f64 {
    let span =
        |axis: &CellAxis, p: usize| *axis.spans.iter().find(|s| (s.start..s.end).contains(&p)).unwrap();
    let (across, down) = (span(columns, x), span(rows, y));
    let at = |row: usize, column: usize| f64::from(at(row, column));
    let [upper, lower] = rows.weights[y];
    let [left, right] = columns.weights[x];
    (at(down.first, across.first) * upper + at(down.second, across.first) * lower) * left
        + (at(down.first, across.second) * upper + at(down.second, across.second) * lower) * right
}

fn cells(window: Placement, picture: (usize, usize), width: usize, height: usize) -> CellMap {
    CellMap::new(Grid::HalfPixel, SIZE, window, picture, width, height)
}

/// What a reference found: class, score, and whether a pixel is its own.
struct Expected {
    class: u8,
    score: f32,
    covers: Vec<bool>,
}

/// Paints from the least sure to the surest, and compares.
fn compare(found: &Decoded, mut expected: Vec<Expected>) {
    expected.sort_by(|a, b| b.score.total_cmp(&a.score));
    for (pixel, _) in found.map.labels.iter().enumerate() {
        let owner = expected.iter().position(|e| e.covers[pixel]);
        let want = owner.map_or((0, None), |n| (u16::from(expected[n].class), Some(n as u32)));
        assert_eq!(found.at(pixel), want, "pixel {pixel}");
    }
    let objects: Vec<&Segment> = found.segments.iter().filter(|s| s.instance.is_some()).collect();
    assert_eq!(objects.len(), expected.len());
    for (segment, expected) in objects.iter().zip(&expected) {
        assert_eq!(
            (segment.class, segment.score),
            (expected.class.into(), expected.score)
        );
    }
}

const YOLO: &str = r#"kind = "prototypes"
    nms = 0.5
    score = 0.5
    tensors = [{ role = "detections", name = "a" }, { role = "prototypes", name = "b" }]"#;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn prototypes_are_summed_up_scaled_and_cut_off_at_the_box(
        seed in any::<u64>(), window in window(), (width, height) in (1..40_usize, 1..40_usize),
        count in 1..12_usize, by_field in any::<bool>(), picked in any::<bool>(),
    ) {
        const CLASSES: usize = 2;
        const MASKS: usize = 3;
        const SIDE: usize = 4;
        let form = if picked { "detections = \"best-class\"" } else { "" };
        let contract = contract(&format!("{YOLO}\n{form}"), CLASSES, 0);
        let scores = if picked { 2 } else { CLASSES };
        let fields = 4 + scores + MASKS;
        let mut rows: Vec<Vec<f32>> = Vec::new();
        for n in 0..count {
            let n = n as u64;
            let mut row = numbers(seed ^ (1 + n), 2, 2.0, 14.0);
            row.extend(numbers(seed ^ (101 + n), 2, 1.0, 12.0));
            if picked {
                // Corners.
                row = vec![row[0] - row[2] / 2.0, row[1] - row[3] / 2.0, row[0] + row[2] / 2.0, row[1] + row[3] / 2.0];
                row.extend(numbers(seed ^ (201 + n), 1, 0.0, 1.0));
                row.push((seed.rotate_left(n as u32) % 2) as f32);
            } else {
                row.extend(numbers(seed ^ (201 + n), CLASSES, 0.0, 1.0));
            }
            row.extend(numbers(seed ^ (301 + n), MASKS, -1.0, 1.0));
            rows.push(row);
        }
        let prototypes = numbers(seed ^ 7, MASKS * SIDE * SIDE, -1.0, 1.0);
        let detections: Vec<f32> = match by_field {
            true => (0..fields).flat_map(|f| rows.iter().map(move |row| row[f])).collect(),
            false => rows.concat(),
        };
        let shape = if by_field { [1, fields, count] } else { [1, count, fields] };
        // A square of numbers could be either.
        prop_assume!(count != fields);
        let given = outputs(&[("a", &shape, &detections), ("b", &[1, MASKS, SIDE, SIDE], &prototypes)]);
        let found = run(&contract, window, (width, height), &[false; 256], given).unwrap();

        // The reference.
        let mut list: Vec<(u8, f32, [f32; 4], &[f32])> = Vec::new();
        for row in &rows {
            let (class, score) = match picked {
                true => (row[5] as u8, row[4]),
                false if row[5] > row[4] => (1, row[5]),
                false => (0, row[4]),
            };
            let [a, b, c, d] = [row[0], row[1], row[2], row[3]];
            let corners = match picked {
                true => [a, b, c, d],
                false => [a - c / 2.0, b - d / 2.0, a + c / 2.0, b + d / 2.0],
            };
            if score >= 0.5 {
                list.push((class + 1, score, corners, &row[4 + scores..]));
            }
        }
        list.sort_by(|a, b| b.1.total_cmp(&a.1));
        let area = |c: [f32; 4]| (c[2] - c[0]).max(0.0) * (c[3] - c[1]).max(0.0);
        let overlap = |a: [f32; 4], b: [f32; 4]| {
            let shared = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
            shared / (area(a) + area(b) - shared)
        };
        let mut kept: Vec<(u8, f32, [f32; 4], &[f32])> = Vec::new();
        for one in list {
            if kept.iter().all(|k| k.0 != one.0 || overlap(k.2, one.2) <= 0.5) {
                kept.push(one);
            }
        }
        let map = cells(window, (width, height), SIDE, SIDE);
        let edge = |at: f32, start: usize, length: usize, side: usize| {
            (f64::from(at) - start as f64) * side as f64 / length as f64
        };
        let expected = kept.iter().map(|(class, score, corners, factors)| {
            let left = edge(corners[0], window.x, window.width, width);
            let right = edge(corners[2], window.x, window.width, width);
            let top = edge(corners[1], window.y, window.height, height);
            let bottom = edge(corners[3], window.y, window.height, height);
            let cell = |row: usize, column: usize| {
                (0..MASKS).fold(0.0, |sum, m| sum + factors[m] * prototypes[(m * SIDE + row) * SIDE + column])
            };
            let covers = (0..width * height).map(|pixel| {
                let (x, y) = (pixel % width, pixel / width);
                let (cx, cy) = (x as f64 + 0.5, y as f64 + 0.5);
                let inside = left <= cx && cx < right && top <= cy && cy < bottom;
                inside && value(&map.columns, &map.rows, x, y, cell) > 0.0
            });
            Expected { class: *class, score: *score, covers: covers.collect() }
        });
        compare(&found, expected.collect());
    }

    #[test]
    fn masks_on_boxes_are_pasted_as_torchvision_does(
        seed in any::<u64>(), (width, height) in (1..40_usize, 1..40_usize), count in 0..6_usize,
        whole in any::<bool>(),
    ) {
        let contract = contract(
            r#"kind = "boxes-masks"
            first_class = 0
            tensors = [{ role = "boxes", name = "a" }, { role = "scores", name = "b" },
                { role = "classes", name = "c" }, { role = "masks", name = "d" }]"#, 2, 0);
        let (columns, rows) = if whole { (SIZE.width, SIZE.height) } else { (5, 4) };
        let picture = (width, height);
        let mut boxes = Vec::new();
        for n in 0..count as u64 {
            let low = numbers(seed ^ (1 + n), 2, -4.0, 14.0);
            let size = numbers(seed ^ (51 + n), 2, 0.0, 14.0);
            boxes.extend([low[0], low[1], low[0] + size[0], low[1] + size[1]]);
        }
        let scores = numbers(seed ^ 3, count, 0.0, 1.0);
        let classes: Vec<f32> = (0..count).map(|n| 1.0 + ((seed >> n) % 2) as f32).collect();
        let masks = numbers(seed ^ 4, count * columns * rows, 0.0, 1.0);
        let given = outputs(&[
            ("a", &[count, 4], &boxes), ("b", &[count], &scores), ("c", &[count], &classes),
            ("d", &[count, 1, rows, columns], &masks),
        ]);
        let found = run(&contract, EVERYWHERE, picture, &[false; 256], given).unwrap();
        let expected = (0..count).filter(|&n| scores[n] >= 0.5).map(|n| {
            let mask = |row: usize, column: usize| masks[(n * rows + row) * columns + column];
            let covers = (0..width * height).map(|pixel| {
                let (x, y) = (pixel % width, pixel / width);
                if whole {
                    let map = cells(EVERYWHERE, picture, columns, rows);
                    return value(&map.columns, &map.rows, x, y, mask) > 0.5;
                }
                // `expand_masks`, `expand_boxes` and `paste_mask_in_image` of torchvision 0.20.
                let scaled = |edge: f32, side: usize| f64::from(edge) * side as f64 / 16.0;
                let sides = [
                    scaled(boxes[4 * n], width), scaled(boxes[4 * n + 1], height),
                    scaled(boxes[4 * n + 2], width), scaled(boxes[4 * n + 3], height),
                ];
                let expand = |low: f64, high: f64, cells: usize| {
                    let half = (high - low) * 0.5 * (cells + 2) as f64 / cells as f64;
                    let centre = (high + low) * 0.5;
                    ((centre - half) as i64, (centre + half) as i64)
                };
                let (x0, x1) = expand(sides[0], sides[2], columns);
                let (y0, y1) = expand(sides[1], sides[3], rows);
                let (w, h) = ((x1 - x0 + 1).max(1), (y1 - y0 + 1).max(1));
                let (column, row) = (x as i64 - x0, y as i64 - y0);
                if !(0..w).contains(&column) || !(0..h).contains(&row) {
                    return false;
                }
                // `interpolate` with align_corners = false.
                let source = |at: i64, cells: usize, pixels: i64| {
                    let at = ((at as f64 + 0.5) * cells as f64 / pixels as f64 - 0.5).max(0.0);
                    let first = (at as usize).min(cells - 1);
                    (first, (first + 1).min(cells - 1), at - first as f64)
                };
                let (c0, c1, cw) = source(column, columns + 2, w);
                let (r0, r1, rw) = source(row, rows + 2, h);
                let padded = |row: usize, column: usize| {
                    let inner = (1..=rows).contains(&row) && (1..=columns).contains(&column);
                    if inner { f64::from(mask(row - 1, column - 1)) } else { 0.0 }
                };
                let upper = padded(r0, c0) * (1.0 - cw) + padded(r0, c1) * cw;
                let lower = padded(r1, c0) * (1.0 - cw) + padded(r1, c1) * cw;
                upper * (1.0 - rw) + lower * rw > 0.5
            });
            Expected { class: classes[n] as u8, score: scores[n], covers: covers.collect() }
        });
        compare(&found, expected.collect());
    }

    #[test]
    fn queries_are_objects_or_share_the_pixels(
        seed in any::<u64>(), window in window(), (width, height) in (1..30_usize, 1..30_usize),
        count in 1..7_usize, panoptic in any::<bool>(), softmax in any::<bool>(),
    ) {
        const SIDE: usize = 5;
        const CLASSES: usize = 3;
        let reading = if panoptic { "panoptic" } else { "instance" };
        let activation = if softmax { "softmax" } else { "sigmoid" };
        let contract = contract(&format!(
            r#"kind = "queries"
            activation = "{activation}"
            reading = "{reading}"
            score = 0.4
            tensors = [{{ role = "scores", name = "a" }}, {{ role = "masks", name = "b" }}]"#), 2, 1);
        let fields = CLASSES + usize::from(softmax);
        let scores = numbers(seed ^ 1, count * fields, -3.0, 3.0);
        let masks = numbers(seed ^ 2, count * SIDE * SIDE, -3.0, 3.0);
        let given = outputs(&[("a", &[1, count, fields], &scores), ("b", &[1, count, SIDE, SIDE], &masks)]);
        prop_assume!(count != fields);
        let found = run(&contract, window, (width, height), &[false; 256], given).unwrap();

        let sigmoid = |v: f32| 1.0 / (1.0 + (-v).exp());
        let map = cells(window, (width, height), SIDE, SIDE);
        let pixel = |n: usize, pixel: usize, of: &dyn Fn(f32) -> f32| {
            let at = |row: usize, column: usize| of(masks[(n * SIDE + row) * SIDE + column]);
            value(&map.columns, &map.rows, pixel % width, pixel / width, at)
        };
        let best = |n: usize| {
            let own = &scores[n * fields..][..fields];
            let largest = own.iter().copied().fold(f32::MIN, f32::max);
            let sum: f32 = own.iter().map(|v| (v - largest).exp()).sum();
            let probability = |c: usize| match softmax {
                true => (own[c] - largest).exp() / sum,
                false => sigmoid(own[c]),
            };
            let class = (0..CLASSES).fold(0, |best, c| if own[c] > own[best] { c } else { best });
            (class as u8 + 1, probability(class))
        };
        if !panoptic {
            let expected = (0..count).filter_map(|n| {
                let (class, score) = best(n);
                let inside = masks[n * SIDE * SIDE..][..SIDE * SIDE].iter().filter(|v| **v > 0.0);
                let (sum, cells) = inside.fold((0.0, 0), |(sum, n), &v| (sum + sigmoid(v), n + 1));
                let score = if cells == 0 { 0.0 } else { score * (sum / cells as f32) };
                let covers = (0..width * height).map(|p| pixel(n, p, &|v| v) > 0.0).collect();
                (score >= 0.4).then_some(Expected { class, score, covers })
            });
            compare(&found, expected.collect());
            return Ok(());
        }
        let mut parts: Vec<(usize, u8, f32)> = (0..count)
            .map(|n| (n, best(n).0, best(n).1))
            .filter(|part| part.2 >= 0.4)
            .collect();
        parts.sort_by(|a, b| b.2.total_cmp(&a.2));
        let of = |part: &(usize, u8, f32), p: usize| pixel(part.0, p, &|v| part.2 * sigmoid(v));
        let winner = |p: usize| {
            let values: Vec<f64> = parts.iter().map(|part| of(part, p)).collect();
            (0..parts.len()).fold(None, |best: Option<usize>, n| match best {
                Some(b) if values[b] >= values[n] => Some(b),
                _ => Some(n),
            })
        };
        let inside = |n: usize, p: usize| of(&parts[n], p) > f64::from(0.5 * parts[n].2);
        let pixels = 0..width * height;
        let stays: Vec<bool> = (0..parts.len()).map(|n| {
            let covered = pixels.clone().filter(|&p| inside(n, p)).count();
            let kept = pixels.clone().filter(|&p| inside(n, p) && winner(p) == Some(n)).count();
            kept > 0 && kept as f64 >= 0.8 * covered as f64
        }).collect();
        let things: Vec<usize> = (0..parts.len()).filter(|&n| stays[n] && parts[n].1 < 3).collect();
        for p in pixels {
            let owner = winner(p).filter(|&n| inside(n, p) && stays[n]);
            let want = owner.map_or((0, None), |n| {
                let number = things.iter().position(|&t| t == n);
                (u16::from(parts[n].1), number.map(|n| n as u32))
            });
            prop_assert_eq!(found.at(p), want, "pixel {}", p);
        }
    }

    #[test]
    fn the_best_pairs_of_query_and_class_are_rf_detr_s_objects(
        seed in any::<u64>(), (width, height) in (1..30_usize, 1..30_usize), count in 1..7_usize,
    ) {
        const SIDE: usize = 5;
        const CLASSES: usize = 8;
        let contract = contract(
            r#"kind = "queries"
            activation = "sigmoid"
            reading = "instance"
            mask_quality = false
            tensors = [{ role = "scores", name = "labels" }, { role = "masks", name = "masks" }]"#, CLASSES, 0);
        let scores = numbers(seed ^ 1, count * CLASSES, -3.0, 1.0);
        let masks = numbers(seed ^ 2, count * SIDE * SIDE, -3.0, 3.0);
        let given = outputs(&[("labels", &[1, count, CLASSES], &scores), ("masks", &[1, count, SIDE, SIDE], &masks)]);
        let found = run(&contract, EVERYWHERE, (width, height), &[false; 256], given).unwrap();
        // `PostProcess` of RF-DETR: all pairs of query and class in one list, the surest first. Masks are scaled up as logits.
        let mut pairs: Vec<(usize, usize, f32)> = (0..count * CLASSES)
            .map(|at| (at / CLASSES, at % CLASSES, 1.0 / (1.0 + (-scores[at]).exp())))
            .filter(|pair| pair.2 >= 0.5)
            .collect();
        pairs.sort_by(|a, b| b.2.total_cmp(&a.2));
        let map = cells(EVERYWHERE, (width, height), SIDE, SIDE);
        for p in 0..width * height {
            let inside = |query: usize| {
                let at = |row: usize, column: usize| masks[(query * SIDE + row) * SIDE + column];
                value(&map.columns, &map.rows, p % width, p / width, at) > 0.0
            };
            let front = pairs.iter().find(|pair| inside(pair.0));
            prop_assert_eq!(found.at(p).0, front.map_or(0, |pair| pair.1 as u16 + 1));
            let score = found.segments[usize::from(found.map.labels[p])].score;
            if let Some(pair) = front {
                prop_assert_eq!(score, pair.2);
            }
        }
    }

    #[test]
    fn kernels_on_features_are_masks_that_matrix_nms_thins_out(
        seed in any::<u64>(), window in window(), (width, height) in (1..30_usize, 1..30_usize),
        count in 1..14_usize, thins in any::<bool>(),
    ) {
        const SIDE: usize = 5;
        const CLASSES: usize = 2;
        const FEATURES: usize = 3;
        let nms = if thins { "matrix_nms = 2.0" } else { "" };
        let contract = contract(&format!(
            r#"kind = "prototypes"
            {nms}
            score = 0.3
            tensors = [{{ role = "scores", name = "a" }}, {{ role = "coefficients", name = "b" }}, {{ role = "prototypes", name = "c" }}]"#),
            CLASSES, 0);
        let scores = numbers(seed ^ 1, count * CLASSES, 0.0, 1.0);
        // Kernels that are much alike, as those of neighbouring cells are.
        let base = numbers(seed ^ 2, FEATURES, -2.0, 2.0);
        let kernels: Vec<f32> = numbers(seed ^ 3, count * FEATURES, -1.5, 1.5)
            .iter().enumerate().map(|(at, off)| base[at % FEATURES] + off).collect();
        let features = numbers(seed ^ 4, FEATURES * SIDE * SIDE, -2.0, 2.0);
        let given = outputs(&[
            ("a", &[1, count, CLASSES], &scores), ("b", &[1, count, FEATURES], &kernels), ("c", &[1, FEATURES, SIDE, SIDE], &features),
        ]);
        let found = run(&contract, window, (width, height), &[false; 256], given).unwrap();

        // SOLOv2's `get_seg_single` and `matrix_nms`: all candidates, whatever their score.
        struct Solo { class: usize, score: f32, mask: Vec<f32> }
        let mut list: Vec<Solo> = (0..count).filter_map(|n| {
            let own = &scores[n * CLASSES..][..CLASSES];
            let class = usize::from(own[1] > own[0]);
            let mask: Vec<f32> = (0..SIDE * SIDE).map(|cell| {
                let sum = (0..FEATURES).fold(0.0, |sum, f| sum + kernels[n * FEATURES + f] * features[f * SIDE * SIDE + cell]);
                1.0 / (1.0 + f32::exp(-sum))
            }).collect();
            let inside: Vec<f32> = mask.iter().copied().filter(|v| *v > 0.5).collect();
            let quality = inside.iter().sum::<f32>() / inside.len() as f32;
            (!inside.is_empty()).then_some(Solo { class, score: own[class] * quality, mask })
        }).collect();
        list.sort_by(|a, b| b.score.total_cmp(&a.score));
        let overlap = |a: &Solo, b: &Solo| {
            if a.class != b.class {
                return 0.0;
            }
            let count = |f: &dyn Fn(bool, bool) -> bool| a.mask.iter().zip(&b.mask).filter(|(a, b)| f(**a > 0.5, **b > 0.5)).count() as f64;
            count(&|a, b| a && b) / count(&|a, b| a || b)
        };
        let compensate = |n: usize| (0..n).map(|j| overlap(&list[j], &list[n])).fold(0.0, f64::max);
        let decay = |overlap: f64| (-2.0 * overlap * overlap).exp();
        let keeps: Vec<f64> = (0..list.len()).map(|n| {
            let each = (0..n).map(|j| decay(overlap(&list[j], &list[n])) / decay(compensate(j)));
            if thins { each.fold(1.0, f64::min) } else { 1.0 }
        }).collect();
        let map = cells(window, (width, height), SIDE, SIDE);
        let mut expected: Vec<Expected> = list.iter().zip(keeps).map(|(solo, keeps)| Expected {
            class: solo.class as u8 + 1,
            score: (f64::from(solo.score) * keeps) as f32,
            covers: (0..width * height).map(|p| {
                value(&map.columns, &map.rows, p % width, p / width, |row, column| solo.mask[row * SIDE + column]) > 0.5
            }).collect(),
        }).collect();
        // What rounding decides may go either way.
        prop_assume!(expected.iter().all(|e| (e.score - 0.3).abs() > 1e-5));
        expected.retain(|e| e.score >= 0.3);
        expected.sort_by(|a, b| b.score.total_cmp(&a.score));
        prop_assume!(expected.windows(2).all(|pair| pair[0].score - pair[1].score > 1e-5));
        let objects = found.segments.iter().filter(|s| s.instance.is_some());
        for (segment, expected) in objects.zip(&mut expected) {
            prop_assert!((segment.score - expected.score).abs() < 1e-5);
            expected.score = segment.score;
        }
        compare(&found, expected);
    }

    #[test]
    fn the_semantic_reading_sums_up_queries(
        seed in any::<u64>(), (width, height) in (1..30_usize, 1..30_usize), count in 1..7_usize,
    ) {
        const SIDE: usize = 5;
        const CLASSES: usize = 4;
        let contract = contract(
            r#"kind = "queries"
            activation = "softmax"
            reading = "semantic"
            tensors = [{ role = "scores", name = "a" }, { role = "masks", name = "b" }]"#, CLASSES - 1, 0);
        let scores = numbers(seed ^ 1, count * (CLASSES + 1), -3.0, 3.0);
        let masks = numbers(seed ^ 2, count * SIDE * SIDE, -3.0, 3.0);
        prop_assume!(count != CLASSES + 1);
        let given = outputs(&[("a", &[1, count, CLASSES + 1], &scores), ("b", &[1, count, SIDE, SIDE], &masks)]);
        let found = run(&contract, EVERYWHERE, (width, height), &[false; 256], given).unwrap();
        let map = cells(EVERYWHERE, (width, height), SIDE, SIDE);
        for p in 0..width * height {
            let sum = |class: usize| {
                value(&map.columns, &map.rows, p % width, p / width, |row, column| {
                    (0..count).map(|n| {
                        let own = &scores[n * (CLASSES + 1)..][..CLASSES + 1];
                        let all: f32 = own.iter().map(|v| v.exp()).sum();
                        let mask = 1.0 / (1.0 + (-masks[(n * SIDE + row) * SIDE + column]).exp());
                        own[class].exp() / all * mask
                    }).sum()
                })
            };
            let sums: Vec<f64> = (0..CLASSES).map(sum).collect();
            let most = sums.iter().copied().fold(0.0, f64::max);
            // Sums that are equal but for rounding may go either way.
            let (class, instance) = found.at(p);
            prop_assert!(sums[usize::from(class)] > most - 1e-5 && instance.is_none());
        }
    }

    #[test]
    fn pixels_of_things_go_to_the_centre_that_they_point_at(
        seed in any::<u64>(), window in window(), (width, height) in (1..30_usize, 1..30_usize),
    ) {
        const SIDE: usize = 8;
        let contract = contract(
            r#"kind = "centers"
            score = 0.4
            max_objects = 3
            tensors = [{ role = "logits", name = "a" }, { role = "heat", name = "b" }, { role = "offsets", name = "c" }]"#,
            2, 1);
        let logits = numbers(seed ^ 1, 4 * 4 * 4, -1.0, 1.0);
        let heat = numbers(seed ^ 2, SIDE * SIDE, 0.0, 0.6);
        let offsets = numbers(seed ^ 3, 2 * SIDE * SIDE, -9.0, 9.0);
        let given = outputs(&[
            ("a", &[1, 4, 4, 4], &logits), ("b", &[1, 1, SIDE, SIDE], &heat), ("c", &[1, 2, SIDE, SIDE], &offsets),
        ]);
        let found = run(&contract, window, (width, height), &[false; 256], given).unwrap();

        let coarse = cells(window, (width, height), 4, 4);
        let fine = cells(window, (width, height), SIDE, SIDE);
        let class = |p: usize| {
            let of = |c: usize| value(&coarse.columns, &coarse.rows, p % width, p / width, |row, column| logits[(c * 4 + row) * 4 + column]);
            (1..4).fold(0, |best, c| if of(c) > of(best) { c } else { best })
        };
        let mut centers: Vec<usize> = (0..SIDE * SIDE).filter(|&cell| {
            let (x, y) = (cell % SIDE, cell / SIDE);
            heat[cell] >= 0.4 && (0..SIDE * SIDE).all(|other| {
                let near = (other % SIDE).abs_diff(x) <= 3 && (other / SIDE).abs_diff(y) <= 3;
                !near || heat[other] <= heat[cell]
            })
        }).collect();
        centers.sort_by(|&a, &b| heat[b].total_cmp(&heat[a]));
        centers.truncate(3);
        let owner = |p: usize| {
            let cell = fine.rows.nearest[p / width] * SIDE + fine.columns.nearest[p % width];
            let (x, y) = ((cell % SIDE) as f32 + offsets[SIDE * SIDE + cell] * 0.5, (cell / SIDE) as f32 + offsets[cell] * 0.5);
            let distance = |n: usize| {
                let center = centers[n];
                ((center / SIDE) as f32 - y).powi(2) + ((center % SIDE) as f32 - x).powi(2)
            };
            (0..centers.len()).fold(None, |best: Option<usize>, n| match best {
                Some(b) if distance(b) <= distance(n) => Some(b),
                _ => Some(n),
            })
        };
        let is_thing = |c: usize| c == 1 || c == 2;
        let votes: Vec<[usize; 4]> = (0..centers.len()).map(|n| {
            let mut votes = [0; 4];
            (0..width * height).filter(|&p| is_thing(class(p)) && owner(p) == Some(n)).for_each(|p| votes[class(p)] += 1);
            votes
        }).collect();
        let with_pixels: Vec<usize> = (0..centers.len()).filter(|&n| votes[n].iter().sum::<usize>() > 0).collect();
        for p in 0..width * height {
            let own = class(p);
            let want = match owner(p).filter(|_| is_thing(own)) {
                None => (own as u16, None),
                Some(n) => {
                    let most = if votes[n][2] > votes[n][1] { 2 } else { 1 };
                    (most, with_pixels.iter().position(|&w| w == n).map(|n| n as u32))
                }
            };
            prop_assert_eq!(found.at(p), want, "pixel {}", p);
        }
    }

    #[test]
    fn one_channel_is_cut_at_the_threshold(
        seed in any::<u64>(), (width, height) in (1..30_usize, 1..30_usize), threshold in 0.05..0.95_f32,
        logits in any::<bool>(),
    ) {
        let activation = if logits { "sigmoid" } else { "none" };
        let contract = contract(&format!(
            "kind = \"binary\"\nactivation = \"{activation}\"\nthreshold = {threshold}\ntensors = [{{ role = \"logits\" }}]"), 1, 0);
        let values = match logits {
            true => numbers(seed, 25, -3.0, 3.0),
            false => numbers(seed, 25, 0.0, 1.0),
        };
        let found = run(&contract, EVERYWHERE, (width, height), &[false; 256], outputs(&[("a", &[1, 1, 5, 5], &values)])).unwrap();
        let map = cells(EVERYWHERE, (width, height), 5, 5);
        let limit = if logits { (threshold / (1.0 - threshold)).ln() } else { threshold };
        for p in 0..width * height {
            let own = value(&map.columns, &map.rows, p % width, p / width, |row, column| values[row * 5 + column]);
            // Two numbers that differ by rounding alone may go either way.
            if (own - f64::from(limit)).abs() > 1e-9 {
                prop_assert_eq!(found.at(p), (u16::from(own > f64::from(limit)), None));
            }
        }
    }

    #[test]
    fn what_may_be_of_a_hidden_class_is_hidden(
        seed in any::<u64>(), count in 1..9_usize, which in 1..3_u8,
    ) {
        let contract = contract(YOLO, 2, 0);
        let mut hidden = [false; 256];
        hidden[usize::from(which)] = true;
        let rows: Vec<Vec<f32>> = (0..count as u64).map(|n| {
            let mut row = numbers(seed ^ (1 + n), 2, 2.0, 14.0);
            row.extend(numbers(seed ^ (101 + n), 2, 1.0, 12.0));
            row.extend(numbers(seed ^ (201 + n), 2, 0.0, 1.0));
            // The mask fills the box.
            row.push(1.0);
            row
        }).collect();
        prop_assume!(count != 7);
        let given = outputs(&[("a", &[1, count, 7], &rows.concat()), ("b", &[1, 1, 4, 4], &[1.0; 16])]);
        let picture = (SIZE.width, SIZE.height);
        let found = run(&contract, EVERYWHERE, picture, &hidden, given).unwrap();
        let mut redactor = Redactor::new(picture.0, picture.1, &RedactOptions {
            how: hidden.iter().take(3).map(|hides| hides.then_some(How::Fill)).collect(),
            margin: 0.0,
        });
        let hides = redactor.look_at_segments(&found.map, &found.segments);
        let mut any = false;
        for row in &rows {
            if row[3 + usize::from(which)] < 0.25 {
                continue;
            }
            // The middle of each candidate that is half as sure as an object must be, unless a better one has nearly its box.
            let (x, y) = (row[0] as usize, row[1] as usize);
            let inside = |v: f32, size: f32| (v - size / 2.0..v + size / 2.0).contains(&(v.floor() + 0.5));
            if !inside(row[0], row[2]) || !inside(row[1], row[3]) {
                continue;
            }
            let near_same = rows.iter().any(|other| {
                let axis = |a: usize| {
                    let (low, high) = (row[a] - row[a + 2] / 2.0, row[a] + row[a + 2] / 2.0);
                    let (l, h) = (other[a] - other[a + 2] / 2.0, other[a] + other[a + 2] / 2.0);
                    (high.min(h) - low.max(l)).max(0.0)
                };
                let shared = axis(0) * axis(1);
                !std::ptr::eq(other, row) && shared / (row[2] * row[3] + other[2] * other[3] - shared) > 0.79
            });
            if !near_same {
                prop_assert_eq!(found.at(y * picture.0 + x).0, u16::from(which));
                any = true;
            }
        }
        prop_assert!(!any || hides);
    }
}

#[test]
fn numbers_that_mean_nothing_are_a_failed_inference() {
    let read = |contract: &Contract, outputs: Outputs| {
        run(contract, EVERYWHERE, (8, 8), &[false; 256], outputs)
            .err()
            .map(|e| (e.is_transient(), e.to_string()))
    };
    let yolo = contract(YOLO, 1, 0);
    let row = [8.0, 8.0, 4.0, 4.0, 0.9, 1.0];
    for (at, bad, said) in [
        (0, f32::NAN, "not finite"),
        (2, f32::INFINITY, "not finite"),
        (5, f32::NEG_INFINITY, "not finite"),
        (4, 7.0, "output.activation"),
    ] {
        let mut row = row;
        row[at] = bad;
        let given = outputs(&[("a", &[1, 1, 6], &row), ("b", &[1, 1, 2, 2], &[1.0; 4])]);
        let (transient, text) = read(&yolo, given).unwrap();
        assert!(transient && text.contains(said), "{text}");
    }
    let given = outputs(&[
        ("a", &[1, 1, 6], &row),
        ("b", &[1, 1, 2, 2], &[1.0, 1.0, f32::NAN, 1.0]),
    ]);
    assert!(read(&yolo, given).unwrap().1.contains("\"b\""));
    // Other shapes than the contract leads to are not for another picture to mend.
    let given = outputs(&[("a", &[1, 2, 9], &[0.5; 18]), ("b", &[1, 1, 2, 2], &[1.0; 4])]);
    let (transient, text) = read(&yolo, given).unwrap();
    assert!(!transient && text.contains("[1, 2, 9]"), "{text}");
    let given = outputs(&[("a", &[1, 1, 6], &row[..5]), ("b", &[1, 1, 2, 2], &[1.0; 4])]);
    assert!(!read(&yolo, given).unwrap().0);

    let masks = contract(
        r#"kind = "boxes-masks"
        first_class = 0
        tensors = [{ role = "boxes", name = "a" }, { role = "scores", name = "b" },
            { role = "classes", name = "c" }, { role = "masks", name = "d" }]"#,
        1,
        0,
    );
    let given = |class: f32| {
        outputs(&[
            ("a", &[1, 4], &[0.0, 0.0, 8.0, 8.0]),
            ("b", &[1], &[0.9]),
            ("c", &[1], &[class]),
            ("d", &[1, 1, 2, 2], &[1.0; 4]),
        ])
    };
    assert!(read(&masks, given(1.0)).is_none());
    assert!(read(&masks, given(2.0)).unwrap().1.contains("class 2"));
    assert!(read(&masks, given(0.5)).unwrap().1.contains("class -1"));
}

#[test]
fn what_matrix_nms_takes_out_of_a_hidden_class_is_hidden_all_the_same() {
    let contract = contract(
        r#"kind = "prototypes"
        matrix_nms = 20.0
        tensors = [{ role = "scores", name = "a" }, { role = "coefficients", name = "b" }, { role = "prototypes", name = "c" }]"#,
        2,
        0,
    );
    // The second candidate shares half of its cells with the first, and has a row of its own. The third is unsure.
    let given = || {
        let rows = |list: [f32; 4]| list.map(|value| [value; 4]).concat();
        let features = [
            rows([9.0, 9.0, -9.0, -9.0]),
            rows([-9.0, 9.0, 9.0, -9.0]),
            rows([-9.0, -9.0, -9.0, 9.0]),
        ];
        let kernels = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        outputs(&[
            ("a", &[1, 3, 2], &[0.9, 0.0, 0.8, 0.0, 0.3, 0.0]),
            ("b", &[1, 3, 3], &kernels),
            ("c", &[1, 3, 4, 4], &features.concat()),
        ])
    };
    let found = run(&contract, EVERYWHERE, (4, 4), &[false; 256], given()).unwrap();
    assert_eq!([0, 4, 8, 12].map(|p| found.at(p).0), [1, 1, 0, 0]);
    let mut hidden = [false; 256];
    hidden[1] = true;
    let found = run(&contract, EVERYWHERE, (4, 4), &hidden, given()).unwrap();
    assert_eq!([0, 4, 8, 12].map(|p| found.at(p).0), [1, 1, 1, 1]);
    assert_eq!(found.segments.iter().filter(|s| s.instance.is_some()).count(), 1);
    // One that looks more like the other class.
    let mut hidden = [false; 256];
    hidden[2] = true;
    let mut other = given();
    other.write(0, "a", &[1, 3, 2], Elements::F32(&[0.9, 0.0, 0.8, 0.3, 0.2, 0.2]));
    let found = run(&contract, EVERYWHERE, (4, 4), &hidden, other).unwrap();
    assert_eq!([0, 4, 8, 12].map(|p| found.at(p).0), [1, 2, 2, 0]);

    let mut bad = given();
    bad.write(0, "a", &[1, 3, 2], Elements::F32(&[0.9, 0.0, 3.0, 0.3, 0.2, 0.2]));
    let error = run(&contract, EVERYWHERE, (4, 4), &hidden, bad)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("output.activation"), "{error}");
    let mut bad = given();
    bad.write(1, "b", &[1, 2, 3], Elements::F32(&[0.0; 6]));
    let error = run(&contract, EVERYWHERE, (4, 4), &hidden, bad)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("scores of 3 and kernels of 2"), "{error}");
}

#[test]
fn a_box_far_away_or_far_too_large_is_not_pasted() {
    assert!(pasted([0.0, 0.0, 10.0, 10.0], [28, 28], (20, 20)).is_some());
    assert!(pasted([0.0, 0.0, 1e9, 10.0], [28, 28], (20, 20)).is_none());
    assert!(pasted([-1e9, 0.0, -9e8, 10.0], [28, 28], (20, 20)).is_none());
    assert!(pasted([f64::NAN; 4], [28, 28], (20, 20)).is_none());
}
