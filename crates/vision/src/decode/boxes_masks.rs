//! Objects with a small mask each, which fills their box: Mask R-CNN.
//!
//! # What it computes
//! What torchvision's `paste_masks_in_image` does, and a probability above the threshold after it: the mask gets a border
//! of one empty cell, the box grows with it about its centre, its corners are cut off to whole pixels, and the mask is
//! scaled to the box's pixels bilinearly, first and last included. Masks of the input's size have been pasted already, and
//! are only scaled to the picture.

use super::boxes::Corners;
use super::roster::{Found, Hidden, enlist};
use super::semantic::cells::{CellAxis, CellMap};
use super::stamp::{Area, Cells, around, scan, whole};
use super::{Decoder, Place, outputs_of, was_read};
use crate::answer::objects::{BoxedMasks, Form, whole as whole_number};
use crate::answer::{Answer, Reader};
use crate::error::Result;
use crate::frame::LabelMap;
use crate::model::contract::{Contract, Grid};
use crate::scene::Segment;
use crate::tensor::Outputs;

/// Decodes [`OutputKind::BoxesMasks`](crate::model::contract::OutputKind::BoxesMasks).
pub(super) struct BoxesMasksDecoder {
    reader: Reader,
    form: Form,
    place: Place,
    hidden: Hidden,
    /// Of masks that have been pasted.
    cells: Option<CellMap>,
    found: Vec<Found>,
    /// A mask with its border, and its cells on the box's pixels.
    padded: Vec<f32>,
    columns: CellAxis,
    rows: CellAxis,
}

impl BoxesMasksDecoder {
    pub fn new(contract: &Contract, origin: &str, place: Place) -> Self {
        Self {
            reader: Reader::new(contract, origin),
            form: Form::new(contract),
            place,
            hidden: [false; 256],
            cells: None,
            found: Vec::new(),
            padded: Vec::new(),
            columns: CellAxis::empty(),
            rows: CellAxis::empty(),
        }
    }

    fn draw(&mut self, answer: &BoxedMasks<'_>, object: &Found, map: &mut LabelMap) {
        let masks = &answer.masks;
        let Some(mask) = masks.plane(object.index) else {
            return;
        };
        let objects = self.form.objects();
        let stride = map.width;
        if (masks.width, masks.height) == (self.place.size.width, self.place.size.height) {
            let cells = self.place.cells(&mut self.cells, (masks.width, masks.height));
            let area = around(cells, mask, objects.threshold);
            let window = whole(cells, mask);
            scan(
                &cells.columns,
                &cells.rows,
                window,
                area,
                objects.threshold,
                |y, from, to| {
                    map.labels[y * stride + from..y * stride + to].fill(object.number);
                },
            );
            return;
        }
        let numbers = [0, 1, 2, 3].map(|field| answer.boxes.at(object.index, field));
        let corners = Corners::new(numbers, objects, self.place.size);
        let Some([(left, width), (top, height)]) = pasted(
            corners.in_picture(self.place.window, self.place.picture),
            [masks.width, masks.height],
            self.place.picture,
        ) else {
            return;
        };
        let (columns, rows) = (masks.width + 2, masks.height + 2);
        self.padded.clear();
        self.padded.resize(columns * rows, 0.0);
        let inner = self.padded.chunks_exact_mut(columns).skip(1);
        for (row, values) in inner.zip(mask.chunks_exact(masks.width)) {
            row[1..=masks.width].copy_from_slice(values);
        }
        self.columns.set(Grid::HalfPixel, width, 0, width, width, columns);
        self.rows.set(Grid::HalfPixel, height, 0, height, height, rows);
        // The part of the box that lies in the picture.
        let inside = |start: i64, length: usize, side: usize| {
            let first = (-start).clamp(0, length as i64) as usize;
            let last = (side as i64 - start).clamp(0, length as i64) as usize;
            (first, last.max(first))
        };
        let (first_column, last_column) = inside(left, width, map.width);
        let (first_row, last_row) = inside(top, height, map.height);
        let area = Area {
            left: first_column,
            right: last_column,
            top: first_row,
            bottom: last_row,
        };
        let window = Cells {
            values: &self.padded,
            first_column: 0,
            first_row: 0,
            columns,
        };
        scan(
            &self.columns,
            &self.rows,
            window,
            area,
            objects.threshold,
            |y, from, to| {
                // What lies in the area lies in the picture.
                let row = (top + y as i64) as usize * stride;
                let at = |x: usize| row + (left + x as i64) as usize;
                map.labels[at(from)..at(to)].fill(object.number);
            },
        );
    }
}

/// First pixel and number of pixels that a box's mask with its border is scaled to, across and down; `None` for a box that
/// is much larger than the picture or lies nowhere near it.
pub(super) fn pasted(
    [left, top, right, bottom]: [f64; 4],
    mask: [usize; 2],
    (width, height): (usize, usize),
) -> Option<[(i64, usize); 2]> {
    /// Of the picture's side: how far a box may reach past it.
    const REACH: f64 = 8.0;
    let axis = |low: f64, high: f64, cells: usize, side: usize| {
        let scale = (cells + 2) as f64 / cells as f64;
        let (centre, half) = ((low + high) * 0.5, (high - low) * 0.5 * scale);
        let (low, high) = ((centre - half).trunc(), (centre + half).trunc());
        let reach = REACH * side as f64;
        (-reach <= low && high <= reach).then(|| {
            let length = (high - low + 1.0).max(1.0);
            (low as i64, length as usize)
        })
    };
    Some([
        axis(left, right, mask[0], width)?,
        axis(top, bottom, mask[1], height)?,
    ])
}

impl Decoder for BoxesMasksDecoder {
    fn read(&self, outputs: &mut Outputs, answer: &mut Answer) -> Result<()> {
        self.reader.read(outputs, answer)
    }

    fn decode(&mut self, answer: &Answer, map: &mut LabelMap, segments: &mut Vec<Segment>) {
        let answer = was_read(self.form.boxed(outputs_of(answer)));
        self.place.clear(map, segments);
        self.found.clear();
        let objects = *self.form.objects();
        for (index, &score) in answer.scores.iter().enumerate() {
            if score < objects.doubt {
                continue;
            }
            // Reading has seen to it that there is one. What the network calls background is nothing.
            let class = self.form.class(whole_number(answer.classes, index)).unwrap_or(0);
            if class > 0 {
                self.found
                    .extend(Found::new(index, class, score, &objects, &self.hidden));
            }
        }
        enlist(&mut self.found, &objects, &self.hidden, segments);
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
