//! The pixels of a class in a box of that class: a semantic network beside a detector.
//!
//! # What it computes
//! Each pixel's class comes from the logits, as [`semantic`](super::semantic) has it, and stays. A pixel of a thing belongs to the
//! object of its class in whose box it lies nearest to the middle: distances across and down count in half sides of the box, and
//! the larger one decides; the surer one of equals. Boxes reach [`MARGIN`] of a half side further than the network says, as masks
//! are rarely cut where boxes end. A box that shows less than [`LEAST`] of its area is no object. Pixels of a thing outside
//! all boxes have their class alone.
//!
//! With `output.regions` a large connected region of a class that no object has a pixel of is an object too, as
//! [`regions`](super::regions) has them, half as sure as its class: a detector as small as these misses things that fill the picture.
//!
//! Boxes of hidden classes see what the classes miss: one in which less than [`LEAST`] is of its class is hidden as a whole.

use super::boxes::{check_cells, pixels};
use super::candidates::Candidates;
use super::regions::Regions;
use super::roster::{Found, Hidden, enlist};
use super::semantic::SemanticDecoder;
use super::{Decoder, Place, one_of_each_class, outputs_of, was_read};
use crate::answer::objects::{Form, Planes};
use crate::answer::{Answer, Reader};
use crate::error::{Error, Result};
use crate::frame::LabelMap;
use crate::model::contract::{BoxForm, Contract, MAX_SEGMENTS};
use crate::scene::Segment;
use crate::tensor::Outputs;

/// How far a box reaches beyond its sides, in half sides.
pub(super) const MARGIN: f64 = 0.08;
/// Share of a box that has to be of its class.
pub(super) const LEAST: f64 = 0.05;
/// How sure a region without a box is, as a share of its class's probability.
pub(super) const UNBOXED: f32 = 0.5;
/// A pixel that no box claims.
const NOBODY: u16 = u16::MAX;

/// Decodes [`OutputKind::Boxes`](crate::model::contract::OutputKind::Boxes).
pub(super) struct ClassesBoxesDecoder {
    reader: Reader,
    form: Form,
    origin: String,
    place: Place,
    hidden: Hidden,
    is_thing: Vec<bool>,
    semantic: SemanticDecoder,
    candidates: Candidates,
    found: Vec<Found>,
    /// Of each pixel, how far it is from the middle of the nearest box.
    distances: Vec<f32>,
    /// Whose box that is: a place in the list of candidates.
    owners: Vec<u16>,
    /// Of each candidate, how many pixels it owns.
    owned: Vec<u32>,
    /// Of each candidate, its segment.
    numbers: Vec<Option<u8>>,
    /// With `output.regions`.
    regions: Option<Regions>,
    /// Of each region, whether a box has a pixel of it; then its segment.
    boxed: Vec<bool>,
    region_numbers: Vec<Option<u8>>,
}

impl ClassesBoxesDecoder {
    pub fn new(contract: &Contract, origin: &str, place: Place) -> Self {
        Self {
            reader: Reader::new(contract, origin),
            form: Form::new(contract),
            origin: origin.to_owned(),
            place,
            hidden: [false; 256],
            is_thing: contract.classes.iter().map(|class| class.thing).collect(),
            semantic: place.semantic(),
            candidates: Candidates::new(contract, place.size),
            found: Vec::new(),
            distances: Vec::new(),
            owners: Vec::new(),
            owned: Vec::new(),
            numbers: Vec::new(),
            regions: contract.output.regions.then(|| Regions::new(contract, place)),
            boxed: Vec::new(),
            region_numbers: Vec::new(),
        }
    }

    /// A candidate's box in the picture: left, top, right, bottom.
    fn corners(&self, index: usize, map: &LabelMap) -> [f64; 4] {
        self.candidates.list[index]
            .corners
            .in_picture(self.place.window, (map.width, map.height))
    }

    /// Each pixel goes to the box whose middle is nearest.
    fn claim(&mut self, map: &LabelMap) {
        self.distances.clear();
        self.distances.resize(map.labels.len(), f32::INFINITY);
        self.owners.clear();
        self.owners.resize(map.labels.len(), NOBODY);
        for object in self.found.iter().filter(|object| !object.doubtful) {
            let [left, top, right, bottom] = self.corners(object.index, map);
            let (x, y) = ((left + right) / 2.0, (top + bottom) / 2.0);
            let (width, height) = ((right - left) / 2.0, (bottom - top) / 2.0);
            if !(width > 0.0 && height > 0.0) {
                continue;
            }
            let (across, down) = (width * (1.0 + MARGIN), height * (1.0 + MARGIN));
            let area = pixels(
                [x - across, y - down, x + across, y + down],
                (map.width, map.height),
            );
            if area.is_empty() {
                continue;
            }
            let owner = object.index as u16;
            let (scale_x, scale_y) = (1.0 / width as f32, 1.0 / height as f32);
            let (x, y) = (x as f32, y as f32);
            for row in area.top..area.bottom {
                let cells = row * map.width + area.left..row * map.width + area.right;
                let distance_y = (row as f32 + 0.5 - y).abs() * scale_y;
                let labels = &map.labels[cells.clone()];
                let nearest = &mut self.distances[cells.clone()];
                let owners = &mut self.owners[cells];
                for (((column, &label), nearest), own) in (area.left..).zip(labels).zip(nearest).zip(owners) {
                    let distance = ((column as f32 + 0.5 - x).abs() * scale_x).max(distance_y);
                    if label == object.class && distance < *nearest {
                        *nearest = distance;
                        *own = owner;
                    }
                }
            }
        }
    }

    /// Leaves what shows enough of its class, and what hides a whole box: doubtful, and without pixels of its own.
    fn settle(&mut self, map: &LabelMap) {
        self.owned.clear();
        self.owned.resize(self.candidates.list.len(), 0);
        for &owner in self.owners.iter().filter(|&&owner| owner != NOBODY) {
            self.owned[usize::from(owner)] += 1;
        }
        let mut found = std::mem::take(&mut self.found);
        found.retain_mut(|object| {
            let area = pixels(self.corners(object.index, map), (map.width, map.height));
            if area.is_empty() {
                return false;
            }
            let enough = LEAST * ((area.right - area.left) * (area.bottom - area.top)) as f64;
            if self.hidden[usize::from(object.class)] {
                let rows = map.labels.chunks_exact(map.width);
                let shown = rows
                    .take(area.bottom)
                    .skip(area.top)
                    .flat_map(|row| &row[area.left..area.right])
                    .filter(|&&label| label == object.class)
                    .count();
                if (shown as f64) < enough {
                    self.owned[object.index] = 0;
                    object.doubtful = true;
                    return true;
                }
            }
            let owned = self.owned[object.index];
            !object.doubtful && owned > 0 && f64::from(owned) >= enough
        });
        self.found = found;
    }
}

impl ClassesBoxesDecoder {
    /// Regions of which no object has a pixel become objects, as far as there is room.
    fn find_regions(&mut self, logits: Planes<'_>, map: &mut LabelMap, segments: &mut Vec<Segment>) {
        let Some(regions) = &mut self.regions else {
            return;
        };
        regions.find(map, Some(logits));
        let is_owned = |owner: &u16| matches!(self.numbers.get(usize::from(*owner)), Some(Some(_)));
        self.boxed.clear();
        self.boxed.resize(regions.len(), false);
        for (pixels, region) in regions.runs(map.width) {
            self.boxed[region] = self.boxed[region] || self.owners[pixels].iter().any(is_owned);
        }
        self.region_numbers.clear();
        self.region_numbers.resize(regions.len(), None);
        let boxed = segments
            .iter()
            .filter(|segment| segment.instance.is_some())
            .count();
        let unboxed = regions.large().filter(|(place, _)| !self.boxed[*place]);
        for (instance, (place, region)) in (boxed..self.form.objects().max_objects).zip(unboxed) {
            if segments.len() >= MAX_SEGMENTS {
                break;
            }
            self.region_numbers[place] = u8::try_from(segments.len()).ok();
            segments.push(Segment {
                instance: Some(instance as u32),
                score: UNBOXED * region.score(true),
                ..Segment::of_class(region.class.into())
            });
        }
        for (pixels, region) in regions.runs(map.width) {
            if let Some(number) = self.region_numbers[region] {
                map.labels[pixels].fill(number);
            }
        }
    }
}

impl Decoder for ClassesBoxesDecoder {
    fn read(&self, outputs: &mut Outputs, answer: &mut Answer) -> Result<()> {
        self.reader.read(outputs, answer)?;
        if self.form.objects().boxes == BoxForm::Cells {
            let count = was_read(self.form.classes_and_boxes(outputs_of(answer)))
                .detected
                .boxes
                .count;
            check_cells(count, self.place.size)
                .map_err(|what| Error::fatal(format!("{}: {what}", self.origin)))?;
        }
        Ok(())
    }

    fn decode(&mut self, answer: &Answer, map: &mut LabelMap, segments: &mut Vec<Segment>) {
        let answer = was_read(self.form.classes_and_boxes(outputs_of(answer)));
        let classes = self.is_thing.len();
        let size = (answer.logits.width, answer.logits.height);
        self.semantic
            .run_logits(classes, size, answer.logits.values(), map);
        one_of_each_class(classes, segments);
        self.candidates
            .find(&answer.detected, &self.form, &self.hidden, &mut self.found);
        self.found
            .retain(|object| self.is_thing[usize::from(object.class)]);
        self.claim(map);
        self.settle(map);
        enlist(&mut self.found, self.form.objects(), &self.hidden, segments);
        self.numbers.clear();
        self.numbers.resize(self.candidates.list.len(), None);
        for object in self.found.iter().filter(|object| self.owned[object.index] > 0) {
            self.numbers[object.index] = Some(object.number);
        }
        self.find_regions(answer.logits, map, segments);
        for (label, &owner) in map.labels.iter_mut().zip(&self.owners) {
            if let Some(Some(number)) = self.numbers.get(usize::from(owner)) {
                *label = *number;
            }
        }
        let is_hidden = |segment: &Segment| self.hidden[usize::from(segment.class)];
        let covers = |object: &&Found| object.doubtful && self.owned[object.index] == 0;
        for object in self.found.iter().filter(covers) {
            let area = pixels(self.corners(object.index, map), (map.width, map.height));
            for row in area.top..area.bottom {
                for label in &mut map.labels[row * map.width..][area.left..area.right] {
                    if !is_hidden(&segments[usize::from(*label)]) {
                        *label = object.number;
                    }
                }
            }
        }
    }

    fn hide(&mut self, classes: &Hidden) {
        self.hidden = *classes;
    }
}
