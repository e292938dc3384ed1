//! `segd-train export`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use tch::{Device, Tensor};
use vision::dataset::Sample;
use vision::model::contract::Precision;
use vision::score::Bootstrap;

use super::{Checkpoint, ask_of_backends, selftest_picture};
use crate::export::model::{self, NetworkFile};
use crate::export::{float, qlinear, score};
use crate::quantize::calibrate;
use crate::validate;
use crate::weights::fold;

/// Share of labels that an exported file must give as the checkpoint does: with weights of
/// eleven bits all but near ties, in 8 bits all but pixels at borders.
const LEAST_AGREEMENT_FP32: f64 = 0.995;
const LEAST_AGREEMENT_INT8: f64 = 0.95;

/// Arguments of `export`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    checkpoint: Checkpoint,
    /// The model's folder.
    #[arg(long)]
    out: PathBuf,
    /// Training pictures that the 8-bit ranges are found on.
    #[arg(long, default_value_t = 128)]
    calibrate: usize,
    /// A picture to test backends with; it is put into the folder with the labels that the network gives it [default: one
    /// of the training pictures].
    #[arg(long)]
    selftest: Option<PathBuf>,
    /// Score both files through ONNX Runtime on this split, and write the scores into contract and card.
    #[arg(long, value_name = "SPLIT", num_args = 0..=1, default_missing_value = "val")]
    score: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// A file can't be read or written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let (recipe, graph, weights) = arguments.checkpoint.load()?;
    model::make_folder(&arguments.out)?;
    let convs = fold(&graph, &weights)?;
    let fp32 = float::write(&recipe.name, &graph, &convs);

    let train = arguments.checkpoint.samples(&recipe, "train")?;
    let step = train.len().div_ceil(arguments.calibrate.max(1));
    let inputs = train
        .iter()
        .step_by(step)
        .map(|sample| validate::input(&sample.load_image()?, &recipe, Device::Cpu))
        .collect::<Result<Vec<Tensor>>>()?;
    let calibration = calibrate(&graph, &weights, &inputs);
    let int8 = qlinear::write(&recipe.name, &graph, &convs, &calibration);

    let files = [NetworkFile::int8(&int8), NetworkFile::fp32(&fp32)];
    let picture = match &arguments.selftest {
        Some(picture) => Some(picture.clone()),
        None => selftest_picture(&train)?,
    };
    let mut contract = model::write_folder(
        &arguments.out,
        &recipe,
        &graph,
        &weights,
        &files,
        picture.as_deref(),
    )?;
    ask_of_backends(&arguments.out, &mut contract)?;
    let Some(split) = &arguments.score else {
        return model::write_scores(&arguments.out, &recipe, &mut contract, "", 0, &[], &[]);
    };
    // The scores are those of the folder as it is used.
    let samples = arguments.checkpoint.samples(&recipe, split)?;
    let reference = samples
        .iter()
        .map(|sample| validate::predict(&graph, &weights, &recipe, &sample.load_image()?))
        .collect::<Result<Vec<_>>>()?;
    let mut measured = Vec::new();
    for precision in files.map(|file| file.precision) {
        let (scores, agreement) = compare(&arguments.out, precision, &samples, &reference)?;
        println!(
            "{}: mean IoU {:.2} on {} pictures of {split}, {:.3} % of the labels as the checkpoint's",
            precision.as_str(),
            100.0 * scores.whole().mean_iou().context("the pictures hold no label")?,
            samples.len(),
            100.0 * agreement
        );
        let least = if precision == Precision::Fp32 {
            LEAST_AGREEMENT_FP32
        } else {
            LEAST_AGREEMENT_INT8
        };
        ensure!(
            agreement >= least,
            "{} agrees on {agreement} of the pixels, expected {least}",
            precision.as_str()
        );
        measured.push((precision, scores));
    }
    let mut objects = Vec::new();
    if let Some(data) = arguments.checkpoint.objects(&recipe, split)? {
        for precision in files.map(|file| file.precision) {
            let scored = score::objects(&arguments.out, score::backend("ort", precision)?, &data)?;
            objects.push((precision, scored));
        }
    }
    model::write_scores(
        &arguments.out,
        &recipe,
        &mut contract,
        split,
        samples.len(),
        &measured,
        &objects,
    )
}

/// Scores the folder's file of one precision, and gives the share of pixels that have the reference's label.
fn compare(
    folder: &Path,
    precision: Precision,
    samples: &[Sample],
    reference: &[Vec<u8>],
) -> Result<(Bootstrap, f64)> {
    let (mut same, mut pixels) = (0, 0);
    let backend = score::backend("ort", precision)?;
    let scores = score::score(folder, backend, samples, |index, predicted| {
        same += predicted
            .iter()
            .zip(&reference[index])
            .filter(|(a, b)| a == b)
            .count();
        pixels += predicted.len();
    })?;
    Ok((scores, same as f64 / pixels as f64))
}
