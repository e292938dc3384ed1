//! The training run: steps, scores, checkpoints.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use tch::{Device, Kind, Tensor};
use vision::dataset::Sample;
use vision::dataset::objects::ObjectDataset;

use crate::data::{self, Batch, Donors, Part};
use crate::forward::{Mode, forward_wanted};
use crate::graph::Graph;
use crate::loss::{Centers, Grids, Loss, Subject};
use crate::nets::panoptic_deeplab_light::{HEAT, OFFSETS};
use crate::nets::solo_light::{self, LEVELS};
use crate::optimizer::Optimizer;
use crate::picture::Picture;
use crate::recipe::Recipe;
use crate::run::{Folder, Metric};
use crate::tensorboard::EventWriter;
use crate::validate;
use crate::weights::Weights;

/// Time between two checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);
/// How far batch normalisation's running statistics move to those of a batch.
const BATCH_NORM_MOMENTUM: f64 = 0.03;
/// Batches made ahead.
const BATCHES_AHEAD: usize = 3;
/// Steps between two lines of the log.
const LOG_EVERY: u64 = 20;

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
    /// What the log and the early stop go by.
    pub progress: Progress,
}

/// What the log and the early stop go by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Sum of the losses since the log's last line.
    pub loss_sum: f64,
    /// Steps since the log's last line.
    pub loss_count: u64,
    /// Scores since the best one.
    pub stale: u64,
    /// Seconds of training.
    pub seconds: f64,
}

impl Progress {
    fn tensor(&self) -> Tensor {
        let Self {
            loss_sum,
            loss_count,
            stale,
            seconds,
        } = *self;
        Tensor::from_slice(&[loss_sum, loss_count as f64, stale as f64, seconds])
    }

    fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let values = Vec::<f64>::try_from(tensor)?;
        let &[loss_sum, loss_count, stale, seconds] = values.as_slice() else {
            bail!("progress holds {} numbers, expected 4", values.len());
        };
        Ok(Self {
            loss_sum,
            loss_count: loss_count as u64,
            stale: stale as u64,
            seconds,
        })
    }
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
            progress: Progress::default(),
        }
    }

    fn is_stale(&self, recipe: &Recipe) -> bool {
        let patience = recipe.train.patience;
        patience > 0 && self.progress.stale >= patience
    }

    /// One step on a batch of `batch * accumulate` crops; the loss, a mean over the parts.
    pub fn train_step(&mut self, recipe: &Recipe, loss: &Loss, batch: &Batch, device: Device) -> f64 {
        let kind = if recipe.train.bf16 {
            Kind::BFloat16
        } else {
            Kind::Float
        };
        let parts = recipe.train.accumulate;
        // A run that continues from a checkpoint draws the same random numbers.
        tch::manual_seed((recipe.train.seed ^ self.step.wrapping_mul(0x9e37_79b9_7f4a_7c15)) as i64);
        let mut sum = 0.0;
        for (index, part) in batch.parts(recipe, device).enumerate() {
            // Early on, the mean over all batches so far.
            let batches = self.step * parts as u64 + index as u64 + 1;
            let momentum = BATCH_NORM_MOMENTUM.max(1.0 / batches as f64);
            let mode = if recipe.train.keep_statistics {
                Mode::Tune
            } else {
                Mode::Train { momentum }
            };
            let value = self.loss_of(loss, recipe, &part, mode, kind);
            let value = value / parts as f64;
            value.backward();
            sum += value.double_value(&[]);
        }
        let train = &recipe.train;
        let factor = train.factor(self.step);
        self.optimizer
            .step(factor * train.trunk_rate, factor * train.head_rate);
        self.step += 1;
        self.follow(train.ema);
        sum
    }

    /// The loss of a batch; only what it has terms for is computed.
    fn loss_of(&self, loss: &Loss, recipe: &Recipe, part: &Part, mode: Mode, kind: Kind) -> Tensor {
        let graph = &self.graph;
        let input = validate::normalise(&part.rgb, recipe.normalisation());
        let node = |name: &str| {
            let found = graph.other(name).or_else(|| graph.node(name));
            found.expect("a recipe's loss fits its network")
        };
        let grid = |level| {
            [solo_light::category_name(level), solo_light::kernel_name(level)].map(|name| node(&name))
        };
        let mut wanted = Vec::new();
        if loss.is_of(Subject::Classes) || loss.is_of(Subject::Grids) {
            wanted.push(graph.output);
        }
        if loss.is_of(Subject::Centers) {
            wanted.extend([node(HEAT), node(OFFSETS)]);
        }
        if loss.is_of(Subject::Grids) {
            wanted.extend((0..LEVELS.len()).flat_map(grid));
        }
        let mut outputs = forward_wanted(graph, &self.weights, &input, mode, kind, &wanted).into_iter();
        let mut next = || outputs.next().expect("as many outputs as are wanted");
        let mut terms = Vec::new();
        if loss.is_of(Subject::Classes) {
            let [_, rows, columns] = part.labels.size()[..] else {
                unreachable!("labels are [N, H, W]")
            };
            let logits = next().upsample_bilinear2d([rows, columns], false, None, None);
            terms.push(loss.value(&logits, &part.labels));
        }
        if loss.is_of(Subject::Centers) {
            let (heat, offsets) = (next(), next());
            terms.push(loss.centers_value(&Centers {
                heat: &heat,
                offsets: &offsets,
                targets: part.targets.as_ref().expect("a network with centres has targets"),
            }));
        }
        if loss.is_of(Subject::Grids) {
            let features = next();
            let levels: Vec<[Tensor; 2]> = LEVELS.iter().map(|_| [next(), next()]).collect();
            terms.push(loss.grids_value(&Grids {
                features: &features,
                levels: &levels,
                shown: part.objects,
                rgb: &part.rgb,
                augment: &recipe.augment,
            }));
        }
        terms.into_iter().reduce(|a, b| a + b).expect("a loss has a term")
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
            ("progress".to_owned(), self.progress.tensor()),
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
                "progress" => self.progress = Progress::from_tensor(&tensor)?,
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

/// What a run is scored on.
pub enum Validation {
    /// Classes, by their mean IoU.
    Classes(Vec<Sample>),
    /// Objects, by the average precision of their masks at an intersection over union of a half.
    Objects(ObjectDataset),
}

impl Validation {
    /// Pictures.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Classes(samples) => samples.len(),
            Self::Objects(data) => data.samples.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How it is scored.
    #[must_use]
    pub fn metric(&self) -> Metric {
        match self {
            Self::Classes(_) => Metric::MeanIou,
            Self::Objects(_) => Metric::MaskAp50,
        }
    }

    /// The score, 0 to 1, and what else TensorBoard shows.
    fn score(&self, run: &Run, recipe: &Recipe) -> Result<(f64, Vec<(String, f64)>)> {
        let name = format!("score/{}", self.metric().name());
        match self {
            Self::Classes(samples) => {
                let matrix = validate::score(&run.graph, &run.ema, recipe, samples, |_, _, _, _| {})?;
                let iou = matrix
                    .mean_iou()
                    .context("the validation pictures hold no label")?;
                let mut values = vec![(name, iou)];
                let accuracy = matrix.pixel_accuracy();
                values.extend(accuracy.map(|value| ("score/pixel accuracy".to_owned(), value)));
                for (index, class) in recipe.classes().iter().take(matrix.classes()).enumerate() {
                    values.extend(matrix.iou(index).map(|iou| (format!("IoU/{}", class.name), iou)));
                }
                Ok((iou, values))
            }
            Self::Objects(data) => {
                let scores = validate::score_objects(&run.graph, &run.ema, recipe, data)?;
                let half = scores
                    .mean_precision(Some(0))
                    .context("the validation pictures hold no object")?;
                let mut values = vec![(name, half)];
                values.extend(
                    scores
                        .mean_precision(None)
                        .map(|value| ("score/mask AP".to_owned(), value)),
                );
                let panoptic = scores.mean_panoptic().map(|panoptic| panoptic.quality);
                values.extend(panoptic.map(|value| ("score/panoptic quality".to_owned(), value)));
                for (index, class) in data.classes.iter().enumerate() {
                    let half = scores.precision_at(index, 0);
                    values.extend(half.map(|value| (format!("AP50/{class}"), value)));
                }
                Ok((half, values))
            }
        }
    }
}

/// How a training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At the recipe's last step.
    Done,
    /// The score has not risen for as many scores as the recipe's `patience`.
    Early,
    /// It was asked to stop.
    Stopped,
}

/// Trains until the recipe's last step, an early stop, or until `stop` is set; in each case a checkpoint is left.
///
/// # Errors
/// A file can't be read or written, or the loss is no longer a number.
pub fn train(
    run: &mut Run,
    recipe: &Recipe,
    pictures: &[Picture],
    order: &[u32],
    validation: &Validation,
    folder: &Folder,
    stop: &AtomicBool,
) -> Result<End> {
    let device = run.weights.device();
    let steps = recipe.train.steps;
    let progress = ProgressBar::new(steps).with_style(ProgressStyle::with_template(
        "{elapsed_precise} [{wide_bar}] {pos}/{len} {msg} {eta_precise} left",
    )?);
    progress.set_position(run.step);
    progress.reset_eta();
    let mut log = folder.open_log(run.step, validation.metric())?;
    let mut events = EventWriter::create(folder.path())?;
    let objective = data::loss(pictures, order, recipe, device);
    let donors = Donors::new(pictures, recipe);
    let (sender, batches) = crossbeam_channel::bounded(BATCHES_AHEAD);
    let first = run.step;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for step in first..steps {
                let batch = data::batch(pictures, order, &donors, recipe, step);
                if sender.send(batch).is_err() {
                    break;
                }
            }
        });
        let batches = batches;
        let mut saved = Instant::now();
        let (started, before) = (Instant::now(), run.progress.seconds);
        while run.step < steps && !stop.load(Ordering::Relaxed) && !run.is_stale(recipe) {
            let batch = batches.recv()?;
            let loss = run.train_step(recipe, &objective, &batch, device);
            ensure!(
                loss.is_finite(),
                "the loss is {loss} at step {}: lower the learning rates",
                run.step
            );
            run.progress.loss_sum += loss;
            run.progress.loss_count += 1;
            run.progress.seconds = before + started.elapsed().as_secs_f64();
            progress.inc(1);
            let scored = run.step.is_multiple_of(recipe.validate.every) || run.step == steps;
            if run.progress.loss_count == LOG_EVERY || scored {
                let mean = run.progress.loss_sum / run.progress.loss_count as f64;
                (run.progress.loss_sum, run.progress.loss_count) = (0.0, 0);
                let rate = recipe.train.factor(run.step);
                let mut values = vec![
                    ("loss".to_owned(), mean),
                    ("rate/trunk".to_owned(), rate * recipe.train.trunk_rate),
                    ("rate/head".to_owned(), rate * recipe.train.head_rate),
                ];
                let mut score = String::new();
                if scored {
                    progress.set_message("scoring");
                    let (found, others) = validation.score(run, recipe)?;
                    score = format!("{found:.5}");
                    progress.println(format!(
                        "step {} loss {mean:.4} {} {:.2}",
                        run.step,
                        validation.metric().name(),
                        100.0 * found
                    ));
                    values.extend(others);
                    if found > run.best {
                        run.best = found;
                        run.progress.stale = 0;
                        run.save(&folder.best())?;
                    } else {
                        run.progress.stale += 1;
                    }
                }
                progress.set_message(format!("loss {mean:.4} best {:.2}", 100.0 * run.best));
                writeln!(log, "{},{:.1},{mean:.5},{score}", run.step, run.progress.seconds)?;
                events.scalars(run.step, &values)?;
            }
            if scored || saved.elapsed() > CHECKPOINT_EVERY {
                run.save(&folder.last())?;
                saved = Instant::now();
            }
        }
        run.save(&folder.last())?;
        progress.finish();
        Ok(if run.step >= steps {
            End::Done
        } else if run.is_stale(recipe) {
            End::Early
        } else {
            End::Stopped
        })
    })
}
