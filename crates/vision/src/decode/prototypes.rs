//! Objects whose masks are sums of prototypes: YOLO's segmenting networks, YOLACT.
//!
//! A candidate has a box, scores, and a coefficient for each prototype. Its mask is the sum of coefficients times
//! prototypes, made a probability by the logistic function, scaled up bilinearly to the picture and cut off at the box.
//! Only the cells around the box are summed up, and only for candidates that stay.
//!
//! Which candidates stay is told in [`candidates`](super::candidates).

use super::boxes::pixels;
use super::candidates::Candidates;
use super::roster::{Found, Hidden, enlist};
use super::semantic::cells::CellMap;
use super::stamp::{Area, Cells, cells_around, scan};
use super::{Decoder, Place, outputs_of, was_read};
use crate::answer::objects::{Form, Prototyped, logit};
use crate::answer::{Answer, Reader};
use crate::error::Result;
use crate::frame::LabelMap;
use crate::model::contract::Contract;
use crate::scene::Segment;
use crate::tensor::Outputs;

/// Decodes [`OutputKind::Prototypes`](crate::model::contract::OutputKind::Prototypes).
pub(super) struct PrototypesDecoder {
    reader: Reader,
    form: Form,
    place: Place,
    hidden: Hidden,
    cells: Option<CellMap>,
    candidates: Candidates,
    found: Vec<Found>,
    sums: Vec<f32>,
}

impl PrototypesDecoder {
    pub fn new(contract: &Contract, origin: &str, place: Place) -> Self {
        Self {
            reader: Reader::new(contract, origin),
            form: Form::new(contract),
            place,
            hidden: [false; 256],
            cells: None,
            candidates: Candidates::new(contract, place.size),
            found: Vec::new(),
            sums: Vec::new(),
        }
    }

    /// Draws one object.
    fn draw(&mut self, answer: &Prototyped<'_>, object: &Found, map: &mut LabelMap) {
        let (Some(cells), Some(candidate)) = (&self.cells, self.candidates.list.get(object.index)) else {
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
        self.candidates
            .find(&answer.detected, &self.form, &self.hidden, &mut self.found);
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
