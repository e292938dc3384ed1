//! `segd-train quantize`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::ProgressBar;
use tch::{Device, Tensor};
use vision::dataset::Sample;
use vision::model::contract::Precision;
use vision::picture;
use vision::score::{Bootstrap, ConfusionMatrix};

use super::{Checkpoint, ask_of_backends, predict, selftest_picture};
use crate::export::model::{self, CONTRACT, FP32, INT8, NetworkFile};
use crate::export::receipt::{Candidate, ClassScore, Receipt, Speed};
use crate::export::{float, qlinear, score};
use crate::graph::Graph;
use crate::quantize::{
    Calibration, FineTune, Method, Observations, WeightBits, equalise, fine_tune, folded, observe,
};
use crate::recipe::Recipe;
use crate::weights::{FoldedConv, Weights, fold};
use crate::{data, validate};

/// Pictures that candidates are compared on.
const PROBE: usize = 24;

/// Arguments of `quantize`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    checkpoint: Checkpoint,
    /// The model's folder
    #[arg(long)]
    out: PathBuf,
    /// Pictures, or folders of pictures, that ranges are found on [default: those the network was trained on]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    images: Vec<PathBuf>,
    /// At most this many of them
    #[arg(long, default_value_t = 128)]
    count: usize,
    /// How ranges are chosen [default: the one whose labels agree best with those of f32]
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Bits of a weight in the file for ONNX Runtime's CPU
    #[arg(long, value_enum, default_value_t)]
    weight_bits: WeightBits,
    /// Steps of quantization-aware fine-tuning
    #[arg(long, default_value_t = 0)]
    fine_tune: u64,
    /// The split that both precisions are scored on
    #[arg(long, default_value = "val")]
    split: String,
    /// The largest loss of mean IoU, and of the mask AP50 of objects, in points, with which the 8-bit file is called good
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    limit: f64,
    /// A picture to test backends with; it is put into the folder with the labels that the network gives it [default: one of
    /// the split's]
    #[arg(long)]
    selftest: Option<PathBuf>,
}

/// Weights and ranges to write.
struct Quantized {
    convs: BTreeMap<String, FoldedConv>,
    calibration: Calibration,
}

/// Runs the command.
///
/// # Errors
/// A file can't be read or written, or the 8-bit file loses more than the limit.
pub fn run(arguments: &Arguments) -> Result<()> {
    // Ways to quantize are compared on it, minutes from here.
    score::backend("ort", Precision::Int8)?;
    let (recipe, graph, weights) = arguments.checkpoint.load()?;
    model::make_folder(&arguments.out)?;
    let device = weights.device();
    let weights = weights.to_device(Device::Cpu);
    let convs = fold(&graph, &weights)?;
    let images = images(arguments, &recipe)?;
    let inputs = images
        .iter()
        .map(|path| validate::input(&picture::read_rgb(path)?, &recipe, Device::Cpu))
        .collect::<Result<Vec<Tensor>>>()?;

    let probe = Probe::new(&recipe, &graph, &weights, &images)?;
    let (mut quantized, mut candidates) = best(arguments, &graph, &convs, &inputs, &probe)?;
    if arguments.fine_tune > 0 {
        tune(arguments, &recipe, &graph, &mut quantized, device)?;
        candidates.push(Candidate {
            fine_tune: arguments.fine_tune,
            agreement: probe.agreement(&graph, &quantized)?,
            ..candidates[0].clone()
        });
    }

    let fp32 = float::write(&recipe.name, &graph, &convs);
    let int8 = qlinear::write(&recipe.name, &graph, &quantized.convs, &quantized.calibration);
    let files = [NetworkFile::int8(&int8), NetworkFile::fp32(&fp32)];
    let samples = arguments.checkpoint.samples(&recipe, &arguments.split)?;
    let picture = match &arguments.selftest {
        Some(picture) => Some(picture.clone()),
        None => selftest_picture(&samples)?,
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

    let compared = Compared::measure(&arguments.out, &samples)?;
    let (fp32_iou, int8_iou) = compared
        .mean_iou()
        .with_context(|| format!("the pictures of {} hold no label", arguments.split))?;
    let mut objects = Vec::new();
    if let Some(data) = arguments.checkpoint.objects(&recipe, &arguments.split)? {
        for precision in [Precision::Int8, Precision::Fp32] {
            let scored = score::objects(&arguments.out, score::backend("ort", precision)?, &data)?;
            objects.push((precision, scored));
        }
    }
    let half = |precision| {
        let of = objects.iter().find(|(of, _)| *of == precision);
        of.and_then(|(_, scored)| scored.whole().mean_precision(Some(0)))
            .map(|value| 100.0 * value)
    };
    let (fp32_half, int8_half) = (half(Precision::Fp32), half(Precision::Int8));
    let lost_half = fp32_half.zip(int8_half).map(|(fp32, int8)| fp32 - int8);
    let loss = (fp32_iou - int8_iou).max(lost_half.unwrap_or(f64::NEG_INFINITY));
    let receipt = Receipt {
        model: recipe.name.clone(),
        split: arguments.split.clone(),
        images: samples.len(),
        calibrated_on: images.len(),
        weight_bits: arguments.weight_bits,
        candidates,
        mean_iou_fp32: fp32_iou,
        mean_iou_int8: int8_iou,
        mask_ap50_fp32: fp32_half,
        mask_ap50_int8: int8_half,
        loss,
        limit: arguments.limit,
        good: loss <= arguments.limit,
        agreement: compared.agreement,
        classes: compared.classes(&recipe),
        bytes_fp32: fp32.len(),
        bytes_int8: int8.len(),
        speed: compared.speed,
    };
    model::write(
        &arguments.out,
        "receipt.toml",
        toml::to_string(&receipt)?.as_bytes(),
    )?;
    println!("{receipt}");

    let mut measured = vec![(Precision::Int8, compared.int8), (Precision::Fp32, compared.fp32)];
    if !receipt.good {
        // The folder stays usable: in f32.
        contract.files.retain(|file| file.precision == Precision::Fp32);
        measured.remove(0);
        objects.retain(|(precision, _)| *precision == Precision::Fp32);
    }
    model::write_scores(
        &arguments.out,
        &recipe,
        &mut contract,
        &arguments.split,
        samples.len(),
        &measured,
        &objects,
    )?;
    ensure!(
        receipt.good,
        "the 8-bit file loses {:.2} points of mean IoU or mask AP50, more than {}: the contract in {} names the f32 file alone; more \
         --images, --fine-tune STEPS, or a higher --limit may help",
        receipt.loss,
        receipt.limit,
        arguments.out.display()
    );
    Ok(())
}

/// Fine-tunes the weights with rounding.
fn tune(
    arguments: &Arguments,
    recipe: &Recipe,
    graph: &Graph,
    quantized: &mut Quantized,
    device: Device,
) -> Result<()> {
    ensure!(
        !recipe.tells_objects()?,
        "--fine-tune is for networks of classes alone: {} tells objects apart",
        recipe.network.arch
    );
    let samples = arguments.checkpoint.samples(recipe, "train")?;
    let longest = (recipe.augment.longest * 1.05) as usize;
    let classes = recipe.network.classes as usize;
    let pictures = data::load(&samples, classes, longest, 2, &ProgressBar::hidden())?;
    let task = FineTune {
        recipe,
        pictures: &pictures,
        steps: arguments.fine_tune,
        device,
    };
    quantized.convs = fine_tune(graph, &quantized.convs, &quantized.calibration, &task)?;
    quantized.calibration.correct_bias = false;
    Ok(())
}

/// Both precisions on the same pictures, as segd runs them.
struct Compared {
    fp32: Bootstrap,
    int8: Bootstrap,
    /// Share of pixels with the same label in both.
    agreement: f64,
    speed: Vec<Speed>,
}

impl Compared {
    fn measure(folder: &Path, samples: &[Sample]) -> Result<Self> {
        /// Pictures that tell tract's speed.
        const TIMED: usize = 32;
        let mut predictions: Vec<Vec<u8>> = Vec::with_capacity(samples.len());
        let fp32 = score::measure(
            folder,
            score::backend("ort", Precision::Fp32)?,
            samples,
            |_, labels| predictions.push(labels.to_vec()),
        )?;
        let (mut same, mut pixels) = (0, 0);
        let int8 = score::measure(
            folder,
            score::backend("ort", Precision::Int8)?,
            samples,
            |index, labels| {
                same += labels
                    .iter()
                    .zip(&predictions[index])
                    .filter(|(a, b)| a == b)
                    .count();
                pixels += labels.len();
            },
        )?;
        let timed = &samples[..samples.len().min(TIMED)];
        let tract_ms = |precision| -> Result<f64> {
            let tract = score::backend("tract", precision)?;
            Ok(score::measure(folder, tract, timed, |_, _| {})?.cpu_ms)
        };
        let speed = |file: &str, backend: &str, cpu_ms| Speed {
            file: file.to_owned(),
            backend: backend.to_owned(),
            cpu_ms,
        };
        Ok(Self {
            agreement: same as f64 / pixels.max(1) as f64,
            speed: vec![
                speed(FP32, "ort", fp32.cpu_ms),
                speed(INT8, "ort", int8.cpu_ms),
                speed(FP32, "tract", tract_ms(Precision::Fp32)?),
                speed(INT8, "tract", tract_ms(Precision::Int8)?),
            ],
            fp32: fp32.scores,
            int8: int8.scores,
        })
    }

    /// In percent, of f32 and of 8 bits; none if there is no label.
    fn mean_iou(&self) -> Option<(f64, f64)> {
        let percent = |scores: &Bootstrap| Some(100.0 * scores.whole().mean_iou()?);
        Some((percent(&self.fp32)?, percent(&self.int8)?))
    }

    fn classes(&self, recipe: &Recipe) -> Vec<ClassScore> {
        let percent = |matrix: &ConfusionMatrix, class| matrix.iou(class).map(|iou| 100.0 * iou);
        let classes = recipe.classes().iter().take(self.fp32.whole().classes());
        classes
            .enumerate()
            .map(|(index, class)| ClassScore {
                name: class.name.clone().into_owned(),
                iou_fp32: percent(self.fp32.whole(), index),
                iou_int8: percent(self.int8.whole(), index),
            })
            .collect()
    }
}

/// The pictures to calibrate on, evenly spread over those there are.
fn images(arguments: &Arguments, recipe: &Recipe) -> Result<Vec<PathBuf>> {
    let all = if arguments.images.is_empty() {
        let samples = arguments.checkpoint.samples(recipe, "train")?;
        samples.into_iter().map(|sample| sample.image).collect()
    } else {
        predict::files(&arguments.images)?
    };
    let step = all.len().div_ceil(arguments.count.max(1));
    Ok(all.into_iter().step_by(step.max(1)).collect())
}

/// Pictures with the labels that the f32 network gives them.
struct Probe<'a> {
    recipe: &'a Recipe,
    folder: tempfile::TempDir,
    images: Vec<(PathBuf, Vec<u8>)>,
}

impl<'a> Probe<'a> {
    fn new(recipe: &'a Recipe, graph: &Graph, weights: &Weights, images: &[PathBuf]) -> Result<Self> {
        let step = images.len().div_ceil(PROBE).max(1);
        let images = images
            .iter()
            .step_by(step)
            .map(|path| {
                let labels = validate::predict(graph, weights, recipe, &picture::read_rgb(path)?)?;
                Ok((path.clone(), labels))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            recipe,
            folder: tempfile::tempdir().context("making a temporary folder")?,
            images,
        })
    }

    /// The share of pixels to which the 8-bit file, run by ONNX Runtime, gives the f32 network's label.
    fn agreement(&self, graph: &Graph, quantized: &Quantized) -> Result<f64> {
        let int8 = qlinear::write(&self.recipe.name, graph, &quantized.convs, &quantized.calibration);
        let folder: &Path = self.folder.path();
        let file = NetworkFile::int8(&int8);
        model::write(folder, file.name, file.bytes)?;
        let contract = model::contract(self.recipe, graph, &[file], None);
        model::write(folder, CONTRACT, contract.to_toml()?.as_bytes())?;
        score::agreement(folder, score::backend("ort", Precision::Int8)?, &self.images)
    }
}

/// The candidate that agrees best with f32, and all that were tried, the best first.
fn best(
    arguments: &Arguments,
    graph: &Graph,
    convs: &BTreeMap<String, FoldedConv>,
    inputs: &[Tensor],
    probe: &Probe,
) -> Result<(Quantized, Vec<Candidate>)> {
    let methods = match arguments.method {
        Some(method) => vec![method],
        None => vec![Method::Mse, Method::Percentile, Method::Entropy, Method::MinMax],
    };
    let mut equalised = convs.clone();
    let pairs = equalise(graph, &mut equalised);
    let mut weights = vec![(false, convs.clone())];
    if pairs > 0 {
        weights.push((true, equalised));
    }
    let mut tried: Vec<(Candidate, Quantized)> = Vec::new();
    let bar = ProgressBar::new((weights.len() * methods.len() * 2) as u64);
    for (is_equalised, convs) in weights {
        let (plain, values) = folded(graph, &convs)?;
        let seen: Observations = observe(&plain, &values, inputs);
        for &method in &methods {
            for correct_bias in [true, false] {
                let quantized = Quantized {
                    convs: convs.clone(),
                    calibration: Calibration {
                        correct_bias,
                        weight_bits: arguments.weight_bits,
                        ..seen.calibration(method)
                    },
                };
                let candidate = Candidate {
                    method,
                    equalised: is_equalised,
                    bias_corrected: correct_bias,
                    fine_tune: 0,
                    agreement: probe.agreement(graph, &quantized)?,
                };
                tried.push((candidate, quantized));
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    tried.sort_by(|(a, _), (b, _)| b.agreement.total_cmp(&a.agreement));
    let (candidates, mut quantized): (Vec<_>, Vec<_>) = tried.into_iter().unzip();
    Ok((quantized.swap_remove(0), candidates))
}
