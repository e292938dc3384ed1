//! The outputs that objects are read from, as their decoders see them: where each number lies, whatever the layout.

use crate::model::contract::{
    Activation, Contract, DetectionForm, Layout, Objects, OutputContract, OutputKind, Reading, Role,
};
use crate::tensor::{Elements, NamedTensor, Outputs, Values};

/// How far past 0 and 1 a probability may lie by rounding.
const ROUNDING: f32 = 1e-3;

/// A matrix: `count` rows of `fields` numbers each.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    values: &'a [f32],
    /// Rows.
    pub count: usize,
    /// Numbers a row.
    pub fields: usize,
    /// Whether a field's numbers of all rows lie together.
    by_field: bool,
}

impl<'a> Rows<'a> {
    /// Number `field` of row `row`.
    ///
    /// # Panics
    /// If there is none.
    #[inline(always)]
    pub fn at(&self, row: usize, field: usize) -> f32 {
        match self.by_field {
            true => self.values[field * self.count + row],
            false => self.values[row * self.fields + field],
        }
    }

    /// For each row the largest of the numbers in `fields`, the earlier of equals, and which it is, counted from the first
    /// of `fields`.
    pub fn largest(&self, fields: std::ops::Range<usize>, best: &mut Vec<(f32, u32)>) {
        best.clear();
        best.resize(self.count, (f32::NEG_INFINITY, 0));
        if self.by_field {
            for (number, field) in (0_u32..).zip(fields) {
                let plane = &self.values[field * self.count..][..self.count];
                for (best, &value) in best.iter_mut().zip(plane) {
                    let wins = value > best.0;
                    *best = if wins { (value, number) } else { *best };
                }
            }
            return;
        }
        for (best, row) in best.iter_mut().zip(self.values.chunks_exact(self.fields.max(1))) {
            for (number, &value) in (0_u32..).zip(&row[fields.clone()]) {
                if value > best.0 {
                    *best = (value, number);
                }
            }
        }
    }

    fn in_fields(&self, fields: std::ops::Range<usize>) -> impl Iterator<Item = f32> + '_ {
        (0..self.count).flat_map(move |row| fields.clone().map(move |field| self.at(row, field)))
    }
}

/// Pictures of one size, one behind the other or with their cells side by side.
#[derive(Debug, Clone, Copy)]
pub struct Planes<'a> {
    values: &'a [f32],
    /// How many there are.
    pub count: usize,
    /// Rows of cells.
    pub height: usize,
    /// Cells a row.
    pub width: usize,
    interleaved: bool,
}

impl<'a> Planes<'a> {
    /// `[count, height, width]`, one behind the other.
    ///
    /// # Panics
    /// If `values` are not as many.
    pub fn new(values: &'a [f32], count: usize, height: usize, width: usize) -> Self {
        assert_eq!(
            values.len(),
            count * height * width,
            "{count} of {width}x{height}"
        );
        Self {
            values,
            count,
            height,
            width,
            interleaved: false,
        }
    }

    /// Cell `cell` of plane `plane`, counted row by row.
    ///
    /// # Panics
    /// If there is none.
    #[inline(always)]
    pub fn at(&self, plane: usize, cell: usize) -> f32 {
        match self.interleaved {
            true => self.values[cell * self.count + plane],
            false => self.values[plane * self.width * self.height + cell],
        }
    }

    /// A plane's cells, where they lie together.
    pub fn plane(&self, plane: usize) -> Option<&'a [f32]> {
        let cells = self.width * self.height;
        (!self.interleaved).then(|| &self.values[plane * cells..][..cells])
    }

    /// Adds `factor` times the cells `from..from + sums.len()` of a plane.
    pub fn add(&self, plane: usize, from: usize, factor: f32, sums: &mut [f32]) {
        match self.plane(plane) {
            Some(values) => {
                let values = &values[from..from + sums.len()];
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += factor * value;
                }
            }
            None => {
                for (cell, sum) in (from..).zip(sums) {
                    *sum += factor * self.at(plane, cell);
                }
            }
        }
    }

    /// All of them, plane by plane if they are so.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }
}

/// Candidates with boxes.
#[derive(Debug, Clone, Copy)]
pub struct Detected<'a> {
    /// Four numbers each, from the first field on.
    pub boxes: Rows<'a>,
    /// Scores of the classes, beginning at `first_score`; of [`DetectionForm::BestClass`] score and class.
    pub scores: Rows<'a>,
    /// Where they begin.
    pub first_score: usize,
    /// Where they factor in how likely there is anything.
    pub objectness: Option<usize>,
}

/// What [`OutputKind::Prototypes`] reads.
#[derive(Debug, Clone, Copy)]
pub struct Prototyped<'a> {
    /// The candidates.
    pub detected: Detected<'a>,
    /// Factors of the prototypes, beginning at `first_coefficient`.
    pub coefficients: Rows<'a>,
    /// Where they begin.
    pub first_coefficient: usize,
    /// The prototypes.
    pub prototypes: Planes<'a>,
}

/// What [`OutputKind::Prototypes`] reads where there are no boxes.
#[derive(Debug, Clone, Copy)]
pub struct Kernels<'a> {
    /// Of each candidate, for each class.
    pub scores: Rows<'a>,
    /// Of each candidate, a factor for each plane of features.
    pub kernels: Rows<'a>,
    /// The features.
    pub features: Planes<'a>,
}

/// What [`OutputKind::BoxesMasks`] reads.
#[derive(Debug, Clone, Copy)]
pub struct BoxedMasks<'a> {
    /// Four numbers each.
    pub boxes: Rows<'a>,
    /// One each.
    pub scores: &'a [f32],
    /// One each.
    pub classes: Elements<'a>,
    /// One each.
    pub masks: Planes<'a>,
}

/// What [`OutputKind::Queries`] reads.
#[derive(Debug, Clone, Copy)]
pub struct Queried<'a> {
    /// Of each query, for each class, and for nothing with [`Activation::Softmax`].
    pub scores: Rows<'a>,
    /// Logits.
    pub masks: Planes<'a>,
}

/// What [`OutputKind::Centers`] reads.
#[derive(Debug, Clone, Copy)]
pub struct Centered<'a> {
    /// Of each class.
    pub logits: Planes<'a>,
    /// Of centres.
    pub heat: Planes<'a>,
    /// Down, right.
    pub offsets: Planes<'a>,
}

/// What [`OutputKind::Boxes`] reads.
#[derive(Debug, Clone, Copy)]
pub struct ClassesAndBoxes<'a> {
    /// Of each class.
    pub logits: Planes<'a>,
    /// The candidates.
    pub detected: Detected<'a>,
}

/// What the contract says of outputs that objects are read from.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    output: OutputContract,
    /// Classes of the contract.
    classes: usize,
}

impl Form {
    /// As `contract` says.
    pub fn new(contract: &Contract) -> Self {
        Self {
            output: contract.output.clone(),
            classes: contract.classes.len(),
        }
    }

    /// How objects are decided.
    pub fn objects(&self) -> &Objects {
        &self.output.objects
    }

    /// Classes that the network knows: those of the contract, without one that it leaves out.
    pub fn known_classes(&self) -> usize {
        self.classes.saturating_sub(self.output.objects.first_class)
    }

    fn tensor<'a>(&self, outputs: &'a Outputs, role: Role) -> Result<(&'a NamedTensor, Layout), String> {
        let position = self
            .output
            .position(role)
            .ok_or_else(|| format!("the contract names no output of role {:?}", role.as_str()))?;
        let tensor = outputs
            .tensors()
            .get(position)
            .ok_or_else(|| format!("it gave no output {:?}", role.as_str()))?;
        let contract = &self.output.tensors[position];
        let found = tensor.values.elements().dtype();
        if found != contract.dtype {
            return Err(format!(
                "its output {:?} holds {found:?}, the contract says {:?} (output.tensors[{position}].dtype)",
                tensor.name, contract.dtype
            ));
        }
        let elements = tensor
            .shape
            .iter()
            .try_fold(1_usize, |n, &side| n.checked_mul(side));
        if elements != Some(tensor.values.elements().len()) {
            return Err(format!(
                "its output {:?} of shape {:?} has {} elements",
                tensor.name,
                tensor.shape,
                tensor.values.elements().len()
            ));
        }
        Ok((tensor, contract.layout))
    }

    fn floats<'a>(
        &self,
        outputs: &'a Outputs,
        role: Role,
    ) -> Result<(&'a NamedTensor, &'a [f32], Layout), String> {
        let (tensor, layout) = self.tensor(outputs, role)?;
        match &tensor.values {
            Values::F32(values) => Ok((tensor, values, layout)),
            other => Err(format!(
                "its output {:?} holds {:?}, expected f32",
                tensor.name,
                other.elements().dtype()
            )),
        }
    }

    /// `[N, fields]` or `[1, N, fields]`; the fields may come first, where `fields` or the layout says so.
    fn rows<'a>(&self, outputs: &'a Outputs, role: Role, fields: usize) -> Result<Rows<'a>, String> {
        let (tensor, values, layout) = self.floats(outputs, role)?;
        let (first, second) = match tensor.shape[..] {
            [a, b] | [1, a, b] => (a, b),
            // Scores of boxes: one number each.
            [a] if fields == 1 => (a, 1),
            _ => (0, 0),
        };
        let by_field = match (first == fields, second == fields) {
            (true, true) => layout == Layout::Nchw && role == Role::Detections,
            (true, false) => true,
            (false, true) => false,
            (false, false) => {
                return Err(format!(
                    "its output {:?} has shape {:?}; the contract's classes and outputs lead to [1, N, {fields}] or \
                     [1, {fields}, N] for role {:?}",
                    tensor.name,
                    tensor.shape,
                    role.as_str()
                ));
            }
        };
        Ok(Rows {
            values,
            count: if by_field { second } else { first },
            fields,
            by_field,
        })
    }

    /// `[1, count, H, W]`, `[count, 1, H, W]` or `[count, H, W]`; the planes last with [`Layout::Nhwc`].
    fn planes<'a>(
        &self,
        outputs: &'a Outputs,
        role: Role,
        count: Option<usize>,
    ) -> Result<Planes<'a>, String> {
        let (tensor, values, layout) = self.floats(outputs, role)?;
        let found = match (&tensor.shape[..], layout) {
            (&[1, n, h, w] | &[n, 1, h, w] | &[n, h, w], Layout::Nchw) => Some((n, h, w)),
            (&[1, h, w, n] | &[h, w, n], Layout::Nhwc) => Some((n, h, w)),
            _ => None,
        };
        match found {
            Some((n, h, w)) if count.is_none_or(|count| count == n) && (n == 0 || h > 0 && w > 0) => {
                Ok(Planes {
                    values,
                    count: n,
                    height: h,
                    width: w,
                    interleaved: layout == Layout::Nhwc,
                })
            }
            _ => {
                let count = count.map_or("N".to_owned(), |n| n.to_string());
                let expected = match layout {
                    Layout::Nchw => format!("[1, {count}, H, W]"),
                    Layout::Nhwc => format!("[1, H, W, {count}]"),
                };
                Err(format!(
                    "its output {:?} has shape {:?}; the contract says {expected} for role {:?}",
                    tensor.name,
                    tensor.shape,
                    role.as_str()
                ))
            }
        }
    }

    /// What [`OutputKind::Prototypes`] reads.
    ///
    /// # Errors
    /// What was found, and what the contract says.
    pub fn prototyped<'a>(&self, outputs: &'a Outputs) -> Result<Prototyped<'a>, String> {
        let prototypes = self.planes(outputs, Role::Prototypes, None)?;
        if prototypes.count == 0 || prototypes.width == 0 {
            return Err("its prototypes are none".into());
        }
        let is_apart = self.output.position(Role::Detections).is_none();
        let (detected, fields) = self.detected(outputs, if is_apart { 0 } else { prototypes.count })?;
        let coefficients = match is_apart {
            true => self.rows(outputs, Role::Coefficients, prototypes.count)?,
            false => detected.boxes,
        };
        match detected.boxes.count == coefficients.count {
            true => Ok(Prototyped {
                detected,
                coefficients,
                first_coefficient: if is_apart { 0 } else { fields },
                prototypes,
            }),
            false => Err(format!(
                "it gave {} boxes and coefficients of {}",
                detected.boxes.count, coefficients.count
            )),
        }
    }

    /// Candidates with boxes, and after how many fields what else a candidate has begins: `others` numbers.
    fn detected<'a>(&self, outputs: &'a Outputs, others: usize) -> Result<(Detected<'a>, usize), String> {
        let classes = self.known_classes();
        if self.output.position(Role::Detections).is_none() {
            let boxes = self.rows(outputs, Role::Boxes, 4)?;
            let scores = self.rows(outputs, Role::Scores, classes)?;
            return match boxes.count == scores.count {
                true => Ok((
                    Detected {
                        boxes,
                        scores,
                        first_score: 0,
                        objectness: None,
                    },
                    0,
                )),
                false => Err(format!(
                    "it gave {} boxes and scores of {}",
                    boxes.count, scores.count
                )),
            };
        }
        let (first_score, scores, objectness) = match self.output.objects.detections {
            DetectionForm::ClassScores => (4, classes, None),
            DetectionForm::Objectness => (5, classes, Some(4)),
            DetectionForm::BestClass => (4, 2, None),
        };
        let fields = first_score + scores;
        let all = self.rows(outputs, Role::Detections, fields + others)?;
        Ok((
            Detected {
                boxes: all,
                scores: all,
                first_score,
                objectness,
            },
            fields,
        ))
    }

    /// What [`OutputKind::Boxes`] reads.
    ///
    /// # Errors
    /// What was found, and what the contract says.
    pub fn classes_and_boxes<'a>(&self, outputs: &'a Outputs) -> Result<ClassesAndBoxes<'a>, String> {
        let logits = self.planes(outputs, Role::Logits, Some(self.classes))?;
        if logits.interleaved {
            return Err("the logits beside boxes are read as [1, C, H, W] (layout = \"nchw\")".into());
        }
        let (detected, _) = self.detected(outputs, 0)?;
        Ok(ClassesAndBoxes { logits, detected })
    }

    /// What [`OutputKind::Prototypes`] reads where there are no boxes.
    ///
    /// # Errors
    /// What was found, and what the contract says.
    pub fn kernels<'a>(&self, outputs: &'a Outputs) -> Result<Kernels<'a>, String> {
        let features = self.planes(outputs, Role::Prototypes, None)?;
        if features.count == 0 || features.width == 0 {
            return Err("its features are none".into());
        }
        let scores = self.rows(outputs, Role::Scores, self.known_classes())?;
        let kernels = self.rows(outputs, Role::Coefficients, features.count)?;
        match scores.count == kernels.count {
            true => Ok(Kernels {
                scores,
                kernels,
                features,
            }),
            false => Err(format!(
                "it gave scores of {} and kernels of {}",
                scores.count, kernels.count
            )),
        }
    }

    /// What [`OutputKind::BoxesMasks`] reads.
    ///
    /// # Errors
    /// What was found, and what the contract says.
    pub fn boxed<'a>(&self, outputs: &'a Outputs) -> Result<BoxedMasks<'a>, String> {
        let boxes = self.rows(outputs, Role::Boxes, 4)?;
        let (scores, values, _) = self.floats(outputs, Role::Scores)?;
        let (classes, _) = self.tensor(outputs, Role::Classes)?;
        let (masks, mask_values, _) = self.floats(outputs, Role::Masks)?;
        let n = boxes.count;
        for tensor in [scores, classes] {
            if !matches!(tensor.shape[..], [count] | [1, count] | [count, 1] if count == n) {
                return Err(format!(
                    "its output {:?} has shape {:?} for {n} boxes, expected [{n}]",
                    tensor.name, tensor.shape
                ));
            }
        }
        let (height, width) = match masks.shape[..] {
            [count, 1, h, w] | [1, count, h, w] | [count, h, w]
                if count == n && (n == 0 || h > 0 && w > 0) =>
            {
                (h, w)
            }
            _ => {
                return Err(format!(
                    "its output {:?} has shape {:?} for {n} boxes, expected [{n}, 1, H, W]",
                    masks.name, masks.shape
                ));
            }
        };
        Ok(BoxedMasks {
            boxes,
            scores: values,
            classes: classes.values.elements(),
            masks: Planes {
                values: mask_values,
                count: n,
                height,
                width,
                interleaved: false,
            },
        })
    }

    /// What [`OutputKind::Queries`] reads.
    ///
    /// # Errors
    /// What was found, and what the contract says.
    pub fn queried<'a>(&self, outputs: &'a Outputs) -> Result<Queried<'a>, String> {
        let masks = self.planes(outputs, Role::Masks, None)?;
        let nothing = usize::from(self.output.objects.activation == Activation::Softmax);
        let mut scores = self.rows(outputs, Role::Scores, self.known_classes() + nothing)?;
        if scores.count != masks.count && scores.fields == masks.count {
            // As many queries as scores each: the other way round.
            scores.by_field = !scores.by_field;
        }
        if scores.count != masks.count || masks.count == 0 {
            return Err(format!(
                "it gave scores of {} queries and masks of {}",
                scores.count, masks.count
            ));
        }
        if masks.interleaved {
            return Err("the masks of queries are read as [1, Q, H, W] (layout = \"nchw\")".into());
        }
        Ok(Queried { scores, masks })
    }

    /// What [`OutputKind::Centers`] reads.
    ///
    /// # Errors
    /// What was found, and what the contract says.
    pub fn centered<'a>(&self, outputs: &'a Outputs) -> Result<Centered<'a>, String> {
        let logits = self.planes(outputs, Role::Logits, Some(self.classes))?;
        let heat = self.planes(outputs, Role::Heat, Some(1))?;
        let offsets = self.planes(outputs, Role::Offsets, Some(2))?;
        if (heat.width, heat.height) != (offsets.width, offsets.height) {
            return Err(format!(
                "its heat has {}x{} cells, its offsets {}x{}",
                heat.width, heat.height, offsets.width, offsets.height
            ));
        }
        if logits.interleaved {
            return Err("the logits beside centres are read as [1, C, H, W] (layout = \"nchw\")".into());
        }
        Ok(Centered {
            logits,
            heat,
            offsets,
        })
    }

    /// Whether shapes and types are what the contract says.
    ///
    /// # Errors
    /// What was found, and what the contract says.
    pub fn check(&self, outputs: &Outputs) -> Result<(), String> {
        match self.output.kind {
            OutputKind::Semantic | OutputKind::Binary => Ok(()),
            OutputKind::Prototypes if !self.output.has_boxes() => self.kernels(outputs).map(drop),
            OutputKind::Prototypes => self.prototyped(outputs).map(drop),
            OutputKind::BoxesMasks => self.boxed(outputs).map(drop),
            OutputKind::Queries => self.queried(outputs).map(drop),
            OutputKind::Centers => self.centered(outputs).map(drop),
            OutputKind::Boxes => self.classes_and_boxes(outputs).map(drop),
        }
    }

    /// Whether the numbers can be an answer: all finite, probabilities between 0 and 1, classes that exist.
    ///
    /// # Errors
    /// What was found.
    pub fn check_numbers(&self, outputs: &Outputs) -> Result<(), String> {
        for tensor in outputs.tensors() {
            if let Values::F32(values) = &tensor.values
                && !values.iter().fold(true, |all, value| all & value.is_finite())
            {
                let bad = values.iter().filter(|value| !value.is_finite()).count();
                return Err(format!(
                    "{bad} of the {} numbers of its output {:?} are not finite",
                    values.len(),
                    tensor.name
                ));
            }
        }
        match self.output.kind {
            OutputKind::Prototypes if !self.output.has_boxes() => {
                match self.output.objects.activation == Activation::None {
                    true => probabilities("scores", self.kernels(outputs)?.scores.values.iter().copied()),
                    false => Ok(()),
                }
            }
            OutputKind::Prototypes => self.check_candidates(&self.prototyped(outputs)?.detected),
            OutputKind::Boxes => self.check_candidates(&self.classes_and_boxes(outputs)?.detected),
            OutputKind::BoxesMasks => {
                let found = self.boxed(outputs)?;
                probabilities("scores", found.scores.iter().copied())?;
                probabilities("masks", found.masks.values.iter().copied())?;
                for index in 0..found.boxes.count {
                    if found.scores[index] >= self.output.objects.doubt {
                        self.class(whole(found.classes, index))?;
                    }
                }
                Ok(())
            }
            OutputKind::Queries if self.output.objects.activation == Activation::None => {
                let scores = self.queried(outputs)?.scores;
                probabilities("scores", scores.values.iter().copied())
            }
            OutputKind::Centers if self.output.objects.activation == Activation::None => {
                // A heat map that was regressed may swing past both ends.
                let heat = self.centered(outputs)?.heat.values;
                match heat.iter().find(|value| !(-0.5..=1.5).contains(*value)) {
                    Some(value) => Err(outside("heat", *value)),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn check_candidates(&self, found: &Detected<'_>) -> Result<(), String> {
        let Objects {
            activation,
            detections,
            doubt,
            ..
        } = self.output.objects;
        let apart = self.output.position(Role::Detections).is_none();
        let picked = detections == DetectionForm::BestClass && !apart;
        let scores = match picked {
            true => 1,
            false => self.known_classes(),
        };
        if activation == Activation::None {
            let range = found.first_score..found.first_score + scores;
            probabilities("scores", found.scores.in_fields(range))?;
            if let Some(field) = found.objectness {
                probabilities("objectness", found.scores.in_fields(field..field + 1))?;
            }
        }
        if picked {
            for row in 0..found.scores.count {
                if probability(activation, found.scores.at(row, found.first_score)) >= doubt {
                    self.class(whole_number(found.scores.at(row, found.first_score + 1)))?;
                }
            }
        }
        Ok(())
    }

    /// The contract's class of the network's `label`.
    ///
    /// # Errors
    /// If there is none.
    pub fn class(&self, label: i64) -> Result<u8, String> {
        let first = self.output.objects.first_class;
        usize::try_from(label)
            .ok()
            .and_then(|label| label.checked_add(first))
            .filter(|class| *class < self.classes)
            .and_then(|class| u8::try_from(class).ok())
            .ok_or_else(|| {
                format!(
                    "its output holds the class {label}, the contract has {} to {} (output.first_class = {first})",
                    0,
                    self.classes.saturating_sub(first + 1)
                )
            })
    }

    /// Whether the answer becomes plain logits.
    pub fn is_semantic_reading(&self) -> bool {
        self.output.kind == OutputKind::Queries && self.output.objects.reading == Reading::Semantic
    }
}

/// `value` as a probability; softmax is taken of all scores together, and not here.
pub fn probability(activation: Activation, value: f32) -> f32 {
    match activation {
        Activation::None | Activation::Softmax => value,
        Activation::Sigmoid => sigmoid(value),
    }
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + (-value).exp())
}

/// The number whose [`sigmoid`] is `probability`.
pub fn logit(probability: f32) -> f32 {
    (probability / (1.0 - probability)).ln()
}

/// Number `index` as a whole one; -1, which no contract has, for anything else.
pub fn whole(elements: Elements<'_>, index: usize) -> i64 {
    match elements {
        Elements::F32(v) => v.get(index).map_or(-1, |&v| whole_number(v)),
        Elements::I64(v) => v.get(index).copied().unwrap_or(-1),
        Elements::I32(v) => v.get(index).map_or(-1, |&v| v.into()),
        Elements::U8(v) => v.get(index).map_or(-1, |&v| v.into()),
    }
}

/// A class that is written as a float; -1, which no contract has, for anything but 0 to 65535.
pub fn whole_number(value: f32) -> i64 {
    match value.fract() == 0.0 && (0.0..65_536.0).contains(&value) {
        true => value as i64,
        false => -1,
    }
}

pub(super) fn probabilities(what: &str, mut values: impl Iterator<Item = f32>) -> Result<(), String> {
    match values.find(|value| !(-ROUNDING..=1.0 + ROUNDING).contains(value)) {
        Some(value) => Err(outside(what, value)),
        None => Ok(()),
    }
}

fn outside(what: &str, value: f32) -> String {
    format!("its {what} hold {value}, the contract says probabilities (output.activation)")
}
