//! Queries, each with scores and a mask of the whole picture: MaskFormer, Mask2Former, RF-DETR.
//!
//! # What it computes
//! A query's score is the largest probability of a class; with softmax, of all classes but "nothing".
//! - `semantic`: the class with the largest sum over queries of probability times mask, interpolated between cells.
//! - `instance`: each query that is sure enough is an object. With `mask_quality` its score counts how sure its mask is as
//!   well: it is multiplied by the mean of the mask's probabilities where they exceed the threshold. The surer one is in
//!   front.
//! - `panoptic`: among the queries that are sure enough, each pixel is the one's with the largest score times mask, if the
//!   mask exceeds the threshold there. A query that keeps less than 0.8 of its mask against the others is dropped. Things
//!   are segments of their own; of stuff a class is one.
//!
//! If a hidden class has a probability that would do for doubt, the query is doubtful of that class as well.

use super::roster::{Found, Hidden, enlist};
use super::semantic::SemanticDecoder;
use super::semantic::cells::CellMap;
use super::stamp::{around, scan, whole};
use super::{Decoder, Place, outputs_of, was_read};
use crate::answer::objects::{Form, Queried, logit, sigmoid};
use crate::answer::{Answer, Reader};
use crate::error::Result;
use crate::frame::LabelMap;
use crate::model::contract::{Activation, Contract, Reading};
use crate::scene::Segment;
use crate::tensor::Outputs;

/// Share of its mask that a query must keep against the others.
const LEAST_KEPT: f64 = 0.8;
/// Probabilities of classes that are not summed up: 100 of them could not outweigh one of a hundredth.
const NEGLIGIBLE: f32 = 1e-4;

/// Pixels of a row that a query's mask covers.
#[derive(Debug, Clone, Copy)]
struct Run {
    y: u32,
    from: u32,
    to: u32,
}

/// A query that takes part in the picture.
#[derive(Debug, Clone)]
struct Part {
    query: usize,
    class: u8,
    score: f32,
    /// Its runs among all.
    runs: std::ops::Range<usize>,
}

/// Decodes [`OutputKind::Queries`](crate::model::contract::OutputKind::Queries).
pub(super) struct QueriesDecoder {
    reader: Reader,
    form: Form,
    place: Place,
    hidden: Hidden,
    is_thing: Vec<bool>,
    semantic: SemanticDecoder,
    cells: Option<CellMap>,
    /// Of one query.
    scores: Vec<f32>,
    planes: Vec<f32>,
    parts: Vec<Part>,
    runs: Vec<Run>,
    winners: LabelMap,
    found: Vec<Found>,
}

impl QueriesDecoder {
    pub fn new(contract: &Contract, origin: &str, place: Place) -> Self {
        Self {
            reader: Reader::new(contract, origin),
            form: Form::new(contract),
            place,
            hidden: [false; 256],
            is_thing: contract.classes.iter().map(|class| class.thing).collect(),
            semantic: place.semantic(),
            cells: None,
            scores: Vec::new(),
            planes: Vec::new(),
            parts: Vec::new(),
            runs: Vec::new(),
            winners: LabelMap::zeros(0, 0),
            found: Vec::new(),
        }
    }

    /// The probabilities of a query's classes.
    fn probabilities(&mut self, answer: &Queried<'_>, query: usize) {
        let classes = self.form.known_classes();
        self.scores.clear();
        let raw = |class: usize| answer.scores.at(query, class);
        match self.form.objects().activation {
            Activation::None => self.scores.extend((0..classes).map(raw)),
            Activation::Sigmoid => self.scores.extend((0..classes).map(|class| sigmoid(raw(class)))),
            Activation::Softmax => {
                let largest = (0..=classes).map(raw).fold(f32::MIN, f32::max);
                let sum: f32 = (0..=classes).map(|class| (raw(class) - largest).exp()).sum();
                self.scores
                    .extend((0..classes).map(|class| (raw(class) - largest).exp() / sum));
            }
        }
    }

    /// The likeliest class of a query, of the contract, and its probability.
    fn likeliest(&mut self, answer: &Queried<'_>, query: usize) -> (u8, f32) {
        self.probabilities(answer, query);
        self.best_of(|_| true)
    }

    /// The likeliest hidden class of the query that was looked at last.
    fn likeliest_hidden(&self) -> Option<(u8, f32)> {
        Some(self.best_of(|class| self.hidden[usize::from(class)])).filter(|(class, _)| *class > 0)
    }

    /// Of the classes that `count`, the one with the largest probability; 0 if there is none.
    fn best_of(&self, count: impl Fn(u8) -> bool) -> (u8, f32) {
        let mut best = (0, f32::NEG_INFINITY);
        for (label, &score) in (0_i64..).zip(&self.scores) {
            let class = self.form.class(label).unwrap_or(0);
            if score > best.1 && count(class) {
                best = (class, score);
            }
        }
        best
    }

    fn semantic(&mut self, answer: &Queried<'_>, map: &mut LabelMap, segments: &mut Vec<Segment>) {
        let classes = self.is_thing.len();
        let cells = answer.masks.width * answer.masks.height;
        let mut planes = std::mem::take(&mut self.planes);
        planes.clear();
        planes.resize((classes + 1) * cells, 0.0);
        // The last plane holds a query's mask.
        let (sums, mask) = planes.split_at_mut(classes * cells);
        for query in 0..answer.masks.count {
            self.probabilities(answer, query);
            if self.scores.iter().all(|&score| score < NEGLIGIBLE) {
                continue;
            }
            fill_probabilities(answer, query, 1.0, mask);
            for (sums, &score) in sums.chunks_exact_mut(cells).zip(&self.scores) {
                if score >= NEGLIGIBLE {
                    sums.iter_mut()
                        .zip(mask.iter())
                        .for_each(|(sum, &value)| *sum += score * value);
                }
            }
        }
        let size = (answer.masks.width, answer.masks.height);
        self.semantic.run_logits(classes, size, sums, map);
        self.planes = planes;
        segments.clear();
        segments.extend(
            (0..=u8::MAX)
                .take(classes)
                .map(|class| Segment::of_class(class.into())),
        );
    }

    fn instance(&mut self, answer: &Queried<'_>, map: &mut LabelMap, segments: &mut Vec<Segment>) {
        let objects = *self.form.objects();
        let limit = logit(objects.threshold);
        self.found.clear();
        for query in 0..answer.masks.count {
            let (class, score) = self.likeliest(answer, query);
            let hidden = self.likeliest_hidden().filter(|(other, _)| *other != class);
            let most = hidden.map_or(score, |(_, other)| score.max(other));
            let Some(mask) = answer.masks.plane(query).filter(|_| most >= objects.doubt) else {
                continue;
            };
            let inside = mask.iter().filter(|value| **value > limit);
            let (sum, count) = inside.fold((0.0, 0_u32), |(sum, count), &v| (sum + sigmoid(v), count + 1));
            if count == 0 {
                continue;
            }
            let quality = if objects.mask_quality {
                sum / count as f32
            } else {
                1.0
            };
            if class > 0 {
                self.found
                    .extend(Found::new(query, class, score * quality, &objects, &self.hidden));
            }
            self.found.extend(
                hidden.and_then(|(other, score)| Found::unlikely(query, other, score * quality, &objects)),
            );
        }
        enlist(&mut self.found, &objects, &self.hidden, segments);
        self.stamp(answer, map, |_| true);
    }

    fn panoptic(&mut self, answer: &Queried<'_>, map: &mut LabelMap, segments: &mut Vec<Segment>) {
        let objects = *self.form.objects();
        self.parts.clear();
        self.found.clear();
        for query in 0..answer.masks.count {
            let (class, score) = self.likeliest(answer, query);
            let hidden = self.likeliest_hidden().filter(|(other, _)| *other != class);
            self.found
                .extend(hidden.and_then(|(other, score)| Found::unlikely(query, other, score, &objects)));
            if class == 0 {
                continue;
            }
            if self.hidden[usize::from(class)] {
                self.found
                    .extend(Found::new(query, class, score, &objects, &self.hidden));
            }
            if score >= objects.score {
                self.parts.push(Part {
                    query,
                    class,
                    score,
                    runs: 0..0,
                });
            }
        }
        self.parts
            .sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.query.cmp(&b.query)));
        self.parts.truncate(objects.max_objects);
        self.compete(answer);
        // Stuff first: a class is one segment.
        let mut stuff = [None; 256];
        let mut parts = std::mem::take(&mut self.parts);
        for part in parts
            .iter()
            .filter(|part| !self.is_thing[usize::from(part.class)])
        {
            let number = stuff[usize::from(part.class)].get_or_insert_with(|| {
                let number = u8::try_from(segments.len()).unwrap_or(0);
                segments.push(Segment {
                    score: part.score,
                    ..Segment::of_class(part.class.into())
                });
                number
            });
            self.fill(part, *number, map);
        }
        parts.retain(|part| self.is_thing[usize::from(part.class)] && !self.hidden[usize::from(part.class)]);
        let things = parts.iter().enumerate().map(|(index, part)| Found {
            class: part.class,
            score: part.score,
            doubtful: false,
            // Past those of hidden classes, which are queries.
            index: answer.masks.count + index,
            number: 0,
        });
        self.found.extend(things);
        enlist(&mut self.found, &objects, &self.hidden, segments);
        let found = std::mem::take(&mut self.found);
        for thing in &found {
            if let Some(part) = thing
                .index
                .checked_sub(answer.masks.count)
                .and_then(|i| parts.get(i))
            {
                self.fill(part, thing.number, map);
            }
        }
        self.found = found;
        self.parts = parts;
        // Hidden classes give way to nobody.
        self.stamp(answer, map, |thing| thing.index < answer.masks.count);
    }

    /// Finds which pixels each part keeps against the others, and drops those that keep too little.
    fn compete(&mut self, answer: &Queried<'_>) {
        let size = (answer.masks.width, answer.masks.height);
        let cells = size.0 * size.1;
        self.runs.clear();
        if self.parts.is_empty() {
            return;
        }
        self.planes.clear();
        self.planes.resize(self.parts.len() * cells, 0.0);
        for (part, plane) in self.parts.iter().zip(self.planes.chunks_exact_mut(cells)) {
            fill_probabilities(answer, part.query, part.score, plane);
        }
        self.semantic
            .run_logits(self.parts.len(), size, &self.planes, &mut self.winners);
        let map = self.place.cells(&mut self.cells, size);
        let (runs, winners) = (&mut self.runs, &self.winners);
        let threshold = self.form.objects().threshold;
        let mut planes = self.planes.chunks_exact(cells);
        let mut own = 0_u8;
        self.parts.retain_mut(|part| {
            let plane = planes.next().unwrap_or_default();
            let limit = threshold * part.score;
            let begin = runs.len();
            let (mut covered, mut kept) = (0_usize, 0_usize);
            let area = around(map, plane, limit);
            scan(
                &map.columns,
                &map.rows,
                whole(map, plane),
                area,
                limit,
                |y, from, to| {
                    covered += to - from;
                    let row = &winners.labels[y * winners.width..][..winners.width];
                    let mut x = from;
                    for run in row[from..to].chunk_by(|a, b| a == b) {
                        if run[0] == own {
                            kept += run.len();
                            runs.push(Run {
                                y: y as u32,
                                from: x as u32,
                                to: (x + run.len()) as u32,
                            });
                        }
                        x += run.len();
                    }
                },
            );
            own = own.saturating_add(1);
            part.runs = begin..runs.len();
            kept > 0 && kept as f64 >= LEAST_KEPT * covered as f64
        });
    }

    fn fill(&self, part: &Part, number: u8, map: &mut LabelMap) {
        for run in &self.runs[part.runs.clone()] {
            let row = run.y as usize * map.width;
            map.labels[row + run.from as usize..row + run.to as usize].fill(number);
        }
    }

    /// Draws the masks of those that were found and `count`, from the last to the first.
    fn stamp(&mut self, answer: &Queried<'_>, map: &mut LabelMap, count: impl Fn(&Found) -> bool) {
        let size = (answer.masks.width, answer.masks.height);
        let cells = self.place.cells(&mut self.cells, size);
        let limit = logit(self.form.objects().threshold);
        let stride = map.width;
        for object in self.found.iter().rev().filter(|found| count(found)) {
            let Some(mask) = answer.masks.plane(object.index) else {
                continue;
            };
            let area = around(cells, mask, limit);
            scan(
                &cells.columns,
                &cells.rows,
                whole(cells, mask),
                area,
                limit,
                |y, from, to| {
                    map.labels[y * stride + from..y * stride + to].fill(object.number);
                },
            );
        }
    }
}

/// A query's mask as probabilities, times `factor`.
fn fill_probabilities(answer: &Queried<'_>, query: usize, factor: f32, out: &mut [f32]) {
    if let Some(mask) = answer.masks.plane(query) {
        for (out, &value) in out.iter_mut().zip(mask) {
            *out = factor * sigmoid(value);
        }
    }
}

impl Decoder for QueriesDecoder {
    fn read(&self, outputs: &mut Outputs, answer: &mut Answer) -> Result<()> {
        self.reader.read(outputs, answer)
    }

    fn decode(&mut self, answer: &Answer, map: &mut LabelMap, segments: &mut Vec<Segment>) {
        let answer = was_read(self.form.queried(outputs_of(answer)));
        match self.form.objects().reading {
            Reading::Semantic => self.semantic(&answer, map, segments),
            Reading::Instance => {
                self.place.clear(map, segments);
                self.instance(&answer, map, segments);
            }
            Reading::Panoptic => {
                self.place.clear(map, segments);
                self.panoptic(&answer, map, segments);
            }
        }
    }

    fn hide(&mut self, classes: &Hidden) {
        self.hidden = *classes;
    }
}
