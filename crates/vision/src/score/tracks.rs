//! Scores of numbers that last: HOTA, IDF1, and how often an object changes its number.
//!
//! HOTA (Luiten et al. 2021) weighs finding objects and keeping their numbers alike, over 19 limits of similarity; IDF1
//! (Ristani et al. 2016) pairs objects and numbers once for the whole video; switches, and MOTA with them, count from
//! picture to picture (Bernardin and Stiefelhagen 2008). All follow TrackEval.

use std::collections::HashMap;

use crate::rle::Rle;
use crate::track::Assignment;

/// Least similarity of what IDF1 and MOTA take for one.
const ENOUGH: f64 = 0.5;
/// What rounding may take from a similarity.
const ROUNDING: f64 = f64::EPSILON;
/// Of pairs that are possible, one that was made in the picture before comes first.
const AS_BEFORE: f64 = 1000.0;

/// The limits of similarity of HOTA: 0.05, 0.1, ... 0.95.
fn limits() -> impl Iterator<Item = f64> {
    (1..=19).map(|n| f64::from(n) * 0.05)
}

/// An object of a picture, or what was found of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracked {
    /// Its number in the video.
    pub number: u32,
    /// Its pixels.
    pub mask: Rle,
}

/// A picture: places of its true and found objects among all of the video, and how much each pair is alike.
#[derive(Debug, Clone, PartialEq)]
struct Picture {
    truth: Vec<usize>,
    found: Vec<usize>,
    /// Of each true object, that of each found one.
    similarity: Vec<f64>,
}

impl Picture {
    fn similarity(&self, truth: usize, found: usize) -> f64 {
        self.similarity[truth * self.found.len() + found]
    }
}

/// The objects of a video.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrackScores {
    truth: HashMap<u32, usize>,
    found: HashMap<u32, usize>,
    pictures: Vec<Picture>,
}

/// What the numbers of a video are worth; shares of 0 to 1, but for the counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrackFigures {
    /// Higher-order tracking accuracy: mean over limits of the geometric mean of the two below.
    pub hota: f64,
    /// How well objects are found, mean over limits.
    pub detection: f64,
    /// How well numbers are kept, mean over limits.
    pub association: f64,
    /// How well what is found lies on its object, mean over limits.
    pub localization: f64,
    /// Share of the objects and of what was found that have the right number.
    pub idf1: f64,
    /// Objects found, less mistakes and switches, by objects; below 0 where there are more mistakes than objects.
    pub mota: f64,
    /// How often an object is found by another number than before.
    pub switches: u64,
}

fn place(places: &mut HashMap<u32, usize>, number: u32) -> usize {
    let next = places.len();
    *places.entry(number).or_insert(next)
}

impl TrackScores {
    /// No pictures.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next picture. Objects are as alike as their masks (intersection over union). No number is there twice.
    ///
    /// # Panics
    /// If masks differ in size.
    pub fn add(&mut self, truth: &[Tracked], found: &[Tracked]) {
        let areas: Vec<u64> = found.iter().map(|f| f.mask.area()).collect();
        let pairs = truth.iter().flat_map(|t| {
            let own = t.mask.area();
            found.iter().zip(&areas).map(move |(f, area)| {
                let shared = t.mask.shared(&f.mask);
                match own + area - shared {
                    0 => 0.0,
                    all => shared as f64 / all as f64,
                }
            })
        });
        let picture = Picture {
            similarity: pairs.collect(),
            truth: truth.iter().map(|t| place(&mut self.truth, t.number)).collect(),
            found: found.iter().map(|f| place(&mut self.found, f.number)).collect(),
        };
        self.pictures.push(picture);
    }

    /// The figures of all pictures so far.
    #[must_use]
    pub fn figures(&self) -> TrackFigures {
        let Higher {
            hota,
            detection,
            association,
            localization,
        } = self.higher_order();
        let (mota, switches) = self.between_pictures();
        TrackFigures {
            hota,
            detection,
            association,
            localization,
            idf1: self.identity(),
            mota,
            switches,
        }
    }

    /// Sums of a value of each pair of a true and a found object, at `truth * found objects + found`.
    fn over_pairs(&self, value: impl Fn(&Picture, usize, usize) -> f64) -> Vec<f64> {
        let mut sums = vec![0.0; self.truth.len() * self.found.len()];
        for picture in &self.pictures {
            for (t, truth) in picture.truth.iter().enumerate() {
                for (f, found) in picture.found.iter().enumerate() {
                    sums[truth * self.found.len() + found] += value(picture, t, f);
                }
            }
        }
        sums
    }

    /// In how many pictures each true and each found object is.
    fn lengths(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut truth, mut found) = (vec![0.0; self.truth.len()], vec![0.0; self.found.len()]);
        for picture in &self.pictures {
            picture.truth.iter().for_each(|&t| truth[t] += 1.0);
            picture.found.iter().for_each(|&f| found[f] += 1.0);
        }
        (truth, found)
    }

    fn higher_order(&self) -> Higher {
        let columns = self.found.len();
        // A pair of a picture counts by how much it is alike beside all else that either could be.
        let alike = |picture: &Picture, t: usize, f: usize| {
            let own = picture.similarity(t, f);
            let of_truth: f64 = (0..picture.found.len()).map(|f| picture.similarity(t, f)).sum();
            let of_found: f64 = (0..picture.truth.len()).map(|t| picture.similarity(t, f)).sum();
            let all = of_truth + of_found - own;
            if all > ROUNDING { own / all } else { 0.0 }
        };
        let together = self.over_pairs(alike);
        let (truth_lengths, found_lengths) = self.lengths();
        let alignment = |truth: usize, found: usize| {
            let own = together[truth * columns + found];
            own / (truth_lengths[truth] + found_lengths[found] - own)
        };
        let (mut truths, mut founds) = (0, 0);
        // The similarity of each match, and of which objects it is.
        let mut matches: Vec<(f64, usize)> = Vec::new();
        let mut assignment = Assignment::default();
        for picture in &self.pictures {
            truths += picture.truth.len();
            founds += picture.found.len();
            let gain =
                |t: usize, f: usize| alignment(picture.truth[t], picture.found[f]) * picture.similarity(t, f);
            let pairs = assignment.solve(picture.truth.len(), picture.found.len(), gain);
            for (t, f) in pairs.iter().enumerate().filter_map(|(t, f)| Some((t, (*f)?))) {
                let pair = picture.truth[t] * columns + picture.found[f];
                matches.push((picture.similarity(t, f), pair));
            }
        }
        let mut sums = Higher::default();
        let mut counts = vec![0.0; together.len()];
        for limit in limits() {
            counts.fill(0.0);
            let (mut matched, mut similarity) = (0.0, 0.0);
            for (own, pair) in matches.iter().filter(|(own, _)| *own >= limit - ROUNDING) {
                counts[*pair] += 1.0;
                matched += 1.0;
                similarity += own;
            }
            let kept = counts.iter().enumerate().filter(|(_, count)| **count > 0.0);
            let association = kept
                .map(|(pair, &count)| {
                    let all = truth_lengths[pair / columns] + found_lengths[pair % columns] - count;
                    count * count / all
                })
                .sum::<f64>()
                / f64::max(matched, 1.0);
            let detection = matched / f64::max((truths + founds) as f64 - matched, 1.0);
            sums.association += association;
            sums.detection += detection;
            sums.hota += (association * detection).sqrt();
            // Without a match there is nothing that lies wrong.
            sums.localization += similarity.max(1e-10) / matched.max(1e-10);
        }
        let count = limits().count() as f64;
        Higher {
            hota: sums.hota / count,
            detection: sums.detection / count,
            association: sums.association / count,
            localization: sums.localization / count,
        }
    }

    fn identity(&self) -> f64 {
        let columns = self.found.len();
        let together = self.over_pairs(|picture, t, f| f64::from(picture.similarity(t, f) >= ENOUGH));
        let mut assignment = Assignment::default();
        let gain = |t: usize, f: usize| together[t * columns + f];
        let pairs = assignment.solve(self.truth.len(), columns, gain);
        let right: f64 = pairs
            .iter()
            .enumerate()
            .filter_map(|(t, f)| f.map(|f| gain(t, f)))
            .sum();
        let (truth, found) = self.lengths();
        let all: f64 = truth.iter().chain(&found).sum();
        right / f64::max(0.5 * all, 1.0)
    }

    /// MOTA, and the number of switches.
    fn between_pictures(&self) -> (f64, u64) {
        let (mut truths, mut wrong, mut switches) = (0_u64, 0_u64, 0_u64);
        // Which number found each object last, and in the last picture.
        let mut last: Vec<Option<usize>> = vec![None; self.truth.len()];
        let mut just_now = last.clone();
        let mut assignment = Assignment::default();
        for picture in &self.pictures {
            truths += picture.truth.len() as u64;
            wrong += (picture.truth.len() + picture.found.len()) as u64;
            if picture.truth.is_empty() || picture.found.is_empty() {
                continue;
            }
            let gain = |t: usize, f: usize| {
                let own = picture.similarity(t, f);
                let is_same = just_now[picture.truth[t]] == Some(picture.found[f]);
                match own >= ENOUGH - ROUNDING {
                    true => own + if is_same { AS_BEFORE } else { 0.0 },
                    false => 0.0,
                }
            };
            let pairs = assignment.solve(picture.truth.len(), picture.found.len(), gain);
            just_now.fill(None);
            for (t, f) in pairs.iter().enumerate().filter_map(|(t, f)| Some((t, (*f)?))) {
                let (truth, found) = (picture.truth[t], Some(picture.found[f]));
                wrong -= 2;
                switches += u64::from(last[truth].is_some() && last[truth] != found);
                last[truth] = found;
                just_now[truth] = found;
            }
        }
        // Objects found are those that are there less those missed, and what is wrong is missed or too many.
        let mota = (truths as f64 - wrong as f64 - switches as f64) / f64::max(truths as f64, 1.0);
        (mota, switches)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Higher {
    hota: f64,
    detection: f64,
    association: f64,
    localization: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked(number: u32, left: usize) -> Tracked {
        let mask = Rle::new(40, 10, |x, y| {
            (left..left + 6).contains(&x) && (2..8).contains(&y)
        });
        Tracked { number, mask }
    }

    #[test]
    fn numbers_that_stay_are_worth_all() {
        let mut scores = TrackScores::new();
        for step in 0..6 {
            let truth = [tracked(1, step), tracked(2, 20 + step)];
            scores.add(&truth, &[tracked(9, step), tracked(4, 20 + step)]);
        }
        let figures = scores.figures();
        assert_eq!((figures.idf1, figures.mota, figures.switches), (1.0, 1.0, 0));
        assert!((figures.hota - 1.0).abs() < 1e-12 && (figures.localization - 1.0).abs() < 1e-12);
    }

    #[test]
    fn one_switch_halfway_halves_what_is_kept() {
        let mut scores = TrackScores::new();
        for step in 0..8 {
            scores.add(&[tracked(1, step)], &[tracked(u32::from(step >= 4), step)]);
        }
        let figures = scores.figures();
        assert_eq!((figures.detection, figures.switches), (1.0, 1));
        assert!((figures.association - 0.5).abs() < 1e-12 && (figures.idf1 - 0.5).abs() < 1e-12);
        assert!((figures.mota - 7.0 / 8.0).abs() < 1e-12);
        assert!((figures.hota - 0.5_f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn nothing_found_and_nothing_there() {
        let nothing = TrackScores::new().figures();
        assert_eq!((nothing.hota, nothing.idf1, nothing.mota), (0.0, 0.0, 0.0));
        let mut scores = TrackScores::new();
        scores.add(&[tracked(1, 3)], &[]);
        scores.add(&[], &[tracked(1, 3)]);
        let figures = scores.figures();
        assert_eq!((figures.hota, figures.idf1, figures.mota), (0.0, 0.0, -1.0));
    }
}
