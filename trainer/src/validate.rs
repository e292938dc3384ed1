//! Scores a network on labelled pictures, at the labels' full resolution.
//!
//! Pictures go in and labels come out through segd's own preprocessing and postprocessing, so that what is measured
//! here is what the daemon does.

use anyhow::Result;
use image::RgbImage;
use tch::{Device, Kind, Tensor};
use vision::answer::Answer;
use vision::dataset::objects::ObjectDataset;
use vision::dataset::{Labels, Sample};
use vision::decode::decoder;
use vision::frame::LabelMap;
use vision::infer::TensorData;
use vision::picture::image_ref;
use vision::preprocess::Preprocessor;
use vision::rle::Rle;
use vision::scene::{Segment, classes_of, is_by_class};
use vision::score::ConfusionMatrix;
use vision::score::objects::{FoundObject, ObjectScores};
use vision::tensor::{Elements, Outputs};

use crate::contract::contract;
use crate::data;
use crate::forward::{Mode, forward_wanted};
use crate::graph::{Graph, NodeId, Op};
use crate::recipe::Recipe;
use crate::weights::Weights;

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

/// What a network says of a picture: the number of each pixel's segment, and what the segments are.
pub struct Seen {
    /// The map, of the picture's size.
    pub map: LabelMap,
    /// What its numbers stand for.
    pub segments: Vec<Segment>,
}

impl Seen {
    /// The class of every pixel.
    #[must_use]
    pub fn into_classes(mut self) -> Vec<u8> {
        if !is_by_class(&self.segments) {
            classes_of(&mut self.map, &self.segments);
        }
        self.map.labels
    }

    /// The objects that were found, their classes counted without the background, as [`ObjectDataset`] counts VOC's.
    #[must_use]
    pub fn objects(&self) -> Vec<FoundObject> {
        found_objects(&self.map, &self.segments)
    }
}

/// The objects of a map and its segments, their classes counted without the background.
#[must_use]
pub fn found_objects(map: &LabelMap, segments: &[Segment]) -> Vec<FoundObject> {
    (0..=u8::MAX)
        .zip(segments)
        .filter(|(_, segment)| segment.instance.is_some() && !segment.doubtful)
        .filter_map(|(number, segment)| {
            let mask = Rle::of(map, number);
            Some(FoundObject {
                class: usize::from(segment.class).checked_sub(1)?,
                score: segment.score,
                mask,
            })
        })
        .filter(|found| found.mask.area() > 0)
        .collect()
}

/// Runs the network on a picture, and reads its outputs as segd does.
///
/// # Errors
/// The picture has no pixels, or the outputs are no answer.
pub fn see(graph: &Graph, weights: &Weights, recipe: &Recipe, image: &RgbImage) -> Result<Seen> {
    let _guard = tch::no_grad_guard();
    let nodes: Vec<NodeId> = graph.outputs().collect();
    let input = input(image, recipe, weights.device())?;
    let values = forward_wanted(graph, weights, &input, Mode::Eval, Kind::Float, &nodes);
    let mut outputs = Outputs::default();
    for (index, (name, value)) in graph.output_names().zip(values).enumerate() {
        let mut shape: Vec<usize> = value.size().iter().map(|&side| side as usize).collect();
        if graph.nodes[nodes[index]].op == Op::Rows {
            shape.remove(1);
        }
        let value: Vec<f32> = Vec::try_from(value.to_device(Device::Cpu).contiguous().view([-1]))?;
        outputs.write(index, name, &shape, Elements::F32(&value));
    }
    let mut contract = contract(recipe, graph);
    contract.classes.truncate(recipe.network.classes as usize);
    let picture = image_ref(image)?;
    let (width, height) = (picture.width(), picture.height());
    let size = contract.input.size_for(width, height, None);
    let placement = Preprocessor::new(&contract.input, picture.format, size).placement();
    let mut decoder = decoder(&contract, &recipe.name, size, placement, (width, height));
    let mut answer = Answer::empty();
    decoder.read(&mut outputs, &mut answer)?;
    let mut seen = Seen {
        map: LabelMap::zeros(width, height),
        segments: Vec::new(),
    };
    decoder.decode(&answer, &mut seen.map, &mut seen.segments);
    Ok(seen)
}

/// The class of every pixel of a picture.
///
/// # Errors
/// As [`see`].
pub fn predict(graph: &Graph, weights: &Weights, recipe: &Recipe, image: &RgbImage) -> Result<Vec<u8>> {
    Ok(see(graph, weights, recipe, image)?.into_classes())
}

/// Scores the objects that `weights` find.
///
/// # Errors
/// A picture or its objects can't be read.
pub fn score_objects(
    graph: &Graph,
    weights: &Weights,
    recipe: &Recipe,
    data: &ObjectDataset,
) -> Result<ObjectScores> {
    let mut scores = ObjectScores::new(data.classes.len());
    for sample in &data.samples {
        let (image, truth) = sample.load()?;
        let seen = see(graph, weights, recipe, &image)?;
        scores.add(&truth.objects, truth.void.as_ref(), &seen.objects());
    }
    Ok(scores)
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
