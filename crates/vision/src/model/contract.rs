//! `contract.toml`: everything that is needed to feed a network and to read its answer.
//!
//! Nothing is guessed from a file name: input layout, colour order, normalisation, resize policy, output
//! kind, classes, palette, and one file for each backend with its sha256. docs/contract.md describes every key.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tensor::InputSize;

mod check;
mod objects;
mod output;

pub use crate::tensor::{InputType, OutputType};
pub use objects::{Activation, BoxForm, BoxUnit, DetectionForm, MAX_SEGMENTS, Objects, Reading};

/// The newest `format` that this version reads. It writes the oldest that can say what a contract holds.
pub const FORMAT: u32 = 2;

/// Largest input side in pixels that a contract may ask for.
pub const MAX_SIDE: usize = 4096;

/// A model's contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// Version of the format: 1 or 2.
    pub format: u32,
    /// Short name, as in `--model NAME`: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// SPDX identifier or a sentence.
    #[serde(default)]
    pub license: String,
    /// Multiply-accumulates of one inference at `input.width` x `input.height`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiply_accumulates: Option<u64>,
    /// What the network takes.
    pub input: Input,
    /// What the network gives.
    pub output: OutputContract,
    /// Classes in label order; label `i` is `classes[i]`.
    pub classes: Vec<Class>,
    /// The network's files; a backend takes the first that lists it.
    pub files: Vec<ModelFile>,
    /// A picture and the labels that the reference gave, to test a backend with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selftest: Option<SelfTest>,
    /// How it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// What it scored, each with its protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<Score>,
}

/// Order of a tensor's dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// `[1, C, H, W]`
    Nchw,
    /// `[1, H, W, C]`
    Nhwc,
}

/// Order of the colour channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColorOrder {
    /// Red first.
    Rgb,
    /// Blue first.
    Bgr,
}

/// How the picture is brought to the network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// Aspect kept: the longer side becomes the larger of `width` and `height`, and each side is rounded to
    /// the nearest valid one; the picture fills the input.
    Fit,
    /// To exactly `width` x `height`.
    Stretch,
    /// Aspect kept inside `width` x `height`, the rest filled with `pad`.
    Letterbox,
}

/// What the network takes: one picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Order of dimensions.
    pub layout: Layout,
    /// Type of elements.
    pub dtype: InputType,
    /// Order of colours.
    pub color: ColorOrder,
    /// Subtracted from each channel, on the 0..255 scale, in `color` order.
    #[serde(default = "zeros")]
    pub mean: [f32; 3],
    /// Each channel is divided by it afterwards.
    #[serde(default = "ones")]
    pub std: [f32; 3],
    /// How the picture is brought to the input's size.
    pub resize: Resize,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Valid sides are `k * multiple + offset`.
    #[serde(default = "one")]
    pub multiple: usize,
    /// See `multiple`.
    #[serde(default)]
    pub offset: usize,
    /// Fill of a letterbox, one value for all channels, 0..255.
    #[serde(default)]
    pub pad: u8,
}

fn zeros() -> [f32; 3] {
    [0.0; 3]
}

fn ones() -> [f32; 3] {
    [1.0; 3]
}

fn one() -> usize {
    1
}

/// What the network's answer is; it chooses the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// A class for each cell, from one output of [`Role::Logits`] or [`Role::Labels`].
    Semantic,
    /// Whether each cell is of the second class, from one channel of [`Role::Logits`].
    Binary,
    /// Objects, whose masks are sums of prototypes: YOLO's segmenting networks, YOLACT; without boxes SOLOv2.
    Prototypes,
    /// Objects, each with a small mask on its box: Mask R-CNN.
    BoxesMasks,
    /// Queries, each with scores and a mask of the picture: MaskFormer, Mask2Former, RF-DETR.
    Queries,
    /// Pixels that point at the centre of their object: Panoptic-DeepLab.
    Centers,
    /// Boxes of objects beside the classes of pixels, such as YOLOX beside DeepLab: an object is the pixels of its class in its
    /// box.
    Boxes,
}

/// What one output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A score for each class in each cell; the largest wins. Of [`OutputKind::Binary`] one channel.
    Logits,
    /// The winning class's index in each cell.
    Labels,
    /// Candidates: box, scores, and coefficients where there are prototypes, `[1, N, A]` or `[1, A, N]`.
    Detections,
    /// Boxes, `[N, 4]` or `[1, N, 4]`.
    Boxes,
    /// Scores of boxes, `[N]`, or of each class `[N, C]`; of queries `[1, Q, C]`, or `[1, Q, C + 1]`.
    Scores,
    /// The class of each box, `[N]`.
    Classes,
    /// A number for each prototype and box, `[1, N, M]`.
    Coefficients,
    /// Masks that are summed up, `[1, M, H, W]`, or `[1, H, W, M]`.
    Prototypes,
    /// Probabilities on each box, `[N, 1, H, W]`; of queries logits `[1, Q, H, W]`.
    Masks,
    /// How likely each cell is the centre of an object, `[1, 1, H, W]`.
    Heat,
    /// From each cell to the centre of its object, in input pixels: down, right, `[1, 2, H, W]`.
    Offsets,
}

/// Where the cells of an output that is smaller than the input lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grid {
    /// Cell `i` is centred at `(i + 0.5) * input / output - 0.5` (`align_corners = false`).
    HalfPixel,
    /// The first and last cells are centred on the first and last pixels (`align_corners = true`).
    AlignCorners,
}

/// What the network gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "output::Written", into = "output::Written")]
pub struct OutputContract {
    /// What the answer is.
    pub kind: OutputKind,
    /// Where the cells lie.
    pub grid: Grid,
    /// The outputs that the answer is read from, at least one.
    pub tensors: Vec<TensorContract>,
    /// How objects are decided, and where a mask ends; not for [`OutputKind::Semantic`].
    pub objects: Objects,
    /// Connected regions of a thing are objects, where the network gives classes alone.
    pub regions: bool,
}

/// One output of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorContract {
    /// What it holds.
    pub role: Role,
    /// Order of dimensions. Labels have none for classes: `[1, H, W]`, or 1 in its place.
    #[serde(default = "nchw")]
    pub layout: Layout,
    /// Type of elements.
    #[serde(default = "f32_type")]
    pub dtype: OutputType,
    /// The output's name, for networks with several; the only output otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl OutputContract {
    /// A semantic answer from one output.
    pub fn of(tensor: TensorContract, grid: Grid) -> Self {
        Self::of_tensors(vec![tensor], grid)
    }

    /// A semantic answer, until another kind is said.
    pub(crate) fn of_tensors(tensors: Vec<TensorContract>, grid: Grid) -> Self {
        Self {
            kind: OutputKind::Semantic,
            grid,
            tensors,
            objects: Objects::default(),
            regions: false,
        }
    }

    /// The first output: the only one of a semantic answer.
    ///
    /// # Panics
    /// If there is none, which no contract that was read has.
    pub fn semantic(&self) -> &TensorContract {
        match self.tensors.first() {
            Some(tensor) => tensor,
            None => panic!("a contract without outputs"),
        }
    }
}

fn nchw() -> Layout {
    Layout::Nchw
}

fn f32_type() -> OutputType {
    OutputType::F32
}

fn half_pixel() -> Grid {
    Grid::HalfPixel
}

/// One class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Name as in `--classes`.
    pub name: String,
    /// RGB colour of the overlay.
    pub color: [u8; 3],
    /// Not drawn unless asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub background: bool,
    /// Countable: a person, a car. Otherwise stuff, such as sky or road. Since format 2.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub thing: bool,
}

/// Precision of a file's arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit float.
    Fp32,
    /// 16-bit float.
    Fp16,
    /// 8-bit integer.
    Int8,
}

impl Precision {
    /// As in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        }
    }
}

/// One of the network's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// File name inside the model's folder.
    pub path: String,
    /// Precision of its arithmetic.
    pub precision: Precision,
    /// Backends that may run it: `tract`, `ort`, and `tensorrt` for what ONNX Runtime hands to TensorRT alone.
    pub backends: Vec<String>,
    /// Lower-case hex sha256 of the file.
    pub sha256: String,
}

/// A picture whose labels are known: a backend must find them again before it is trusted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfTest {
    /// PNG or JPEG beside the contract.
    pub image: String,
    /// 8-bit PNG beside the contract, of the image's size: the class index of each pixel as the fp32 file
    /// labels it at the contract's input size.
    pub labels: String,
    /// Smallest share of pixels (0 to 1) with the same label that passes.
    #[serde(default = "default_agreement")]
    pub agreement: f64,
}

fn default_agreement() -> f64 {
    0.9
}

/// How the model was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// The data and its terms.
    pub data: String,
    /// The recipe.
    #[serde(default)]
    pub recipe: String,
}

/// One score, with the protocol that gives it meaning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// For example `mean IoU`.
    pub metric: String,
    /// The value, in percent for IoU and accuracy.
    pub value: f64,
    /// What 95 % of the sets of as many pictures, drawn from those scored, have: lowest and highest value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Precision of the file that was scored.
    pub precision: Precision,
    /// Data set.
    pub dataset: String,
    /// Split.
    pub split: String,
    /// Images scored.
    pub images: usize,
    /// Resolution, crop or resize, classes, void handling.
    pub protocol: String,
}

impl Contract {
    /// Reads and checks a contract. `origin` names the file in errors.
    ///
    /// # Errors
    /// Usage, naming the key, what was found and what was expected.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let contract: Self = toml::from_str(text).map_err(|e| {
            Error::usage(format!(
                "{origin}: {}",
                e.to_string().trim_end().replace('\n', " ")
            ))
            .hint("see docs/contract.md for the keys of a contract")
        })?;
        contract
            .check()
            .map_err(|why| Error::usage(format!("{origin}: {why}")))?;
        Ok(contract)
    }

    /// Lets connected regions of a class be objects. Every class but the background can be counted then, if the contract does not
    /// say which can.
    ///
    /// # Errors
    /// Usage if the network tells objects apart itself.
    pub fn tell_regions_apart(&mut self) -> Result<()> {
        if self.output.kind.has_objects() {
            return Err(Error::usage(format!(
                "model {} tells objects apart itself: it has no use for regions",
                self.name
            ))
            .hint("leave --regions, or model.regions, out"));
        }
        self.output.regions = true;
        if self.classes.iter().all(|class| !class.thing) {
            for class in &mut self.classes {
                class.thing = !class.background;
            }
        }
        Ok(())
    }

    /// The oldest format that can say what this contract holds.
    pub fn oldest_format(&self) -> u32 {
        if self.output.is_of_format_1() && self.classes.iter().all(|class| !class.thing) {
            1
        } else {
            2
        }
    }

    /// The contract as TOML, in the oldest format that can say it.
    ///
    /// # Errors
    /// Fatal if it can't be written as TOML.
    pub fn to_toml(&self) -> Result<String> {
        let written = Self {
            format: self.oldest_format(),
            ..self.clone()
        };
        toml::to_string(&written).map_err(|e| Error::fatal("contract can't be written as TOML").caused_by(e))
    }

    /// The first file that `backend` may run, of `precision` if given.
    pub fn file_for(&self, backend: &str, precision: Option<Precision>) -> Option<&ModelFile> {
        self.files
            .iter()
            .filter(|f| precision.is_none_or(|p| p == f.precision))
            .find(|f| f.backends.iter().any(|b| b == backend))
    }

    /// Precisions of the files that `backend` may run, in the order of the files.
    pub fn precisions_for(&self, backend: &str) -> Vec<Precision> {
        let mut precisions: Vec<Precision> = Vec::new();
        for file in &self.files {
            let is_for_it = file.backends.iter().any(|b| b == backend);
            if is_for_it && !precisions.contains(&file.precision) {
                precisions.push(file.precision);
            }
        }
        precisions
    }

    /// The label of the class called `name`, in any case.
    pub fn class_index(&self, name: &str) -> Option<u8> {
        self.classes
            .iter()
            .position(|c| c.name.eq_ignore_ascii_case(name))
            .and_then(|i| u8::try_from(i).ok())
    }
}

impl Input {
    /// Whether `side` is `k * multiple + offset` for some k >= 0, and not 0.
    pub fn is_valid_side(&self, side: usize) -> bool {
        side > 0 && side >= self.offset && (side - self.offset).is_multiple_of(self.multiple)
    }

    /// The valid side nearest to `side`, at least the smallest one.
    pub fn nearest_side(&self, side: usize) -> usize {
        let k = (side.saturating_sub(self.offset) + self.multiple / 2) / self.multiple;
        let nearest = k * self.multiple + self.offset;
        if nearest == 0 {
            self.multiple
        } else {
            nearest.max(1)
        }
    }

    /// The input's size for pictures of `width` x `height`. `longest` replaces the contract's longer side
    /// where the policy is [`Resize::Fit`], and scales the fixed size otherwise.
    pub fn size_for(&self, width: usize, height: usize, longest: Option<usize>) -> InputSize {
        let base = self.width.max(self.height);
        let longest = longest.unwrap_or(base).clamp(1, MAX_SIDE);
        let (w, h) = match self.resize {
            Resize::Fit => (width.max(1), height.max(1)),
            Resize::Stretch | Resize::Letterbox => (self.width, self.height),
        };
        let long = w.max(h);
        let scale = |side: usize| self.nearest_side((side * longest + long / 2) / long);
        InputSize {
            width: scale(w),
            height: scale(h),
        }
    }
}

#[cfg(test)]
mod tests;
