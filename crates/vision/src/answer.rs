//! A network's answer: its outputs, checked against the contract and brought into one form, whatever layout and type
//! the file has.

use crate::error::{Error, Result};
use crate::model::contract::{Activation, Contract, Layout, OutputKind, OutputType, Role, TensorContract};
use crate::tensor::{Elements, Outputs, Values};

pub mod objects;

use objects::Form;

/// What a network says of one picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// `[C, H, W]` scores, all finite; the largest wins.
    Logits {
        /// Classes.
        classes: usize,
        /// Rows of cells.
        height: usize,
        /// Cells a row.
        width: usize,
        /// `classes * height * width` values.
        values: Vec<f32>,
    },
    /// `[H, W]` class indices, all of them classes.
    Labels {
        /// Rows.
        height: usize,
        /// Labels a row.
        width: usize,
        /// `height * width` class indices.
        labels: Vec<u8>,
    },
    /// Outputs that objects are read from, all numbers finite.
    Objects(Outputs),
}

impl Answer {
    /// An answer that holds nothing yet; the first one read gives it its kind and size.
    pub fn empty() -> Self {
        Self::Labels {
            height: 0,
            width: 0,
            labels: Vec::new(),
        }
    }
}

/// Of the cells of a picture, at most this share may have the same score for every class.
const MOST_UNDECIDED: f64 = 0.25;

/// Where one channel is cut into two classes.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// A cell of a larger number is of the second class.
    above: f32,
    /// Whether numbers are probabilities.
    of_probabilities: bool,
}

/// What the contract says of the output, as far as reading an answer needs it.
#[derive(Debug, Clone)]
pub struct Reader {
    role: Role,
    layout: Layout,
    dtype: OutputType,
    /// Channels of logits.
    classes: usize,
    /// Where one channel is cut into two classes.
    cut: Option<Cut>,
    /// Of answers that are neither logits nor labels.
    form: Option<Form>,
    /// Whose answer it is, for errors.
    origin: String,
}

impl Reader {
    /// Reads what `contract` describes; `origin` names the network in errors: its file, or the model.
    pub fn new(contract: &Contract, origin: &str) -> Self {
        let TensorContract {
            role, layout, dtype, ..
        } = *contract.output.semantic();
        let objects = &contract.output.objects;
        let is_binary = contract.output.kind == OutputKind::Binary;
        Self {
            role,
            layout,
            dtype,
            classes: if is_binary { 1 } else { contract.classes.len() },
            cut: is_binary.then(|| match objects.activation {
                Activation::Sigmoid => Cut {
                    above: objects::logit(objects.threshold),
                    of_probabilities: false,
                },
                Activation::None | Activation::Softmax => Cut {
                    above: objects.threshold,
                    of_probabilities: true,
                },
            }),
            form: contract.output.kind.has_objects().then(|| Form::new(contract)),
            origin: origin.to_owned(),
        }
    }

    /// Checks that an output's shape and type are what the contract says, and labels as well; scores may be any.
    ///
    /// # Errors
    /// Fatal, naming the origin, what was found and what the contract says.
    pub fn check(&self, outputs: &Outputs) -> Result<()> {
        self.check_shape(outputs)?;
        match (self.role, outputs.tensors().first()) {
            (Role::Labels, Some(tensor)) => self
                .narrow(&mut Vec::new(), tensor.values.elements())
                .map_err(|label| self.error(self.outside(label))),
            _ => Ok(()),
        }
    }

    fn check_shape(&self, outputs: &Outputs) -> Result<()> {
        if let Some(form) = &self.form {
            return form.check(outputs).map_err(|why| self.error(why));
        }
        let tensor = outputs
            .tensors()
            .first()
            .ok_or_else(|| self.error("it gave no output".to_owned()))?;
        let elements = tensor.values.elements();
        if elements.dtype() != self.dtype {
            return Err(self.error(format!(
                "its output holds {:?}, the contract says {:?}",
                elements.dtype(),
                self.dtype
            )));
        }
        let expected = match self.role {
            Role::Labels => {
                let (height, width) = self.labels_cells(&tensor.shape)?;
                height * width
            }
            _ => {
                let (height, width) = self.logits_cells(&tensor.shape)?;
                self.classes * height * width
            }
        };
        self.full(&tensor.shape, expected, elements.len())
    }

    /// Checks the outputs against the contract and brings them into `answer`. Buffers change hands where nothing has to
    /// be reordered, and are kept otherwise: after the first two answers of a size nothing is allocated.
    ///
    /// # Errors
    /// Fatal, naming the origin, for another shape or type than the contract's. Transient for an answer that means nothing:
    /// labels past the last class, scores that are not finite, or scores that are equal for every class in many cells.
    pub fn read(&self, outputs: &mut Outputs, answer: &mut Answer) -> Result<()> {
        self.check_shape(outputs)?;
        if let Some(form) = &self.form {
            form.check_numbers(outputs).map_err(|why| self.no_answer(why))?;
            if !matches!(answer, Answer::Objects(_)) {
                *answer = Answer::Objects(Outputs::default());
            }
            if let Answer::Objects(mine) = answer {
                std::mem::swap(mine, outputs);
            }
            return Ok(());
        }
        let Some(tensor) = outputs.tensor_mut(0) else {
            return Err(self.error("it gave no output".to_owned()));
        };
        match (self.role, &mut tensor.values) {
            (Role::Labels, found) => self.labels(&tensor.shape, found.elements(), answer),
            (_, Values::F32(found)) => match self.cut {
                Some(cut) => self.one_channel(&tensor.shape, found, cut, answer),
                None => self.logits(&tensor.shape, found, answer),
            },
            _ => Err(self.error("logits that are not f32".to_owned())),
        }
    }

    /// The logits of two classes, from one channel and where it is cut.
    fn one_channel(&self, shape: &[usize], found: &[f32], cut: Cut, answer: &mut Answer) -> Result<()> {
        let (rows, cells_a_row) = self.logits_cells(shape)?;
        if !found.iter().fold(true, |all, value| all & value.is_finite()) {
            let bad = found.iter().filter(|value| !value.is_finite()).count();
            return Err(self.no_answer(format!("{bad} of its {} scores are not finite", found.len())));
        }
        if cut.of_probabilities {
            objects::probabilities("scores", found.iter().copied()).map_err(|why| self.no_answer(why))?;
        }
        if !matches!(answer, Answer::Logits { .. }) {
            *answer = Answer::Logits {
                classes: 2,
                height: rows,
                width: cells_a_row,
                values: Vec::new(),
            };
        }
        if let Answer::Logits {
            classes,
            height,
            width,
            values,
        } = answer
        {
            (*classes, *height, *width) = (2, rows, cells_a_row);
            values.clear();
            values.resize(found.len(), cut.above);
            values.extend_from_slice(found);
        }
        Ok(())
    }

    /// Rows and cells a row of `[1, C, H, W]` or `[1, H, W, C]`; of one channel also `[1, H, W]` and `[H, W]`.
    fn logits_cells(&self, shape: &[usize]) -> Result<(usize, usize)> {
        let (classes, height, width) = match (shape, self.layout) {
            (&[h, w] | &[1, h, w], _) if self.cut.is_some() => (1, h, w),
            (&[1, c, h, w], Layout::Nchw) | (&[1, h, w, c], Layout::Nhwc) => (c, h, w),
            _ => (0, 0, 0),
        };
        if height == 0 || width == 0 {
            let expected = match self.layout {
                Layout::Nchw => "[1, C, H, W]",
                Layout::Nhwc => "[1, H, W, C]",
            };
            return Err(self.error(format!(
                "its output has shape {shape:?}, the contract says logits {expected}"
            )));
        }
        if classes != self.classes {
            return Err(self.error(format!(
                "its output has shape {shape:?}, {classes} classes; the contract has {}",
                match self.cut {
                    Some(_) => "one channel".to_owned(),
                    None => self.classes.to_string(),
                }
            )));
        }
        Ok((height, width))
    }

    fn logits(&self, shape: &[usize], found: &mut Vec<f32>, answer: &mut Answer) -> Result<()> {
        let (rows, cells_a_row) = self.logits_cells(shape)?;
        let cells = rows * cells_a_row;
        if !matches!(answer, Answer::Logits { .. }) {
            *answer = Answer::Logits {
                classes: self.classes,
                height: rows,
                width: cells_a_row,
                values: Vec::new(),
            };
        }
        let Answer::Logits {
            classes,
            height,
            width,
            values,
        } = answer
        else {
            return Ok(());
        };
        (*classes, *height, *width) = (self.classes, rows, cells_a_row);
        match self.layout {
            Layout::Nchw => std::mem::swap(values, found),
            Layout::Nhwc => {
                values.resize(self.classes * cells, 0.0);
                for (class, plane) in values.chunks_exact_mut(cells).enumerate() {
                    for (value, cell) in plane.iter_mut().zip(found.chunks_exact(self.classes)) {
                        *value = cell[class];
                    }
                }
            }
        }
        self.says_something(values, cells)
    }

    /// Scores that are not finite, or that are the same for every class, are no answer.
    fn says_something(&self, values: &[f32], cells: usize) -> Result<()> {
        if !values.iter().fold(true, |all, value| all & value.is_finite()) {
            let bad = values.iter().filter(|value| !value.is_finite()).count();
            return Err(self.no_answer(format!("{bad} of its {} scores are not finite", values.len())));
        }
        if self.classes < 2 {
            return Ok(());
        }
        let first = &values[..cells];
        // Most cells are decided by the second class already.
        let undecided = (0..cells)
            .filter(|&cell| {
                values[cell..]
                    .iter()
                    .step_by(cells)
                    .all(|score| *score == first[cell])
            })
            .count();
        if undecided as f64 > MOST_UNDECIDED * cells as f64 {
            return Err(self.no_answer(format!(
                "in {undecided} of its {cells} cells every class has the same score"
            )));
        }
        Ok(())
    }

    /// Rows and labels a row.
    fn labels_cells(&self, shape: &[usize]) -> Result<(usize, usize)> {
        let (height, width) = match (shape, self.layout) {
            (&[h, w] | &[1, h, w] | &[1, 1, h, w], Layout::Nchw) => (h, w),
            (&[h, w] | &[1, h, w] | &[1, h, w, 1], Layout::Nhwc) => (h, w),
            _ => (0, 0),
        };
        if height == 0 || width == 0 {
            return Err(self.error(format!(
                "its output has shape {shape:?}, the contract says labels [1, H, W]"
            )));
        }
        Ok((height, width))
    }

    fn labels(&self, shape: &[usize], found: Elements<'_>, answer: &mut Answer) -> Result<()> {
        let cells = self.labels_cells(shape)?;
        if !matches!(answer, Answer::Labels { .. }) {
            *answer = Answer::empty();
        }
        let Answer::Labels {
            height,
            width,
            labels,
        } = answer
        else {
            return Ok(());
        };
        (*height, *width) = cells;
        labels.clear();
        self.narrow(labels, found)
            .map_err(|label| self.no_answer(self.outside(label)))
    }

    /// Appends labels as bytes.
    ///
    /// # Errors
    /// A label outside the classes.
    fn narrow(&self, labels: &mut Vec<u8>, found: Elements<'_>) -> Result<(), i64> {
        match found {
            Elements::F32(v) => self.narrow_all(labels, v.iter().map(|&x| f32_label(x))),
            Elements::I64(v) => self.narrow_all(labels, v.iter().copied()),
            Elements::I32(v) => self.narrow_all(labels, v.iter().map(|&x| i64::from(x))),
            Elements::U8(v) => self.narrow_all(labels, v.iter().map(|&x| i64::from(x))),
        }
    }

    fn narrow_all(&self, labels: &mut Vec<u8>, found: impl Iterator<Item = i64>) -> Result<(), i64> {
        let classes = self.classes as i64;
        let mut outside = None;
        labels.extend(found.map(|label| {
            if !(0..classes).contains(&label) {
                outside = Some(label);
            }
            label as u8
        }));
        outside.map_or(Ok(()), Err)
    }

    fn outside(&self, label: i64) -> String {
        format!(
            "its output holds the label {label}, the contract has classes 0 to {}",
            self.classes - 1
        )
    }

    fn full(&self, shape: &[usize], expected: usize, found: usize) -> Result<()> {
        if found == expected {
            return Ok(());
        }
        Err(self.error(format!(
            "its output of shape {shape:?} has {found} elements, expected {expected}"
        )))
    }

    fn error(&self, what: String) -> Error {
        Error::fatal(format!("{}: {what}", self.origin))
            .hint("the contract and the network don't belong together: correct contract.toml or export again")
    }

    /// The network ran, but its answer means nothing; for other pictures it may.
    fn no_answer(&self, what: String) -> Error {
        Error::transient(format!("{}: {what}", self.origin))
            .hint("use another --precision, --backend or --model")
    }
}

/// A label written as a float. Anything but a whole number becomes -1, which no contract has.
fn f32_label(value: f32) -> i64 {
    if value.fract() == 0.0 && (0.0..256.0).contains(&value) {
        value as i64
    } else {
        -1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(role: Role, layout: Layout, dtype: OutputType, classes: usize) -> Reader {
        Reader {
            role,
            layout,
            dtype,
            classes,
            cut: None,
            form: None,
            origin: "x.onnx".into(),
        }
    }

    fn outputs(shape: &[usize], elements: Elements<'_>) -> Outputs {
        let mut outputs = Outputs::default();
        outputs.write(0, "answer", shape, elements);
        outputs
    }

    #[test]
    fn both_layouts_give_the_same_planes() {
        let nchw = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0];
        let mut nhwc = [0.0; 12];
        for class in 0..3 {
            for cell in 0..4 {
                nhwc[cell * 3 + class] = nchw[class * 4 + cell];
            }
        }
        let (mut a, mut b) = (Answer::empty(), Answer::empty());
        reader(Role::Logits, Layout::Nchw, OutputType::F32, 3)
            .read(&mut outputs(&[1, 3, 2, 2], Elements::F32(&nchw)), &mut a)
            .unwrap();
        reader(Role::Logits, Layout::Nhwc, OutputType::F32, 3)
            .read(&mut outputs(&[1, 2, 2, 3], Elements::F32(&nhwc)), &mut b)
            .unwrap();
        assert_eq!(a, b);
        assert_eq!(
            a,
            Answer::Logits {
                classes: 3,
                height: 2,
                width: 2,
                values: nchw.to_vec()
            }
        );
    }

    #[test]
    fn labels_of_every_shape_and_type() {
        let expected = Answer::Labels {
            height: 1,
            width: 3,
            labels: vec![2, 0, 1],
        };
        let nchw = |dtype| reader(Role::Labels, Layout::Nchw, dtype, 3);
        let nhwc = |dtype| reader(Role::Labels, Layout::Nhwc, dtype, 3);
        for (reader, shape, elements) in [
            (nchw(OutputType::I64), &[1, 1, 3][..], Elements::I64(&[2, 0, 1])),
            (nchw(OutputType::I32), &[1, 1, 1, 3], Elements::I32(&[2, 0, 1])),
            (nhwc(OutputType::U8), &[1, 1, 3, 1], Elements::U8(&[2, 0, 1])),
            (nhwc(OutputType::F32), &[1, 3], Elements::F32(&[2.0, 0.0, 1.0])),
        ] {
            let mut answer = Answer::Logits {
                classes: 1,
                height: 1,
                width: 1,
                values: vec![0.0],
            };
            reader.read(&mut outputs(shape, elements), &mut answer).unwrap();
            assert_eq!(answer, expected);
        }
    }

    #[test]
    fn what_the_contract_does_not_say_is_refused() {
        let logits = reader(Role::Logits, Layout::Nchw, OutputType::F32, 3);
        let labels = reader(Role::Labels, Layout::Nchw, OutputType::I64, 3);
        for (reader, shape, elements, expected) in [
            (&logits, &[1, 4, 1, 1][..], Elements::F32(&[0.0; 4]), "4 classes"),
            (&logits, &[3, 1], Elements::F32(&[0.0; 3]), "logits [1, C, H, W]"),
            (&logits, &[1, 3, 0, 1], Elements::F32(&[]), "logits [1, C, H, W]"),
            (&logits, &[1, 3, 2, 1], Elements::F32(&[0.0; 5]), "5 elements"),
            (
                &logits,
                &[1, 3, 1, 1],
                Elements::I64(&[0; 3]),
                "holds I64, the contract says F32",
            ),
            (&labels, &[1, 1, 2], Elements::I64(&[0, 3]), "label 3"),
            (&labels, &[1, 1, 2], Elements::I64(&[-1, 0]), "label -1"),
            (&labels, &[2, 1, 2], Elements::I64(&[0; 4]), "labels [1, H, W]"),
        ] {
            let error = reader
                .read(&mut outputs(shape, elements), &mut Answer::empty())
                .unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.to_string().starts_with("x.onnx: "), "{error}");
            let is_label = expected.starts_with("label ");
            assert_eq!(error.is_transient(), is_label, "{error}");
            if is_label {
                let error = reader.check(&outputs(shape, elements)).unwrap_err();
                assert!(
                    !error.is_transient() && error.to_string().contains(expected),
                    "{error}"
                );
            }
        }
    }

    /// Two classes in four cells.
    fn read_scores(scores: [f32; 8]) -> Result<()> {
        reader(Role::Logits, Layout::Nchw, OutputType::F32, 2).read(
            &mut outputs(&[1, 2, 2, 2], Elements::F32(&scores)),
            &mut Answer::empty(),
        )
    }

    #[test]
    fn an_answer_that_says_nothing_is_a_failure_that_may_pass() {
        let good = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        read_scores(good).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in 0..8 {
                let mut scores = good;
                scores[place] = bad;
                let error = read_scores(scores).unwrap_err();
                assert!(
                    error.is_transient() && error.to_string().contains("1 of its 8 scores"),
                    "{error}"
                );
            }
        }
        let error = read_scores([0.0; 8]).unwrap_err();
        assert!(
            error.is_transient() && error.to_string().contains("4 of its 4 cells"),
            "{error}"
        );
        // One close call in four is possible, two are not.
        read_scores([1.0, 2.0, 3.0, 4.0, 1.0, 6.0, 7.0, 8.0]).unwrap();
        assert!(read_scores([1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 7.0, 8.0]).is_err());
    }
}
