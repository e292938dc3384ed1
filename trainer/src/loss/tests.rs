//! Every term against values worked by hand, and against a reference in plain loops.

use super::*;
use proptest::prelude::*;

/// Pixels of one row with `C` logits each: `[1, C, 1, pixels]`.
fn tensors(logits: &[Vec<f64>], labels: &[u8]) -> (Tensor, Tensor) {
    let (pixels, classes) = (logits.len() as i64, logits[0].len() as i64);
    let logits = Tensor::from_slice(&logits.concat())
        .reshape([pixels, classes])
        .transpose(0, 1)
        .reshape([1, classes, 1, pixels]);
    (logits, Tensor::from_slice(labels).reshape([1, 1, pixels]))
}

fn value(term: &Term, logits: &[Vec<f64>], labels: &[u8]) -> f64 {
    let mut statistics = ClassStatistics::new(logits[0].len());
    statistics.add(labels, 1);
    let (logits, labels) = tensors(logits, labels);
    Loss::new(std::slice::from_ref(term), &statistics, Device::Cpu)
        .value(&logits, &labels)
        .double_value(&[])
}

/// A term as a recipe has it.
fn term(text: &str) -> Term {
    let term: Term = toml::from_str(text).unwrap();
    term.check().unwrap();
    term
}

/// Logits of given probabilities.
fn probable(rows: &[&[f64]]) -> Vec<Vec<f64>> {
    rows.iter()
        .map(|row| row.iter().map(|p| p.ln()).collect())
        .collect()
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
}

fn all_terms() -> Vec<Term> {
    [
        "kind = 'cross-entropy'",
        "kind = 'cross-entropy'\nbalance = 'inverse-frequency'\nweight = 0.5",
        "kind = 'binary-cross-entropy'",
        "kind = 'dice'",
        "kind = 'focal'",
        "kind = 'focal'\ngamma = 0.5\nbalance = 'median-frequency'",
        "kind = 'lovasz-softmax'",
        "kind = 'ohem'",
        "kind = 'ohem'\nthreshold = 0.3\nkeep = 0.5\nbalance = 'log'",
    ]
    .map(term)
    .into()
}

/// Four pixels with true classes 0, 0, 1 and none.
fn case() -> (Vec<Vec<f64>>, [u8; 4]) {
    (
        probable(&[&[0.8, 0.2], &[0.4, 0.6], &[0.5, 0.5], &[0.1, 0.9]]),
        [0, 0, 1, IGNORE],
    )
}

#[test]
fn cross_entropy_by_hand() {
    let (logits, labels) = case();
    let [a, b, c] = [0.8f64, 0.4, 0.5].map(|p| -p.ln());
    close(
        value(&term("kind = 'cross-entropy'"), &logits, &labels),
        (a + b + c) / 3.0,
    );
    // Class 0 has two thirds of the pixels: weights 3/4 and 3/2, whose sum over the pixels is 3.
    let balanced = term("kind = 'cross-entropy'\nbalance = 'inverse-frequency'\nweight = 2.0");
    close(
        value(&balanced, &logits, &labels),
        2.0 * (0.75 * (a + b) + 1.5 * c) / 3.0,
    );
}

#[test]
fn focal_by_hand() {
    let (logits, labels) = case();
    let each = [0.8f64, 0.4, 0.5].map(|p| -p.ln() * (1.0 - p).powi(2));
    close(
        value(&term("kind = 'focal'"), &logits, &labels),
        each.iter().sum::<f64>() / 3.0,
    );
}

#[test]
fn dice_by_hand() {
    let (logits, labels) = case();
    // Class 0: p sums to 1.7, y to 2, both to 1.2. Class 1: 1.3, 1 and 0.5.
    let expected = ((1.0 - 2.4 / 3.7) + (1.0 - 1.0 / 2.3)) / 2.0;
    close(value(&term("kind = 'dice'"), &logits, &labels), expected);
}

#[test]
fn binary_cross_entropy_by_hand() {
    let ln3 = 3f64.ln();
    // Sigmoids 3/4 and 1/4, of class 0.
    let logits = [vec![ln3, -ln3], vec![0.0, 5.0]];
    let found = value(&term("kind = 'binary-cross-entropy'"), &logits, &[0, IGNORE]);
    close(found, -(0.75f64.ln() + 0.75f64.ln()) / 2.0);
}

#[test]
fn lovasz_by_hand() {
    // Class 0: errors 0.2, 0.6, and 0.5 of the other class. By size: 0.6 (own), 0.5 (other), 0.2 (own).
    // Jaccard after each: 1 - 1/2, 1 - 1/3, 1 - 0/3; steps 1/2, 1/6, 1/3.
    let class0 = 0.6 / 2.0 + 0.5 / 6.0 + 0.2 / 3.0;
    // Class 1: errors 0.6 (other), 0.5 (own), 0.2 (other). Jaccard 1 - 1/2, 1 - 0/2, 1 - 0/3; steps 1/2, 1/2, 0.
    let class1 = 0.6 / 2.0 + 0.5 / 2.0;
    let (logits, labels) = case();
    close(
        value(&term("kind = 'lovasz-softmax'"), &logits, &labels),
        (class0 + class1) / 2.0,
    );
}

#[test]
fn hard_pixels_by_hand() {
    let (logits, labels) = case();
    let [a, b, c] = [0.8f64, 0.4, 0.5].map(|p| -p.ln());
    // Under 0.7 are two of the three.
    close(value(&term("kind = 'ohem'"), &logits, &labels), (b + c) / 2.0);
    // Under 0.1 is none: a third of three, rounded up, is kept.
    let few = term("kind = 'ohem'\nthreshold = 0.1\nkeep = 0.33");
    close(value(&few, &logits, &labels), b);
    let all = term("kind = 'ohem'\nthreshold = 0.1\nkeep = 1.0");
    close(value(&all, &logits, &labels), (a + b + c) / 3.0);
}

#[test]
fn right_answers_cost_nothing_and_a_batch_without_labels_too() {
    let certain = [vec![40.0, -40.0], vec![-40.0, 40.0]];
    for term in all_terms() {
        let right = value(&term, &certain, &[0, 1]);
        assert!((0.0..1e-9).contains(&right), "{term:?}: {right}");
        let (logits, labels) = tensors(&certain, &[IGNORE, IGNORE]);
        let logits = logits.set_requires_grad(true);
        let loss = Loss::new(std::slice::from_ref(&term), &ClassStatistics::new(2), Device::Cpu)
            .value(&logits, &labels);
        assert_eq!(loss.double_value(&[]), 0.0, "{term:?}");
        if loss.requires_grad() {
            loss.backward();
            assert_eq!(logits.grad().abs().max().double_value(&[]), 0.0, "{term:?}");
        }
    }
}

#[test]
fn terms_add_up() {
    let (logits, labels) = case();
    let terms = all_terms();
    let sum: f64 = terms.iter().map(|term| value(term, &logits, &labels)).sum();
    let mut statistics = ClassStatistics::new(2);
    statistics.add(&labels, 1);
    let (logits, labels) = tensors(&logits, &labels);
    let found = Loss::new(&terms, &statistics, Device::Cpu).value(&logits, &labels);
    close(found.double_value(&[]), sum);
}

#[test]
fn unknown_keys_and_values_are_refused() {
    assert!(toml::from_str::<Term>("kind = 'dice'\ngamma = 2.0").is_err());
    assert!(toml::from_str::<Term>("kind = 'lovasz'").is_err());
    for (text, key) in [
        ("kind = 'dice'\nweight = 0.0", "weight"),
        ("kind = 'focal'\ngamma = -1.0", "gamma"),
        ("kind = 'ohem'\nkeep = 0.0", "keep"),
        ("kind = 'ohem'\nthreshold = 1.5", "threshold"),
    ] {
        let message = toml::from_str::<Term>(text)
            .unwrap()
            .check()
            .unwrap_err()
            .to_string();
        assert!(message.contains(key), "{message}");
    }
}

/// The terms in loops over pixels.
mod reference {
    use super::*;

    fn softmax(logits: &[f64]) -> Vec<f64> {
        let largest = logits.iter().copied().fold(f64::MIN, f64::max);
        let powers: Vec<f64> = logits.iter().map(|x| (x - largest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.iter().map(|x| x / sum).collect()
    }

    /// `1 - |A and B| / |A or B|` of the pixels of a class and a set of mispredicted ones.
    fn jaccard(is_class: &[bool], wrong: &[usize]) -> f64 {
        let own = is_class.iter().filter(|&&own| own).count();
        let missed = wrong.iter().filter(|&&i| is_class[i]).count();
        let added = wrong.len() - missed;
        1.0 - (own - missed) as f64 / (own + added) as f64
    }

    pub fn value(term: &Term, logits: &[Vec<f64>], labels: &[u8]) -> f64 {
        let classes = logits[0].len();
        let mut statistics = ClassStatistics::new(classes);
        statistics.add(labels, 1);
        let weights = statistics.weights(term.balance());
        let labelled: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] != IGNORE).collect();
        if labelled.is_empty() {
            return 0.0;
        }
        let p: Vec<Vec<f64>> = logits.iter().map(|row| softmax(row)).collect();
        let own = |i: usize| p[i][usize::from(labels[i])];
        let weight = |i: usize| f64::from(weights[usize::from(labels[i])]);
        let mean = |pixels: &[usize], f: &dyn Fn(usize) -> f64| {
            let total: f64 = pixels.iter().map(|&i| weight(i)).sum();
            pixels.iter().map(|&i| f(i) * weight(i)).sum::<f64>() / total
        };
        let present: Vec<usize> = (0..classes)
            .filter(|&c| labelled.iter().any(|&i| usize::from(labels[i]) == c))
            .collect();
        let over_present =
            |f: &dyn Fn(usize) -> f64| present.iter().map(|&c| f(c)).sum::<f64>() / present.len() as f64;
        let is = |i: usize, class: usize| usize::from(labels[i]) == class;
        let unweighted = match *term {
            Term::CenterHeat { .. }
            | Term::CenterHeatMse { .. }
            | Term::CenterOffsets { .. }
            | Term::CellFocal { .. }
            | Term::MaskDice { .. }
            | Term::BoxProjection { .. }
            | Term::BoxAffinity { .. } => panic!("objects have no logits of classes"),
            Term::CrossEntropy { .. } => mean(&labelled, &|i| -own(i).ln()),
            Term::Focal { gamma, .. } => mean(&labelled, &|i| -own(i).ln() * (1.0 - own(i)).powf(gamma)),
            Term::Ohem { threshold, keep, .. } => {
                let mut sorted = labelled.clone();
                sorted.sort_by(|&a, &b| own(a).total_cmp(&own(b)));
                let least = (labelled.len() as f64 * keep).ceil() as usize;
                let hard: Vec<usize> = sorted
                    .iter()
                    .enumerate()
                    .filter(|&(rank, &i)| rank < least || own(i) <= threshold)
                    .map(|(_, &i)| i)
                    .collect();
                mean(&hard, &|i| -own(i).ln())
            }
            Term::BinaryCrossEntropy { .. } => mean(&labelled, &|i| {
                (0..classes)
                    .map(|c| {
                        let sigmoid = 1.0 / (1.0 + (-logits[i][c]).exp());
                        -(if is(i, c) { sigmoid } else { 1.0 - sigmoid }).ln()
                    })
                    .sum::<f64>()
                    / classes as f64
            }),
            Term::Dice { .. } => over_present(&|c| {
                let sum = |f: &dyn Fn(usize) -> f64| labelled.iter().map(|&i| f(i)).sum::<f64>();
                let both = sum(&|i| if is(i, c) { p[i][c] } else { 0.0 });
                1.0 - 2.0 * both / (sum(&|i| p[i][c]) + sum(&|i| f64::from(u8::from(is(i, c)))))
            }),
            Term::LovaszSoftmax { .. } => over_present(&|c| {
                let is_class: Vec<bool> = (0..labels.len()).map(|i| is(i, c)).collect();
                let error = |i: usize| if is(i, c) { 1.0 - p[i][c] } else { p[i][c] };
                let mut sorted = labelled.clone();
                sorted.sort_by(|&a, &b| error(b).total_cmp(&error(a)));
                (0..sorted.len())
                    .map(|rank| {
                        let step = jaccard(&is_class, &sorted[..=rank]) - jaccard(&is_class, &sorted[..rank]);
                        error(sorted[rank]) * step
                    })
                    .sum()
            }),
        };
        unweighted * term.weight()
    }
}

/// Rows of three logits, each with a label.
fn pixels() -> impl Strategy<Value = Vec<(Vec<f64>, u8)>> {
    let label = prop_oneof![4 => 0u8..3, 1 => Just(IGNORE)];
    prop::collection::vec((prop::collection::vec(-4.0f64..4.0, 3), label), 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn terms_equal_the_reference(pixels in pixels()) {
        let (logits, labels): (Vec<_>, Vec<u8>) = pixels.into_iter().unzip();
        for term in all_terms() {
            let (found, expected) = (value(&term, &logits, &labels), reference::value(&term, &logits, &labels));
            prop_assert!((found - expected).abs() < 1e-5 * (1.0 + expected), "{term:?}: {found} is not {expected}");
        }
    }

    #[test]
    fn gradients_equal_differences(pixels in pixels(), at in any::<prop::sample::Index>(), class in 0usize..3) {
        let (logits, labels): (Vec<Vec<f64>>, Vec<u8>) = pixels.into_iter().unzip();
        let at = at.index(logits.len());
        for term in all_terms() {
            let mut statistics = ClassStatistics::new(3);
            statistics.add(&labels, 1);
            let (x, y) = tensors(&logits, &labels);
            let x = x.set_requires_grad(true);
            let loss = Loss::new(std::slice::from_ref(&term), &statistics, Device::Cpu).value(&x, &y);
            if !loss.requires_grad() {
                continue;
            }
            loss.backward();
            let gradient = x.grad().double_value(&[0, class as i64, 0, at as i64]);
            let moved = |by: f64| {
                let mut logits = logits.clone();
                logits[at][class] += by;
                value(&term, &logits, &labels)
            };
            let (before, here, after) = (moved(-1e-6), moved(0.0), moved(1e-6));
            // Where two pixels change places the two sides differ: the gradient is that of either.
            let sides = [(here - before) / 1e-6, (after - here) / 1e-6];
            let (low, high) = (sides[0].min(sides[1]), sides[0].max(sides[1]));
            prop_assert!(gradient > low - 1e-4 && gradient < high + 1e-4, "{term:?}: {gradient}, {sides:?}");
        }
    }
}
