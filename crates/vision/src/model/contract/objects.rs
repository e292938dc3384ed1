//! How objects are read from a network's answer: the keys of `[output]` that format 2 adds.

use serde::{Deserialize, Serialize};

use super::{Class, OutputContract, OutputKind, OutputType, Role};

/// Most numbers of a picture's map; one of the 256 that a byte holds stays free.
pub const MAX_SEGMENTS: usize = 255;

/// What has still to be done to the network's scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Nothing: they are probabilities.
    None,
    /// Each becomes a probability by itself.
    Sigmoid,
    /// Those of all classes, and one past the last for "nothing", become probabilities together.
    Softmax,
}

/// How [`Role::Detections`] holds a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DetectionForm {
    /// Box, a score for each class, coefficients.
    ClassScores,
    /// Box, how likely it holds anything, a score for each class, coefficients.
    Objectness,
    /// Box, score, class, coefficients: the network has picked already.
    BestClass,
}

/// How a box is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoxForm {
    /// Centre x, centre y, width, height.
    CenterSize,
    /// Left, top, right, bottom.
    Corners,
    /// Centre x and y from the corner of a cell, and the logarithms of width and height, all in cells: the cells of strides 8, 16,
    /// 32 and so on, one stride behind the other, each row by row. YOLOX.
    Cells,
}

/// What a box is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BoxUnit {
    /// Pixels of the network's input.
    Pixels,
    /// Shares of the input's sides, 0 to 1.
    Shares,
}

/// What is made of queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading {
    /// The class with the largest sum of score times mask at each pixel.
    Semantic,
    /// Each query an object; of those that overlap the surer one is in front.
    Instance,
    /// Each pixel to one query: things by themselves, all of a stuff class together.
    Panoptic,
}

/// How objects are decided. Every kind uses a part of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objects {
    /// What has still to be done to scores.
    pub activation: Activation,
    /// A pixel belongs to a mask whose probability there is larger, 0 to 1.
    pub threshold: f32,
    /// Least score of an object, 0 to 1.
    pub score: f32,
    /// Least score of an object of a class that is hidden, 0 to `score`.
    pub doubt: f32,
    /// Of two boxes of a class that share more (intersection over union) the surer one stays. `None` if the network has
    /// seen to that.
    pub nms: Option<f32>,
    /// How fast Matrix NMS lowers the score of a mask that shares much with a surer one of its class: the factor of the squared
    /// intersection over union in the exponent. `None` if nothing is lowered. For masks without boxes.
    pub matrix_nms: Option<f32>,
    /// Most objects of a picture, those of the highest scores: 1 to 250.
    pub max_objects: usize,
    /// The contract's class that the network calls 0: 0 or 1.
    pub first_class: usize,
    /// How a candidate is written.
    pub detections: DetectionForm,
    /// How a box is written.
    pub boxes: BoxForm,
    /// What a box is measured in.
    pub box_unit: BoxUnit,
    /// What is made of queries.
    pub reading: Reading,
    /// Whether the score of a query counts how sure its mask is, with [`Reading::Instance`].
    pub mask_quality: bool,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            activation: Activation::None,
            threshold: 0.5,
            score: 0.5,
            doubt: 0.25,
            nms: None,
            matrix_nms: None,
            max_objects: 100,
            first_class: 1,
            detections: DetectionForm::ClassScores,
            boxes: BoxForm::CenterSize,
            box_unit: BoxUnit::Pixels,
            reading: Reading::Panoptic,
            mask_quality: true,
        }
    }
}

impl OutputKind {
    /// As `output.kind` is written in format 2.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Semantic => "semantic",
            Self::Binary => "binary",
            Self::Prototypes => "prototypes",
            Self::BoxesMasks => "boxes-masks",
            Self::Queries => "queries",
            Self::Centers => "centers",
            Self::Boxes => "boxes",
        }
    }

    /// Whether it tells objects of a class apart.
    pub fn has_objects(self) -> bool {
        !matches!(self, Self::Semantic | Self::Binary)
    }

    /// Sets of roles, each of which it can be read from.
    fn roles(self) -> &'static [&'static [Role]] {
        match self {
            Self::Semantic => &[&[Role::Logits], &[Role::Labels]],
            Self::Binary => &[&[Role::Logits]],
            Self::Prototypes => &[
                &[Role::Detections, Role::Prototypes],
                &[Role::Boxes, Role::Scores, Role::Coefficients, Role::Prototypes],
                &[Role::Scores, Role::Coefficients, Role::Prototypes],
            ],
            Self::BoxesMasks => &[&[Role::Boxes, Role::Scores, Role::Classes, Role::Masks]],
            Self::Queries => &[&[Role::Scores, Role::Masks]],
            Self::Centers => &[&[Role::Logits, Role::Heat, Role::Offsets]],
            Self::Boxes => &[
                &[Role::Logits, Role::Detections],
                &[Role::Logits, Role::Boxes, Role::Scores],
            ],
        }
    }

    /// The keys of `[output]` that it reads, beside `kind`, `grid` and `tensors`.
    pub(super) fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Semantic => &[],
            Self::Binary => &["activation", "threshold"],
            Self::Prototypes => &[
                "activation",
                "threshold",
                "score",
                "doubt",
                "nms",
                "matrix_nms",
                "max_objects",
                "first_class",
                "detections",
                "boxes",
                "box_unit",
            ],
            Self::BoxesMasks => &[
                "threshold",
                "score",
                "doubt",
                "max_objects",
                "first_class",
                "boxes",
                "box_unit",
            ],
            Self::Queries => &[
                "activation",
                "threshold",
                "score",
                "doubt",
                "max_objects",
                "first_class",
                "reading",
                "mask_quality",
            ],
            Self::Centers => &["activation", "score", "doubt", "max_objects"],
            Self::Boxes => &[
                "activation",
                "score",
                "doubt",
                "nms",
                "max_objects",
                "first_class",
                "detections",
                "boxes",
                "box_unit",
            ],
        }
    }
}

impl Role {
    /// As in `[[output.tensors]]`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logits => "logits",
            Self::Labels => "labels",
            Self::Detections => "detections",
            Self::Boxes => "boxes",
            Self::Scores => "scores",
            Self::Classes => "classes",
            Self::Coefficients => "coefficients",
            Self::Prototypes => "prototypes",
            Self::Masks => "masks",
            Self::Heat => "heat",
            Self::Offsets => "offsets",
        }
    }
}

impl OutputContract {
    /// Whether objects of a class are told apart.
    pub fn tells_objects(&self) -> bool {
        let is_semantic = self.kind == OutputKind::Queries && self.objects.reading == Reading::Semantic;
        self.regions || self.kind.has_objects() && !is_semantic
    }

    /// Whether candidates have boxes.
    pub fn has_boxes(&self) -> bool {
        self.position(Role::Detections)
            .or(self.position(Role::Boxes))
            .is_some()
    }

    /// Where among the contract's outputs the one of `role` is.
    pub fn position(&self, role: Role) -> Option<usize> {
        self.tensors.iter().position(|tensor| tensor.role == role)
    }

    /// Whether the tensors are what the kind needs, and whether what is asked for can decide anything.
    pub(super) fn check_objects(&self) -> Result<(), String> {
        let kind = self.kind.as_str();
        let found: Vec<&str> = self.tensors.iter().map(|t| t.role.as_str()).collect();
        let names = |set: &[Role]| {
            let names: Vec<&str> = set.iter().map(|role| role.as_str()).collect();
            names.join(", ")
        };
        let fits = |set: &&[Role]| {
            set.len() == self.tensors.len() && set.iter().all(|role| self.position(*role).is_some())
        };
        if !self.kind.roles().iter().any(fits) {
            let sets: Vec<String> = self.kind.roles().iter().map(|set| names(set)).collect();
            return Err(format!(
                "output.kind = {kind:?} with [[output.tensors]] of the roles [{}], expected {}",
                found.join(", "),
                sets.join("; or ")
            ));
        }
        if let Some((number, tensor)) = self.tensors.iter().enumerate().find(|(_, tensor)| {
            tensor.dtype != OutputType::F32 && !matches!(tensor.role, Role::Labels | Role::Classes)
        }) {
            return Err(format!(
                "output.tensors[{number}].dtype of role {:?} must be \"f32\"",
                tensor.role.as_str()
            ));
        }
        if self.tensors.len() > 1 && self.tensors.iter().any(|tensor| tensor.name.is_none()) {
            return Err(format!(
                "output.kind = {kind:?} reads {} outputs: each of [[output.tensors]] needs its name",
                self.tensors.len()
            ));
        }
        let Objects {
            activation,
            threshold,
            score,
            doubt,
            nms,
            matrix_nms,
            max_objects,
            first_class,
            boxes,
            box_unit,
            reading,
            ..
        } = self.objects;
        for (key, value) in [
            ("threshold", threshold),
            ("score", score),
            ("doubt", doubt),
            ("nms", nms.unwrap_or(0.5)),
        ] {
            if !(value > 0.0 && value < 1.0) {
                return Err(format!(
                    "output.{key} = {value}, expected more than 0 and less than 1: it would decide nothing"
                ));
            }
        }
        if doubt > score {
            return Err(format!(
                "output.doubt = {doubt}, expected at most output.score = {score}"
            ));
        }
        if nms.is_some() && !self.has_boxes() {
            return Err("output.nms compares boxes, and the outputs hold none: set output.matrix_nms".into());
        }
        if let Some(sigma) = matrix_nms {
            if self.has_boxes() {
                return Err("output.matrix_nms compares masks without boxes: set output.nms".into());
            }
            if !(sigma > 0.0 && sigma <= 100.0) {
                return Err(format!(
                    "output.matrix_nms = {sigma}, expected more than 0 and at most 100"
                ));
            }
        }
        if boxes == BoxForm::Cells && (self.kind != OutputKind::Boxes || box_unit != BoxUnit::Pixels) {
            return Err(format!(
                "output.boxes = \"cells\" is for kind = \"boxes\" with box_unit = \"pixels\", not {kind:?} with {box_unit:?}"
            ));
        }
        if !(1..=250).contains(&max_objects) {
            return Err(format!("output.max_objects = {max_objects}, expected 1 to 250"));
        }
        if first_class > 1 {
            return Err(format!("output.first_class = {first_class}, expected 0 or 1"));
        }
        if activation == Activation::Softmax && self.kind != OutputKind::Queries {
            return Err(format!(
                "output.activation = \"softmax\" is for kind = \"queries\", not {kind:?}"
            ));
        }
        if self.kind == OutputKind::Queries && reading == Reading::Semantic && first_class == 1 {
            return Err(
                "output.reading = \"semantic\" needs output.first_class = 0: every class can win".into(),
            );
        }
        Ok(())
    }

    /// Whether the classes are those that the kind needs.
    pub(super) fn check_classes(&self, classes: &[Class]) -> Result<(), String> {
        let kind = self.kind.as_str();
        let reads_semantic = self.kind == OutputKind::Queries && self.objects.reading == Reading::Semantic;
        match self.kind {
            OutputKind::Semantic | OutputKind::Binary
                if self.regions && classes.iter().all(|class| !class.thing) =>
            {
                return Err(
                    "output.regions makes objects of things: at least one of [[classes]] needs thing = true"
                        .into(),
                );
            }
            OutputKind::Semantic => {
                let decides = classes.len() > 1 || self.tensors.iter().all(|t| t.role != Role::Logits);
                return match decides {
                    true => Ok(()),
                    false => Err(
                        "output.kind = \"logits\" with one class labels every pixel with it: \
                                  expected two classes, or kind = \"binary\" for a network of one channel"
                            .into(),
                    ),
                };
            }
            OutputKind::Binary if classes.len() != 2 => {
                return Err(format!(
                    "output.kind = \"binary\" with {} classes, expected two: what lies below the threshold, and above",
                    classes.len()
                ));
            }
            OutputKind::Binary => return Ok(()),
            OutputKind::Queries if reads_semantic && classes.len() < 2 => {
                return Err("output.reading = \"semantic\" with one class labels every pixel with it".into());
            }
            OutputKind::Queries if reads_semantic => return Ok(()),
            _ => {}
        }
        let things = classes.iter().filter(|class| class.thing).count();
        if things == 0 {
            return Err(format!(
                "output.kind = {kind:?} finds objects: at least one of [[classes]] needs thing = true"
            ));
        }
        if classes[0].thing {
            return Err(format!(
                "output.kind = {kind:?} leaves pixels without an object to the first of [[classes]]: {:?} can't be a thing",
                classes[0].name
            ));
        }
        if matches!(self.kind, OutputKind::Centers | OutputKind::Boxes) {
            // Each class is a segment, and so is each object.
            let most = MAX_SEGMENTS - self.objects.max_objects;
            if classes.len() > most {
                return Err(format!(
                    "{} classes and output.max_objects = {} are more than {MAX_SEGMENTS} segments",
                    classes.len(),
                    self.objects.max_objects
                ));
            }
            return Ok(());
        }
        if !classes[0].background {
            return Err(format!(
                "output.kind = {kind:?} leaves pixels without an object to the first of [[classes]]: {:?} needs \
                 background = true",
                classes[0].name
            ));
        }
        let stuff = classes.iter().skip(1).find(|class| !class.thing);
        match stuff {
            Some(stuff) if self.kind != OutputKind::Queries => Err(format!(
                "output.kind = {kind:?} finds objects of every class: {:?} needs thing = true",
                stuff.name
            )),
            _ => Ok(()),
        }
    }
}
