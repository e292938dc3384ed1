//! Scores of predicted labels against true ones.
//!
//! Pixels are counted in one confusion matrix over all pictures, as PASCAL VOC and CamVid score: a mean over pictures is
//! another figure. Borders and regions, which pixel counts don't see, have scores of their own, and so have [`objects`] and their [`tracks`].

mod bootstrap;
mod boundary;
mod object_bootstrap;
pub mod objects;
#[cfg(test)]
mod reference;
mod regions;
pub mod tracks;

pub use bootstrap::{Bootstrap, Intervals};
pub use boundary::{BoundaryScore, TOLERANCE};
pub use object_bootstrap::{ObjectBootstrap, ObjectIntervals};
pub use regions::RegionScore;

/// All scores of a set of pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Pixels by true and predicted class.
    pub matrix: ConfusionMatrix,
    /// Borders.
    pub boundary: BoundaryScore,
    /// Regions.
    pub regions: RegionScore,
}

impl Scores {
    /// No pictures of `classes` classes.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        Self {
            matrix: ConfusionMatrix::new(classes),
            boundary: BoundaryScore::new(classes),
            regions: RegionScore::new(classes),
        }
    }

    /// Scores a picture of `width` pixels a row. Pixels whose true label is no class are left out.
    ///
    /// # Panics
    /// The slices differ in length, or hold no whole rows.
    pub fn add(&mut self, width: usize, truth: &[u8], predicted: &[u8]) {
        self.matrix.add(truth, predicted);
        self.boundary.add(width, truth, predicted);
        self.regions.add(width, truth, predicted);
    }
}

/// Pixel counts by true and predicted class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfusionMatrix {
    classes: usize,
    /// `[truth * classes + predicted]`.
    counts: Vec<u64>,
}

impl ConfusionMatrix {
    /// An empty matrix for `classes` classes.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            counts: vec![0; classes * classes],
        }
    }

    /// Counts pixels. A pixel whose true label is not below the number of classes (such as 255, "ignore") is skipped;
    /// a predicted label that is not is counted as wrong, at the class that follows the truth.
    ///
    /// # Panics
    /// The slices differ in length.
    pub fn add(&mut self, truth: &[u8], predicted: &[u8]) {
        assert_eq!(
            truth.len(),
            predicted.len(),
            "truth and prediction are of one size"
        );
        for (&truth, &predicted) in truth.iter().zip(predicted) {
            let (truth, mut predicted) = (usize::from(truth), usize::from(predicted));
            if truth >= self.classes {
                continue;
            }
            if predicted >= self.classes {
                predicted = (truth + 1) % self.classes;
            }
            self.counts[truth * self.classes + predicted] += 1;
        }
    }

    /// Adds another matrix's counts.
    ///
    /// # Panics
    /// The number of classes differs.
    pub fn merge(&mut self, other: &Self) {
        self.merge_times(other, 1);
    }

    /// Adds another matrix's counts, each so many times.
    ///
    /// # Panics
    /// The number of classes differs.
    fn merge_times(&mut self, other: &Self, times: u64) {
        assert_eq!(self.classes, other.classes, "matrices are of one size");
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += times * more;
        }
    }

    /// Takes counts away that were merged.
    fn take_away(&mut self, other: &Self) {
        for (count, less) in self.counts.iter_mut().zip(&other.counts) {
            *count -= less;
        }
    }

    /// The number of classes.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Pixels of true class `truth` that were labelled `predicted`.
    #[must_use]
    pub fn count(&self, truth: usize, predicted: usize) -> u64 {
        self.counts[truth * self.classes + predicted]
    }

    fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn hits(&self, class: usize) -> u64 {
        self.count(class, class)
    }

    fn truth(&self, class: usize) -> u64 {
        self.counts[class * self.classes..][..self.classes].iter().sum()
    }

    fn predicted(&self, class: usize) -> u64 {
        (0..self.classes).map(|truth| self.count(truth, class)).sum()
    }

    /// Share of pixels that are right; `None` without pixels.
    #[must_use]
    pub fn pixel_accuracy(&self) -> Option<f64> {
        ratio(
            (0..self.classes).map(|class| self.hits(class)).sum(),
            self.total(),
        )
    }

    /// Share of the class's true pixels that are right; `None` where the class never occurs in the truth.
    #[must_use]
    pub fn class_accuracy(&self, class: usize) -> Option<f64> {
        ratio(self.hits(class), self.truth(class))
    }

    /// Mean of [`Self::class_accuracy`] over the classes that occur in the truth.
    #[must_use]
    pub fn mean_class_accuracy(&self) -> Option<f64> {
        mean((0..self.classes).map(|class| self.class_accuracy(class)))
    }

    /// Intersection over union of a class; `None` where it occurs neither in the truth nor in the prediction.
    #[must_use]
    pub fn iou(&self, class: usize) -> Option<f64> {
        let hits = self.hits(class);
        ratio(hits, self.truth(class) + self.predicted(class) - hits)
    }

    /// Mean of [`Self::iou`] over the classes that occur in the truth or in the prediction.
    #[must_use]
    pub fn mean_iou(&self) -> Option<f64> {
        mean((0..self.classes).map(|class| self.iou(class)))
    }

    /// Mean of [`Self::iou`] weighted by each class's share of the true pixels.
    #[must_use]
    pub fn frequency_weighted_iou(&self) -> Option<f64> {
        let total = self.total();
        (total > 0).then(|| {
            (0..self.classes)
                .filter_map(|class| Some(self.iou(class)? * self.truth(class) as f64 / total as f64))
                .sum()
        })
    }

    /// Dice coefficient (F1) of a class; `None` where it occurs neither in the truth nor in the prediction.
    #[must_use]
    pub fn dice(&self, class: usize) -> Option<f64> {
        ratio(2 * self.hits(class), self.truth(class) + self.predicted(class))
    }

    /// Mean of [`Self::dice`] over the classes that occur in the truth or in the prediction.
    #[must_use]
    pub fn mean_dice(&self) -> Option<f64> {
        mean((0..self.classes).map(|class| self.dice(class)))
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (sum, count) = values
        .flatten()
        .fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: Option<f64>, expected: f64) {
        let value = value.expect("a value");
        assert!((value - expected).abs() < 1e-12, "{value} is not {expected}");
    }

    /// Truth 0 0 0 0 1 1 1 2, predicted 0 0 1 2 1 1 0 2, class 3 absent from both, one pixel ignored.
    fn matrix() -> ConfusionMatrix {
        let mut matrix = ConfusionMatrix::new(4);
        matrix.add(&[0, 0, 0, 0, 1, 255], &[0, 0, 1, 2, 1, 3]);
        matrix.add(&[1, 1, 2], &[1, 0, 2]);
        matrix
    }

    #[test]
    fn scores_match_a_case_worked_by_hand() {
        let matrix = matrix();
        close(matrix.pixel_accuracy(), 5.0 / 8.0);
        close(matrix.class_accuracy(0), 2.0 / 4.0);
        close(matrix.class_accuracy(1), 2.0 / 3.0);
        close(matrix.class_accuracy(2), 1.0);
        close(matrix.mean_class_accuracy(), (0.5 + 2.0 / 3.0 + 1.0) / 3.0);
        close(matrix.iou(0), 2.0 / 5.0);
        close(matrix.iou(1), 2.0 / 4.0);
        close(matrix.iou(2), 1.0 / 2.0);
        close(matrix.mean_iou(), (0.4 + 0.5 + 0.5) / 3.0);
        close(
            matrix.frequency_weighted_iou(),
            (4.0 * 0.4 + 3.0 * 0.5 + 0.5) / 8.0,
        );
        close(matrix.dice(0), 4.0 / 7.0);
        close(matrix.dice(2), 2.0 / 3.0);
        close(matrix.mean_dice(), (4.0 / 7.0 + 4.0 / 6.0 + 2.0 / 3.0) / 3.0);
    }

    #[test]
    fn a_class_that_never_occurs_is_left_out() {
        let matrix = matrix();
        assert_eq!(matrix.iou(3), None);
        assert_eq!(matrix.dice(3), None);
        assert_eq!(matrix.class_accuracy(3), None);
    }

    #[test]
    fn a_class_only_predicted_scores_zero() {
        let mut matrix = ConfusionMatrix::new(2);
        matrix.add(&[0, 0], &[0, 1]);
        assert_eq!(matrix.iou(1), Some(0.0));
        assert_eq!(matrix.class_accuracy(1), None);
        close(matrix.mean_iou(), 0.25);
        close(matrix.mean_class_accuracy(), 0.5);
    }

    #[test]
    fn an_empty_matrix_has_no_score() {
        let matrix = ConfusionMatrix::new(3);
        assert_eq!(matrix.pixel_accuracy(), None);
        assert_eq!(matrix.mean_iou(), None);
        assert_eq!(matrix.frequency_weighted_iou(), None);
    }

    #[test]
    fn an_impossible_prediction_is_an_error_of_the_true_class() {
        let mut matrix = ConfusionMatrix::new(2);
        matrix.add(&[0, 1], &[9, 255]);
        close(matrix.pixel_accuracy(), 0.0);
    }

    #[test]
    fn merging_equals_adding() {
        let mut merged = ConfusionMatrix::new(4);
        merged.add(&[0, 0, 0, 0, 1, 255], &[0, 0, 1, 2, 1, 3]);
        let mut rest = ConfusionMatrix::new(4);
        rest.add(&[1, 1, 2], &[1, 0, 2]);
        merged.merge(&rest);
        assert_eq!(merged, matrix());
    }
}
