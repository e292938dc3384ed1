//! The training run: steps, scores, checkpoints.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use segd::dataset::Sample;
use tch::{Device, Kind, Reduction, Tensor};

use crate::augment::Size;
use crate::data::{self, Batch, Picture};
use crate::forward::{Mode, forward};
use crate::graph::Graph;
use crate::loss::Loss;
use crate::optimizer::Optimizer;
use crate::recipe::Recipe;
use crate::validate;
use crate::weights::Weights;

/// Time between two checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);
/// How far batch normalisation's running statistics move to those of a batch.
const BATCH_NORM_MOMENTUM: f64 = 0.03;
/// Batches made ahead.
const BATCHES_AHEAD: usize = 3;

/// Where a run stands.
pub struct Run {
    /// The network.
    pub graph: Graph,
    /// Its weights, those that train with gradients.
    pub weights: Weights,
    /// The running mean of the weights: what is scored and exported.
    pub ema: Weights,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Steps done.
    pub step: u64,
    /// The best score so far.
    pub best: f64,
}

impl Run {
    /// Starts from `weights`.
    #[must_use]
    pub fn new(recipe: &Recipe, graph: Graph, weights: Weights) -> Self {
        let ema = weights.deep_copy();
        let optimizer = Optimizer::new(
            &weights,
            Weights::trainable(&graph),
            recipe.train.optimizer,
            recipe.train.momentum,
            recipe.train.weight_decay,
        );
        Self {
            graph,
            weights,
            ema,
            optimizer,
            step: 0,
            best: 0.0,
        }
    }

    /// One step on a batch of `batch * accumulate` crops; the loss, a mean over the parts.
    pub fn train_step(&mut self, recipe: &Recipe, loss: &Loss, batch: &Batch, device: Device) -> f64 {
        let (crop, grid) = (recipe.augment.crop, recipe.augment.labels_size());
        let kind = if recipe.train.bf16 {
            Kind::BFloat16
        } else {
            Kind::Float
        };
        let parts = recipe.train.accumulate;
        let rgb = batch.rgb.chunks_exact(recipe.train.batch * crop.area() * 3);
        let labels = batch.labels.chunks_exact(recipe.train.batch * grid.area());
        let size = recipe.train.batch as i64;
        let sides = |size: Size| [size.height as i64, size.width as i64];
        let ([height, width], grid) = (sides(crop), sides(grid));
        let mut sum = 0.0;
        for (part, (rgb, labels)) in rgb.zip(labels).enumerate() {
            let rgb = Tensor::from_slice(rgb)
                .reshape([size, height, width, 3])
                .to_device(device);
            let labels = Tensor::from_slice(labels)
                .reshape([size, grid[0], grid[1]])
                .to_device(device);
            let input = validate::normalise(&rgb, recipe.normalisation());
            // Early on, the mean over all batches so far.
            let batches = self.step * parts as u64 + part as u64 + 1;
            let momentum = BATCH_NORM_MOMENTUM.max(1.0 / batches as f64);
            let logits = forward(&self.graph, &self.weights, &input, Mode::Train { momentum }, kind);
            let logits = logits.upsample_bilinear2d(grid, false, None, None);
            let value = loss.value(&logits, &labels) / parts as f64;
            value.backward();
            sum += value.double_value(&[]);
        }
        let train = &recipe.train;
        let factor = train.schedule.factor(self.step, train.warm_up, train.steps);
        self.optimizer
            .step(factor * train.trunk_rate, factor * train.head_rate);
        self.step += 1;
        self.follow(train.ema);
        sum
    }

    /// Moves the running mean towards the weights; early on it follows faster.
    fn follow(&mut self, keep: f64) {
        let keep = keep.min(self.step as f64 / (self.step as f64 + 10.0));
        tch::no_grad(|| {
            for ((_, mean), (_, value)) in self.ema.iter().zip(self.weights.iter()) {
                let _ = mean.shallow_clone().lerp_(value, 1.0 - keep);
            }
        });
    }

    /// Writes everything needed to go on.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = vec![
            ("step".to_owned(), Tensor::from(self.step as i64)),
            ("best".to_owned(), Tensor::from(self.best)),
        ];
        tensors.extend(
            self.weights
                .iter()
                .map(|(name, t)| (format!("weights/{name}"), t.detach())),
        );
        tensors.extend(
            self.ema
                .iter()
                .map(|(name, t)| (format!("ema/{name}"), t.shallow_clone())),
        );
        tensors.extend(
            self.optimizer
                .state()
                .into_iter()
                .map(|(name, t)| (format!("optimizer/{name}"), t)),
        );
        let partial = path.with_extension("partial");
        Tensor::write_safetensors(&tensors, &partial)
            .with_context(|| format!("writing {}", partial.display()))?;
        std::fs::rename(&partial, path).with_context(|| format!("writing {}", path.display()))
    }

    /// Takes up a checkpoint.
    ///
    /// # Errors
    /// The file can't be read, or is of another network.
    pub fn restore(&mut self, path: &Path) -> Result<()> {
        self.weights.load(path, "weights/")?;
        self.ema.load(path, "ema/")?;
        let tensors =
            Tensor::read_safetensors(path).with_context(|| format!("reading {}", path.display()))?;
        let mut state = BTreeMap::new();
        for (name, tensor) in tensors {
            match name.as_str() {
                "step" => self.step = u64::try_from(i64::try_from(&tensor)?)?,
                "best" => self.best = f64::try_from(&tensor)?,
                name => {
                    if let Some(name) = name.strip_prefix("optimizer/") {
                        state.insert(name.to_owned(), tensor);
                    }
                }
            }
        }
        tch::no_grad(|| self.optimizer.restore(&state)).with_context(|| path.display().to_string())
    }
}

/// The files of a run's folder.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes the folder.
    ///
    /// # Errors
    /// It can't be made.
    pub fn create(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// The newest checkpoint.
    #[must_use]
    pub fn last(&self) -> PathBuf {
        self.0.join("last.safetensors")
    }

    /// The checkpoint with the best score.
    #[must_use]
    pub fn best(&self) -> PathBuf {
        self.0.join("best.safetensors")
    }

    /// `step,seconds,loss,mean_iou`, a line every few steps; the last is empty where no score was taken.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.0.join("log.csv")
    }

    fn open_log(&self) -> Result<File> {
        let path = self.log();
        let is_new = !path.exists();
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        if is_new {
            writeln!(file, "step,seconds,loss,mean_iou")?;
        }
        Ok(file)
    }
}

/// Trains until the recipe's last step, or until `stop` is set; either way a checkpoint is left.
///
/// # Errors
/// A file can't be read or written, or the loss is no longer a number.
pub fn train(
    run: &mut Run,
    recipe: &Recipe,
    pictures: &[Picture],
    order: &[u32],
    validation: &[Sample],
    folder: &Folder,
    stop: &AtomicBool,
) -> Result<()> {
    let device = Device::cuda_if_available();
    let steps = recipe.train.steps;
    let progress = ProgressBar::new(steps).with_style(ProgressStyle::with_template(
        "{elapsed_precise} [{wide_bar}] {pos}/{len} {msg} {eta_precise} left",
    )?);
    progress.set_position(run.step);
    progress.reset_eta();
    let mut log = folder.open_log()?;
    let objective = data::loss(pictures, order, recipe, device);
    let (sender, batches) = crossbeam_channel::bounded(BATCHES_AHEAD);
    let first = run.step;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for step in first..steps {
                let batch = data::batch(pictures, order, recipe, step);
                if sender.send(batch).is_err() {
                    break;
                }
            }
        });
        let batches = batches;
        let mut saved = Instant::now();
        let started = Instant::now();
        let mut sum = 0.0;
        let mut count = 0;
        while run.step < steps && !stop.load(Ordering::Relaxed) {
            let batch = batches.recv()?;
            let loss = run.train_step(recipe, &objective, &batch, device);
            ensure!(
                loss.is_finite(),
                "the loss is {loss} at step {}: lower the learning rates",
                run.step
            );
            sum += loss;
            count += 1;
            progress.inc(1);
            let scored = run.step.is_multiple_of(recipe.validate.every) || run.step == steps;
            if count == 20 || scored {
                let mean = sum / f64::from(count);
                progress.set_message(format!("loss {mean:.4} best {:.2}", 100.0 * run.best));
                let seconds = started.elapsed().as_secs_f64();
                let mut score = String::new();
                if scored {
                    let matrix = validate::score(&run.graph, &run.ema, recipe, validation, |_, _, _, _| {})?;
                    let iou = matrix
                        .mean_iou()
                        .context("the validation pictures hold no label")?;
                    score = format!("{iou:.5}");
                    progress.println(format!(
                        "step {} loss {mean:.4} mean IoU {:.2}",
                        run.step,
                        100.0 * iou
                    ));
                    if iou > run.best {
                        run.best = iou;
                        run.save(&folder.best())?;
                    }
                }
                writeln!(log, "{},{seconds:.1},{mean:.5},{score}", run.step)?;
                (sum, count) = (0.0, 0);
            }
            if scored || saved.elapsed() > CHECKPOINT_EVERY {
                run.save(&folder.last())?;
                saved = Instant::now();
            }
        }
        run.save(&folder.last())
    })
}
