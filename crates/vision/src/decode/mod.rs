//! A network's outputs to what is in the picture: one decoder for each `output.kind` of the contract.

use crate::answer::{Answer, Reader};
use crate::error::Result;
use crate::frame::Mask;
use crate::model::contract::{Contract, OutputKind};
use crate::scene::Segment;
use crate::tensor::{InputSize, Outputs, Placement};

pub mod semantic;

pub use semantic::SemanticDecoder;

/// Makes label maps and segments of a network's outputs, for pictures of one size.
pub trait Decoder: Send {
    /// Checks the outputs and brings them into `answer`; buffers may change hands.
    ///
    /// # Errors
    /// As [`Reader::read`].
    fn read(&self, outputs: &mut Outputs, answer: &mut Answer) -> Result<()>;

    /// Writes the number of each pixel's segment into `map`, which gets the picture's size, and what the segments are
    /// into `segments`. `answer` is one that [`read`](Self::read) made.
    fn decode(&mut self, answer: &Answer, map: &mut Mask, segments: &mut Vec<Segment>);
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
    match contract.output.kind {
        OutputKind::Semantic => Box::new(Semantic {
            reader: Reader::new(contract, origin),
            decoder: SemanticDecoder::new(contract.output.grid, size, placement, width, height),
            classes: contract.classes.len(),
        }),
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

    fn decode(&mut self, answer: &Answer, map: &mut Mask, segments: &mut Vec<Segment>) {
        self.decoder.run(answer, map);
        if segments.len() != self.classes {
            segments.clear();
            segments.extend(
                (0..=u8::MAX)
                    .take(self.classes)
                    .map(|class| Segment::of_class(class.into())),
            );
        }
    }
}
