//! Bringing a network's answer, whatever its layout and type, into an [`Output`].

use crate::error::{Error, Result};
use crate::infer::Output;
use crate::model::contract::{Contract, Layout, OutputKind, OutputType};

/// An output tensor's elements, row-major.
#[derive(Debug, Clone, Copy)]
pub(super) enum Elements<'a> {
    F32(&'a [f32]),
    I64(&'a [i64]),
    I32(&'a [i32]),
    U8(&'a [u8]),
}

impl Elements<'_> {
    fn dtype(self) -> OutputType {
        match self {
            Self::F32(_) => OutputType::F32,
            Self::I64(_) => OutputType::I64,
            Self::I32(_) => OutputType::I32,
            Self::U8(_) => OutputType::U8,
        }
    }

    fn len(self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::U8(v) => v.len(),
        }
    }
}

/// What the contract says of the output, as far as reading an answer needs it.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    kind: OutputKind,
    layout: Layout,
    dtype: OutputType,
    classes: usize,
    /// The network's file, for errors.
    file: String,
}

impl Reader {
    pub(super) fn new(contract: &Contract, file: &str) -> Self {
        Self {
            kind: contract.output.kind,
            layout: contract.output.layout,
            dtype: contract.output.dtype,
            classes: contract.classes.len(),
            file: file.to_owned(),
        }
    }

    /// Checks the tensor against the contract and copies it into `output`, reusing its buffer.
    ///
    /// # Errors
    /// Fatal, naming the file, what was found and what the contract says.
    pub(super) fn read(&self, shape: &[usize], elements: Elements<'_>, output: &mut Output) -> Result<()> {
        if elements.dtype() != self.dtype {
            return Err(self.error(format!(
                "its output holds {:?}, the contract says {:?}",
                elements.dtype(),
                self.dtype
            )));
        }
        match self.kind {
            OutputKind::Logits => self.logits(shape, elements, output),
            OutputKind::Labels => self.labels(shape, elements, output),
        }
    }

    fn logits(&self, shape: &[usize], elements: Elements<'_>, output: &mut Output) -> Result<()> {
        let (classes, height, width) = match (shape, self.layout) {
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
                self.classes
            )));
        }
        let Elements::F32(found) = elements else {
            return Err(self.error("logits that are not f32".to_owned()));
        };
        let cells = height * width;
        self.full(shape, classes * cells, found.len())?;
        let values = match output {
            Output::Logits {
                classes: c,
                height: h,
                width: w,
                values,
            } => {
                (*c, *h, *w) = (classes, height, width);
                values
            }
            Output::Labels { .. } => {
                *output = Output::Logits {
                    classes,
                    height,
                    width,
                    values: Vec::new(),
                };
                match output {
                    Output::Logits { values, .. } => values,
                    Output::Labels { .. } => return Ok(()),
                }
            }
        };
        match self.layout {
            Layout::Nchw => {
                values.clear();
                values.extend_from_slice(found);
            }
            Layout::Nhwc => {
                values.resize(classes * cells, 0.0);
                for (class, plane) in values.chunks_exact_mut(cells).enumerate() {
                    for (value, cell) in plane.iter_mut().zip(found.chunks_exact(classes)) {
                        *value = cell[class];
                    }
                }
            }
        }
        Ok(())
    }

    fn labels(&self, shape: &[usize], elements: Elements<'_>, output: &mut Output) -> Result<()> {
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
        self.full(shape, height * width, elements.len())?;
        if !matches!(output, Output::Labels { .. }) {
            *output = Output::Labels {
                height,
                width,
                labels: Vec::new(),
            };
        }
        let Output::Labels {
            height: h,
            width: w,
            labels,
        } = output
        else {
            return Ok(());
        };
        (*h, *w) = (height, width);
        labels.clear();
        match elements {
            Elements::F32(v) => self.narrow(labels, v.iter().map(|&x| f32_label(x))),
            Elements::I64(v) => self.narrow(labels, v.iter().copied()),
            Elements::I32(v) => self.narrow(labels, v.iter().map(|&x| i64::from(x))),
            Elements::U8(v) => self.narrow(labels, v.iter().map(|&x| i64::from(x))),
        }
    }

    /// Labels as bytes; none may lie outside the classes.
    fn narrow(&self, labels: &mut Vec<u8>, found: impl Iterator<Item = i64>) -> Result<()> {
        let classes = self.classes as i64;
        let mut outside = None;
        labels.extend(found.map(|label| {
            if !(0..classes).contains(&label) {
                outside = Some(label);
            }
            label as u8
        }));
        match outside {
            None => Ok(()),
            Some(label) => Err(self.error(format!(
                "its output holds the label {label}, the contract has classes 0 to {}",
                classes - 1
            ))),
        }
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
        Error::fatal(format!("{}: {what}", self.file))
            .hint("the contract and the network don't belong together: correct contract.toml or export again")
    }
}

/// A label written as a float; what is no whole number becomes -1, which no contract has.
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

    fn reader(kind: OutputKind, layout: Layout, dtype: OutputType, classes: usize) -> Reader {
        Reader {
            kind,
            layout,
            dtype,
            classes,
            file: "x.onnx".into(),
        }
    }

    fn empty() -> Output {
        Output::Labels {
            height: 0,
            width: 0,
            labels: Vec::new(),
        }
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
        let (mut a, mut b) = (empty(), empty());
        reader(OutputKind::Logits, Layout::Nchw, OutputType::F32, 3)
            .read(&[1, 3, 2, 2], Elements::F32(&nchw), &mut a)
            .unwrap();
        reader(OutputKind::Logits, Layout::Nhwc, OutputType::F32, 3)
            .read(&[1, 2, 2, 3], Elements::F32(&nhwc), &mut b)
            .unwrap();
        assert_eq!(a, b);
        assert_eq!(
            a,
            Output::Logits {
                classes: 3,
                height: 2,
                width: 2,
                values: nchw.to_vec()
            }
        );
    }

    #[test]
    fn labels_of_every_shape_and_type() {
        let expected = Output::Labels {
            height: 1,
            width: 3,
            labels: vec![2, 0, 1],
        };
        let nchw = |dtype| reader(OutputKind::Labels, Layout::Nchw, dtype, 3);
        let nhwc = |dtype| reader(OutputKind::Labels, Layout::Nhwc, dtype, 3);
        for (reader, shape, elements) in [
            (nchw(OutputType::I64), &[1, 1, 3][..], Elements::I64(&[2, 0, 1])),
            (nchw(OutputType::I32), &[1, 1, 1, 3], Elements::I32(&[2, 0, 1])),
            (nhwc(OutputType::U8), &[1, 1, 3, 1], Elements::U8(&[2, 0, 1])),
            (nhwc(OutputType::F32), &[1, 3], Elements::F32(&[2.0, 0.0, 1.0])),
        ] {
            let mut output = Output::Logits {
                classes: 1,
                height: 1,
                width: 1,
                values: vec![0.0],
            };
            reader.read(shape, elements, &mut output).unwrap();
            assert_eq!(output, expected);
        }
    }

    #[test]
    fn what_the_contract_does_not_say_is_refused() {
        let logits = reader(OutputKind::Logits, Layout::Nchw, OutputType::F32, 3);
        let labels = reader(OutputKind::Labels, Layout::Nchw, OutputType::I64, 3);
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
            let error = reader.read(shape, elements, &mut empty()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.to_string().starts_with("x.onnx: "), "{error}");
        }
    }
}
