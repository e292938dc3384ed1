//! A model's folder: the network's files, the contract and the card.

use std::path::Path;

use anyhow::{Context, Result};
use segd::model::contract::{
    Class, Contract, Layout, ModelFile, OutputContract, OutputKind, OutputType, Precision, Score, SelfTest,
    Training,
};
use segd::model::load::sha256_hex;
use segd::score::ConfusionMatrix;

use crate::graph::Graph;
use crate::recipe::Recipe;
use crate::validate::{GRID, predict};
use crate::weights::Weights;

/// The contract's name.
pub const CONTRACT: &str = "contract.toml";
/// The fp32 file's name.
pub const FP32: &str = "fp32.onnx";
/// The int8 file's name.
pub const INT8: &str = "int8.onnx";
/// The name of the int8 file for TensorRT.
pub const INT8_TENSORRT: &str = "int8-tensorrt.onnx";

/// The share of pixels on which a backend must agree; an int8 file gives a few pixels at borders another label.
const SELFTEST_AGREEMENT: f64 = 0.95;

/// The contract of a network trained by `recipe` with the given files: name, precision, backends, bytes.
#[must_use]
pub fn contract(
    recipe: &Recipe,
    graph: &Graph,
    files: &[(&str, Precision, &[&str], &[u8])],
    selftest: Option<SelfTest>,
) -> Contract {
    let side = recipe.validate.longest as i64;
    Contract {
        format: segd::model::contract::FORMAT,
        name: recipe.name.clone(),
        description: recipe.about.description.clone(),
        license: recipe.about.license.clone(),
        multiply_accumulates: Some(graph.macs(side, side) as u64),
        input: recipe.input(),
        output: OutputContract {
            kind: OutputKind::Logits,
            layout: Layout::Nchw,
            dtype: OutputType::F32,
            grid: GRID,
            name: None,
        },
        classes: recipe
            .classes()
            .iter()
            .enumerate()
            .map(|(index, class)| Class {
                name: class.name.clone().into_owned(),
                color: class.color,
                background: index == 0 && class.name == "background",
            })
            .collect(),
        files: files
            .iter()
            .map(|(path, precision, backends, bytes)| ModelFile {
                path: (*path).to_owned(),
                precision: *precision,
                backends: backends.iter().map(|&backend| backend.to_owned()).collect(),
                sha256: sha256_hex(bytes),
            })
            .collect(),
        selftest,
        training: Some(Training {
            data: recipe.about.data.clone(),
            recipe: recipe.about.recipe.clone(),
        }),
        scores: vec![],
    }
}

/// A score of one file, in percent.
#[must_use]
pub fn score(
    recipe: &Recipe,
    split: &str,
    images: usize,
    precision: Precision,
    matrix: &ConfusionMatrix,
) -> Score {
    let iou = 100.0 * matrix.mean_iou().unwrap_or_default();
    Score {
        metric: "mean IoU".to_owned(),
        // Two decimals: more would claim more than a split of this size can tell.
        value: (iou * 100.0).round() / 100.0,
        precision,
        dataset: recipe.about.dataset.clone(),
        split: split.to_owned(),
        images,
        protocol: format!(
            "single scale, longest side {}, sides rounded to multiples of {}, labels at the image's full size, \
             {} classes, pixels labelled 255 left out, counts summed over all images; segd through ONNX Runtime",
            recipe.validate.longest, recipe.validate.multiple, recipe.network.classes
        ),
    }
}

/// Writes a file of the model's folder.
///
/// # Errors
/// It can't be written.
pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let path = folder.join(name);
    std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// Puts a picture into the model's folder, with the labels that the network gives it.
///
/// # Errors
/// The picture can't be read, or a file can't be written.
pub fn write_selftest(
    folder: &Path,
    picture: &Path,
    graph: &Graph,
    weights: &Weights,
    recipe: &Recipe,
) -> Result<SelfTest> {
    let bytes = std::fs::read(picture).with_context(|| format!("reading {}", picture.display()))?;
    let image = image::load_from_memory(&bytes)
        .with_context(|| format!("reading {}", picture.display()))?
        .to_rgb8();
    let labels = predict(graph, weights, recipe, &image)?;
    let mut encoded = Vec::new();
    let mut encoder = png::Encoder::new(&mut encoded, image.width(), image.height());
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(
        recipe
            .classes()
            .iter()
            .flat_map(|class| class.color)
            .collect::<Vec<u8>>(),
    );
    encoder.write_header()?.write_image_data(&labels)?;
    let extension = picture
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or("jpg");
    let (image, labels) = (format!("selftest.{extension}"), "selftest-labels.png".to_owned());
    write(folder, &image, &bytes)?;
    write(folder, &labels, &encoded)?;
    Ok(SelfTest {
        image,
        labels,
        agreement: SELFTEST_AGREEMENT,
    })
}
