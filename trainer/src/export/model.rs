//! A model's folder: the network's files, the contract and the card.

use std::path::Path;

use anyhow::{Context, Result};
use vision::model::contract::{Contract, ModelFile, Precision, Score, SelfTest};
use vision::model::load::sha256_hex;
use vision::score::Bootstrap;
use vision::score::objects::ObjectScores;

use crate::export::card;
use crate::export::score::ScoredObjects;
use crate::graph::Graph;
use crate::recipe::Recipe;
use crate::validate::predict;
use crate::weights::Weights;

/// The card's name.
pub const CARD: &str = "card.md";
/// The contract's name.
pub const CONTRACT: &str = "contract.toml";
/// The fp32 file's name.
pub const FP32: &str = "fp32.onnx";
/// The int8 file's name.
pub const INT8: &str = "int8.onnx";
/// The share of pixels on which a backend must agree; an int8 file gives a few pixels at borders another label.
const SELFTEST_AGREEMENT: f64 = 0.95;

/// A network's file in a model's folder.
#[derive(Clone, Copy, Debug)]
pub struct NetworkFile<'a> {
    /// Its name.
    pub name: &'static str,
    /// How its numbers are stored.
    pub precision: Precision,
    /// The backends that it is for.
    pub backends: &'static [&'static str],
    /// What is in it.
    pub bytes: &'a [u8],
}

impl<'a> NetworkFile<'a> {
    /// The fp32 file, for every backend on a CPU.
    #[must_use]
    pub fn fp32(bytes: &'a [u8]) -> Self {
        Self {
            name: FP32,
            precision: Precision::Fp32,
            backends: &["tract", "ort"],
            bytes,
        }
    }

    /// The int8 file for CPUs.
    #[must_use]
    pub fn int8(bytes: &'a [u8]) -> Self {
        Self {
            name: INT8,
            precision: Precision::Int8,
            backends: &["ort", "tract"],
            bytes,
        }
    }
}

/// Creates the model's folder. Called before the long computation that ends in it, so that a bad name fails first.
///
/// # Errors
/// It can't be made.
pub fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}

/// Writes the network's files, a self-test on `picture` if there is one, and the contract.
///
/// # Errors
/// A file can't be written, or the picture can't be read.
pub fn write_folder(
    folder: &Path,
    recipe: &Recipe,
    graph: &Graph,
    weights: &Weights,
    files: &[NetworkFile],
    picture: Option<&Path>,
) -> Result<Contract> {
    for file in files {
        write(folder, file.name, file.bytes)?;
    }
    let selftest = picture
        .map(|picture| write_selftest(folder, picture, graph, weights, recipe))
        .transpose()?;
    let contract = contract(recipe, graph, files, selftest);
    write(folder, CONTRACT, contract.to_toml()?.as_bytes())?;
    Ok(contract)
}

/// Adds the scores of the files to the contract, and writes it again, with the card.
///
/// # Errors
/// A file can't be written.
pub fn write_scores(
    folder: &Path,
    recipe: &Recipe,
    contract: &mut Contract,
    split: &str,
    images: usize,
    measured: &[(Precision, Bootstrap)],
    objects: &[(Precision, ScoredObjects)],
) -> Result<()> {
    for (precision, scored) in objects {
        contract
            .scores
            .extend(object_scores(recipe, split, images, *precision, scored));
    }
    for (precision, scored) in measured {
        contract
            .scores
            .extend(scores(recipe, split, images, *precision, scored));
    }
    let text = card::write(contract, recipe, measured);
    write(folder, CARD, text.as_bytes())?;
    write(folder, CONTRACT, contract.to_toml()?.as_bytes())
}

/// The contract of a network trained by `recipe` with the given files.
#[must_use]
pub fn contract(
    recipe: &Recipe,
    graph: &Graph,
    files: &[NetworkFile],
    selftest: Option<SelfTest>,
) -> Contract {
    Contract {
        files: files
            .iter()
            .map(|file| ModelFile {
                path: file.name.to_owned(),
                precision: file.precision,
                backends: file.backends.iter().map(|&backend| backend.to_owned()).collect(),
                sha256: sha256_hex(file.bytes),
            })
            .collect(),
        selftest,
        ..crate::contract::contract(recipe, graph)
    }
}

/// The scores of one file, in percent: mean IoU, and where there is one class beside the background its Dice.
fn scores(
    recipe: &Recipe,
    split: &str,
    images: usize,
    precision: Precision,
    measured: &Bootstrap,
) -> Vec<Score> {
    // Two decimals: more would claim more than a split of this size can tell.
    let percent = |share: f64| (share * 10_000.0).round() / 100.0;
    let matrix = measured.whole();
    let score = |metric: &str, share: Option<f64>, interval: Option<[f64; 2]>| Score {
        metric: metric.to_owned(),
        value: percent(share.unwrap_or_default()),
        interval: interval.map(|ends| ends.map(percent)),
        precision,
        dataset: recipe.about.dataset.clone(),
        split: split.to_owned(),
        images,
        protocol: format!(
            "single scale, longest side {}, sides rounded to multiples of {}, labels at the image's full size, \
             {} classes, pixels labelled 255 left out, counts summed over all images; segd through ONNX Runtime",
            recipe.validate.longest, recipe.validate.multiple, recipe.network.classes
        ),
    };
    let mut scores = vec![score(
        "mean IoU",
        matrix.mean_iou(),
        measured.intervals().mean_iou,
    )];
    if let [_, foreground] = recipe.classes() {
        scores.push(score(
            &format!("Dice of {}", foreground.name),
            matrix.dice(1),
            None,
        ));
    }
    scores
}

/// The scores of the objects that one file finds, in percent.
fn object_scores(
    recipe: &Recipe,
    split: &str,
    images: usize,
    precision: Precision,
    measured: &ScoredObjects,
) -> Vec<Score> {
    let percent = |share: f64| (share * 10_000.0).round() / 100.0;
    let whole = measured.whole();
    type Measure = fn(&ObjectScores) -> Option<f64>;
    let metrics: [(&str, Measure); 3] = [
        ("mask AP", |scores| scores.mean_precision(None)),
        ("mask AP50", |scores| scores.mean_precision(Some(0))),
        ("panoptic quality", |scores| {
            scores.mean_panoptic().map(|panoptic| panoptic.quality)
        }),
    ];
    metrics
        .into_iter()
        .map(|(metric, of)| Score {
            metric: metric.to_owned(),
            value: percent(of(&whole).unwrap_or_default()),
            interval: measured.interval(of).map(|ends| ends.map(percent)),
            precision,
            dataset: recipe.about.dataset.clone(),
            split: split.to_owned(),
            images,
            protocol: format!(
                "single scale, longest side {}, sides rounded to multiples of {}, masks at the image's full size that don't \
                 overlap, all objects of SegmentationObject (difficult ones too), mean over classes, 101 recalls, void left out; \
                 segd through ONNX Runtime",
                recipe.validate.longest, recipe.validate.multiple
            ),
        })
        .collect()
}

/// Writes a file of the model's folder.
///
/// # Errors
/// It can't be written.
pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    make_folder(folder)?;
    let path = folder.join(name);
    std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// Puts a picture into the model's folder, with the labels that the network gives it.
///
/// # Errors
/// The picture can't be read, or a file can't be written.
fn write_selftest(
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
