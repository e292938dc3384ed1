//! Scores of objects: average precision as COCO has it, and panoptic quality.
//!
//! Average precision follows pycocotools: the objects of a class in a picture, the surest first and at most 100, each take the
//! true object that they share most with, if that is at least the limit (intersection over union) and nobody has taken it.
//! Precision is read at 101 recalls. What is matched with a crowd does not count. It is taken of masks and of boxes, and of
//! all objects or those of a [`Size`]: then nothing counts that is matched with an object of another size, or matched with
//! none and of another size itself.
//!
//! Panoptic quality follows Kirillov et al. 2019, over objects: a found and a true object of a class match if they share more
//! than half. Crowds and void are left out: what lies in them by more than half counts for nothing.

use crate::dataset::objects::TrueObject;
use crate::rle::Rle;

/// Objects of a class and picture that are scored.
const MOST: usize = 100;
/// Limits of intersection over union: 0.5, 0.55, ... 0.95.
pub const LIMITS: [f64; 10] = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95];

/// What of an object is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Its pixels.
    Mask,
    /// The smallest box around them.
    Box,
}

/// Which objects count, by their pixels; the limits are COCO's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// All.
    Any,
    /// Up to 32 x 32.
    Small,
    /// From 32 x 32 to 96 x 96.
    Medium,
    /// From 96 x 96.
    Large,
}

impl Size {
    const ALL: [Self; 4] = [Self::Any, Self::Small, Self::Medium, Self::Large];

    /// Whether an object of `area` pixels counts.
    fn holds(self, area: f64) -> bool {
        const SMALL: f64 = 32.0 * 32.0;
        const MEDIUM: f64 = 96.0 * 96.0;
        match self {
            Self::Any => true,
            Self::Small => area <= SMALL,
            Self::Medium => (SMALL..=MEDIUM).contains(&area),
            Self::Large => area >= MEDIUM,
        }
    }
}

/// An object that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundObject {
    /// Its class, of those that are scored.
    pub class: usize,
    /// How sure.
    pub score: f32,
    /// Its pixels.
    pub mask: Rle,
}

/// What is known of the objects of a class and [`Size`], as masks or as boxes.
#[derive(Debug, Clone, PartialEq, Default)]
struct Matches {
    /// True objects, crowds left out.
    objects: u64,
    /// Of each found object the score, and for each limit whether it is right (true), wrong (false) or does not count.
    found: Vec<(f32, [Option<bool>; LIMITS.len()])>,
}

/// What is known of a class.
#[derive(Debug, Clone, PartialEq, Default)]
struct ClassScore {
    /// Of masks and of boxes, for each size.
    matches_of: [[Matches; Size::ALL.len()]; 2],
    /// Sum of what matches share, matches, found and true objects without one.
    shared: f64,
    matches: u64,
    too_many: u64,
    missed: u64,
}

/// Panoptic quality and its two factors, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Panoptic {
    /// Both multiplied.
    pub quality: f64,
    /// Mean intersection over union of what matches.
    pub segmentation: f64,
    /// How much matches.
    pub recognition: f64,
}

/// Scores of the objects of a set of pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectScores {
    classes: Vec<ClassScore>,
}

impl ObjectScores {
    /// No pictures of `classes` classes.
    #[must_use]
    pub fn new(classes: usize) -> Self {
        Self {
            classes: vec![ClassScore::default(); classes],
        }
    }

    /// Scores a picture. `void` are pixels that nobody has labelled. Objects of classes that are not scored are left out.
    ///
    /// # Panics
    /// If masks differ in size.
    pub fn add(&mut self, truth: &[TrueObject], void: Option<&Rle>, found: &[FoundObject]) {
        for (number, class) in self.classes.iter_mut().enumerate() {
            let truth: Vec<&TrueObject> = truth.iter().filter(|t| t.class == number).collect();
            let mut found: Vec<&FoundObject> = found.iter().filter(|f| f.class == number).collect();
            found.sort_by(|a, b| b.score.total_cmp(&a.score));
            class.precision(&truth, void, &found[..found.len().min(MOST)]);
            class.panoptic(&truth, void, &found);
        }
    }

    /// Adds the pictures of other scores.
    ///
    /// # Panics
    /// If they are of another number of classes.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.classes.len(), other.classes.len(), "classes");
        for (own, other) in self.classes.iter_mut().zip(&other.classes) {
            for (own, other) in own.matches_of.iter_mut().zip(&other.matches_of) {
                for (own, other) in own.iter_mut().zip(other) {
                    own.objects += other.objects;
                    own.found.extend_from_slice(&other.found);
                }
            }
            own.shared += other.shared;
            own.matches += other.matches;
            own.too_many += other.too_many;
            own.missed += other.missed;
        }
    }

    /// Average precision of a class's masks at a limit, 0 to 1; `None` without true objects.
    pub fn precision_at(&self, class: usize, limit: usize) -> Option<f64> {
        self.precision_of(class, Shape::Mask, Size::Any, Some(limit))
    }

    /// Average precision of a class's masks over all limits.
    pub fn precision(&self, class: usize) -> Option<f64> {
        self.precision_of(class, Shape::Mask, Size::Any, None)
    }

    /// Mean over classes of the average precision of masks, at one limit or over all.
    pub fn mean_precision(&self, limit: Option<usize>) -> Option<f64> {
        self.mean_precision_of(Shape::Mask, Size::Any, limit)
    }

    /// Average precision of a class, at one limit or over all, 0 to 1; `None` without true objects of the size.
    pub fn precision_of(&self, class: usize, shape: Shape, size: Size, limit: Option<usize>) -> Option<f64> {
        let matches = &self.classes.get(class)?.matches_of[shape as usize][size as usize];
        match limit {
            Some(limit) => matches.average(limit),
            None => mean((0..LIMITS.len()).map(|limit| matches.average(limit))),
        }
    }

    /// Mean over the classes that have objects of the size of the average precision, at one limit or over all.
    pub fn mean_precision_of(&self, shape: Shape, size: Size, limit: Option<usize>) -> Option<f64> {
        mean((0..self.classes.len()).map(|class| self.precision_of(class, shape, size, limit)))
    }

    /// Panoptic quality of a class; `None` if it neither is nor was found anywhere.
    pub fn panoptic(&self, class: usize) -> Option<Panoptic> {
        let class = self.classes.get(class)?;
        let all = class.matches as f64 + 0.5 * (class.too_many + class.missed) as f64;
        if all == 0.0 {
            return None;
        }
        Some(Panoptic {
            quality: class.shared / all,
            segmentation: if class.matches == 0 {
                0.0
            } else {
                class.shared / class.matches as f64
            },
            recognition: class.matches as f64 / all,
        })
    }

    /// Mean over classes of the panoptic quality and its factors.
    pub fn mean_panoptic(&self) -> Option<Panoptic> {
        let all: Vec<Panoptic> = (0..self.classes.len())
            .filter_map(|class| self.panoptic(class))
            .collect();
        let of = |part: fn(&Panoptic) -> f64| all.iter().map(part).sum::<f64>() / all.len() as f64;
        (!all.is_empty()).then(|| Panoptic {
            quality: of(|p| p.quality),
            segmentation: of(|p| p.segmentation),
            recognition: of(|p| p.recognition),
        })
    }

    /// True objects of a class, crowds left out.
    pub fn objects(&self, class: usize) -> u64 {
        self.classes.get(class).map_or(0, |class| {
            class.matches_of[Shape::Mask as usize][Size::Any as usize].objects
        })
    }
}

fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (sum, count) = values
        .flatten()
        .fold((0.0, 0_u32), |(sum, count), v| (sum + v, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

/// Intersection over union; with a crowd, the share of the found object that lies in it.
fn overlap(shared: f64, found: f64, truth: f64, is_crowd: bool) -> f64 {
    let all = if is_crowd { found } else { found + truth - shared };
    if all > 0.0 { shared / all } else { 0.0 }
}

/// What two boxes share, in pixels; each left, top, width, height.
fn shared_box(a: [f64; 4], b: [f64; 4]) -> f64 {
    let axis = |n: usize| ((a[n] + a[n + 2]).min(b[n] + b[n + 2]) - a[n].max(b[n])).max(0.0);
    axis(0) * axis(1)
}

impl ClassScore {
    fn precision(&mut self, truth: &[&TrueObject], void: Option<&Rle>, found: &[&FoundObject]) {
        let seen: Vec<Rle> = found
            .iter()
            .map(|f| void.map_or_else(|| f.mask.clone(), |void| f.mask.without(void)))
            .collect();
        let boxes: Vec<[f64; 4]> = seen.iter().map(|mask| mask.bbox().map(|n| n as f64)).collect();
        let scores: Vec<f32> = found.iter().map(|f| f.score).collect();
        // All of it may lie where nobody has labelled.
        let is_void: Vec<bool> = seen.iter().map(|mask| mask.area() == 0).collect();
        for shape in [Shape::Mask, Shape::Box] {
            let areas: Vec<f64> = match shape {
                Shape::Mask => seen.iter().map(|mask| mask.area() as f64).collect(),
                Shape::Box => boxes.iter().map(|own| own[2] * own[3]).collect(),
            };
            let overlaps: Vec<Vec<f64>> = (0..found.len())
                .map(|n| {
                    let with = |t: &&TrueObject| {
                        let (shared, area) = match shape {
                            Shape::Mask => (seen[n].shared(&t.mask) as f64, t.mask.area() as f64),
                            Shape::Box => (shared_box(boxes[n], t.bbox), t.bbox[2] * t.bbox[3]),
                        };
                        overlap(shared, areas[n], area, t.crowd)
                    };
                    truth.iter().map(with).collect()
                })
                .collect();
            for size in Size::ALL {
                let is_counted: Vec<bool> = areas
                    .iter()
                    .zip(&is_void)
                    .map(|(&area, &is_void)| size.holds(area) && !is_void)
                    .collect();
                let own = &mut self.matches_of[shape as usize][size as usize];
                own.add(truth, size, &overlaps, &scores, &is_counted);
            }
        }
    }

    fn panoptic(&mut self, truth: &[&TrueObject], void: Option<&Rle>, found: &[&FoundObject]) {
        let mut matched = vec![false; truth.len()];
        for f in found {
            let area = f.mask.area();
            let in_void = void.map_or(0, |void| f.mask.shared(void));
            let mut best: Option<(usize, f64)> = None;
            for (number, t) in truth.iter().enumerate().filter(|(_, t)| !t.crowd) {
                // Void is nobody's: it does not widen the union.
                let shared = f.mask.shared(&t.mask);
                let all = area + t.mask.area() - shared - in_void;
                let overlap = if all == 0 { 0.0 } else { shared as f64 / all as f64 };
                if overlap > 0.5 && !matched[number] && best.is_none_or(|b| overlap > b.1) {
                    best = Some((number, overlap));
                }
            }
            if let Some((number, overlap)) = best {
                matched[number] = true;
                self.matches += 1;
                self.shared += overlap;
                continue;
            }
            let crowds: u64 = truth
                .iter()
                .filter(|t| t.crowd)
                .map(|t| f.mask.shared(&t.mask))
                .sum();
            if (in_void + crowds) as f64 <= 0.5 * area as f64 && area > 0 {
                self.too_many += 1;
            }
        }
        let missed = truth
            .iter()
            .zip(&matched)
            .filter(|(t, matched)| !t.crowd && !**matched);
        self.missed += missed.count() as u64;
    }
}

impl Matches {
    /// Matches a picture's found objects, the surest first, with its true ones. `is_counted` says which of the found ones
    /// count where they match nothing.
    fn add(
        &mut self,
        truth: &[&TrueObject],
        size: Size,
        overlaps: &[Vec<f64>],
        scores: &[f32],
        is_counted: &[bool],
    ) {
        let is_ignored = |t: usize| truth[t].crowd || !size.holds(truth[t].area);
        // Those that count come first.
        let mut order: Vec<usize> = (0..truth.len()).collect();
        order.sort_by_key(|&t| is_ignored(t));
        self.objects += order.iter().filter(|&&t| !is_ignored(t)).count() as u64;
        let mut verdicts = vec![[Some(false); LIMITS.len()]; scores.len()];
        for (limit_number, &limit) in LIMITS.iter().enumerate() {
            let mut taken = vec![false; truth.len()];
            for (number, verdict) in verdicts.iter_mut().enumerate() {
                let (mut best, mut chosen) = (limit.min(1.0 - 1e-10), None);
                for &t in &order {
                    if taken[t] && !truth[t].crowd {
                        continue;
                    }
                    if chosen.is_some_and(|chosen| !is_ignored(chosen)) && is_ignored(t) {
                        break;
                    }
                    if overlaps[number][t] >= best {
                        best = overlaps[number][t];
                        chosen = Some(t);
                    }
                }
                if let Some(t) = chosen {
                    taken[t] = true;
                    verdict[limit_number] = (!is_ignored(t)).then_some(true);
                } else if !is_counted[number] {
                    verdict[limit_number] = None;
                }
            }
        }
        self.found.extend(scores.iter().copied().zip(verdicts));
    }

    /// Precision at 101 recalls.
    fn average(&self, limit: usize) -> Option<f64> {
        if self.objects == 0 {
            return None;
        }
        let mut counted: Vec<(f32, bool)> = self
            .found
            .iter()
            .filter_map(|(score, verdicts)| Some((*score, verdicts.get(limit).copied().flatten()?)))
            .collect();
        counted.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut right = 0;
        let mut curve: Vec<(f64, f64)> = Vec::with_capacity(counted.len());
        for (number, (_, is_right)) in counted.iter().enumerate() {
            right += u64::from(*is_right);
            curve.push((
                right as f64 / self.objects as f64,
                right as f64 / (number + 1) as f64,
            ));
        }
        for at in (1..curve.len()).rev() {
            curve[at - 1].1 = curve[at - 1].1.max(curve[at].1);
        }
        let sum: f64 = (0..=100)
            .map(|n| {
                // Rounded as numpy rounds it: 0.07 is a little more than 7 of 100.
                let recall = f64::from(n) * 0.01;
                let at = curve.partition_point(|point| point.0 < recall);
                curve.get(at).map_or(0.0, |point| point.1)
            })
            .sum();
        Some(sum / 101.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(left: usize, top: usize, side: usize) -> Rle {
        Rle::new(40, 30, |x, y| {
            (left..left + side).contains(&x) && (top..top + side).contains(&y)
        })
    }

    fn truth(class: usize, mask: Rle) -> TrueObject {
        TrueObject::new(class, mask, false)
    }

    fn found(class: usize, score: f32, mask: Rle) -> FoundObject {
        FoundObject { class, score, mask }
    }

    #[test]
    fn what_is_found_as_it_is_scores_one_and_nothing_scores_zero() {
        let mut scores = ObjectScores::new(3);
        scores.add(
            &[truth(0, square(2, 2, 8)), truth(1, square(20, 2, 8))],
            None,
            &[found(0, 0.9, square(2, 2, 8))],
        );
        assert_eq!(
            (scores.precision(0), scores.precision(1), scores.precision(2)),
            (Some(1.0), Some(0.0), None)
        );
        assert_eq!(scores.mean_precision(None), Some(0.5));
        let one = scores.panoptic(0).unwrap();
        assert_eq!((one.quality, one.segmentation, one.recognition), (1.0, 1.0, 1.0));
        assert_eq!(scores.panoptic(1).unwrap().quality, 0.0);
        assert_eq!(scores.panoptic(2), None);
        assert_eq!(scores.mean_panoptic().unwrap().quality, 0.5);
    }

    #[test]
    fn a_wrong_one_that_is_surer_halves_precision() {
        let mut scores = ObjectScores::new(1);
        scores.add(
            &[truth(0, square(2, 2, 8))],
            None,
            &[found(0, 0.5, square(2, 2, 8)), found(0, 0.9, square(25, 15, 8))],
        );
        assert_eq!(scores.precision_at(0, 0), Some(0.5));
        let panoptic = scores.panoptic(0).unwrap();
        assert!((panoptic.quality - 1.0 / 1.5).abs() < 1e-12 && panoptic.segmentation == 1.0);
    }

    #[test]
    fn limits_are_held_one_by_one() {
        // 8x8 and 8x6 within it: 0.75 is shared.
        let mut scores = ObjectScores::new(1);
        let part = Rle::new(40, 30, |x, y| (2..10).contains(&x) && (2..8).contains(&y));
        scores.add(&[truth(0, square(2, 2, 8))], None, &[found(0, 0.5, part)]);
        let at: Vec<f64> = (0..10)
            .filter_map(|limit| scores.precision_at(0, limit))
            .collect();
        assert_eq!(at, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(scores.precision(0), Some(0.6));
        assert_eq!(scores.panoptic(0).unwrap().quality, 0.75);
    }

    #[test]
    fn two_on_one_object_are_one_right_and_one_wrong() {
        let mut scores = ObjectScores::new(1);
        let both = [truth(0, square(2, 2, 8)), truth(0, square(20, 2, 8))];
        scores.add(
            &both,
            None,
            &[
                found(0, 0.9, square(2, 2, 8)),
                found(0, 0.8, square(2, 2, 8)),
                found(0, 0.7, square(20, 2, 8)),
            ],
        );
        // Recall of a half at precision 1, of all at 2/3: 51 and 50 of the 101 recalls.
        let want = (51.0 + 50.0 * 2.0 / 3.0) / 101.0;
        assert!((scores.precision_at(0, 0).unwrap() - want).abs() < 1e-12);
    }

    #[test]
    fn crowds_and_void_count_for_nothing() {
        let mut scores = ObjectScores::new(1);
        let crowd = TrueObject {
            crowd: true,
            ..truth(0, square(20, 2, 16))
        };
        let void = square(2, 20, 10);
        scores.add(
            &[truth(0, square(2, 2, 8)), crowd],
            Some(&void),
            &[
                found(0, 0.9, square(22, 4, 6)),
                found(0, 0.8, square(3, 21, 5)),
                found(0, 0.7, square(2, 2, 8)),
            ],
        );
        assert_eq!(scores.objects(0), 1);
        assert_eq!(scores.precision(0), Some(1.0));
        assert_eq!(scores.panoptic(0).unwrap().quality, 1.0);
    }

    #[test]
    fn scores_of_two_pictures_are_those_of_each_together() {
        let (mut both, mut first, mut second) =
            (ObjectScores::new(1), ObjectScores::new(1), ObjectScores::new(1));
        let pictures = [
            ([truth(0, square(2, 2, 8))], [found(0, 0.6, square(3, 2, 8))]),
            ([truth(0, square(20, 2, 8))], [found(0, 0.9, square(2, 2, 8))]),
        ];
        for ((truth, found), one) in pictures.iter().zip([&mut first, &mut second]) {
            both.add(truth, None, found);
            one.add(truth, None, found);
        }
        first.merge(&second);
        assert_eq!(first, both);
        assert_eq!(both.objects(0), 2);
    }

    #[test]
    fn figures_are_pycocotools_s() {
        let mut state = 12_345_u32;
        let mut next = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) % below) as usize
        };
        let mut scores = ObjectScores::new(2);
        for _ in 0..8 {
            let (mut truths, mut founds) = (Vec::new(), Vec::new());
            for _ in 0..5 {
                let (class, left, top, side) = (next(2), next(30), next(20), 4 + next(7));
                truths.push(TrueObject {
                    crowd: next(8) == 0,
                    ..truth(class, square(left, top, side))
                });
                for _ in 0..2 {
                    let (right, down, less) = (next(3), next(3), next(3));
                    let score = next(1000) as f32 / 1000.0;
                    if next(3) != 0 {
                        founds.push(found(class, score, square(left + right, top + down, side - less)));
                    }
                }
            }
            scores.add(&truths, None, &founds);
        }
        // `COCOeval` of pycocotools 2.0.11 for masks, from the same objects.
        for (found, want) in [
            (scores.mean_precision(None), 0.060256170490320914),
            (scores.mean_precision(Some(0)), 0.2474019579377292),
            (scores.mean_precision(Some(5)), 0.0091495756718529),
            (scores.precision(0), 0.05431775320389181),
            (scores.precision_at(1, 0), 0.27008144362823383),
        ] {
            assert!((found.unwrap() - want).abs() < 1e-9, "{found:?} {want}");
        }
    }
}
