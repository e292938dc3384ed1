//! What a recipe's network takes and gives, as segd is told it.

use vision::model::contract::{
    Activation, Class, Contract, Grid, Layout, Objects, OutputContract, OutputKind, OutputType, Role,
    TensorContract, Training,
};

use crate::graph::{Graph, LOGITS};
use crate::nets::panoptic_deeplab_light::{HEAT, OFFSETS};
use crate::recipe::Recipe;

/// Where the cells of the networks' outputs lie on the input.
pub const GRID: Grid = Grid::HalfPixel;

/// The contract of a network trained by `recipe`, without files, self-test and scores.
#[must_use]
pub fn contract(recipe: &Recipe, graph: &Graph) -> Contract {
    let side = recipe.validate.longest as i64;
    let tells_objects = graph.other(HEAT).is_some();
    let mut contract = Contract {
        format: 1,
        name: recipe.name.clone(),
        description: recipe.about.description.clone(),
        license: recipe.about.license.clone(),
        multiply_accumulates: Some(graph.macs(side, side) as u64),
        input: recipe.input(),
        output: output(recipe, tells_objects),
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
                    thing: tells_objects && !background,
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

fn output(recipe: &Recipe, tells_objects: bool) -> OutputContract {
    let tensor = |role, name: Option<&str>| TensorContract {
        role,
        layout: Layout::Nchw,
        dtype: OutputType::F32,
        name: name.map(str::to_owned),
    };
    if !tells_objects {
        return OutputContract::of(tensor(Role::Logits, None), GRID);
    }
    let score = recipe.validate.score;
    OutputContract {
        regions: false,
        kind: OutputKind::Centers,
        grid: GRID,
        tensors: vec![
            tensor(Role::Logits, Some(LOGITS)),
            tensor(Role::Heat, Some(HEAT)),
            tensor(Role::Offsets, Some(OFFSETS)),
        ],
        objects: Objects {
            activation: Activation::Sigmoid,
            score,
            doubt: score / 2.0,
            first_class: 0,
            ..Objects::default()
        },
    }
}
