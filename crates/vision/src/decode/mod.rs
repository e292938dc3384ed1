//! A network's outputs to what is in the picture: one decoder for each `output.kind` of the contract.

use crate::answer::{Answer, Reader};
use crate::error::Result;
use crate::frame::LabelMap;
use crate::model::contract::{Contract, Grid, OutputKind};
use crate::scene::Segment;
use crate::tensor::{InputSize, Outputs, Placement};

mod boxes;
mod boxes_masks;
mod candidates;
mod centers;
mod classes_boxes;
mod kernels;
mod prototypes;
mod queries;
mod regions;
mod roster;
pub mod semantic;
mod stamp;
#[cfg(test)]
mod tests;

use boxes_masks::BoxesMasksDecoder;
use centers::CentersDecoder;
use classes_boxes::ClassesBoxesDecoder;
use kernels::KernelsDecoder;
use prototypes::PrototypesDecoder;
use queries::QueriesDecoder;
use regions::RegionsDecoder;
pub use roster::Hidden;
pub use semantic::SemanticDecoder;
use semantic::cells::CellMap;

/// Makes label maps and segments of a network's outputs, for pictures of one size.
pub trait Decoder: Send {
    /// Checks the outputs and brings them into `answer`; buffers may change hands.
    ///
    /// # Errors
    /// As [`Reader::read`].
    fn read(&self, outputs: &mut Outputs, answer: &mut Answer) -> Result<()>;

    /// Writes the number of each pixel's segment into `map`, which gets the picture's size, and what the segments are
    /// into `segments`. `answer` is one that [`read`](Self::read) made.
    ///
    /// A decoder of objects gives at most [`MAX_SEGMENTS`](crate::model::contract::MAX_SEGMENTS) of them. Pixels that
    /// no object covers are the first class's; where objects overlap, the surer one is in front.
    fn decode(&mut self, answer: &Answer, map: &mut LabelMap, segments: &mut Vec<Segment>);

    /// Names the classes that must not be seen, from the next picture on. Their objects are in front of all others, and
    /// those that are [too unsure](Segment::doubtful) for an object are found as well. Decoders of classes alone have
    /// nothing to do: each pixel has the class that it has.
    fn hide(&mut self, classes: &Hidden) {
        let _ = classes;
    }
}

/// The decoder that `contract` asks for. The picture has `width` x `height` pixels and fills `placement` of an input of
/// `size`; `origin` names the network in errors.
///
/// # Panics
/// If a side is 0 or `placement` exceeds `size`.
pub fn decoder(
    contract: &Contract,
    origin: &str,
    size: InputSize,
    placement: Placement,
    (width, height): (usize, usize),
) -> Box<dyn Decoder> {
    let place = Place {
        grid: contract.output.grid,
        size,
        window: placement,
        picture: (width, height),
    };
    match contract.output.kind {
        // What binary networks say is read as logits of two classes.
        OutputKind::Semantic | OutputKind::Binary => {
            let classes = Semantic {
                reader: Reader::new(contract, origin),
                decoder: place.semantic(),
                classes: contract.classes.len(),
            };
            if contract.output.regions {
                Box::new(RegionsDecoder::new(contract, classes, place))
            } else {
                Box::new(classes)
            }
        }
        OutputKind::Prototypes if !contract.output.has_boxes() => {
            Box::new(KernelsDecoder::new(contract, origin, place))
        }
        OutputKind::Prototypes => Box::new(PrototypesDecoder::new(contract, origin, place)),
        OutputKind::BoxesMasks => Box::new(BoxesMasksDecoder::new(contract, origin, place)),
        OutputKind::Queries => Box::new(QueriesDecoder::new(contract, origin, place)),
        OutputKind::Centers => Box::new(CentersDecoder::new(contract, origin, place)),
        OutputKind::Boxes => Box::new(ClassesBoxesDecoder::new(contract, origin, place)),
    }
}

/// Where the picture lies in the network's input, and how large it is.
#[derive(Debug, Clone, Copy)]
struct Place {
    grid: Grid,
    size: InputSize,
    window: Placement,
    picture: (usize, usize),
}

impl Place {
    /// Leaves every pixel to the first class.
    fn clear(&self, map: &mut LabelMap, segments: &mut Vec<Segment>) {
        self.blank(map);
        segments.clear();
        segments.push(Segment::of_class(0));
    }

    /// A map of zeros.
    fn blank(&self, map: &mut LabelMap) {
        (map.width, map.height) = self.picture;
        map.labels.clear();
        map.labels.resize(map.width * map.height, 0);
    }

    /// Makes `cells` those of an output of `width` x `height`, if they are not.
    fn cells<'a>(&self, cells: &'a mut Option<CellMap>, (width, height): (usize, usize)) -> &'a CellMap {
        if cells
            .as_ref()
            .is_some_and(|c| (c.width, c.height) != (width, height))
        {
            *cells = None;
        }
        cells.get_or_insert_with(|| {
            CellMap::new(self.grid, self.size, self.window, self.picture, width, height)
        })
    }

    fn semantic(&self) -> SemanticDecoder {
        let (width, height) = self.picture;
        SemanticDecoder::new(self.grid, self.size, self.window, width, height)
    }
}

/// Makes segment `i` class `i`, for `classes` of them, and no other.
fn one_of_each_class(classes: usize, segments: &mut Vec<Segment>) {
    segments.clear();
    segments.extend(
        (0..=u8::MAX)
            .take(classes)
            .map(|class| Segment::of_class(class.into())),
    );
}

/// The outputs of an answer of objects.
///
/// # Panics
/// If it is another answer.
fn outputs_of(answer: &Answer) -> &Outputs {
    match answer {
        Answer::Objects(outputs) => outputs,
        _ => panic!("classes for a decoder of objects"),
    }
}

/// What reading an answer has checked already.
///
/// # Panics
/// If the answer was not read.
fn was_read<T>(found: Result<T, String>) -> T {
    match found {
        Ok(found) => found,
        Err(why) => panic!("an answer that was not read: {why}"),
    }
}

/// Segment `i` is class `i`.
struct Semantic {
    reader: Reader,
    decoder: SemanticDecoder,
    classes: usize,
}

impl Decoder for Semantic {
    fn read(&self, outputs: &mut Outputs, answer: &mut Answer) -> Result<()> {
        self.reader.read(outputs, answer)
    }

    fn decode(&mut self, answer: &Answer, map: &mut LabelMap, segments: &mut Vec<Segment>) {
        self.decoder.run(answer, map);
        if segments.len() != self.classes {
            one_of_each_class(self.classes, segments);
        }
    }
}
