//! A recipe: everything that decides a training run, except the paths.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use vision::dataset::{Dataset, DatasetClass, Format};
use vision::model::contract::{ColorOrder, Input, InputType, Layout, Resize};

use crate::augment::{Augment, Size};
use crate::graph::Graph;
use crate::loss::{self, Subject, Term};
use crate::nets::{self, Architecture, ObjectForm, Sizes, TrunkKind};
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
    /// Colours of classes by name, RGB, in place of those of the data's format.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub colors: BTreeMap<String, [u8; 3]>,
    /// Paragraphs for the card: what else people should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
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
    /// Trunk and classes stay as they are; what tells objects apart is trained alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frozen_classes: bool,
    /// Channels of the pyramid's branches (DeepLabv3's light form).
    pub pyramid: Option<i64>,
    /// Channels of the decoder (light forms).
    pub decoder: Option<Decoder>,
    /// Dilations of the pyramid's atrous branches (DeepLabv3's light form): three, or none, as in MobileNetV2's paper.
    pub rates: Option<Vec<i64>>,
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
            rates: self.rates.clone(),
        };
        let graph = self.architecture()?.sized(self.classes, &sizes)?;
        Ok(if self.frozen_classes {
            graph.with_frozen_classes()
        } else if self.pretrained {
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
    /// Scores in a row without a better one after which the run ends early; 0 for never.
    #[serde(default)]
    pub patience: u64,
    /// Share that the running mean of the weights keeps at each step.
    pub ema: f64,
    /// How often a hand-labelled picture is seen in an epoch, where a machine-labelled one is seen once.
    pub real_weight: u32,
    /// The head's batch normalisation keeps the statistics that it starts with. A network that goes on from one which knows
    /// its classes wants this: a batch without a class would move the logits of all others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_statistics: bool,
    /// Pixels that a machine gave to objects whose boxes are by hand are taught; otherwise the boxes alone are.
    #[serde(default = "yes", skip_serializing_if = "is_set")]
    pub machine_masks: bool,
    /// Compute in bfloat16; weights, normalisation statistics and the loss stay in f32.
    pub bf16: bool,
    /// Seed of all randomness.
    pub seed: u64,
}

impl Train {
    /// The factor on the learning rates at a step.
    #[must_use]
    pub fn factor(&self, step: u64) -> f64 {
        self.schedule.factor(step, self.warm_up, self.steps)
    }
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
    /// Heat, or score, from which on there is an object, 0 to 1.
    #[serde(default = "three_tenths")]
    pub score: f32,
}

/// The recipes that the program holds, by name.
const BUILT_IN: [(&str, &str); 7] = [
    ("voc21", include_str!("../recipes/voc21.toml")),
    ("voc21-fast", include_str!("../recipes/voc21-fast.toml")),
    ("camvid-deeplab", include_str!("../recipes/camvid-deeplab.toml")),
    ("camvid-segnet", include_str!("../recipes/camvid-segnet.toml")),
    ("human-unet", include_str!("../recipes/human-unet.toml")),
    ("voc-centers", include_str!("../recipes/voc-centers.toml")),
    ("solo-light", include_str!("../recipes/solo-light.toml")),
];
/// What a network is trained by that no built-in recipe is for.
const DEFAULT: &str = include_str!("../recipes/default.toml");

/// The name of that recipe.
pub const DEFAULT_NAME: &str = "default";

/// A built-in recipe, or one in a file.
///
/// # Errors
/// There is none of that name, or the file can't be read.
pub fn named(name: &str) -> Result<Recipe> {
    if let Some((_, text)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
        return Recipe::parse(text).with_context(|| format!("built-in recipe {name}"));
    }
    let path = Path::new(name);
    if !path.exists() {
        let names = BUILT_IN.map(|(name, _)| name).join(", ");
        bail!(
            "there is no file {name}, and no built-in recipe of that name: expected a file, or one of {names}"
        );
    }
    Recipe::read(path)
}

/// The recipe for a network by name, on its own trunk: a built-in one for it, best made for that trunk, then for data of that format; or
/// the default.
///
/// # Errors
/// There is no network of that name.
pub fn for_arch(arch: &str, format: Format) -> Result<Recipe> {
    let own_trunk = nets::by_name(arch)?.trunk;
    let mut candidates = Vec::new();
    for (name, text) in BUILT_IN {
        let mut recipe = Recipe::parse(text).with_context(|| format!("built-in recipe {name}"))?;
        if recipe.network.arch == arch {
            let trunk = recipe.network.trunk.take();
            let is_own = trunk.is_none() || trunk == own_trunk;
            candidates.push((!is_own, recipe.dataset != format, recipe));
        }
    }
    candidates.sort_by_key(|(other_trunk, other_data, _)| (*other_trunk, *other_data));
    if let Some((_, _, recipe)) = candidates.into_iter().next() {
        return Ok(recipe);
    }
    let mut recipe = Recipe::parse(DEFAULT).context("the default recipe")?;
    recipe.network.arch = arch.to_owned();
    let multiple = recipe.network.architecture()?.multiple as usize;
    let whole = |side: usize| side.next_multiple_of(multiple);
    recipe.augment.crop = Size {
        width: whole(recipe.augment.crop.width),
        height: whole(recipe.augment.crop.height),
    };
    recipe.validate.multiple = whole(recipe.validate.multiple);
    Ok(recipe)
}

fn yes() -> bool {
    true
}

fn is_set(value: &bool) -> bool {
    *value
}

fn one() -> usize {
    1
}

fn three_tenths() -> f32 {
    0.3
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
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Reads and checks a recipe's text.
    ///
    /// # Errors
    /// It has an unknown key, or a value that makes no sense.
    pub fn parse(text: &str) -> Result<Self> {
        let recipe: Self = toml::from_str(text)?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Checks the recipe's values.
    ///
    /// # Errors
    /// One makes no sense; the message names its key.
    pub fn check(&self) -> Result<()> {
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
        if let Some(paste) = &self.augment.paste {
            ensure!(
                (0.0..=1.0).contains(&paste.share),
                "augment.paste.share is {}, expected 0 to 1",
                paste.share
            );
        }
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
        self.check_objects()?;
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
        let classes = self.classes();
        let colored = self.about.colors.keys().map(|name| ("about.colors", name));
        let pasted = self.augment.paste.iter().flat_map(|paste| &paste.classes);
        for (key, name) in colored.chain(pasted.map(|name| ("augment.paste.classes", name))) {
            // A plain folder names its classes itself.
            ensure!(
                classes.is_empty() || classes.iter().any(|class| class.name == name.as_str()),
                "{key} names {name:?}, expected one of {}",
                classes
                    .iter()
                    .map(|class| &*class.name)
                    .collect::<Vec<_>>()
                    .join(", ")
            );
        }
        Ok(())
    }

    fn check_objects(&self) -> Result<()> {
        let arch = &self.network.arch;
        let form = self.object_form()?;
        let has = |wanted: fn(&Term) -> bool| self.train.loss.iter().any(wanted);
        let has_heat = has(|term| matches!(term, Term::CenterHeat { .. } | Term::CenterHeatMse { .. }));
        let has_offsets = has(|term| matches!(term, Term::CenterOffsets { .. }));
        let has_classes = has(|term| term.subject() == Subject::Classes);
        let has_centers = has(|term| term.subject() == Subject::Centers);
        let has_grids = has(|term| term.subject() == Subject::Grids);
        let score = self.validate.score;
        ensure!(
            score > 0.0 && score < 1.0,
            "validate.score is {score}, expected more than 0, less than 1"
        );
        let Some(form) = form else {
            ensure!(
                !has_centers && !has_grids && !self.augment.whole && !self.network.frozen_classes,
                "{arch} tells no objects apart: expected no term of objects in train.loss, no augment.whole and no \
                 network.frozen_classes"
            );
            return Ok(());
        };
        ensure!(
            self.augment.paste.is_none(),
            "augment.paste lays pixels over objects: expected none for {arch}"
        );
        if form == ObjectForm::Grids {
            let has_cells = has(|term| matches!(term, Term::CellFocal { .. }));
            let has_masks = has(|term| matches!(term, Term::MaskDice { .. }));
            let has_boxes = has(|term| matches!(term, Term::BoxProjection { .. }));
            ensure!(
                has_cells && has_masks,
                "train.loss lacks a term for {arch}: expected cell-focal and mask-dice"
            );
            ensure!(
                !has_classes && !has_centers && !self.network.frozen_classes,
                "{arch} has neither logits of classes nor centres: expected none of their terms in train.loss, and no \
                 network.frozen_classes"
            );
            ensure!(
                has_boxes || self.train.machine_masks,
                "train.machine_masks = false leaves objects with a box alone: expected box-projection in train.loss"
            );
            return Ok(());
        }
        ensure!(
            !has_grids && self.train.machine_masks,
            "{arch} has no grids: expected none of their terms in train.loss, and train.machine_masks left out"
        );
        ensure!(
            has_heat && has_offsets,
            "train.loss lacks a term for {arch}: expected center-heat or center-heat-mse, and center-offsets"
        );
        if self.network.frozen_classes {
            ensure!(
                self.network.pretrained && !has_classes,
                "network.frozen_classes leaves the classes as they are: expected network.pretrained, and terms of centres alone \
                 in train.loss"
            );
        } else {
            ensure!(
                has_classes,
                "train.loss has no term for the classes, such as cross-entropy, and network.frozen_classes is not set"
            );
        }
        Ok(())
    }

    /// Whether the network tells objects apart.
    ///
    /// # Errors
    /// There is no network of the recipe's name.
    pub fn tells_objects(&self) -> Result<bool> {
        Ok(self.object_form()?.is_some())
    }

    /// How the network tells objects apart, if it does.
    ///
    /// # Errors
    /// There is no network of the recipe's name.
    pub fn object_form(&self) -> Result<Option<ObjectForm>> {
        Ok(self.network.architecture()?.object_form())
    }

    /// Trains trunk and classes as well.
    pub fn thaw(&mut self) {
        self.network.frozen_classes = false;
        if self
            .train
            .loss
            .iter()
            .all(|term| term.subject() == Subject::Centers)
        {
            self.train.loss.extend(loss::cross_entropy());
        }
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

    /// Turns to another dataset: its classes, its name, and what is said about the model.
    pub fn take_data(&mut self, dataset: &Dataset) {
        let format = dataset.location.format;
        let arch = &self.network.arch;
        let count = dataset.classes.len();
        self.name = format!("{}-{arch}", format.name());
        self.about = About {
            description: format!("{count} classes: {arch}"),
            license: "not stated".to_owned(),
            dataset: dataset.location.root.display().to_string(),
            data: "not stated".to_owned(),
            recipe: "recipe.toml of the run".to_owned(),
            colors: BTreeMap::new(),
            notes: vec![],
        };
        self.dataset = format;
        self.classes = match format.classes() {
            Some(_) => vec![],
            None => dataset.classes.clone(),
        };
        self.network.classes = count as i64;
        self.train.real_weight = 1;
    }

    /// Turns to another size of the network's input. Where the longest side changes, crops are two thirds of the size.
    ///
    /// # Errors
    /// There is no network of the recipe's name.
    pub fn take_size(&mut self, size: Size) -> Result<()> {
        let longest = size.width.max(size.height);
        if longest == self.validate.longest && self.augment.longest == longest as f32 {
            return Ok(());
        }
        let multiple = self.network.architecture()?.multiple as usize;
        let side = |side: usize| (side * 2 / 3 / multiple).max(1) * multiple;
        self.augment.crop = Size {
            width: side(size.width),
            height: side(size.height),
        };
        self.augment.longest = longest as f32;
        self.validate.longest = longest;
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_recipes_are_sound_and_survive_being_written() {
        for (name, text) in BUILT_IN {
            let recipe = Recipe::parse(text).unwrap();
            assert_eq!(recipe.name, name);
            assert_eq!(Recipe::parse(&toml::to_string(&recipe).unwrap()).unwrap(), recipe);
            assert_eq!(named(name).unwrap(), recipe);
        }
        assert_eq!(Recipe::parse(DEFAULT).unwrap().name, DEFAULT_NAME);
        let message = named("voc22").unwrap_err().to_string();
        assert!(
            message.contains("voc22") && message.contains("camvid-segnet"),
            "{message}"
        );
    }

    #[test]
    fn a_recipe_colours_only_classes_that_there_are() {
        let (_, voc21) = BUILT_IN.iter().find(|(name, _)| *name == "voc21").unwrap();
        let recipe = Recipe::parse(voc21).unwrap();
        assert_eq!(recipe.about.colors["car"], [240, 130, 0]);
        let wrong = voc21.replace("colors = { car", "colors = { tank");
        assert_ne!(wrong, *voc21);
        let message = Recipe::parse(&wrong).unwrap_err().to_string();
        assert!(
            message.contains("about.colors names \"tank\"") && message.contains("car, cat"),
            "{message}"
        );
    }

    #[test]
    fn every_network_has_a_recipe_for_data_of_any_kind() {
        let dir = tempfile::tempdir().unwrap();
        for arch in &nets::ARCHITECTURES {
            for format in [Format::Camvid, Format::Pet] {
                let mut recipe = for_arch(arch.name, format).unwrap();
                recipe.take_data(&Dataset::open(format, dir.path()).unwrap());
                recipe
                    .take_size(Size {
                        width: 480,
                        height: 360,
                    })
                    .unwrap();
                recipe.check().unwrap();
                assert_eq!(recipe.network.arch, arch.name);
                assert_eq!(recipe.validate.longest, 480);
                assert_eq!(recipe.classes().len(), recipe.network.classes as usize);
            }
        }
        assert_eq!(
            for_arch("segnet-separable", Format::Camvid).unwrap().name,
            "camvid-segnet"
        );
        assert!(for_arch("segnett", Format::Camvid).is_err());
    }
}
