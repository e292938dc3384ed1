//! Candidates with boxes: which are sure enough, and which of them stay beside each other.
//!
//! A candidate is of the class with the largest score. If a hidden class has a score that would do for doubt, the candidate
//! is doubtful of that class as well.

use super::boxes::{Corners, Fate, suppress};
use super::roster::{Found, Hidden};
use crate::answer::objects::{Detected, Form, probability, whole_number};
use crate::model::contract::{BoxForm, Contract, DetectionForm, Role};
use crate::tensor::InputSize;

/// Candidates that are compared with each other, those of the highest scores. More than any picture has objects, and few
/// enough for a comparison of each with each.
pub(super) const CANDIDATES: usize = 1024;

/// A candidate that is sure enough.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Where its numbers are.
    pub row: usize,
    pub class: u8,
    pub score: f32,
    pub corners: Corners,
    /// Of a hidden class that is not the likeliest.
    unlikely: bool,
}

/// The candidates of a picture.
pub(super) struct Candidates {
    size: InputSize,
    /// Whether a candidate's best class is written in place of a score for each.
    picked: bool,
    best: Vec<(f32, u32)>,
    /// Of hidden classes first, then the surest first.
    pub list: Vec<Candidate>,
    kept: Vec<usize>,
}

impl Candidates {
    /// For an input of `size`.
    pub fn new(contract: &Contract, size: InputSize) -> Self {
        let output = &contract.output;
        Self {
            size,
            picked: output.position(Role::Detections).is_some()
                && output.objects.detections == DetectionForm::BestClass,
            best: Vec::new(),
            list: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// Writes what is found into `found`, whose [`index`](Found::index) is a place in [`list`](Self::list).
    pub fn find(&mut self, answer: &Detected<'_>, form: &Form, hidden: &Hidden, found: &mut Vec<Found>) {
        self.collect(answer, form, hidden);
        self.choose(form, hidden, found);
    }

    /// Candidates that are sure enough: of hidden classes first, then the surest first.
    fn collect(&mut self, answer: &Detected<'_>, form: &Form, hidden: &Hidden) {
        let objects = *form.objects();
        let size = self.size;
        let classes = if self.picked { 1 } else { form.known_classes() };
        let range = answer.first_score..answer.first_score + classes;
        answer.scores.largest(range, &mut self.best);
        let factor = |row: usize| {
            answer.objectness.map_or(1.0, |field| {
                probability(objects.activation, answer.scores.at(row, field))
            })
        };
        let corners = |row: usize| {
            let numbers = [0, 1, 2, 3].map(|field| answer.boxes.at(row, field));
            match objects.boxes {
                BoxForm::Cells => Corners::of_cell(numbers, row, size),
                BoxForm::CenterSize | BoxForm::Corners => Corners::new(numbers, &objects, size),
            }
        };
        self.list.clear();
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
            let class = form.class(label).unwrap_or(0);
            if class > 0 && Found::new(row, class, score, &objects, hidden).is_some() {
                self.list.push(Candidate {
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
                let other = form.class(label as i64).unwrap_or(0);
                if other == 0 || other == class || !hidden[usize::from(other)] {
                    continue;
                }
                let score = answer.scores.at(row, answer.first_score + label);
                let score = probability(objects.activation, score) * factor(row);
                if score >= objects.doubt {
                    self.list.push(Candidate {
                        row,
                        class: other,
                        score,
                        corners: corners(row),
                        unlikely: true,
                    });
                }
            }
        }
        let is_hidden = |candidate: &Candidate| hidden[usize::from(candidate.class)];
        let order = |a: &Candidate, b: &Candidate| {
            let hidden_first = is_hidden(b).cmp(&is_hidden(a));
            let likely_first = a.unlikely.cmp(&b.unlikely);
            let best_first = b.score.total_cmp(&a.score);
            hidden_first
                .then(likely_first)
                .then(best_first)
                .then(a.row.cmp(&b.row))
        };
        if self.list.len() > CANDIDATES {
            self.list.select_nth_unstable_by(CANDIDATES, order);
            self.list.truncate(CANDIDATES);
        }
        self.list.sort_unstable_by(order);
    }

    /// Candidates become objects.
    fn choose(&mut self, form: &Form, hidden: &Hidden, found: &mut Vec<Found>) {
        let objects = *form.objects();
        let candidates = &self.list;
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
}
