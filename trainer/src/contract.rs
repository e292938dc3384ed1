//! What a recipe's network takes and gives, as segd is told it.

use vision::model::contract::{
    Activation, Class, Contract, Grid, Layout, Objects, OutputContract, OutputKind, OutputType, Role,
    TensorContract, Training,
};

use crate::graph::{Graph, LOGITS};
use crate::nets::ObjectForm;
use crate::nets::panoptic_deeplab_light::{HEAT, OFFSETS};
use crate::nets::solo_light::{KERNELS, PROTOTYPES, SCORES};
use crate::recipe::Recipe;

/// Where the cells of the networks' outputs lie on the input.
pub const GRID: Grid = Grid::HalfPixel;
/// How fast Matrix NMS lowers scores, as in SOLOv2's reference.
const MATRIX_NMS: f32 = 2.0;

/// The contract of a network trained by `recipe`, without files, self-test and scores.
#[must_use]
pub fn contract(recipe: &Recipe, graph: &Graph) -> Contract {
    let side = recipe.validate.longest as i64;
    let form = if graph.other(HEAT).is_some() {
        Some(ObjectForm::Centers)
    } else if graph.other(SCORES).is_some() {
        Some(ObjectForm::Grids)
    } else {
        None
    };
    let mut contract = Contract {
        format: 1,
        name: recipe.name.clone(),
        description: recipe.about.description.clone(),
        license: recipe.about.license.clone(),
        multiply_accumulates: Some(graph.macs(side, side) as u64),
        input: recipe.input(),
        output: output(recipe, form),
        classes: recipe
            .classes()
            .iter()
            .enumerate()
            .map(|(index, class)| {
                let background = index == 0 && class.name == "background";
                Class {
                    name: class.name.clone().into_owned(),
                    color: recipe
                        .about
                        .colors
                        .get(&*class.name)
                        .copied()
                        .unwrap_or(class.color),
                    background,
                    thing: form.is_some() && !background,
                }
            })
            .collect(),
        files: vec![],
        selftest: None,
        training: Some(Training {
            data: recipe.about.data.clone(),
            recipe: recipe.about.recipe.clone(),
        }),
        scores: vec![],
    };
    contract.format = contract.oldest_format();
    contract
}

fn output(recipe: &Recipe, form: Option<ObjectForm>) -> OutputContract {
    let tensor = |role, name: Option<&str>| TensorContract {
        role,
        layout: Layout::Nchw,
        dtype: OutputType::F32,
        name: name.map(str::to_owned),
    };
    let score = recipe.validate.score;
    let objects = Objects {
        activation: Activation::Sigmoid,
        score,
        doubt: score / 2.0,
        ..Objects::default()
    };
    match form {
        None => OutputContract::of(tensor(Role::Logits, None), GRID),
        Some(ObjectForm::Centers) => OutputContract {
            regions: false,
            kind: OutputKind::Centers,
            grid: GRID,
            tensors: vec![
                tensor(Role::Logits, Some(LOGITS)),
                tensor(Role::Heat, Some(HEAT)),
                tensor(Role::Offsets, Some(OFFSETS)),
            ],
            objects: Objects {
                first_class: 0,
                ..objects
            },
        },
        Some(ObjectForm::Grids) => OutputContract {
            regions: false,
            kind: OutputKind::Prototypes,
            grid: GRID,
            tensors: vec![
                tensor(Role::Prototypes, Some(PROTOTYPES)),
                tensor(Role::Scores, Some(SCORES)),
                tensor(Role::Coefficients, Some(KERNELS)),
            ],
            objects: Objects {
                matrix_nms: Some(MATRIX_NMS),
                first_class: 1,
                ..objects
            },
        },
    }
}
