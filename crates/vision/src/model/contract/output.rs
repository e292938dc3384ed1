//! `[output]` as it is written: one output in the section itself, or a list of them.

use serde::{Deserialize, Serialize};

use super::{
    Grid, Layout, OutputContract, OutputKind, OutputType, Role, TensorContract, f32_type, half_pixel, nchw,
};

/// `output.kind` as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenKind {
    Logits,
    Labels,
    Semantic,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tensors: Vec<TensorContract>,
}

impl TryFrom<Written> for OutputContract {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let role = match written.kind {
            WrittenKind::Logits => Role::Logits,
            WrittenKind::Labels => Role::Labels,
            WrittenKind::Semantic => {
                if written.layout.is_some() || written.dtype.is_some() || written.name.is_some() {
                    return Err(
                        "output.kind = \"semantic\" has layout, dtype and name in [[output.tensors]]".into(),
                    );
                }
                return Ok(Self {
                    kind: OutputKind::Semantic,
                    grid: written.grid,
                    tensors: written.tensors,
                });
            }
        };
        if !written.tensors.is_empty() {
            return Err("[[output.tensors]] needs output.kind = \"semantic\"".into());
        }
        Ok(Self::of(
            TensorContract {
                role,
                layout: written.layout.unwrap_or_else(nchw),
                dtype: written.dtype.unwrap_or_else(f32_type),
                name: written.name,
            },
            written.grid,
        ))
    }
}

impl From<OutputContract> for Written {
    fn from(output: OutputContract) -> Self {
        let OutputContract { kind, grid, tensors } = output;
        let OutputKind::Semantic = kind;
        if let [tensor] = tensors.as_slice() {
            return Self {
                kind: match tensor.role {
                    Role::Logits => WrittenKind::Logits,
                    Role::Labels => WrittenKind::Labels,
                },
                layout: Some(tensor.layout),
                dtype: Some(tensor.dtype),
                grid,
                name: tensor.name.clone(),
                tensors: Vec::new(),
            };
        }
        Self {
            kind: WrittenKind::Semantic,
            layout: None,
            dtype: None,
            grid,
            name: None,
            tensors,
        }
    }
}

impl OutputContract {
    /// Whether format 1 can say it.
    pub(super) fn is_of_format_1(&self) -> bool {
        self.kind == OutputKind::Semantic && self.tensors.len() == 1
    }

    /// Says which key holds what, and what was expected.
    pub(super) fn check(&self) -> Result<(), String> {
        let OutputKind::Semantic = self.kind;
        let [tensor] = self.tensors.as_slice() else {
            return Err(format!(
                "output.kind = \"semantic\" with {} [[output.tensors]], expected one of role \"logits\" or \"labels\"",
                self.tensors.len()
            ));
        };
        if tensor.role == Role::Logits && tensor.dtype != OutputType::F32 {
            return Err("output.dtype must be \"f32\" for kind = \"logits\"".into());
        }
        Ok(())
    }
}
