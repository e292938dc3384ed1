//! Over- and under-segmentation: whether regions come out in pieces, or run into others.
//!
//! Clinton et al. 2010, "Accuracy assessment measures for object-based image segmentation goodness": each true region is
//! set against the predicted region of its class that covers most of it. Over-segmentation is the share of the true
//! region that lies outside that one, under-segmentation the share of the predicted region that lies outside the true
//! one. Both are 0 for a perfect prediction; means weigh each true region by its pixels.

/// Sums over true regions by class.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionScore {
    classes: Vec<Sums>,
}

/// Pixel counts over the true regions of a class.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    /// Pixels of true regions.
    truth: u64,
    /// Those covered by the region that covers most.
    covered: u64,
    /// Pixels of true regions that any region of the class touches.
    touched: u64,
    /// The pixels of each times the share of its predicted region that is outside.
    outside: f64,
}

impl RegionScore {
    /// No pictures of `classes` classes.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        Self {
            classes: vec![Sums::default(); classes],
        }
    }

    /// Scores a picture of `width` pixels a row. Regions are connected through their sides; pixels whose true label is
    /// no class belong to no region.
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
        let classes = self.classes.len();
        let label = |labels: &[u8], at: usize| {
            let known = usize::from(truth[at]) < classes && usize::from(labels[at]) < classes;
            known.then_some(labels[at])
        };
        let true_regions = Regions::new(width, truth.len(), |at| label(truth, at));
        let found_regions = Regions::new(width, truth.len(), |at| label(predicted, at));
        // Pairs of a true region and a predicted one of its class, with their common pixels.
        let mut pairs: Vec<(u32, u32)> = (0..truth.len())
            .filter(|&at| usize::from(truth[at]) < classes && truth[at] == predicted[at])
            .map(|at| (true_regions.of[at], found_regions.of[at]))
            .collect();
        pairs.sort_unstable();
        let mut most: Vec<Option<(u64, u32)>> = vec![None; true_regions.sizes.len()];
        for run in pairs.chunk_by(|a, b| a == b) {
            let (region, found) = run[0];
            let common = run.len() as u64;
            let best = &mut most[region as usize];
            if best.is_none_or(|(pixels, _)| common > pixels) {
                *best = Some((common, found));
            }
        }
        for (region, best) in most.into_iter().enumerate() {
            let pixels = true_regions.sizes[region];
            let sums = &mut self.classes[usize::from(true_regions.labels[region])];
            sums.truth += pixels;
            if let Some((common, found)) = best {
                let found = found_regions.sizes[found as usize];
                sums.covered += common;
                sums.touched += pixels;
                sums.outside += pixels as f64 * (found - common) as f64 / found as f64;
            }
        }
    }

    /// Over-segmentation of a class, 0 to 1; `None` where it has no true region.
    #[must_use]
    pub fn over(&self, class: usize) -> Option<f64> {
        over(&self.classes[class])
    }

    /// Under-segmentation of a class, 0 to 1; `None` where no true region is touched by a predicted one.
    #[must_use]
    pub fn under(&self, class: usize) -> Option<f64> {
        under(&self.classes[class])
    }

    /// Over-segmentation of all true regions.
    #[must_use]
    pub fn over_all(&self) -> Option<f64> {
        over(&self.total())
    }

    /// Under-segmentation of all true regions.
    #[must_use]
    pub fn under_all(&self) -> Option<f64> {
        under(&self.total())
    }

    fn total(&self) -> Sums {
        self.classes.iter().fold(Sums::default(), |sum, class| Sums {
            truth: sum.truth + class.truth,
            covered: sum.covered + class.covered,
            touched: sum.touched + class.touched,
            outside: sum.outside + class.outside,
        })
    }
}

fn over(sums: &Sums) -> Option<f64> {
    (sums.truth > 0).then(|| 1.0 - sums.covered as f64 / sums.truth as f64)
}

fn under(sums: &Sums) -> Option<f64> {
    (sums.touched > 0).then(|| sums.outside / sums.touched as f64)
}

/// Connected regions of equal labels.
struct Regions {
    /// Region of each pixel; [`NONE`] without a label.
    of: Vec<u32>,
    /// Pixels of each region.
    sizes: Vec<u64>,
    /// Label of each region.
    labels: Vec<u8>,
}

const NONE: u32 = u32::MAX;

impl Regions {
    fn new(width: usize, pixels: usize, label: impl Fn(usize) -> Option<u8>) -> Self {
        let mut regions = Self {
            of: vec![NONE; pixels],
            sizes: vec![],
            labels: vec![],
        };
        let mut open = Vec::new();
        for start in 0..pixels {
            let Some(own) = label(start).filter(|_| regions.of[start] == NONE) else {
                continue;
            };
            let region = regions.sizes.len() as u32;
            let mut size = 0;
            regions.of[start] = region;
            open.push(start);
            while let Some(at) = open.pop() {
                size += 1;
                let x = at % width;
                let neighbours = [
                    (x > 0).then(|| at - 1),
                    (x + 1 < width).then_some(at + 1),
                    at.checked_sub(width),
                    (at + width < pixels).then_some(at + width),
                ];
                for next in neighbours.into_iter().flatten() {
                    if regions.of[next] == NONE && label(next) == Some(own) {
                        regions.of[next] = region;
                        open.push(next);
                    }
                }
            }
            regions.sizes.push(size);
            regions.labels.push(own);
        }
        regions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::IGNORE;
    use proptest::prelude::*;

    fn close(value: Option<f64>, expected: f64) {
        let value = value.expect("a value");
        assert!((value - expected).abs() < 1e-12, "{value} is not {expected}");
    }

    #[test]
    fn a_region_in_pieces_is_over_segmented() {
        // One region of 8, found as pieces of 5 and 2.
        let truth = [1, 1, 1, 1, 1, 1, 1, 1, 0, 0];
        let predicted = [1, 1, 1, 1, 1, 0, 1, 1, 0, 0];
        let mut score = RegionScore::new(3);
        score.add(10, &truth, &predicted);
        close(score.over(1), 3.0 / 8.0);
        close(score.under(1), 0.0);
        // The 0s: found whole, but as one of two regions.
        close(score.over(0), 0.0);
        close(score.under(0), 0.0);
        close(score.over_all(), 3.0 / 10.0);
        assert_eq!(score.over(2), None);
    }

    #[test]
    fn regions_that_run_together_are_under_segmented() {
        // Two regions of 3 and 2, found as one of 6.
        let truth = [1, 1, 1, 0, 1, 1, 0, 0];
        let predicted = [1, 1, 1, 1, 1, 1, 0, 0];
        let mut score = RegionScore::new(2);
        score.add(8, &truth, &predicted);
        close(score.over(1), 0.0);
        // 3/6 of the found region is outside the first, 4/6 outside the second.
        close(score.under(1), (3.0 * 3.0 / 6.0 + 2.0 * 4.0 / 6.0) / 5.0);
    }

    #[test]
    fn regions_connect_through_sides_not_corners() {
        // Two true regions of one pixel each that touch at a corner.
        let (truth, predicted) = ([1, 0, 0, 1], [1, 1, 1, 1]);
        let mut score = RegionScore::new(2);
        score.add(2, &truth, &predicted);
        close(score.under(1), 0.75);
        close(score.over(0), 1.0);
        assert_eq!(score.under(0), None);
    }

    #[test]
    fn rows_do_not_connect_at_their_ends() {
        let labels = [0, 0, 1, 1, 0, 0];
        let mut score = RegionScore::new(2);
        score.add(3, &labels, &[0, 0, 1, 0, 0, 0]);
        close(score.over(1), 0.5);
    }

    #[test]
    fn pixels_without_a_label_belong_to_no_region() {
        let mut score = RegionScore::new(2);
        score.add(6, &[1, 1, IGNORE, IGNORE, 0, 0], &[1, 1, 1, 1, 1, 0]);
        close(score.over(1), 0.0);
        close(score.under(1), 0.0);
        close(score.over(0), 0.5);
    }

    proptest! {
        #[test]
        fn a_perfect_prediction_has_neither(truth in prop::collection::vec(0u8..4, 42)) {
            let mut score = RegionScore::new(4);
            score.add(7, &truth, &truth);
            prop_assert_eq!(score.over_all(), Some(0.0));
            prop_assert_eq!(score.under_all(), Some(0.0));
        }

        #[test]
        fn shares_are_shares(truth in prop::collection::vec(0u8..4, 42), predicted in prop::collection::vec(0u8..5, 42)) {
            let mut score = RegionScore::new(3);
            score.add(7, &truth, &predicted);
            for value in (0..3).flat_map(|class| [score.over(class), score.under(class)]).flatten() {
                prop_assert!((0.0..=1.0).contains(&value), "{value}");
            }
        }
    }
}
