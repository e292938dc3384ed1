//! Boxes beside classes.

use super::super::classes_boxes as rules;
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pixels_of_a_class_belong_to_the_nearest_box_of_that_class(
        seed in any::<u64>(), window in window(), (width, height) in (1..40_usize, 1..40_usize),
        count in 0..9_usize, apart in any::<bool>(), hides in any::<bool>(),
    ) {
        const SIDE: usize = 4;
        let tensors = match apart {
            true => r#"{ role = "boxes", name = "b" }, { role = "scores", name = "c" }"#,
            false => r#"{ role = "detections", name = "b" }"#,
        };
        let text = format!(r#"kind = "boxes"
            nms = 0.5
            score = 0.5
            tensors = [{{ role = "logits", name = "a" }}, {tensors}]"#);
        // A background, two things, stuff.
        let contract = contract(&text, 2, 1);
        let logits = numbers(seed ^ 7, 4 * SIDE * SIDE, -1.0, 1.0);
        let boxes: Vec<f32> = (0..count as u64).flat_map(|n| {
            let mut row = numbers(seed ^ (1 + n), 2, 2.0, 14.0);
            row.extend(numbers(seed ^ (101 + n), 2, 1.0, 12.0));
            row
        }).collect();
        let scores: Vec<f32> = (0..count as u64).flat_map(|n| numbers(seed ^ (201 + n), 3, 0.0, 1.0)).collect();
        let both: Vec<f32> = boxes.chunks(4).zip(scores.chunks(3)).flat_map(|(b, s)| [b, s].concat()).collect();
        prop_assume!(count != 3 && count != 4 && count != 7);
        let logits_of: (&str, &[usize], &[f32]) = ("a", &[1, 4, SIDE, SIDE], &logits);
        let given = match apart {
            true => outputs(&[logits_of, ("b", &[1, count, 4], &boxes), ("c", &[1, count, 3], &scores)]),
            false => outputs(&[logits_of, ("b", &[1, count, 7], &both)]),
        };
        let mut hidden = [false; 256];
        hidden[1] = hides;
        let found = run(&contract, window, (width, height), &hidden, given).unwrap();

        // The reference: the classes alone, then each pixel by itself.
        let mut classes = LabelMap::zeros(0, 0);
        SemanticDecoder::new(Grid::HalfPixel, SIZE, window, width, height)
            .run_logits(4, (SIDE, SIDE), &logits, &mut classes);
        let area = |c: [f64; 4]| (c[2] - c[0]).max(0.0) * (c[3] - c[1]).max(0.0);
        let overlap = |a: [f64; 4], b: [f64; 4]| {
            let shared = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
            shared / (area(a) + area(b) - shared)
        };
        let mut list: Vec<(u8, f32, [f64; 4])> = Vec::new();
        for (b, s) in boxes.chunks(4).zip(scores.chunks(3)) {
            let best = (0..3).fold(0, |best, n| if s[n] > s[best] { n } else { best });
            let [x, y, w, h] = [b[0], b[1], b[2], b[3]].map(f64::from);
            if s[best] >= 0.5 {
                list.push((best as u8 + 1, s[best], [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0]));
            }
        }
        list.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut kept: Vec<(u8, f32, [f64; 4])> = Vec::new();
        for one in list {
            let near = kept.iter().filter(|k| k.0 == one.0).map(|k| overlap(k.2, one.2));
            let most = near.fold(0.0, f64::max);
            // Roundings of f32 may go either way.
            prop_assume!((most - 0.5).abs() > 1e-4);
            if most <= 0.5 {
                kept.push(one);
            }
        }
        kept.retain(|one| one.0 < 3);
        let in_picture = |c: [f64; 4]| {
            let across = |v: f64| (v - window.x as f64) * width as f64 / window.width as f64;
            let down = |v: f64| (v - window.y as f64) * height as f64 / window.height as f64;
            [across(c[0]), down(c[1]), across(c[2]), down(c[3])]
        };
        let inside = |c: [f64; 4], p: usize| {
            let (x, y) = ((p % width) as f64 + 0.5, (p / width) as f64 + 0.5);
            c[0] <= x && x < c[2] && c[1] <= y && y < c[3]
        };
        let away = |c: [f64; 4], p: usize| {
            let (x, y) = ((p % width) as f64 + 0.5, (p / width) as f64 + 0.5);
            let across = (x - (c[0] + c[2]) / 2.0).abs() / ((c[2] - c[0]) / 2.0);
            across.max((y - (c[1] + c[3]) / 2.0).abs() / ((c[3] - c[1]) / 2.0))
        };
        let mut owners: Vec<Option<usize>> = vec![None; width * height];
        for (p, owner) in owners.iter_mut().enumerate() {
            let near = |n: &usize| kept[*n].0 == classes.labels[p] && away(in_picture(kept[*n].2), p) < 1.0 + rules::MARGIN;
            let mut candidates: Vec<usize> = (0..kept.len()).filter(near).collect();
            let distance = |n: usize| away(in_picture(kept[n].2), p);
            candidates.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)));
            if let [a, b, ..] = candidates[..] {
                prop_assume!(distance(b) - distance(a) > 1e-4);
            }
            for &n in &candidates {
                prop_assume!((distance(n) - 1.0 - rules::MARGIN).abs() > 1e-4);
            }
            *owner = candidates.first().copied();
        }
        let pixels_in = |n: usize, of: &dyn Fn(usize) -> bool| {
            (0..width * height).filter(|&p| inside(in_picture(kept[n].2), p) && of(p)).count() as f64
        };
        let mut is_object: Vec<bool> = Vec::new();
        let mut covers: Vec<bool> = Vec::new();
        for n in 0..kept.len() {
            let all = pixels_in(n, &|_| true);
            let own = owners.iter().filter(|owner| **owner == Some(n)).count() as f64;
            let shown = pixels_in(n, &|p| classes.labels[p] == kept[n].0);
            covers.push(all > 0.0 && hides && kept[n].0 == 1 && shown < rules::LEAST * all);
            is_object.push(all > 0.0 && own > 0.0 && own >= rules::LEAST * all && !covers[n]);
        }
        // Doubtful boxes of a hidden class may cover more.
        let doubtful = hides && boxes.chunks(4).zip(scores.chunks(3)).any(|(_, s)| (0.25..0.5).contains(&s[0]) || s[0] >= 0.25);
        for p in 0..width * height {
            let class = classes.labels[p];
            let (seen, instance) = found.at(p);
            if doubtful {
                prop_assert!(seen == u16::from(class) || seen == 1);
                continue;
            }
            let covered = (0..kept.len()).any(|n| covers[n] && inside(in_picture(kept[n].2), p));
            prop_assert!(!covered);
            prop_assert_eq!(seen, u16::from(class));
            prop_assert_eq!(instance.is_some(), owners[p].is_some_and(|n| is_object[n]), "pixel {}", p);
            // Pixels of one object have one number, those of others another.
            for q in 0..p {
                if let (Some(a), Some(b)) = (instance, found.at(q).1) {
                    prop_assert_eq!(a == b, owners[p] == owners[q]);
                }
            }
        }
    }
}

/// A network that sees no person where its boxes are sure of one.
#[test]
fn a_box_of_a_hidden_class_hides_what_the_classes_miss() {
    let contract = contract(
        r#"kind = "boxes"
        score = 0.5
        doubt = 0.2
        nms = 0.5
        tensors = [{ role = "logits", name = "a" }, { role = "detections", name = "b" }]"#,
        2,
        0,
    );
    // The right half is of class 2, the left of the background.
    let logits: Vec<f32> = (0..3 * 16)
        .map(|n| match (n / 16, n % 4) {
            (0, 0 | 1) | (2, 2 | 3) => 1.0,
            _ => 0.0,
        })
        .collect();
    let given = |score: f32| {
        outputs(&[
            ("a", &[1, 3, 4, 4], &logits),
            ("b", &[1, 1, 6], &[8.0, 8.0, 8.0, 4.0, score, 0.0]),
        ])
    };
    let counts = |score: f32, hides: u8| {
        let mut hidden = [false; 256];
        hidden[usize::from(hides)] = hides > 0;
        let found = run(&contract, EVERYWHERE, (16, 16), &hidden, given(score)).unwrap();
        [0, 1, 2].map(|class| (0..256).filter(|&p| found.at(p).0 == class).count())
    };
    assert_eq!(counts(0.9, 0), [128, 0, 128]);
    // 8x4 pixels around the middle, half of them from each class.
    for score in [0.9, 0.3] {
        assert_eq!(counts(score, 1), [112, 32, 112]);
    }
    assert_eq!(counts(0.1, 1), [128, 0, 128]);
    // What is hidden already stays what it is.
    assert_eq!(counts(0.9, 2), [128, 0, 128]);
}

#[test]
fn a_region_without_a_box_is_an_object_if_asked() {
    let count = |regions: bool, score: f32| {
        let contract = contract(
            &format!(
                r#"kind = "boxes"
                regions = {regions}
                tensors = [{{ role = "logits", name = "a" }}, {{ role = "detections", name = "b" }}]"#
            ),
            2,
            0,
        );
        // Columns of class 2, nothing, class 1, nothing.
        let logits: Vec<f32> = (0..3 * 16)
            .map(|n| match (n / 16, n % 4) {
                (0, 1 | 3) | (1, 2) | (2, 0) => 9.0,
                _ => 0.0,
            })
            .collect();
        let given = outputs(&[
            ("a", &[1, 3, 4, 4], &logits),
            // Centre and sides, around the column of class 1.
            ("b", &[1, 1, 6], &[10.0, 8.0, 4.0, 16.0, score, 0.0]),
        ]);
        let found = run(&contract, EVERYWHERE, (16, 16), &[false; 256], given).unwrap();
        let objects = found.segments.iter().filter(|s| s.instance.is_some());
        let scores = objects.map(|s| (s.class, s.instance.unwrap(), (s.score * 100.0).round()));
        let scores: Vec<_> = scores.collect();
        for (pixel, label) in found.map.labels.iter().enumerate() {
            let segment = &found.segments[usize::from(*label)];
            let is_thing = segment.class > 0;
            let has_object = scores.iter().any(|(class, ..)| *class == segment.class);
            assert_eq!(
                segment.instance.is_some(),
                is_thing && has_object,
                "pixel {pixel}"
            );
        }
        scores
    };
    assert_eq!(count(false, 0.9), [(1, 0, 90.0)]);
    assert_eq!(count(true, 0.9), [(1, 0, 90.0), (2, 1, 50.0)]);
    // Without its box the other is a region as well.
    assert_eq!(count(true, 0.1).len(), 2);
    assert_eq!(count(false, 0.1), []);
}

#[test]
fn as_many_boxes_as_cells_are_expected() {
    let contract = contract(
        r#"kind = "boxes"
        boxes = "cells"
        tensors = [{ role = "logits", name = "a" }, { role = "detections", name = "b" }]"#,
        1,
        0,
    );
    let boxes = |count: usize| {
        let values = vec![0.0; count * 5];
        let given = outputs(&[("a", &[1, 2, 4, 4], &[0.0; 32]), ("b", &[1, count, 5], &values)]);
        run(&contract, EVERYWHERE, (8, 8), &[false; 256], given).map(drop)
    };
    // 2x2 cells of stride 8, one of each other.
    assert!(boxes(6).is_ok());
    let why = boxes(3).unwrap_err();
    assert!(!why.is_transient(), "the network is another one each time");
    assert!(why.to_string().contains("3 boxes for an input of 16x16"), "{why}");
}
