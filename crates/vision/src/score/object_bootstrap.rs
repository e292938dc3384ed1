//! How far scores of objects would move with other pictures of the same kind: the percentile bootstrap over pictures
//! (Efron 1979), as [`Bootstrap`](super::Bootstrap) has it for classes.

use super::bootstrap::{SEED, interval};
use super::objects::{FoundObject, ObjectScores, Shape, Size};
use crate::dataset::objects::TrueObject;
use crate::rle::Rle;

/// Sets that are drawn. A score of objects takes long: each set sorts all that was found.
const DRAWS: usize = 500;

/// The scores of each picture of a set.
#[derive(Clone, Debug)]
pub struct ObjectBootstrap {
    pictures: Vec<ObjectScores>,
    classes: usize,
}

/// Lowest and highest value of 95 % intervals, shares from 0 to 1; `None` where more than half of the sets have no score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ObjectIntervals {
    /// Of the mean average precision of masks over all limits.
    pub mask_precision: Option<[f64; 2]>,
    /// At 0.5 alone.
    pub mask_precision_50: Option<[f64; 2]>,
    /// Of boxes over all limits.
    pub box_precision: Option<[f64; 2]>,
    /// At 0.5 alone.
    pub box_precision_50: Option<[f64; 2]>,
    /// Of the mean panoptic quality.
    pub panoptic: Option<[f64; 2]>,
}

impl ObjectBootstrap {
    /// No pictures of `classes` classes.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        Self {
            pictures: Vec::new(),
            classes,
        }
    }

    /// Adds a picture, as [`ObjectScores::add`].
    ///
    /// # Panics
    /// If masks differ in size.
    pub fn add(&mut self, truth: &[TrueObject], void: Option<&Rle>, found: &[FoundObject]) {
        let mut picture = ObjectScores::new(self.classes);
        picture.add(truth, void, found);
        self.pictures.push(picture);
    }

    /// The scores of all pictures together.
    #[must_use]
    pub fn whole(&self) -> ObjectScores {
        let mut whole = ObjectScores::new(self.classes);
        self.pictures.iter().for_each(|picture| whole.merge(picture));
        whole
    }

    /// 95 % intervals: of 500 sets of as many pictures, drawn with replacement, 2.5 % score less and 2.5 % more.
    #[must_use]
    pub fn intervals(&self) -> ObjectIntervals {
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut values: [Vec<f64>; 5] = Default::default();
        if !self.pictures.is_empty() {
            for _ in 0..DRAWS {
                let mut drawn = ObjectScores::new(self.classes);
                for _ in &self.pictures {
                    drawn.merge(&self.pictures[random.usize(..self.pictures.len())]);
                }
                let precision = |shape, limit| drawn.mean_precision_of(shape, Size::Any, limit);
                let scores = [
                    precision(Shape::Mask, None),
                    precision(Shape::Mask, Some(0)),
                    precision(Shape::Box, None),
                    precision(Shape::Box, Some(0)),
                    drawn.mean_panoptic().map(|panoptic| panoptic.quality),
                ];
                for (values, score) in values.iter_mut().zip(scores) {
                    values.extend(score);
                }
            }
        }
        let [
            mask_precision,
            mask_precision_50,
            box_precision,
            box_precision_50,
            panoptic,
        ] = values.map(|values| interval(values, DRAWS));
        ObjectIntervals {
            mask_precision,
            mask_precision_50,
            box_precision,
            box_precision_50,
            panoptic,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of one object of class 0, found or missed.
    fn add(pictures: &mut ObjectBootstrap, is_found: bool) {
        let mask = Rle::new(8, 8, |x, y| x < 4 && y < 4);
        let truth = TrueObject::new(0, mask.clone(), false);
        let found = is_found.then_some(FoundObject {
            class: 0,
            score: 0.9,
            mask,
        });
        pictures.add(&[truth], None, found.as_slice());
    }

    /// Of 100 draws at one half, 2.5 % have less than 0.40 found, 2.5 % more than 0.60 (binomial distribution); all that is
    /// found is right, so precision is the share that is found.
    #[test]
    fn an_interval_is_that_of_the_distribution() {
        let mut pictures = ObjectBootstrap::new(2);
        (0..100).for_each(|picture| add(&mut pictures, picture % 2 == 0));
        assert!((pictures.whole().mean_precision(None).unwrap() - 0.5).abs() < 0.01);
        let found = pictures.intervals();
        for [low, high] in [found.mask_precision, found.box_precision_50].map(Option::unwrap) {
            assert!((0.38..=0.42).contains(&low), "{low}");
            assert!((0.58..=0.62).contains(&high), "{high}");
        }
        // Half missed: of quality f / (f + (1 - f) / 2).
        let [low, high] = found.panoptic.unwrap();
        assert!((0.55..=0.60).contains(&low), "{low}");
        assert!((0.73..=0.77).contains(&high), "{high}");
        assert_eq!(pictures.intervals(), found);
    }

    #[test]
    fn without_pictures_there_is_no_interval() {
        let none = ObjectBootstrap::new(2).intervals();
        assert_eq!((none.mask_precision, none.panoptic), (None, None));
    }
}
