//! A recipe: everything that decides a training run but the paths.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use segd::dataset::{DatasetClass, Format};
use segd::model::contract::{ColorOrder, Input, InputType, Layout, Resize};
use serde::{Deserialize, Serialize};

use crate::augment::{Augment, Size};
use crate::graph::Graph;
use crate::loss::{self, Term};
use crate::nets::{self, Architecture, Sizes, TrunkKind};
use crate::optimizer::{Method, Schedule};

/// A recipe, as its TOML file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The model's name.
    pub name: String,
    /// What the contract says about the model.
    pub about: About,
    /// How the data lies in its folder.
    pub dataset: Format,
    /// The classes in label order, where they are not those of the data's format.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<DatasetClass>,
    /// The network.
    pub network: Network,
    /// The random crops.
    pub augment: Augment,
    /// The training run.
    pub train: Train,
    /// How it is scored.
    pub validate: Validate,
}

/// What the contract says about a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// One line for people.
    pub description: String,
    /// SPDX identifier or a sentence.
    pub license: String,
    /// The dataset that scores are taken on.
    pub dataset: String,
    /// The training data and its terms.
    pub data: String,
    /// The recipe in a sentence.
    pub recipe: String,
}

/// Channels of a decoder, from stride 8 on: a number, or a list with one for each step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Decoder {
    /// One step.
    One(i64),
    /// Several.
    Steps(Vec<i64>),
}

impl Decoder {
    /// The channels of each step.
    #[must_use]
    pub fn steps(&self) -> &[i64] {
        match self {
            Self::One(channels) => std::slice::from_ref(channels),
            Self::Steps(channels) => channels,
        }
    }
}

/// The network of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its name, as [`nets::by_name`] knows it.
    #[serde(default = "deeplabv3_light")]
    pub arch: String,
    /// The trunk, where the network can be put on several.
    pub trunk: Option<TrunkKind>,
    /// The trunk starts from published weights: its first stages and its normalisation statistics stay as they are.
    /// Otherwise every layer is trained from random weights.
    pub pretrained: bool,
    /// Channels of the pyramid's branches (DeepLabv3's light form).
    pub pyramid: Option<i64>,
    /// Channels of the decoder (light forms).
    pub decoder: Option<Decoder>,
    /// Dilations of the pyramid's atrous branches (DeepLabv3's light form).
    pub rates: Option<[i64; 3]>,
    /// Classes.
    pub classes: i64,
}

fn deeplabv3_light() -> String {
    "deeplabv3-light".to_owned()
}

impl Network {
    /// The network that [`Network::arch`] names.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn architecture(&self) -> Result<&'static Architecture> {
        nets::by_name(&self.arch).context("network.arch")
    }

    /// The trunk whose published weights the network can start from.
    ///
    /// # Errors
    /// There is no network of that name.
    pub fn trunk_kind(&self) -> Result<Option<TrunkKind>> {
        Ok(self.trunk.or(self.architecture()?.trunk))
    }

    /// Builds the network.
    ///
    /// # Errors
    /// There is no network of that name, or a size does not fit it.
    pub fn graph(&self) -> Result<Graph> {
        let sizes = Sizes {
            trunk: self.trunk,
            pyramid: self.pyramid,
            decoder: self.decoder.as_ref().map(|decoder| decoder.steps().to_vec()),
            rates: self.rates,
        };
        let graph = self.architecture()?.sized(self.classes, &sizes)?;
        Ok(if self.pretrained {
            graph
        } else {
            graph.from_scratch()
        })
    }
}

/// The training run of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Steps of the whole run.
    pub steps: u64,
    /// Steps over which the learning rate rises.
    pub warm_up: u64,
    /// Crops that go through the network together.
    pub batch: usize,
    /// Batches whose gradients are added up for one step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// The terms whose sum is minimised.
    #[serde(default = "loss::cross_entropy")]
    pub loss: Vec<Term>,
    /// How gradients change weights.
    #[serde(default)]
    pub optimizer: Method,
    /// The momentum of `optimizer = "sgd"`.
    #[serde(default = "nine_tenths")]
    pub momentum: f64,
    /// How learning rates fall after the warm-up.
    #[serde(default)]
    pub schedule: Schedule,
    /// Peak learning rate of the trunk.
    pub trunk_rate: f64,
    /// Peak learning rate of the head.
    pub head_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Share that the running mean of the weights keeps at each step.
    pub ema: f64,
    /// How often a hand-labelled picture is seen in an epoch, where a machine-labelled one is seen once.
    pub real_weight: u32,
    /// Compute in bfloat16; weights, normalisation statistics and the loss stay in f32.
    pub bf16: bool,
    /// Seed of all randomness.
    pub seed: u64,
}

/// How a recipe's network is scored while it trains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validate {
    /// Steps between two scores.
    pub every: u64,
    /// The longest side of the network's input.
    pub longest: usize,
    /// Sides are multiples of this.
    pub multiple: usize,
}

fn one() -> usize {
    1
}

fn nine_tenths() -> f64 {
    0.9
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// The file can't be read, has an unknown key, or a value that makes no sense.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let recipe: Self = toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        recipe.check().with_context(|| path.display().to_string())?;
        Ok(recipe)
    }

    fn check(&self) -> Result<()> {
        let Augment {
            crop: Size { width, height },
            label_stride,
            scale,
            rotate,
            blur,
            ..
        } = self.augment;
        ensure!(
            (2..=255).contains(&self.network.classes),
            "network.classes is {}, expected 2 to 255",
            self.network.classes
        );
        self.network.graph()?;
        let multiple = self.network.architecture()?.multiple as usize;
        for side in [width, height] {
            ensure!(
                side > 0 && side.is_multiple_of(multiple),
                "augment.crop is [{width}, {height}], expected multiples of {multiple} for {}",
                self.network.arch
            );
            ensure!(
                label_stride > 0 && side % label_stride == 0,
                "augment.label_stride is {label_stride}, expected a divisor of augment.crop, [{width}, {height}]"
            );
        }
        ensure!(
            (0.0..=180.0).contains(&rotate),
            "augment.rotate is {rotate}, expected 0 to 180 degrees"
        );
        ensure!(
            (0.0..=20.0).contains(&blur),
            "augment.blur is {blur}, expected 0 to 20 pixels"
        );
        ensure!(
            0.0 < scale[0] && scale[0] <= scale[1],
            "augment.scale is {scale:?}, expected [smallest, largest]"
        );
        ensure!(
            self.augment.aspect >= 1.0,
            "augment.aspect is {}, expected 1 or more",
            self.augment.aspect
        );
        ensure!(
            self.train.steps > 0 && self.train.batch > 0 && self.train.accumulate > 0,
            "train.steps, train.batch and train.accumulate must be 1 or more"
        );
        ensure!(
            !self.train.loss.is_empty(),
            "train.loss is empty, expected one term or more"
        );
        for term in &self.train.loss {
            term.check()?;
        }
        ensure!(
            (0.0..1.0).contains(&self.train.momentum),
            "train.momentum is {}, expected 0 to 1",
            self.train.momentum
        );
        ensure!(
            (0.0..1.0).contains(&self.train.ema),
            "train.ema is {}, expected 0 to 1",
            self.train.ema
        );
        ensure!(self.validate.every > 0, "validate.every must be 1 or more");
        let Validate {
            longest,
            multiple: rounded,
            ..
        } = self.validate;
        ensure!(
            rounded > 0 && rounded.is_multiple_of(multiple),
            "validate.multiple is {rounded}, expected a multiple of {multiple} for {}",
            self.network.arch
        );
        ensure!(
            longest > 0 && longest.is_multiple_of(rounded),
            "validate.longest is {longest}, expected a multiple of validate.multiple ({rounded})"
        );
        Ok(())
    }

    /// The classes in label order.
    #[must_use]
    pub fn classes(&self) -> &[DatasetClass] {
        if self.classes.is_empty() {
            self.dataset.classes().unwrap_or_default()
        } else {
            &self.classes
        }
    }

    /// Builds the network.
    ///
    /// # Panics
    /// The recipe's network was not checked.
    #[must_use]
    pub fn graph(&self) -> Graph {
        self.network.graph().expect("a recipe is checked when it is read")
    }

    /// The network's input as the contract has it.
    #[must_use]
    pub fn input(&self) -> Input {
        let (mean, std) = self.normalisation();
        Input {
            layout: Layout::Nchw,
            dtype: InputType::F32,
            color: ColorOrder::Rgb,
            mean,
            std,
            resize: Resize::Fit,
            width: self.validate.longest,
            height: self.validate.longest,
            multiple: self.validate.multiple,
            offset: 0,
            pad: 0,
        }
    }

    /// Mean and divisor of the input, on 0..255 RGB.
    #[must_use]
    pub fn normalisation(&self) -> ([f32; 3], [f32; 3]) {
        let kind = self.network.trunk_kind().ok().flatten();
        kind.unwrap_or(TrunkKind::Resnet18).normalisation()
    }
}
