//! Objects whose masks are kernels on features: SOLOv2.
//!
//! # What it computes
//! A candidate has scores, and a factor for each plane of features. Its mask is the sum of factors times features, made a
//! probability by the logistic function. Its score is that of its likeliest class, times the mean of the mask's probabilities
//! where they exceed the threshold.
//!
//! Matrix NMS (Wang et al. 2020, the Gaussian form) then lowers scores: with `d(x) = e^(-s x^2)`, a candidate's is multiplied
//! by the least `d(own) / d(theirs)` over the surer ones of its class. `own` is what the masks of both share (intersection
//! over union, in cells), `theirs` the most that the surer one shares with one that is surer still. What is left with a score
//! that does is an object; its probabilities are scaled up bilinearly to the picture.
//!
//! Candidates whose class is less sure than an object must be need no mask: no step raises a score, and only surer ones lower
//! it.
//!
//! If a hidden class has a score that would do for doubt, the candidate is doubtful of that class as well. So is one of a
//! hidden class that only Matrix NMS takes out, unless a surer one covers nearly the same.

use super::boxes::SAME;
use super::roster::{Found, Hidden, enlist};
use super::semantic::cells::CellMap;
use super::stamp::{around, scan, whole};
use super::{Decoder, Place, outputs_of, was_read};
use crate::answer::objects::{Form, Kernels, probability, sigmoid};
use crate::answer::{Answer, Reader};
use crate::error::Result;
use crate::frame::LabelMap;
use crate::model::contract::{Contract, Objects};
use crate::scene::Segment;
use crate::tensor::Outputs;

/// Candidates that get a mask, those of the highest scores, as in the reference.
const CANDIDATES: usize = 500;
/// Cells that are summed up at a time, so that sums and features stay in the cache.
const BLOCK: usize = 1024;

/// A candidate that is sure enough for a mask.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    row: usize,
    /// 0 if the likeliest class is what the network calls background.
    class: u8,
    /// Of the class, then times that of the mask.
    score: f32,
    /// A hidden class that is not the likeliest, and its score.
    unlikely: Option<(u8, f32)>,
    /// Which of the masks is its own.
    plane: usize,
    /// Cells of its mask.
    cells: u32,
    /// What it shares most with a surer one of its class.
    shares: f32,
    /// What Matrix NMS leaves of the score, 0 to 1.
    keeps: f32,
}

/// Decodes [`OutputKind::Prototypes`](crate::model::contract::OutputKind::Prototypes) without boxes.
pub(super) struct KernelsDecoder {
    reader: Reader,
    form: Form,
    place: Place,
    hidden: Hidden,
    cells: Option<CellMap>,
    best: Vec<(f32, u32)>,
    candidates: Vec<Candidate>,
    /// Probabilities of each candidate's cells.
    planes: Vec<f32>,
    /// The cells of each candidate's mask, a bit each.
    bits: Vec<u64>,
    found: Vec<Found>,
}

impl KernelsDecoder {
    pub fn new(contract: &Contract, origin: &str, place: Place) -> Self {
        Self {
            reader: Reader::new(contract, origin),
            form: Form::new(contract),
            place,
            hidden: [false; 256],
            cells: None,
            best: Vec::new(),
            candidates: Vec::new(),
            planes: Vec::new(),
            bits: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Candidates that are sure enough of a class.
    fn collect(&mut self, answer: &Kernels<'_>) {
        let objects = *self.form.objects();
        let classes = self.form.known_classes();
        answer.scores.largest(0..classes, &mut self.best);
        self.candidates.clear();
        for (row, &(score, label)) in self.best.iter().enumerate() {
            let score = probability(objects.activation, score);
            if score < objects.doubt {
                continue;
            }
            let class = self.form.class(label.into()).unwrap_or(0);
            let mut unlikely: Option<(u8, f32)> = None;
            for label in 0..classes {
                let other = self.form.class(label as i64).unwrap_or(0);
                if other == 0 || other == class || !self.hidden[usize::from(other)] {
                    continue;
                }
                let score = probability(objects.activation, answer.scores.at(row, label));
                if score >= objects.doubt && unlikely.is_none_or(|(_, most)| score > most) {
                    unlikely = Some((other, score));
                }
            }
            let counts = class > 0 && Found::new(row, class, score, &objects, &self.hidden).is_some();
            if counts || unlikely.is_some() {
                self.candidates.push(Candidate {
                    row,
                    class: if counts { class } else { 0 },
                    score,
                    unlikely,
                    plane: 0,
                    cells: 0,
                    shares: 0.0,
                    keeps: 1.0,
                });
            }
        }
        let hides = |c: &Candidate| c.unlikely.is_some() || self.hidden[usize::from(c.class)];
        let order = |a: &Candidate, b: &Candidate| {
            let hidden_first = hides(b).cmp(&hides(a));
            hidden_first
                .then(b.score.total_cmp(&a.score))
                .then(a.row.cmp(&b.row))
        };
        if self.candidates.len() > CANDIDATES {
            self.candidates.select_nth_unstable_by(CANDIDATES, order);
            self.candidates.truncate(CANDIDATES);
        }
        for (plane, candidate) in self.candidates.iter_mut().enumerate() {
            candidate.plane = plane;
        }
    }

    /// The masks of all candidates; those without a cell are taken out.
    fn fill(&mut self, answer: &Kernels<'_>) {
        let threshold = self.form.objects().threshold;
        let cells = answer.features.width * answer.features.height;
        self.planes.clear();
        self.planes.resize(self.candidates.len() * cells, 0.0);
        for from in (0..cells).step_by(BLOCK) {
            let to = (from + BLOCK).min(cells);
            for (candidate, plane) in self.candidates.iter().zip(self.planes.chunks_exact_mut(cells)) {
                for feature in 0..answer.features.count {
                    let factor = answer.kernels.at(candidate.row, feature);
                    answer.features.add(feature, from, factor, &mut plane[from..to]);
                }
            }
        }
        for (candidate, plane) in self
            .candidates
            .iter_mut()
            .zip(self.planes.chunks_exact_mut(cells))
        {
            let (mut sum, mut count) = (0.0, 0);
            for value in plane {
                *value = sigmoid(*value);
                if *value > threshold {
                    sum += *value;
                    count += 1;
                }
            }
            candidate.cells = count;
            if count > 0 {
                let quality = sum / count as f32;
                candidate.score *= quality;
                candidate.unlikely = candidate.unlikely.map(|(class, score)| (class, score * quality));
            }
        }
        self.candidates.retain(|candidate| candidate.cells > 0);
        self.candidates
            .sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.row.cmp(&b.row)));
        let words = cells.div_ceil(64);
        self.bits.clear();
        for candidate in &self.candidates {
            let plane = &self.planes[candidate.plane * cells..][..cells];
            self.bits.extend(plane.chunks(64).map(|values| {
                let bit = |(at, value): (usize, &f32)| u64::from(*value > threshold) << at;
                values.iter().enumerate().map(bit).fold(0, |all, bit| all | bit)
            }));
        }
        debug_assert_eq!(self.bits.len(), words * self.candidates.len());
        self.suppress(words);
    }

    /// Matrix NMS: how much of each score stays. Candidates come in falling order of their scores.
    fn suppress(&mut self, words: usize) {
        let Some(sigma) = self.form.objects().matrix_nms else {
            return;
        };
        for own in 0..self.candidates.len() {
            let (surer, rest) = self.candidates.split_at_mut(own);
            let candidate = &mut rest[0];
            if candidate.class == 0 {
                continue;
            }
            let bits = &self.bits[own * words..][..words];
            for (other, theirs) in surer.iter().zip(self.bits.chunks_exact(words)) {
                if other.class != candidate.class {
                    continue;
                }
                let shared: u32 = bits.iter().zip(theirs).map(|(a, b)| (a & b).count_ones()).sum();
                let overlap = shared as f32 / (candidate.cells + other.cells - shared) as f32;
                candidate.shares = candidate.shares.max(overlap);
                let keeps = (sigma * (other.shares * other.shares - overlap * overlap)).exp();
                candidate.keeps = candidate.keeps.min(keeps);
            }
        }
    }

    /// Candidates become objects.
    fn choose(&mut self, objects: &Objects) {
        self.found.clear();
        for (index, candidate) in self.candidates.iter().enumerate() {
            let Candidate {
                class,
                score,
                unlikely,
                shares,
                keeps,
                ..
            } = *candidate;
            if class > 0 {
                let hides = self.hidden[usize::from(class)] && shares <= SAME;
                let own = Found::new(index, class, score * keeps, objects, &self.hidden);
                let doubtful = || Found::unlikely(index, class, score, objects).filter(|_| hides);
                self.found.extend(own.or_else(doubtful));
            }
            self.found
                .extend(unlikely.and_then(|(class, score)| Found::unlikely(index, class, score, objects)));
        }
    }
}

impl Decoder for KernelsDecoder {
    fn read(&self, outputs: &mut Outputs, answer: &mut Answer) -> Result<()> {
        self.reader.read(outputs, answer)
    }

    fn decode(&mut self, answer: &Answer, map: &mut LabelMap, segments: &mut Vec<Segment>) {
        let answer = was_read(self.form.kernels(outputs_of(answer)));
        let objects = *self.form.objects();
        self.place.clear(map, segments);
        self.collect(&answer);
        self.fill(&answer);
        self.choose(&objects);
        enlist(&mut self.found, &objects, &self.hidden, segments);
        let cells = self
            .place
            .cells(&mut self.cells, (answer.features.width, answer.features.height));
        let count = answer.features.width * answer.features.height;
        let stride = map.width;
        for object in self.found.iter().rev() {
            let Some(candidate) = self.candidates.get(object.index) else {
                continue;
            };
            let plane = &self.planes[candidate.plane * count..][..count];
            let area = around(cells, plane, objects.threshold);
            scan(
                &cells.columns,
                &cells.rows,
                whole(cells, plane),
                area,
                objects.threshold,
                |y, from, to| map.labels[y * stride + from..y * stride + to].fill(object.number),
            );
        }
    }

    fn hide(&mut self, classes: &Hidden) {
        self.hidden = *classes;
    }
}
