//! A recipe: everything that decides a training run but the paths.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use segd::model::contract::{ColorOrder, Input, InputType, Layout, Resize};
use serde::Deserialize;

use crate::data::Augment;
use crate::graph::Graph;
use crate::nets::deeplabv3::{Head, deeplabv3};
use crate::nets::{efficientnet_lite, mobilenet_v2};

/// The trunks there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrunkKind {
    /// EfficientNet-Lite0.
    EfficientnetLite0,
    /// MobileNetV2.
    MobilenetV2,
}

/// The datasets there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetKind {
    /// PASCAL VOC.
    Voc,
    /// CamVid.
    Camvid,
    /// Pictures and masks of two tones.
    Masks,
}

/// A recipe, as its TOML file has it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The model's name.
    pub name: String,
    /// What the contract says about the model.
    pub about: About,
    /// The form of the data.
    pub dataset: DatasetKind,
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
#[derive(Clone, Debug, PartialEq, Deserialize)]
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

/// The network of a recipe.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The trunk.
    pub trunk: TrunkKind,
    /// The trunk starts from published weights: its first stages and its normalisation statistics stay as they are.
    /// Otherwise every layer is trained from random weights.
    pub pretrained: bool,
    /// Channels of the pyramid's branches.
    pub pyramid: i64,
    /// Channels of the decoder.
    pub decoder: i64,
    /// Dilations of the pyramid's atrous branches.
    pub rates: [i64; 3],
    /// Classes.
    pub classes: i64,
}

/// The training run of a recipe.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Steps of the whole run.
    pub steps: u64,
    /// Steps over which the learning rate rises.
    pub warm_up: u64,
    /// Crops a step.
    pub batch: usize,
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
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validate {
    /// Steps between two scores.
    pub every: u64,
    /// The longest side of the network's input.
    pub longest: usize,
    /// Sides are multiples of this.
    pub multiple: usize,
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
            crop,
            label_stride,
            scale,
            ..
        } = self.augment;
        ensure!(
            crop > 0 && crop % 16 == 0,
            "augment.crop is {crop}, expected a multiple of 16"
        );
        ensure!(
            label_stride > 0 && crop % label_stride == 0,
            "augment.label_stride is {label_stride}, expected a divisor of augment.crop ({crop})"
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
            self.train.steps > 0 && self.train.batch > 0,
            "train.steps and train.batch must be 1 or more"
        );
        ensure!(
            (0.0..1.0).contains(&self.train.ema),
            "train.ema is {}, expected 0 to 1",
            self.train.ema
        );
        ensure!(self.validate.every > 0, "validate.every must be 1 or more");
        ensure!(
            self.validate.multiple > 0 && self.validate.multiple.is_multiple_of(16),
            "validate.multiple is {}, expected a multiple of 16",
            self.validate.multiple
        );
        ensure!(
            (2..=255).contains(&self.network.classes),
            "network.classes is {}",
            self.network.classes
        );
        Ok(())
    }

    /// Builds the network.
    #[must_use]
    pub fn graph(&self) -> Graph {
        let trunk = match self.network.trunk {
            TrunkKind::EfficientnetLite0 => efficientnet_lite::lite0(),
            TrunkKind::MobilenetV2 => mobilenet_v2::mobilenet_v2(),
        };
        let Network {
            pyramid,
            decoder,
            rates,
            classes,
            pretrained,
            ..
        } = self.network;
        let graph = deeplabv3(
            trunk,
            Head {
                pyramid,
                decoder,
                rates,
                classes,
            },
        );
        if pretrained { graph } else { graph.from_scratch() }
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
        match self.network.trunk {
            TrunkKind::EfficientnetLite0 => (efficientnet_lite::MEAN, efficientnet_lite::STD),
            TrunkKind::MobilenetV2 => (mobilenet_v2::MEAN, mobilenet_v2::STD),
        }
    }
}
