//! Boundary F-score: how well the borders of classes lie on the true ones.
//!
//! Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?": a border pixel is matched where
//! the other picture has a border pixel of its class within a tolerance. Precision is the matched share of the predicted
//! border, recall that of the true one; a class's score is its F1, a mean over the pictures in which it has a border.

use super::mean;
use crate::dataset::IGNORE;

/// The tolerance as a share of the picture's diagonal, as Csurka et al. have it.
pub const TOLERANCE: f64 = 0.0075;

/// Sums of boundary F-scores by class.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundaryScore {
    sums: Vec<f64>,
    pictures: Vec<u32>,
}

impl BoundaryScore {
    /// No pictures of `classes` classes.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        Self {
            sums: vec![0.0; classes],
            pictures: vec![0; classes],
        }
    }

    /// Scores a picture of `width` pixels a row, with a tolerance of [`TOLERANCE`], at least 1 pixel.
    ///
    /// Pixels labelled [`IGNORE`] take the nearest label within the tolerance, as VOC draws a strip of them along every
    /// border; what is further off has no border, in the truth or in the prediction.
    ///
    /// # Panics
    /// The slices differ in length, or hold no whole rows.
    pub fn add(&mut self, width: usize, truth: &[u8], predicted: &[u8]) {
        assert_eq!(
            truth.len(),
            predicted.len(),
            "truth and prediction are of one size"
        );
        assert!(width > 0 && truth.len().is_multiple_of(width), "whole rows");
        let height = truth.len() / width;
        let tolerance = (TOLERANCE * (width as f64).hypot(height as f64)).max(1.0);
        self.add_within(width, truth, predicted, tolerance);
    }

    fn add_within(&mut self, width: usize, truth: &[u8], predicted: &[u8], tolerance: f64) {
        let classes = self.sums.len();
        let offsets = disk(tolerance);
        let truth = fill(width, truth, classes, &offsets);
        let predicted: Vec<u8> = predicted
            .iter()
            .zip(&truth)
            .map(|(&label, &truth)| if truth == IGNORE { IGNORE } else { label })
            .collect();
        let borders = [border(width, &truth, classes), border(width, &predicted, classes)];
        // By class: border pixels and matched ones, of the truth and of the prediction.
        let mut counts = vec![[[0u32; 2]; 2]; classes];
        for side in 0..2 {
            let (own, other) = (&borders[side], &borders[1 - side]);
            for (at, &class) in own.iter().enumerate() {
                if class == IGNORE {
                    continue;
                }
                let matched = near(width, other, at, &offsets, |label| label == class).is_some();
                let count = &mut counts[usize::from(class)][side];
                count[0] += 1;
                count[1] += u32::from(matched);
            }
        }
        for (class, [truth, predicted]) in counts.into_iter().enumerate() {
            if truth[0] + predicted[0] == 0 {
                continue;
            }
            let share = |[all, matched]: [u32; 2]| f64::from(matched) / f64::from(all.max(1));
            let (recall, precision) = (share(truth), share(predicted));
            if recall + precision > 0.0 {
                self.sums[class] += 2.0 * recall * precision / (recall + precision);
            }
            self.pictures[class] += 1;
        }
    }

    /// The score of a class, 0 to 1; `None` where it has no border in any picture.
    #[must_use]
    pub fn class(&self, class: usize) -> Option<f64> {
        (self.pictures[class] > 0).then(|| self.sums[class] / f64::from(self.pictures[class]))
    }

    /// Mean of [`Self::class`] over the classes that have one.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        mean((0..self.sums.len()).map(|class| self.class(class)))
    }
}

/// Offsets `(x, y)` within `radius`, the nearest first.
fn disk(radius: f64) -> Vec<(isize, isize)> {
    let reach = radius as isize;
    let mut offsets: Vec<(isize, isize)> = (-reach..=reach)
        .flat_map(|y| (-reach..=reach).map(move |x| (x, y)))
        .filter(|&(x, y)| ((x * x + y * y) as f64) <= radius * radius)
        .collect();
    offsets.sort_by_key(|&(x, y)| (x * x + y * y, y, x));
    offsets
}

/// The first label around pixel `at`, in the order of `offsets`, that `is_wanted`.
fn near(
    width: usize,
    labels: &[u8],
    at: usize,
    offsets: &[(isize, isize)],
    is_wanted: impl Fn(u8) -> bool,
) -> Option<u8> {
    let (x, y) = ((at % width) as isize, (at / width) as isize);
    let height = (labels.len() / width) as isize;
    offsets
        .iter()
        .map(|&(dx, dy)| (x + dx, y + dy))
        .filter(|&(x, y)| x >= 0 && y >= 0 && x < width as isize && y < height)
        .map(|(x, y)| labels[y as usize * width + x as usize])
        .find(|&label| is_wanted(label))
}

/// The labels, where those that are no class take the nearest class among `offsets`, or [`IGNORE`].
fn fill(width: usize, labels: &[u8], classes: usize, offsets: &[(isize, isize)]) -> Vec<u8> {
    let is_class = |label: u8| usize::from(label) < classes;
    labels
        .iter()
        .enumerate()
        .map(|(at, &label)| {
            if is_class(label) {
                label
            } else {
                near(width, labels, at, offsets, is_class).unwrap_or(IGNORE)
            }
        })
        .collect()
}

/// The label of each pixel that has a neighbour above, below or beside it of another class; else [`IGNORE`].
fn border(width: usize, labels: &[u8], classes: usize) -> Vec<u8> {
    const CROSS: [(isize, isize); 4] = [(0, -1), (-1, 0), (1, 0), (0, 1)];
    labels
        .iter()
        .enumerate()
        .map(|(at, &label)| {
            let differs = |other: u8| other != label && other != IGNORE;
            if usize::from(label) < classes && near(width, labels, at, &CROSS, differs).is_some() {
                label
            } else {
                IGNORE
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(value: Option<f64>, expected: f64) {
        let value = value.expect("a value");
        assert!((value - expected).abs() < 1e-12, "{value} is not {expected}");
    }

    /// One row in which class 1 starts at `from`.
    fn step(length: usize, from: usize) -> Vec<u8> {
        (0..length).map(|x| u8::from(x >= from)).collect()
    }

    #[test]
    fn a_border_within_the_tolerance_is_right() {
        for (moved, expected) in [(0, 1.0), (1, 1.0), (2, 1.0), (3, 0.0)] {
            let mut score = BoundaryScore::new(2);
            score.add_within(20, &step(20, 10), &step(20, 10 + moved), 2.0);
            close(score.class(0), expected);
            close(score.mean(), expected);
        }
    }

    #[test]
    fn precision_and_recall_worked_by_hand() {
        // Truth: 0 0 0 1 1 1 0 0 0 0 0 0; predicted: class 1 also at the end.
        let truth = [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0];
        let predicted = [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1];
        let mut score = BoundaryScore::new(3);
        score.add_within(12, &truth, &predicted, 1.0);
        // Class 1: two of the three predicted border pixels are right, and both true ones are found.
        close(score.class(1), 2.0 * (2.0 / 3.0) / (1.0 + 2.0 / 3.0));
        // Class 0: of 2, 6 and 10 the last is wrong.
        close(score.class(0), 0.8);
        assert_eq!(score.class(2), None);
        close(score.mean(), 0.8);
    }

    #[test]
    fn the_mean_is_over_pictures() {
        let mut score = BoundaryScore::new(2);
        score.add_within(20, &step(20, 10), &step(20, 10), 1.0);
        score.add_within(20, &step(20, 10), &step(20, 15), 1.0);
        // A picture without a border says nothing.
        score.add_within(20, &[0; 20], &[0; 20], 1.0);
        close(score.class(0), 0.5);
    }

    #[test]
    fn a_strip_without_labels_hides_no_border() {
        let mut truth = step(20, 10);
        truth[8..12].fill(IGNORE);
        let mut score = BoundaryScore::new(2);
        score.add_within(20, &truth, &step(20, 10), 2.0);
        close(score.class(1), 1.0);
        // Far inside ignored ground nothing is asked.
        let mut truth = vec![0; 30];
        truth[5..25].fill(IGNORE);
        let mut predicted = vec![0; 30];
        predicted[15] = 1;
        let mut score = BoundaryScore::new(2);
        score.add_within(30, &truth, &predicted, 2.0);
        assert_eq!(score.mean(), None);
    }

    #[test]
    fn a_missed_class_scores_zero() {
        let mut score = BoundaryScore::new(2);
        score.add(20, &step(20, 10), &[0; 20]);
        close(score.class(0), 0.0);
        close(score.class(1), 0.0);
    }

    proptest! {
        #[test]
        fn a_picture_equals_itself_and_turning_both_changes_nothing(
            truth in prop::collection::vec(0u8..3, 48), predicted in prop::collection::vec(0u8..3, 48),
        ) {
            let mut same = BoundaryScore::new(3);
            same.add(8, &truth, &truth);
            for class in 0..3 {
                prop_assert!(same.class(class).is_none_or(|value| value == 1.0));
            }
            let turned = |labels: &[u8]| labels.iter().rev().copied().collect::<Vec<u8>>();
            let (mut a, mut b) = (BoundaryScore::new(3), BoundaryScore::new(3));
            a.add(8, &truth, &predicted);
            b.add(8, &turned(&truth), &turned(&predicted));
            prop_assert_eq!(&a, &b);
            // Precision and recall change places.
            let mut swapped = BoundaryScore::new(3);
            swapped.add(8, &predicted, &truth);
            prop_assert_eq!(a, swapped);
        }
    }
}
