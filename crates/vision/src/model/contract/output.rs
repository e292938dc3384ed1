//! `[output]` as it is written: one output in the section itself, or a list of them.

use serde::{Deserialize, Serialize};

use super::objects::{Activation, BoxForm, BoxUnit, DetectionForm, Objects, Reading};
use super::{
    Grid, Layout, OutputContract, OutputKind, OutputType, Role, TensorContract, f32_type, half_pixel, nchw,
};

/// `output.kind` as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WrittenKind {
    Logits,
    Labels,
    Semantic,
    Binary,
    Prototypes,
    BoxesMasks,
    Queries,
    Centers,
    Boxes,
}

/// The section. The keys of an output stand beside `kind` where it names the output's role (format 1), and in
/// `[[output.tensors]]` otherwise (format 2).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    kind: WrittenKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layout: Option<Layout>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dtype: Option<OutputType>,
    #[serde(default = "half_pixel")]
    grid: Grid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    activation: Option<Activation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    threshold: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    doubt: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nms: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    matrix_nms: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_objects: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_class: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detections: Option<DetectionForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boxes: Option<BoxForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    box_unit: Option<BoxUnit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reading: Option<Reading>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mask_quality: Option<bool>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    regions: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tensors: Vec<TensorContract>,
}

impl Written {
    /// The section without an output's own keys.
    fn of(kind: WrittenKind, grid: Grid, tensors: Vec<TensorContract>) -> Self {
        Self {
            kind,
            layout: None,
            dtype: None,
            grid,
            name: None,
            activation: None,
            threshold: None,
            score: None,
            doubt: None,
            nms: None,
            matrix_nms: None,
            max_objects: None,
            first_class: None,
            detections: None,
            boxes: None,
            box_unit: None,
            reading: None,
            regions: false,
            mask_quality: None,
            tensors,
        }
    }

    /// The keys of objects that are written.
    fn written_keys(&self) -> impl Iterator<Item = &'static str> {
        let keys = [
            ("activation", self.activation.is_some()),
            ("threshold", self.threshold.is_some()),
            ("score", self.score.is_some()),
            ("doubt", self.doubt.is_some()),
            ("nms", self.nms.is_some()),
            ("matrix_nms", self.matrix_nms.is_some()),
            ("max_objects", self.max_objects.is_some()),
            ("first_class", self.first_class.is_some()),
            ("detections", self.detections.is_some()),
            ("boxes", self.boxes.is_some()),
            ("box_unit", self.box_unit.is_some()),
            ("reading", self.reading.is_some()),
            ("mask_quality", self.mask_quality.is_some()),
        ];
        keys.into_iter()
            .filter(|(_, is_there)| *is_there)
            .map(|(key, _)| key)
    }

    /// How objects are decided; what is not written is as usual.
    fn objects(&self, kind: OutputKind) -> Result<Objects, String> {
        let usual = Objects::default();
        if self.activation.is_none() && matches!(kind, OutputKind::Binary | OutputKind::Queries) {
            return Err(format!(
                "output.kind = {:?} needs output.activation: \"none\" for probabilities, \"sigmoid\" or \"softmax\" for logits",
                kind.as_str()
            ));
        }
        let score = self.score.unwrap_or(usual.score);
        Ok(Objects {
            activation: self.activation.unwrap_or(usual.activation),
            threshold: self.threshold.unwrap_or(usual.threshold),
            score,
            doubt: self.doubt.unwrap_or(score / 2.0),
            nms: self.nms,
            matrix_nms: self.matrix_nms,
            max_objects: self.max_objects.unwrap_or(usual.max_objects),
            first_class: match kind {
                OutputKind::Binary | OutputKind::Centers => 0,
                OutputKind::Queries if self.reading == Some(Reading::Semantic) => {
                    self.first_class.unwrap_or(0)
                }
                _ => self.first_class.unwrap_or(usual.first_class),
            },
            detections: self.detections.unwrap_or(usual.detections),
            boxes: self.boxes.unwrap_or(match kind {
                OutputKind::BoxesMasks => BoxForm::Corners,
                _ if self.detections == Some(DetectionForm::BestClass) => BoxForm::Corners,
                _ => usual.boxes,
            }),
            box_unit: self.box_unit.unwrap_or(usual.box_unit),
            reading: self.reading.unwrap_or(usual.reading),
            mask_quality: self.mask_quality.unwrap_or(usual.mask_quality),
        })
    }
}

impl TryFrom<Written> for OutputContract {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let kind = match written.kind {
            WrittenKind::Logits | WrittenKind::Labels | WrittenKind::Semantic => OutputKind::Semantic,
            WrittenKind::Binary => OutputKind::Binary,
            WrittenKind::Prototypes => OutputKind::Prototypes,
            WrittenKind::BoxesMasks => OutputKind::BoxesMasks,
            WrittenKind::Queries => OutputKind::Queries,
            WrittenKind::Centers => OutputKind::Centers,
            WrittenKind::Boxes => OutputKind::Boxes,
        };
        if let Some(key) = written.written_keys().find(|key| !kind.keys().contains(key)) {
            return Err(format!(
                "output.{key} is not a key of output.kind = {:?}",
                kind.as_str()
            ));
        }
        let role = match written.kind {
            WrittenKind::Logits => Role::Logits,
            WrittenKind::Labels => Role::Labels,
            _ => {
                if written.layout.is_some() || written.dtype.is_some() || written.name.is_some() {
                    return Err(format!(
                        "output.kind = {:?} has layout, dtype and name in [[output.tensors]]",
                        kind.as_str()
                    ));
                }
                let objects = match kind {
                    OutputKind::Semantic => Objects::default(),
                    _ => written.objects(kind)?,
                };
                return Ok(Self {
                    kind,
                    grid: written.grid,
                    tensors: written.tensors,
                    objects,
                    regions: written.regions,
                });
            }
        };
        if !written.tensors.is_empty() {
            return Err("[[output.tensors]] needs output.kind = \"semantic\"".into());
        }
        let of_classes = Self::of(
            TensorContract {
                role,
                layout: written.layout.unwrap_or_else(nchw),
                dtype: written.dtype.unwrap_or_else(f32_type),
                name: written.name,
            },
            written.grid,
        );
        Ok(Self {
            regions: written.regions,
            ..of_classes
        })
    }
}

impl From<OutputContract> for Written {
    fn from(output: OutputContract) -> Self {
        let OutputContract {
            kind,
            grid,
            tensors,
            objects,
            regions,
        } = output;
        if let (OutputKind::Semantic, [tensor]) = (kind, tensors.as_slice()) {
            let kind = match tensor.role {
                Role::Labels => WrittenKind::Labels,
                _ => WrittenKind::Logits,
            };
            return Self {
                layout: Some(tensor.layout),
                dtype: Some(tensor.dtype),
                name: tensor.name.clone(),
                regions,
                ..Self::of(kind, grid, Vec::new())
            };
        }
        let written = match kind {
            OutputKind::Semantic => WrittenKind::Semantic,
            OutputKind::Binary => WrittenKind::Binary,
            OutputKind::Prototypes => WrittenKind::Prototypes,
            OutputKind::BoxesMasks => WrittenKind::BoxesMasks,
            OutputKind::Queries => WrittenKind::Queries,
            OutputKind::Centers => WrittenKind::Centers,
            OutputKind::Boxes => WrittenKind::Boxes,
        };
        let has = |key: &str| kind.keys().contains(&key);
        Self {
            activation: has("activation").then_some(objects.activation),
            threshold: has("threshold").then_some(objects.threshold),
            score: has("score").then_some(objects.score),
            doubt: has("doubt").then_some(objects.doubt),
            nms: objects.nms.filter(|_| has("nms")),
            matrix_nms: objects.matrix_nms.filter(|_| has("matrix_nms")),
            max_objects: has("max_objects").then_some(objects.max_objects),
            first_class: has("first_class").then_some(objects.first_class),
            detections: has("detections").then_some(objects.detections),
            boxes: has("boxes").then_some(objects.boxes),
            box_unit: has("box_unit").then_some(objects.box_unit),
            reading: has("reading").then_some(objects.reading),
            regions,
            mask_quality: has("mask_quality").then_some(objects.mask_quality),
            ..Self::of(written, grid, tensors)
        }
    }
}

impl OutputContract {
    /// Whether format 1 can say it.
    pub(super) fn is_of_format_1(&self) -> bool {
        self.kind == OutputKind::Semantic && self.tensors.len() == 1 && !self.regions
    }

    /// Says which key holds what, and what was expected.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.regions && self.kind.has_objects() && self.kind != OutputKind::Boxes {
            return Err(format!(
                "output.regions is for networks that give classes, alone or beside boxes, not output.kind = {:?}",
                self.kind.as_str()
            ));
        }
        if self.kind != OutputKind::Semantic {
            return self.check_objects();
        }
        let [tensor] = self.tensors.as_slice() else {
            return Err(format!(
                "output.kind = \"semantic\" with {} [[output.tensors]], expected one of role \"logits\" or \"labels\"",
                self.tensors.len()
            ));
        };
        if !matches!(tensor.role, Role::Logits | Role::Labels) {
            return Err(format!(
                "output.kind = \"semantic\" with an output of role {:?}, expected \"logits\" or \"labels\"",
                tensor.role.as_str()
            ));
        }
        if tensor.role == Role::Logits && tensor.dtype != OutputType::F32 {
            return Err("output.dtype must be \"f32\" for kind = \"logits\"".into());
        }
        Ok(())
    }
}
