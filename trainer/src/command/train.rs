//! `segd-train train`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use indicatif::ProgressBar;
use segd::dataset::{self, Format};
use tch::Device;

use super::samples;
use crate::recipe::Recipe;
use crate::train::{Folder, Run, train};
use crate::weights::Weights;
use crate::{data, import};

/// Arguments of `train`.
#[derive(Args)]
pub struct Arguments {
    /// The recipe.
    #[arg(long)]
    recipe: PathBuf,
    /// The dataset's folder.
    #[arg(long)]
    data: PathBuf,
    /// Where checkpoints and the log go.
    #[arg(long)]
    out: PathBuf,
    /// The trunk's published weights.
    #[arg(long)]
    trunk: Option<PathBuf>,
    /// Start from the averaged weights of this checkpoint.
    #[arg(long)]
    init: Option<PathBuf>,
    /// Go on from the folder's last checkpoint.
    #[arg(long)]
    resume: bool,
    /// Threads of the network.
    #[arg(long, default_value_t = 2)]
    threads: i32,
    /// Time this many steps and stop, without scores or checkpoints.
    #[arg(long)]
    bench_steps: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// As [`train`].
pub fn run(arguments: &Arguments) -> Result<()> {
    tch::set_num_threads(arguments.threads);
    let recipe = Recipe::read(&arguments.recipe)?;
    let graph = recipe.graph();
    if recipe.network.pretrained && arguments.trunk.is_none() && arguments.init.is_none() && !arguments.resume
    {
        bail!(
            "{}: network.pretrained is set: name the trunk's weights by --trunk (trainer/fetch-trunk.sh fetches them), \
             or start from a checkpoint by --init or --resume",
            arguments.recipe.display()
        );
    }
    let device = Device::cuda_if_available();
    let mut weights = Weights::random(&graph, recipe.train.seed as i64, device);
    match (&arguments.trunk, &arguments.init) {
        (_, Some(path)) => weights.load(path, "ema/")?,
        (Some(path), None) => match recipe.network.trunk_kind()? {
            Some(kind) => import::trunk::load(path, kind, &graph, &mut weights)?,
            None => bail!(
                "--trunk: {} has no trunk that starts from published weights",
                recipe.network.arch
            ),
        },
        (None, None) => {}
    }
    let mut run = Run::new(&recipe, graph, weights);
    let folder = Folder::create(&arguments.out)?;
    if arguments.resume {
        run.restore(&folder.last())?;
    }

    let real = samples(recipe.dataset, &arguments.data, "train")?;
    let validation = samples(recipe.dataset, &arguments.data, "val")?;
    let mut pseudo = match recipe.dataset {
        Format::Voc if arguments.data.join("pseudo").is_dir() => {
            dataset::pseudo(&arguments.data.join("unlabelled"), &arguments.data.join("pseudo"))?
        }
        _ => vec![],
    };
    if arguments.bench_steps.is_some() {
        pseudo.truncate(200);
    }
    let longest = (recipe.augment.longest * 1.05) as usize;
    let classes = recipe.network.classes as usize;
    let progress = ProgressBar::new((real.len() + pseudo.len()) as u64);
    let mut pictures = data::load(&real, classes, longest, 2, &progress)?;
    let real_count = pictures.len() as u32;
    pictures.extend(data::load(&pseudo, classes, longest, 2, &progress)?);
    progress.finish();
    let mut order: Vec<u32> = (0..pictures.len() as u32).collect();
    for _ in 1..recipe.train.real_weight {
        order.extend(0..real_count);
    }

    if let Some(steps) = arguments.bench_steps {
        let loss = data::loss(&pictures, &order, &recipe, device);
        for step in 0..steps {
            let started = Instant::now();
            let batch = data::batch(&pictures, &order, &recipe, step);
            let made = started.elapsed();
            let loss = run.train_step(&recipe, &loss, &batch, device);
            println!(
                "{step} batch {made:?} step {:?} loss {loss:.4}",
                started.elapsed() - made
            );
        }
        return Ok(());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("saving a checkpoint; once more to exit at once");
    })?;
    train(&mut run, &recipe, &pictures, &order, &validation, &folder, &stop)
}
