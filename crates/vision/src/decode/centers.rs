//! Pixels that point at the centre of their object: Panoptic-DeepLab.
//!
//! # What it computes
//! Each pixel's class comes from the logits, as [`semantic`](super::semantic) has it. Centres are the cells of the heat map
//! that are at least as sure as the contract says, and that no cell within three exceeds. A pixel of a thing belongs to the
//! centre nearest to where its cell's offset points; the first of equals. An object's class is the one that most of its
//! pixels have. Where there is no centre, and where most of an object is of another class than a hidden one, a pixel stays
//! with its class alone.

use super::roster::Hidden;
use super::semantic::SemanticDecoder;
use super::semantic::cells::CellMap;
use super::{Decoder, Place, one_of_each_class, outputs_of, was_read};
use crate::answer::objects::{Centered, Form, probability};
use crate::answer::{Answer, Reader};
use crate::error::Result;
use crate::frame::LabelMap;
use crate::model::contract::Contract;
use crate::scene::Segment;
use crate::tensor::Outputs;

/// How far around a centre no cell may exceed it.
const AROUND: usize = 3;
/// A cell whose centre has not been looked for yet.
const UNKNOWN: u16 = u16::MAX;

/// A centre: its cell, and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Center {
    x: usize,
    y: usize,
    heat: f32,
}

/// Decodes [`OutputKind::Centers`](crate::model::contract::OutputKind::Centers).
pub(super) struct CentersDecoder {
    reader: Reader,
    form: Form,
    place: Place,
    hidden: Hidden,
    is_thing: Vec<bool>,
    semantic: SemanticDecoder,
    cells: Option<CellMap>,
    centers: Vec<Center>,
    /// The centre of each cell.
    owners: Vec<u16>,
    /// Pixels of each centre and class.
    votes: Vec<u32>,
    /// The segment of each centre, and the class of most of its pixels.
    numbers: Vec<Option<(u8, u8)>>,
}

impl CentersDecoder {
    pub fn new(contract: &Contract, origin: &str, place: Place) -> Self {
        Self {
            reader: Reader::new(contract, origin),
            form: Form::new(contract),
            place,
            hidden: [false; 256],
            is_thing: contract.classes.iter().map(|class| class.thing).collect(),
            semantic: place.semantic(),
            cells: None,
            centers: Vec::new(),
            owners: Vec::new(),
            votes: Vec::new(),
            numbers: Vec::new(),
        }
    }

    /// Finds the centres, the surest first.
    fn find_centers(&mut self, answer: &Centered<'_>) {
        let objects = self.form.objects();
        let (width, height) = (answer.heat.width, answer.heat.height);
        let heat = |x: usize, y: usize| answer.heat.at(0, y * width + x);
        self.centers.clear();
        for y in 0..height {
            for x in 0..width {
                let own = heat(x, y);
                if probability(objects.activation, own) < objects.score {
                    continue;
                }
                let rows = y.saturating_sub(AROUND)..(y + AROUND + 1).min(height);
                let columns = x.saturating_sub(AROUND)..(x + AROUND + 1).min(width);
                let is_exceeded = rows
                    .into_iter()
                    .any(|y| columns.clone().any(|x| heat(x, y) > own));
                if !is_exceeded {
                    let heat = probability(objects.activation, own);
                    self.centers.push(Center { x, y, heat });
                }
            }
        }
        let cell = |center: &Center| center.y * width + center.x;
        self.centers
            .sort_unstable_by(|a, b| b.heat.total_cmp(&a.heat).then(cell(a).cmp(&cell(b))));
        self.centers.truncate(objects.max_objects);
    }
}

/// The centre nearest to where a cell points.
fn nearest(centers: &[Center], answer: &Centered<'_>, scale: [f32; 2], cell: usize) -> u16 {
    let (x, y) = (cell % answer.heat.width, cell / answer.heat.width);
    let target = [
        y as f32 + answer.offsets.at(0, cell) * scale[0],
        x as f32 + answer.offsets.at(1, cell) * scale[1],
    ];
    let mut best = (f32::INFINITY, 0);
    for (number, center) in (0_u16..).zip(centers) {
        let (dy, dx) = (center.y as f32 - target[0], center.x as f32 - target[1]);
        let distance = dy * dy + dx * dx;
        if distance < best.0 {
            best = (distance, number);
        }
    }
    best.1
}

impl Decoder for CentersDecoder {
    fn read(&self, outputs: &mut Outputs, answer: &mut Answer) -> Result<()> {
        self.reader.read(outputs, answer)
    }

    fn decode(&mut self, answer: &Answer, map: &mut LabelMap, segments: &mut Vec<Segment>) {
        let answer = was_read(self.form.centered(outputs_of(answer)));
        let classes = self.is_thing.len();
        let size = (answer.logits.width, answer.logits.height);
        self.semantic
            .run_logits(classes, size, answer.logits.values(), map);
        one_of_each_class(classes, segments);
        self.find_centers(&answer);
        if self.centers.is_empty() {
            return;
        }
        let (width, height) = (answer.heat.width, answer.heat.height);
        let scale = [
            height as f32 / self.place.size.height as f32,
            width as f32 / self.place.size.width as f32,
        ];
        self.owners.clear();
        self.owners.resize(width * height, UNKNOWN);
        self.votes.clear();
        self.votes.resize(self.centers.len() * classes, 0);
        let cells = self.place.cells(&mut self.cells, (width, height));
        let rows = map.labels.chunks_exact_mut(map.width);
        for (row, &down) in rows.zip(&cells.rows.nearest) {
            for (&label, &across) in row.iter().zip(&cells.columns.nearest) {
                if self.is_thing[usize::from(label)] {
                    let cell = down * width + across;
                    let owner = &mut self.owners[cell];
                    if *owner == UNKNOWN {
                        *owner = nearest(&self.centers, &answer, scale, cell);
                    }
                    self.votes[usize::from(*owner) * classes + usize::from(label)] += 1;
                }
            }
        }
        self.numbers.clear();
        for (center, votes) in self.centers.iter().zip(self.votes.chunks_exact(classes)) {
            let mut most = (0, 0);
            for (class, &pixels) in (0..=u8::MAX).zip(votes) {
                if pixels > most.0 {
                    most = (pixels, class);
                }
            }
            let (pixels, class) = most;
            let number = u8::try_from(segments.len()).ok().filter(|_| pixels > 0);
            if number.is_some() {
                segments.push(Segment {
                    class: class.into(),
                    instance: Some((segments.len() - classes) as u32),
                    track: None,
                    score: center.heat.clamp(0.0, 1.0),
                    doubtful: false,
                });
            }
            self.numbers.push(number.map(|number| (number, class)));
        }
        let rows = map.labels.chunks_exact_mut(map.width);
        for (row, &down) in rows.zip(&cells.rows.nearest) {
            for (label, &across) in row.iter_mut().zip(&cells.columns.nearest) {
                let class = usize::from(*label);
                if !self.is_thing[class] {
                    continue;
                }
                let owner = usize::from(self.owners[down * width + across]);
                if let Some(Some((number, most))) = self.numbers.get(owner) {
                    let shows = self.hidden[class] && !self.hidden[usize::from(*most)];
                    if !shows {
                        *label = *number;
                    }
                }
            }
        }
    }

    fn hide(&mut self, classes: &Hidden) {
        self.hidden = *classes;
    }
}
