//! Scores a network on labelled pictures, at the labels' full resolution.
//!
//! Pictures go in and labels come out through segd's own preprocessing and postprocessing, so that what is measured
//! here is what the daemon does.

use anyhow::Result;
use image::RgbImage;
use tch::{Device, Kind, Tensor};
use vision::answer::Answer;
use vision::dataset::{Labels, Sample};
use vision::decode::SemanticDecoder;
use vision::frame::Mask;
use vision::infer::TensorData;
use vision::model::contract::Grid;
use vision::picture::image_ref;
use vision::preprocess::Preprocessor;
use vision::score::ConfusionMatrix;

use crate::data;
use crate::forward::{Mode, forward};
use crate::graph::Graph;
use crate::recipe::Recipe;
use crate::weights::Weights;

/// Where the cells of the networks' logits lie on the input.
pub const GRID: Grid = Grid::HalfPixel;

/// `[N, 3, H, W]` f32, normalised, channels last in memory, from `[N, H, W, 3]` RGB bytes.
pub fn normalise(rgb: &Tensor, (mean, std): ([f32; 3], [f32; 3])) -> Tensor {
    let device = rgb.device();
    let mean = Tensor::from_slice(&mean).to_device(device);
    let std = Tensor::from_slice(&std).to_device(device);
    ((rgb.to_kind(Kind::Float) - mean) / std).permute([0, 3, 1, 2])
}

/// The network's input for a picture, `[1, 3, H, W]`, channels last in memory.
///
/// # Errors
/// The picture has no pixels.
pub fn input(image: &RgbImage, recipe: &Recipe, device: Device) -> Result<Tensor> {
    let contract = recipe.input();
    let picture = image_ref(image)?;
    let size = contract.size_for(picture.width(), picture.height(), None);
    let mut data = TensorData::F32(vec![]);
    Preprocessor::new(&contract, picture.format, size).run(&picture, &mut data);
    let TensorData::F32(values) = data else {
        unreachable!("the contract asks for f32")
    };
    Ok(Tensor::from_slice(&values)
        .reshape([1, 3, size.height as i64, size.width as i64])
        .to_device(device)
        .permute([0, 2, 3, 1])
        .contiguous()
        .permute([0, 3, 1, 2]))
}

/// The class of every pixel of a picture, from logits `[1, C, h, w]`.
///
/// # Errors
/// The picture has no pixels, or the logits can't be read out.
pub fn labels(logits: &Tensor, image: &RgbImage, recipe: &Recipe) -> Result<Vec<u8>> {
    let (_, classes, height, width) = logits.size4()?;
    let values = Vec::try_from(logits.to_device(Device::Cpu).contiguous().view([-1]))?;
    let output = Answer::Logits {
        classes: classes as usize,
        height: height as usize,
        width: width as usize,
        values,
    };
    let contract = recipe.input();
    let picture = image_ref(image)?;
    let size = contract.size_for(picture.width(), picture.height(), None);
    let placement = Preprocessor::new(&contract, picture.format, size).placement();
    let mut mask = Mask::zeros(picture.width(), picture.height());
    SemanticDecoder::new(GRID, size, placement, picture.width(), picture.height()).run(&output, &mut mask);
    Ok(mask.labels)
}

/// The labels that the network gives to a picture.
///
/// # Errors
/// As [`input`] and [`labels`].
pub fn predict(graph: &Graph, weights: &Weights, recipe: &Recipe, image: &RgbImage) -> Result<Vec<u8>> {
    let _guard = tch::no_grad_guard();
    let output = &graph.nodes[graph.output].name;
    let device = weights.get(&format!("{output}.weight")).device();
    let logits = forward(
        graph,
        weights,
        &input(image, recipe, device)?,
        Mode::Eval,
        Kind::Float,
    );
    labels(&logits, image, recipe)
}

/// Scores `weights` on `samples`, calling `each` with every picture, its true labels and its predicted ones.
///
/// # Errors
/// A picture can't be read, or its labels are no class of the network.
pub fn score(
    graph: &Graph,
    weights: &Weights,
    recipe: &Recipe,
    samples: &[Sample],
    mut each: impl FnMut(&Sample, &RgbImage, &Labels, &[u8]),
) -> Result<ConfusionMatrix> {
    let mut matrix = ConfusionMatrix::new(recipe.network.classes as usize);
    for sample in samples {
        let (image, truth) = data::read(sample, matrix.classes())?;
        let predicted = predict(graph, weights, recipe, &image)?;
        matrix.add(&truth.data, &predicted);
        each(sample, &image, &truth, &predicted);
    }
    Ok(matrix)
}
