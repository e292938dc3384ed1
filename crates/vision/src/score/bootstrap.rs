//! How far a score would move with other pictures of the same kind: the percentile bootstrap over pictures (Efron 1979).

use super::ConfusionMatrix;

/// Sets that are drawn.
const DRAWS: usize = 2000;

/// What is drawn is always the same, so that one score has one interval.
pub(super) const SEED: u64 = 0x5e6d;

/// The share of draws on each side of an interval, which thus holds 95 %.
const TAIL: f64 = 0.025;

/// The counts of each picture of a set.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pictures: Vec<ConfusionMatrix>,
    whole: ConfusionMatrix,
}

impl Bootstrap {
    /// No pictures of `classes` classes.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        Self {
            pictures: Vec::new(),
            whole: ConfusionMatrix::new(classes),
        }
    }

    /// Adds a picture, as [`ConfusionMatrix::add`].
    ///
    /// # Panics
    /// The slices differ in length.
    pub fn add(&mut self, truth: &[u8], predicted: &[u8]) {
        let mut picture = ConfusionMatrix::new(self.whole.classes());
        picture.add(truth, predicted);
        self.whole.merge(&picture);
        self.pictures.push(picture);
    }

    /// The counts of all pictures together.
    #[must_use]
    pub fn whole(&self) -> &ConfusionMatrix {
        &self.whole
    }

    /// 95 % intervals of the mean IoU, and of the IoU of each class: of 2,000 sets of as many pictures, drawn with
    /// replacement, 2.5 % score less and 2.5 % more. `None` where more than half of the sets have no score.
    #[must_use]
    pub fn intervals(&self) -> Intervals {
        let classes = self.whole.classes();
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut means = Vec::with_capacity(DRAWS);
        let mut each = vec![Vec::with_capacity(DRAWS); classes];
        let mut times = vec![0; self.pictures.len()];
        for _ in 0..DRAWS {
            times.fill(0);
            for _ in &self.pictures {
                times[random.usize(..self.pictures.len())] += 1;
            }
            let mut drawn = ConfusionMatrix::new(classes);
            // A third of the pictures is not drawn.
            for (picture, &times) in self.pictures.iter().zip(&times).filter(|(_, times)| **times > 0) {
                drawn.merge_times(picture, times);
            }
            means.extend(drawn.mean_iou());
            for (class, values) in each.iter_mut().enumerate() {
                values.extend(drawn.iou(class));
            }
        }
        Intervals {
            mean_iou: interval(means, DRAWS),
            iou: each.into_iter().map(|values| interval(values, DRAWS)).collect(),
        }
    }

    /// What each picture costs, in the order in which they were added: by how much the mean IoU rises without it; less
    /// than 0 for a picture that raises it.
    #[must_use]
    pub fn costs(&self) -> Vec<f64> {
        let all = self.whole.mean_iou().unwrap_or_default();
        let without = |picture| {
            let mut rest = self.whole.clone();
            rest.take_away(picture);
            rest.mean_iou().unwrap_or_default() - all
        };
        self.pictures.iter().map(without).collect()
    }

    /// The mean IoU of one picture; `None` if no pixel of it is labelled.
    ///
    /// # Panics
    /// If there are fewer pictures.
    #[must_use]
    pub fn mean_iou_of(&self, picture: usize) -> Option<f64> {
        self.pictures[picture].mean_iou()
    }
}

/// Lowest and highest value of 95 % intervals.
#[derive(Clone, Debug, PartialEq)]
pub struct Intervals {
    /// Of the mean IoU.
    pub mean_iou: Option<[f64; 2]>,
    /// Of each class's IoU.
    pub iou: Vec<Option<[f64; 2]>>,
}

/// Between which 95 % of the values of `draws` sets lie; `None` if half of the sets have none.
pub(super) fn interval(mut values: Vec<f64>, draws: usize) -> Option<[f64; 2]> {
    if values.len() * 2 <= draws {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| values[(share * (values.len() - 1) as f64).round() as usize];
    Some([at(TAIL), at(1.0 - TAIL)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_that_are_alike_leave_no_doubt() {
        let mut pictures = Bootstrap::new(3);
        for _ in 0..9 {
            pictures.add(&[0, 0, 1, 1], &[0, 1, 1, 1]);
        }
        let found = pictures.intervals();
        let expected = (0.5 + 2.0 / 3.0) / 2.0;
        let [low, high] = found.mean_iou.unwrap();
        assert!(
            (low - expected).abs() < 1e-12 && (high - expected).abs() < 1e-12,
            "{low} {high}"
        );
        assert_eq!(found.iou[0], Some([0.5, 0.5]));
        assert_eq!(found.iou[2], None, "a class that is nowhere");
    }

    /// Pictures that are all right or all wrong: of 100 draws at one half, 2.5 % have less than 0.40 right, 2.5 % more
    /// than 0.60 (binomial distribution).
    #[test]
    fn an_interval_is_that_of_the_distribution() {
        let mut pictures = Bootstrap::new(2);
        for picture in 0..100 {
            pictures.add(&[0], &[u8::from(picture % 2 == 0)]);
        }
        let [low, high] = pictures.intervals().iou[0].unwrap();
        assert!((0.39..=0.41).contains(&low), "{low}");
        assert!((0.59..=0.61).contains(&high), "{high}");
        assert_eq!(pictures.intervals(), pictures.intervals());
    }

    #[test]
    fn a_picture_costs_what_the_rest_gains_without_it() {
        let mut pictures = Bootstrap::new(2);
        pictures.add(&[0, 0, 1, 1], &[0, 0, 1, 1]);
        pictures.add(&[0, 0, 1, 1], &[1, 1, 1, 1]);
        let costs = pictures.costs();
        let all = (2.0 / 4.0 + 4.0 / 6.0) / 2.0;
        assert!((costs[1] - (1.0 - all)).abs() < 1e-12, "{costs:?}");
        assert!((costs[0] - (0.25 - all)).abs() < 1e-12, "{costs:?}");
        assert_eq!(pictures.mean_iou_of(0), Some(1.0));
    }

    #[test]
    fn without_pictures_there_is_no_interval() {
        let none = Bootstrap::new(2);
        assert_eq!(none.intervals().mean_iou, None);
        assert!(none.costs().is_empty());
    }
}
