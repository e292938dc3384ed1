//! Objects whose masks are sums of prototypes: YOLO's segmenting networks, YOLACT.
//!
//! A candidate has a box, scores, and a coefficient for each prototype. Its mask is the sum of coefficients times
//! prototypes, made a probability by the logistic function, scaled up bilinearly to the picture and cut off at the box.
//! Only the cells around the box are summed up, and only for candidates that stay.
//!
//! A candidate is of the class with the largest score. If a hidden class has a score that would do for doubt, the candidate
//! is doubtful of that class as well.

use super::boxes::{Corners, Fate, pixels, suppress};
use super::roster::{Found, Hidden, enlist};
use super::semantic::cells::CellMap;
use super::stamp::{Area, Cells, cells_around, scan};
use super::{Decoder, Place, outputs_of, was_read};
use crate::answer::objects::{Form, Prototyped, logit, probability, whole_number};
use crate::answer::{Answer, Reader};
use crate::error::Result;
use crate::frame::LabelMap;
use crate::model::contract::{Contract, DetectionForm, Role};
use crate::scene::Segment;
use crate::tensor::Outputs;

/// Candidates that are compared with each other, those of the highest scores. More than any picture has objects, and few
/// enough for a comparison of each with each.
const CANDIDATES: usize = 1024;

/// A candidate that is sure enough.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    row: usize,
    class: u8,
    score: f32,
    corners: Corners,
    /// Of a hidden class that is not the likeliest.
    unlikely: bool,
}

/// Decodes [`OutputKind::Prototypes`](crate::model::contract::OutputKind::Prototypes).
pub(super) struct PrototypesDecoder {
    reader: Reader,
    form: Form,
    /// Whether a candidate's best class is written in place of a score for each.
    picked: bool,
    place: Place,
    hidden: Hidden,
    cells: Option<CellMap>,
    best: Vec<(f32, u32)>,
    candidates: Vec<Candidate>,
    kept: Vec<usize>,
    found: Vec<Found>,
    sums: Vec<f32>,
}

impl PrototypesDecoder {
    pub fn new(contract: &Contract, origin: &str, place: Place) -> Self {
        let output = &contract.output;
        Self {
            reader: Reader::new(contract, origin),
            form: Form::new(contract),
            picked: output.position(Role::Detections).is_some()
                && output.objects.detections == DetectionForm::BestClass,
            place,
            hidden: [false; 256],
            cells: None,
            best: Vec::new(),
            candidates: Vec::new(),
            kept: Vec::new(),
            found: Vec::new(),
            sums: Vec::new(),
        }
    }

    /// Candidates that are sure enough: of hidden classes first, then the surest first.
    fn collect(&mut self, answer: &Prototyped<'_>) {
        let objects = *self.form.objects();
        let classes = if self.picked { 1 } else { self.form.known_classes() };
        let range = answer.first_score..answer.first_score + classes;
        answer.scores.largest(range, &mut self.best);
        let factor = |row: usize| {
            answer.objectness.map_or(1.0, |field| {
                probability(objects.activation, answer.scores.at(row, field))
            })
        };
        let corners = |row: usize| {
            let numbers = [0, 1, 2, 3].map(|field| answer.boxes.at(row, field));
            Corners::new(numbers, &objects, self.place.size)
        };
        self.candidates.clear();
        for (row, &(score, number)) in self.best.iter().enumerate() {
            let score = probability(objects.activation, score);
            if score < objects.doubt {
                continue;
            }
            let score = score * factor(row);
            let label = match self.picked {
                true => whole_number(answer.scores.at(row, answer.first_score + 1)),
                false => number.into(),
            };
            // Reading has seen to it that there is one for all that are sure enough. What the network calls background
            // is nothing.
            let class = self.form.class(label).unwrap_or(0);
            if class > 0 && Found::new(row, class, score, &objects, &self.hidden).is_some() {
                self.candidates.push(Candidate {
                    row,
                    class,
                    score,
                    corners: corners(row),
                    unlikely: false,
                });
            }
            if self.picked {
                continue;
            }
            for label in 0..classes {
                let other = self.form.class(label as i64).unwrap_or(0);
                if other == 0 || other == class || !self.hidden[usize::from(other)] {
                    continue;
                }
                let score = answer.scores.at(row, answer.first_score + label);
                let score = probability(objects.activation, score) * factor(row);
                if score >= objects.doubt {
                    self.candidates.push(Candidate {
                        row,
                        class: other,
                        score,
                        corners: corners(row),
                        unlikely: true,
                    });
                }
            }
        }
        let is_hidden = |candidate: &Candidate| self.hidden[usize::from(candidate.class)];
        let order = |a: &Candidate, b: &Candidate| {
            let hidden_first = is_hidden(b).cmp(&is_hidden(a));
            let likely_first = a.unlikely.cmp(&b.unlikely);
            let best_first = b.score.total_cmp(&a.score);
            hidden_first
                .then(likely_first)
                .then(best_first)
                .then(a.row.cmp(&b.row))
        };
        if self.candidates.len() > CANDIDATES {
            self.candidates.select_nth_unstable_by(CANDIDATES, order);
            self.candidates.truncate(CANDIDATES);
        }
        self.candidates.sort_unstable_by(order);
    }

    /// Candidates become objects.
    fn choose(&mut self) {
        let objects = *self.form.objects();
        let (candidates, found, hidden) = (&self.candidates, &mut self.found, &self.hidden);
        found.clear();
        let entry = |number: usize| {
            let candidate = &candidates[number];
            match candidate.unlikely {
                true => Found::unlikely(number, candidate.class, candidate.score, &objects),
                false => Found::new(number, candidate.class, candidate.score, &objects, hidden),
            }
        };
        let Some(limit) = objects.nms else {
            found.extend((0..candidates.len()).filter_map(entry));
            return;
        };
        suppress(
            candidates.len(),
            limit,
            &mut self.kept,
            |number| (candidates[number].class, candidates[number].corners),
            |number, fate| match (fate, entry(number)) {
                (Fate::Stays, Some(this)) => found.push(this),
                (Fate::Doubtful, Some(this)) if hidden[usize::from(this.class)] => found.push(Found {
                    doubtful: true,
                    ..this
                }),
                _ => {}
            },
        );
    }

    /// Draws one object.
    fn draw(&mut self, answer: &Prototyped<'_>, object: &Found, map: &mut LabelMap) {
        let (Some(cells), Some(candidate)) = (&self.cells, self.candidates.get(object.index)) else {
            return;
        };
        let picture = (map.width, map.height);
        let area: Area = pixels(candidate.corners.in_picture(self.place.window, picture), picture);
        if area.is_empty() {
            return;
        }
        let (Some(columns), Some(rows)) = (
            cells_around(&cells.columns, area.left, area.right),
            cells_around(&cells.rows, area.top, area.bottom),
        ) else {
            return;
        };
        let width = columns.1 - columns.0 + 1;
        self.sums.clear();
        self.sums.resize(width * (rows.1 - rows.0 + 1), 0.0);
        for prototype in 0..answer.prototypes.count {
            let factor = answer
                .coefficients
                .at(candidate.row, answer.first_coefficient + prototype);
            for (y, sums) in (rows.0..).zip(self.sums.chunks_exact_mut(width)) {
                answer
                    .prototypes
                    .add(prototype, y * cells.width + columns.0, factor, sums);
            }
        }
        let window = Cells {
            values: &self.sums,
            first_column: columns.0,
            first_row: rows.0,
            columns: width,
        };
        let limit = logit(self.form.objects().threshold);
        let stride = map.width;
        scan(&cells.columns, &cells.rows, window, area, limit, |y, from, to| {
            map.labels[y * stride + from..y * stride + to].fill(object.number);
        });
    }
}

impl Decoder for PrototypesDecoder {
    fn read(&self, outputs: &mut Outputs, answer: &mut Answer) -> Result<()> {
        self.reader.read(outputs, answer)
    }

    fn decode(&mut self, answer: &Answer, map: &mut LabelMap, segments: &mut Vec<Segment>) {
        let answer = was_read(self.form.prototyped(outputs_of(answer)));
        self.place.clear(map, segments);
        let size = (answer.prototypes.width, answer.prototypes.height);
        self.place.cells(&mut self.cells, size);
        self.collect(&answer);
        self.choose();
        enlist(&mut self.found, self.form.objects(), &self.hidden, segments);
        let found = std::mem::take(&mut self.found);
        for object in found.iter().rev() {
            self.draw(&answer, object, map);
        }
        self.found = found;
    }

    fn hide(&mut self, classes: &Hidden) {
        self.hidden = *classes;
    }
}
