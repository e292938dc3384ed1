//! Connected regions of a class as objects, for networks that give classes alone.
//!
//! # What it computes
//! Pixels of one class that touch, by a side or a corner, are a region. Regions of a thing that are large enough become objects,
//! the largest first; those that are not stay with their class. A region's score is the mean probability of its
//! class in the cells whose centres it holds; 1 if the network gives labels and no scores.
//!
//! Two people side by side are one region: what touches can't be told apart.

use super::{Decoder, Place, Semantic};
use crate::answer::Answer;
use crate::answer::objects::Planes;
use crate::error::Result;
use crate::frame::{LabelMap, run_end};
use crate::model::contract::{Contract, Grid, MAX_SEGMENTS};
use crate::scene::Segment;
use crate::tensor::Outputs;

/// Least share of the picture that an object takes.
const LEAST: f64 = 0.001;
/// Cells that are looked at for the scores, at most: of finer outputs every second or third row and column.
const CELLS: usize = 4096;
/// A run's region that has no number.
const NONE: u32 = u32::MAX;

/// Pixels of one class side by side in a row.
#[derive(Debug, Clone, Copy)]
struct Run {
    row: u32,
    start: u32,
    /// The column after its last.
    end: u32,
    class: u8,
    /// An earlier run of the same region, or itself.
    parent: u32,
}

/// What is known of a region.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    pub class: u8,
    pixels: u32,
    /// Sum of the class's probabilities, and how many cells they are of.
    probability: (f32, u32),
}

/// Decodes classes, and tells their regions apart.
pub(super) struct RegionsDecoder {
    classes: Semantic,
    most: usize,
    regions: Regions,
    /// The number of each region.
    numbers: Vec<Option<u8>>,
}

impl RegionsDecoder {
    pub(super) fn new(contract: &Contract, classes: Semantic, place: Place) -> Self {
        Self {
            classes,
            most: contract.output.objects.max_objects,
            regions: Regions::new(contract, place),
            numbers: Vec::new(),
        }
    }
}

/// The regions of things in a map of classes.
pub(super) struct Regions {
    place: Place,
    is_thing: Vec<bool>,
    runs: Vec<Run>,
    /// Where each row's runs begin, and after the last one the end.
    rows: Vec<usize>,
    regions: Vec<Region>,
    /// The region of each run.
    owners: Vec<u32>,
    /// Large regions, the largest first.
    order: Vec<u32>,
}

impl Regions {
    pub fn new(contract: &Contract, place: Place) -> Self {
        Self {
            place,
            is_thing: contract.classes.iter().map(|class| class.thing).collect(),
            runs: Vec::new(),
            rows: Vec::new(),
            regions: Vec::new(),
            owners: Vec::new(),
            order: Vec::new(),
        }
    }

    /// Finds the regions of `map`, and how sure the network is of each.
    pub fn find(&mut self, map: &LabelMap, logits: Option<Planes<'_>>) {
        self.read_runs(map);
        self.measure();
        if let Some(logits) = logits {
            self.rate(logits);
        }
        let least = LEAST * (map.width * map.height) as f64;
        self.order.clear();
        self.order
            .extend((0..).zip(&self.regions).filter_map(|(number, region)| {
                let is_object = f64::from(region.pixels) >= least;
                is_object.then_some(number)
            }));
        let regions = &self.regions;
        // Of regions of one size the upper one comes first.
        self.order
            .sort_unstable_by_key(|number| (u32::MAX - regions[*number as usize].pixels, *number));
    }

    /// How many regions there are, of any size.
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// Those that are large enough for objects, by their places, the largest first.
    pub fn large(&self) -> impl Iterator<Item = (usize, &Region)> {
        self.order
            .iter()
            .map(|&number| (number as usize, &self.regions[number as usize]))
    }

    /// Each run of pixels: its place in a map of `width`, and its region's.
    pub fn runs(&self, width: usize) -> impl Iterator<Item = (std::ops::Range<usize>, usize)> {
        self.runs.iter().zip(&self.owners).map(move |(run, owner)| {
            let row = run.row as usize * width;
            (row + run.start as usize..row + run.end as usize, *owner as usize)
        })
    }

    /// The runs of things, joined to those that they touch in the row above.
    fn read_runs(&mut self, map: &LabelMap) {
        self.runs.clear();
        self.rows.clear();
        for (y, row) in (0_u32..).zip(map.labels.chunks_exact(map.width.max(1))) {
            let above = self.rows.last().copied().unwrap_or(0);
            let began = self.runs.len();
            self.rows.push(began);
            let mut first = above;
            let mut at = 0;
            while let Some(&class) = row.get(at) {
                let end = run_end(row, at, class);
                if self.is_thing.get(usize::from(class)).is_some_and(|thing| *thing) {
                    let number = self.runs.len() as u32;
                    self.runs.push(Run {
                        row: y,
                        start: at as u32,
                        end: end as u32,
                        class,
                        parent: number,
                    });
                    first = self.join(first..began, number);
                }
                at = end;
            }
        }
        self.rows.push(self.runs.len());
    }

    /// Joins a run to those of the row above that it touches; returns the first of them that the next run may touch.
    fn join(&mut self, above: std::ops::Range<usize>, number: u32) -> usize {
        let run = self.runs[number as usize];
        let mut first = above.start;
        for other in above {
            let upper = self.runs[other];
            if upper.start > run.end {
                break;
            }
            if upper.end < run.start {
                first = other + 1;
            } else if upper.class == run.class {
                let (a, b) = (self.root(other as u32), self.root(number));
                // The earlier one is the root, so that a root comes before all that lead to it.
                self.runs[a.max(b) as usize].parent = a.min(b);
            }
        }
        first
    }

    fn root(&mut self, mut run: u32) -> u32 {
        loop {
            let parent = self.runs[run as usize].parent;
            if parent == run {
                return run;
            }
            let next = self.runs[parent as usize].parent;
            self.runs[run as usize].parent = next;
            run = next;
        }
    }

    /// Counts the regions' pixels.
    fn measure(&mut self) {
        self.regions.clear();
        self.owners.clear();
        self.owners.resize(self.runs.len(), NONE);
        for run in 0..self.runs.len() {
            let root = self.root(run as u32) as usize;
            let Run {
                start, end, class, ..
            } = self.runs[run];
            if self.owners[root] == NONE {
                self.owners[root] = self.regions.len() as u32;
                self.regions.push(Region {
                    class,
                    pixels: 0,
                    probability: (0.0, 0),
                });
            }
            self.owners[run] = self.owners[root];
            self.regions[self.owners[root] as usize].pixels += end - start;
        }
    }

    /// The region that holds a pixel.
    fn region_at(&self, x: usize, y: usize) -> Option<usize> {
        let row = *self.rows.get(y)?..*self.rows.get(y + 1)?;
        let runs = &self.runs[row.clone()];
        let at = runs.partition_point(|run| run.end as usize <= x);
        let run = runs.get(at).filter(|run| run.start as usize <= x)?;
        debug_assert_eq!(run.row as usize, y, "rows are where they begin");
        Some(self.owners[row.start + at] as usize)
    }

    /// How sure the network is of each region.
    fn rate(&mut self, logits: Planes<'_>) {
        let (width, height) = (logits.width, logits.height);
        let mut step = 1;
        while height.div_ceil(step) * width.div_ceil(step) > CELLS {
            step += 1;
        }
        for row in (0..height).step_by(step) {
            for column in (0..width).step_by(step) {
                let Some((x, y)) = self.pixel_of((column, row), (width, height)) else {
                    continue;
                };
                let Some(region) = self.region_at(x, y) else {
                    continue;
                };
                let region = &mut self.regions[region];
                let cell = row * width + column;
                let own = logits.at(usize::from(region.class), cell);
                let others: f32 = (0..logits.count)
                    .map(|class| (logits.at(class, cell) - own).exp())
                    .sum();
                region.probability.0 += others.recip();
                region.probability.1 += 1;
            }
        }
    }

    /// The pixel under a cell's centre, if the picture reaches there.
    fn pixel_of(&self, cell: (usize, usize), cells: (usize, usize)) -> Option<(usize, usize)> {
        let Place {
            grid,
            size,
            window,
            picture,
        } = self.place;
        let along = |cell: usize, cells: usize, side: usize, from: usize, length: usize, pixels: usize| {
            let centre = match grid {
                Grid::HalfPixel => (cell as f64 + 0.5) * side as f64 / cells as f64,
                Grid::AlignCorners => 0.5 + cell as f64 * (side as f64 - 1.0) / (cells as f64 - 1.0).max(1.0),
            };
            let pixel = (centre - from as f64) * pixels as f64 / length as f64;
            (pixel >= 0.0 && pixel < pixels as f64).then_some(pixel as usize)
        };
        Some((
            along(cell.0, cells.0, size.width, window.x, window.width, picture.0)?,
            along(cell.1, cells.1, size.height, window.y, window.height, picture.1)?,
        ))
    }
}

impl Region {
    /// Mean probability; that of a region between the cells is not known better than by a guess.
    pub fn score(&self, has_scores: bool) -> f32 {
        match self.probability {
            _ if !has_scores => 1.0,
            (_, 0) => 0.5,
            (sum, cells) => (sum / cells as f32).clamp(0.0, 1.0),
        }
    }
}

impl Decoder for RegionsDecoder {
    fn read(&self, outputs: &mut Outputs, answer: &mut Answer) -> Result<()> {
        self.classes.read(outputs, answer)
    }

    fn decode(&mut self, answer: &Answer, map: &mut LabelMap, segments: &mut Vec<Segment>) {
        self.classes.decode(answer, map, segments);
        let logits = match answer {
            Answer::Logits {
                classes,
                height,
                width,
                values,
            } => Some(Planes::new(values, *classes, *height, *width)),
            _ => None,
        };
        self.regions.find(map, logits);
        let classes = self.classes.classes;
        segments.truncate(classes);
        self.numbers.clear();
        self.numbers.resize(self.regions.len(), None);
        let mut instances = [0; 256];
        let room = self.most.min(MAX_SEGMENTS.saturating_sub(classes));
        for (place, region) in self.regions.large().take(room) {
            self.numbers[place] = u8::try_from(segments.len()).ok();
            let instance = &mut instances[usize::from(region.class)];
            *instance += 1;
            segments.push(Segment {
                instance: Some(*instance - 1),
                score: region.score(logits.is_some()),
                ..Segment::of_class(region.class.into())
            });
        }
        for (pixels, region) in self.regions.runs(map.width) {
            if let Some(number) = self.numbers[region] {
                map.labels[pixels].fill(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::answer::Reader;
    use crate::tensor::{InputSize, Placement};

    const SIZE: InputSize = InputSize {
        width: 64,
        height: 48,
    };

    fn contract(classes: usize) -> Contract {
        let mut text = format!(
            "format = 2\nname = \"made\"\n[input]\nlayout = \"nchw\"\ndtype = \"f32\"\ncolor = \"rgb\"\nresize = \"stretch\"\n\
             width = {}\nheight = {}\n[output]\nkind = \"logits\"\nregions = true\n",
            SIZE.width, SIZE.height
        );
        for class in 0..classes {
            // The first one is background, the last one is stuff.
            let kind = match class {
                0 => "background = true",
                _ if class + 1 == classes => "",
                _ => "thing = true",
            };
            text += &format!("[[classes]]\nname = \"{class}\"\ncolor = [0, 0, 0]\n{kind}\n");
        }
        text += "[[files]]\npath = \"a.onnx\"\nprecision = \"fp32\"\nbackends = [\"ort\"]\nsha256 = \"";
        text += &"0".repeat(64);
        Contract::parse(&(text + "\"\n"), "made").unwrap()
    }

    fn decoder(contract: &Contract, window: Placement, picture: (usize, usize)) -> RegionsDecoder {
        let place = Place {
            grid: Grid::HalfPixel,
            size: SIZE,
            window,
            picture,
        };
        let classes = Semantic {
            reader: Reader::new(contract, "made"),
            decoder: place.semantic(),
            classes: contract.classes.len(),
        };
        RegionsDecoder::new(contract, classes, place)
    }

    fn whole() -> Placement {
        Placement {
            x: 0,
            y: 0,
            width: SIZE.width,
            height: SIZE.height,
        }
    }

    /// The pixels of the region that holds `from`, found by walking from neighbour to neighbour.
    fn flooded(map: &LabelMap, from: usize) -> Vec<usize> {
        let (mut found, mut open) = (vec![false; map.labels.len()], vec![from]);
        found[from] = true;
        while let Some(pixel) = open.pop() {
            let (x, y) = ((pixel % map.width) as isize, (pixel / map.width) as isize);
            for (dx, dy) in (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dx, dy))) {
                let (x, y) = (x + dx, y + dy);
                if x < 0 || y < 0 || x >= map.width as isize || y >= map.height as isize {
                    continue;
                }
                let other = y as usize * map.width + x as usize;
                if !found[other] && map.labels[other] == map.labels[from] {
                    found[other] = true;
                    open.push(other);
                }
            }
        }
        (0..found.len()).filter(|pixel| found[*pixel]).collect()
    }

    proptest! {
        #[test]
        fn objects_are_what_a_walk_from_pixel_to_pixel_finds(
            (width, height) in (1..40_usize, 1..30_usize),
            pieces in prop::collection::vec((0..5_u8, 1..9_usize), 1..300),
            most in 1..30_usize,
        ) {
            let labels = pieces.iter().flat_map(|(class, count)| std::iter::repeat_n(*class, *count));
            let labels: Vec<u8> = labels.cycle().take(width * height).collect();
            let mut contract = contract(5);
            contract.output.objects.max_objects = most;
            let mut decoder = decoder(&contract, whole(), (width, height));
            let (mut map, mut segments) = (LabelMap::zeros(0, 0), Vec::new());
            // Labels of the picture's own size, so that they are the map. Twice: nothing of the first time may be left.
            let answer = Answer::Labels { height, width, labels };
            decoder.classes.decode(&answer, &mut map, &mut segments);
            let classes = map.clone();
            decoder.decode(&answer, &mut map, &mut segments);
            decoder.decode(&answer, &mut map, &mut segments);

            let mut regions: Vec<Vec<usize>> = Vec::new();
            for pixel in 0..classes.labels.len() {
                let is_thing = contract.classes[usize::from(classes.labels[pixel])].thing;
                if is_thing && !regions.iter().any(|region| region.contains(&pixel)) {
                    regions.push(flooded(&classes, pixel));
                }
            }
            regions.retain(|region| region.len() as f64 >= LEAST * (width * height) as f64);
            // Stable: of regions of one size the upper one comes first.
            regions.sort_by_key(|region| std::cmp::Reverse(region.len()));
            regions.truncate(most);
            let mut expected = classes.clone();
            for (number, region) in (5_u8..).zip(&regions) {
                region.iter().for_each(|pixel| expected.labels[*pixel] = number);
            }
            prop_assert_eq!(&map, &expected);
            prop_assert_eq!(segments.len(), 5 + regions.len());
            for (segment, region) in segments[5..].iter().zip(&regions) {
                prop_assert_eq!(segment.class, u16::from(classes.labels[region[0]]));
                prop_assert_eq!(segment.score, 1.0);
            }
            let mut named: Vec<_> = segments[5..].iter().map(|s| (s.class, s.instance)).collect();
            named.sort_unstable();
            named.dedup();
            prop_assert_eq!(named.len(), regions.len(), "no instance twice");
        }
    }

    #[test]
    fn a_score_is_the_mean_probability_of_the_cells_inside() {
        // 8 x 6 cells of 8 x 8 pixels; class 1 in the left three columns, surer in the upper half; the picture is the window's.
        let (columns, rows) = (8, 6);
        let logit = |class: usize, x: usize, y: usize| match class {
            1 if x < 3 => 1.0 + f32::from(u8::from(y < 3)),
            0 if x >= 3 => 4.0,
            _ => 0.0,
        };
        let mut values = Vec::new();
        for class in 0..3 {
            for y in 0..rows {
                values.extend((0..columns).map(|x| logit(class, x, y)));
            }
        }
        let answer = Answer::Logits {
            classes: 3,
            height: rows,
            width: columns,
            values,
        };
        let sure = |own: f32| own.exp() / (own.exp() + 2.0);
        let mean = (sure(2.0) + sure(1.0)) / 2.0;
        let contract = contract(3);
        let mut decoder = decoder(&contract, whole(), (128, 96));
        let (mut map, mut segments) = (LabelMap::zeros(0, 0), Vec::new());
        decoder.decode(&answer, &mut map, &mut segments);
        assert_eq!(segments.len(), 4);
        assert!(
            (segments[3].score - mean).abs() < 1e-6,
            "{} {mean}",
            segments[3].score
        );
        assert_eq!((map.labels[0], map.labels[127]), (3, 0));
    }

    #[test]
    fn a_network_that_has_objects_and_a_model_without_things_have_no_use_for_regions() {
        let mut contract = contract(3);
        contract.classes.iter_mut().for_each(|class| class.thing = false);
        contract.output.regions = false;
        contract.tell_regions_apart().unwrap();
        assert_eq!(
            contract
                .classes
                .iter()
                .map(|class| class.thing)
                .collect::<Vec<_>>(),
            [false, true, true]
        );
        let text = contract.to_toml().unwrap();
        assert!(
            text.starts_with("format = 2") && text.contains("regions = true"),
            "{text}"
        );
        assert_eq!(Contract::parse(&text, "again").unwrap().output, contract.output);
        let none = text.replace("thing = true\n", "");
        let why = Contract::parse(&none, "none").unwrap_err().to_string();
        assert!(why.contains("output.regions makes objects of things"), "{why}");
    }
}
