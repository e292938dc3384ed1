//! One picture through the network: preprocess, infer, decode.
//!
//! The stages don't know each other; this joins the three that run on the inference thread. The pipeline,
//! `segd image` and `segd eval` all segment through it, so a score is the score of what is streamed.

use std::collections::VecDeque;
use std::sync::Arc;

use tracing::warn;

use crate::answer::Answer;
use crate::decode::{Decoder, Hidden, decoder};
use crate::error::{Error, Result};
use crate::frame::{FrameFormat, ImageRef, LabelMap};
use crate::infer::{Backend, InputSize, Outputs, RunsOn, Segmenter, TensorData};
use crate::model::Model;
use crate::preprocess::Preprocessor;
use crate::propagate::CellGrid;
use crate::scene::{Segment, classes_of, is_by_class};
use crate::timing::{Step, StepTimer};

/// A backend that takes over when the running one fails.
#[derive(Clone)]
pub struct Fallback {
    /// What it is, for logs.
    pub name: String,
    /// Makes it, once it is needed; what it makes is trusted.
    pub make: MakeBackend,
}

/// Makes a backend that runs a model, and tests it.
pub type MakeBackend = Arc<dyn Fn(&Arc<Model>) -> Result<Arc<dyn Backend>> + Send + Sync>;

/// Tables and buffers for one frame format.
struct Prepared {
    format: FrameFormat,
    size: InputSize,
    preprocessor: Preprocessor,
    decoder: Box<dyn Decoder>,
}

/// Segments pictures of any format with one model on one backend. Used from one thread.
///
/// While the format stays the same nothing is allocated. Networks prepared for other input sizes are kept
/// (up to [`Engine::MAX_PREPARED`]), so that images of a few aspects don't prepare it anew each time.
pub struct Engine {
    model: Arc<Model>,
    backend: Arc<dyn Backend>,
    /// What may take over, in order.
    fallbacks: VecDeque<Fallback>,
    longest: Option<usize>,
    segmenters: Vec<Box<dyn Segmenter>>,
    prepared: Option<Prepared>,
    input: TensorData,
    outputs: Outputs,
    /// For [`segment`](Self::segment).
    answer: Answer,
    segments: Vec<Segment>,
    hidden: Hidden,
    timer: Arc<dyn StepTimer>,
}

impl Engine {
    /// Networks kept for different input sizes.
    pub const MAX_PREPARED: usize = 32;

    /// An engine whose input's longer side is `longest` pixels, or the contract's if `None`; `timer` is told what each step takes.
    pub fn new(
        model: Arc<Model>,
        backend: Arc<dyn Backend>,
        longest: Option<usize>,
        timer: Arc<dyn StepTimer>,
    ) -> Self {
        Self {
            model,
            backend,
            fallbacks: VecDeque::new(),
            longest,
            segmenters: Vec::new(),
            prepared: None,
            input: TensorData::F32(Vec::new()),
            outputs: Outputs::default(),
            answer: Answer::empty(),
            segments: Vec::new(),
            hidden: [false; 256],
            timer,
        }
    }

    /// The same engine, with backends that may take over, in this order, when the running one fails.
    #[must_use]
    pub fn with_fallbacks(mut self, fallbacks: Vec<Fallback>) -> Self {
        self.fallbacks = fallbacks.into();
        self
    }

    /// Whether a backend is left that may take over.
    pub fn has_fallback(&self) -> bool {
        !self.fallbacks.is_empty()
    }

    /// Replaces a failing backend by the next one that works, prepared for the same pictures, and returns what will run.
    /// Returns `None`, changes nothing and has no fallback left if none works. The log says why each could not.
    pub fn fall_back(&mut self) -> Option<RunsOn> {
        let size = self.prepared.as_ref()?.size;
        while let Some(next) = self.fallbacks.pop_front() {
            let made = (next.make)(&self.model)
                .and_then(|backend| Ok((backend.prepare(&self.model, size)?, backend)));
            match made {
                Ok((segmenter, backend)) => {
                    let on = segmenter.runs_on();
                    self.backend = backend;
                    self.segmenters = vec![segmenter];
                    return Some(on);
                }
                Err(why) => warn!("{} can't take over: {why}", next.name),
            }
        }
        None
    }

    /// Prepares the network and the tables for pictures of `format`; says what will run.
    ///
    /// # Errors
    /// As [`Backend::prepare`].
    pub fn prepare(&mut self, format: FrameFormat) -> Result<RunsOn> {
        let input = &self.model.contract.input;
        let size = input.size_for(format.width, format.height, self.longest);
        match self.segmenters.iter().position(|s| s.input_size() == size) {
            // The one in use comes last.
            Some(at) => {
                let last = self.segmenters.len() - 1;
                self.segmenters.swap(at, last);
            }
            None => {
                let segmenter = self.backend.prepare(&self.model, size)?;
                if self.segmenters.len() == Self::MAX_PREPARED {
                    self.segmenters.remove(0);
                }
                self.segmenters.push(segmenter);
            }
        }
        let preprocessor = Preprocessor::new(input, format, size);
        let mut decoder = decoder(
            &self.model.contract,
            &format!("model {}", self.model.contract.name),
            size,
            preprocessor.placement(),
            (format.width, format.height),
        );
        decoder.hide(&self.hidden);
        self.prepared = Some(Prepared {
            format,
            size,
            preprocessor,
            decoder,
        });
        self.segmenters
            .last()
            .map(|s| s.runs_on())
            .ok_or_else(|| Error::fatal("no network was prepared; please report this"))
    }

    /// Names the classes that must not be seen, from the next picture on: see [`Decoder::hide`].
    pub fn hide(&mut self, classes: &Hidden) {
        if self.hidden != *classes {
            self.hidden = *classes;
            if let Some(prepared) = &mut self.prepared {
                prepared.decoder.hide(classes);
            }
        }
    }

    /// The least score of an object, 0 to 1; `None` for a model that does not tell objects apart.
    pub fn least_score(&self) -> Option<f32> {
        let output = &self.model.contract.output;
        // A region is where its class wins, however sure it is.
        let least = if output.regions { 0.0 } else { output.objects.score };
        output.tells_objects().then_some(least)
    }

    /// The input's size for the pictures prepared for last.
    pub fn input_size(&self) -> Option<InputSize> {
        self.prepared.as_ref().map(|p| p.size)
    }

    /// Threads of an inference for the pictures prepared for last, at least 1.
    pub fn threads(&self) -> usize {
        self.segmenters.last().map_or(1, |s| s.threads())
    }

    /// Labels every pixel of `image` with its class; `mask` gets the image's size.
    ///
    /// # Errors
    /// As [`infer`](Self::infer).
    pub fn segment(&mut self, image: &ImageRef<'_>, mask: &mut LabelMap) -> Result<()> {
        let mut segments = std::mem::take(&mut self.segments);
        let segmented = self.segment_objects(image, mask, &mut segments);
        if segmented.is_ok() && !is_by_class(&segments) {
            classes_of(mask, &segments);
        }
        self.segments = segments;
        segmented
    }

    /// Finds the segments of `image`: `map` gets the image's size, and for each pixel the place of its segment in
    /// `segments`.
    ///
    /// # Errors
    /// As [`infer`](Self::infer).
    pub fn segment_objects(
        &mut self,
        image: &ImageRef<'_>,
        map: &mut LabelMap,
        segments: &mut Vec<Segment>,
    ) -> Result<()> {
        let mut answer = std::mem::replace(&mut self.answer, Answer::empty());
        let inferred = self.infer(image, &mut answer);
        if inferred.is_ok() {
            self.decode(&answer, map, segments);
        }
        self.answer = answer;
        inferred
    }

    /// Runs the network on `image`; `answer` is overwritten, its buffers reused.
    ///
    /// # Errors
    /// As [`Backend::prepare`] for a new format, [`Segmenter::run`], and [`Decoder::read`].
    pub fn infer(&mut self, image: &ImageRef<'_>, answer: &mut Answer) -> Result<()> {
        if self.prepared.as_ref().is_none_or(|p| p.format != image.format) {
            self.prepare(image.format)?;
        }
        let (Some(prepared), Some(segmenter)) = (&mut self.prepared, self.segmenters.last_mut()) else {
            return Err(Error::fatal("no network was prepared; please report this"));
        };
        let (input, outputs) = (&mut self.input, &mut self.outputs);
        self.timer
            .time(Step::Preprocess, || prepared.preprocessor.run(image, input));
        self.timer.time(Step::Infer, || {
            segmenter.run(input, outputs)?;
            prepared.decoder.read(outputs, answer)
        })
    }

    /// Turns an answer of the last [`infer`](Self::infer) into its picture's map and segments. Leaves them alone before
    /// the first.
    pub fn decode(&mut self, answer: &Answer, map: &mut LabelMap, segments: &mut Vec<Segment>) {
        if let Some(prepared) = &mut self.prepared {
            self.timer
                .time(Step::Decode, || prepared.decoder.decode(answer, map, segments));
        }
    }

    /// Where the cells of `answer`, one of the last [`infer`](Self::infer), lie in its picture. `None` for labels and
    /// objects, and before the first.
    pub fn cells(&self, answer: &Answer) -> Option<CellGrid> {
        let (Some(prepared), Answer::Logits { height, width, .. }) = (&self.prepared, answer) else {
            return None;
        };
        Some(CellGrid::new(
            self.model.contract.output.grid,
            prepared.size,
            prepared.preprocessor.placement(),
            (prepared.format.width, prepared.format.height),
            (*width, *height),
        ))
    }
}
