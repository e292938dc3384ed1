//! The subcommands.

pub mod archs;
pub mod average;
pub mod eval;
pub mod export;
pub mod import;
pub mod labels;
pub mod pack;
pub mod plot;
pub mod predict;
pub mod quantize;
pub mod report;
pub mod train;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use tch::{Cuda, Device};
use vision::dataset::objects::{ObjectDataset, ObjectFormat};
use vision::dataset::{Dataset, Location, Sample};
use vision::model::Model;
use vision::model::contract::{Contract, Precision};
use vision::selftest;

use crate::export::{model, score};
use crate::graph::Graph;
use crate::recipe::Recipe;
use crate::run::Folder;
use crate::weights::Weights;

/// Where networks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceName {
    /// The processor
    Cpu,
    /// The first NVIDIA GPU
    Cuda,
}

/// The device of that name, or the best there is.
///
/// # Errors
/// There is no GPU, or libtorch has no CUDA.
pub fn device(name: Option<DeviceName>) -> Result<Device> {
    match name {
        None => Ok(Device::cuda_if_available()),
        Some(DeviceName::Cpu) => Ok(Device::Cpu),
        Some(DeviceName::Cuda) => {
            ensure!(
                Cuda::is_available(),
                "--device cuda: no GPU that libtorch can use was found; it needs NVIDIA's driver and \
                 a libtorch with CUDA (trainer/libtorch.sh --cuda)"
            );
            Ok(Device::Cuda(0))
        }
    }
}

/// What names a trained network: a run's folder, or its parts.
#[derive(Args)]
pub struct Checkpoint {
    /// The run's folder
    #[arg(required_unless_present_all = ["recipe", "checkpoint"])]
    run: Option<PathBuf>,
    /// The recipe it was trained by [default: RUN/recipe.toml]
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// The checkpoint [default: RUN/best.safetensors]
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// The dataset's folder [default: the run's]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Threads of the network
    #[arg(long, default_value_t = 2)]
    pub threads: i32,
    /// Where the network runs [default: cuda if there is a GPU]
    #[arg(long, value_enum)]
    pub device: Option<DeviceName>,
}

impl Checkpoint {
    /// The run's folder, if one was named.
    ///
    /// # Errors
    /// It is not a run's folder.
    pub fn folder(&self) -> Result<Option<Folder>> {
        self.run.as_deref().map(Folder::open).transpose()
    }

    /// The recipe, the network and its averaged weights.
    ///
    /// # Errors
    /// A file can't be read, or the two don't belong together.
    pub fn load(&self) -> Result<(Recipe, Graph, Weights)> {
        tch::set_num_threads(self.threads);
        let folder = self.folder()?;
        let recipe = match (&self.recipe, &folder) {
            (Some(path), _) => Recipe::read(path)?,
            (None, Some(folder)) => folder.recipe()?,
            (None, None) => unreachable!("the arguments name a run or a recipe"),
        };
        let checkpoint = match (&self.checkpoint, &folder) {
            (Some(path), _) => path.clone(),
            (None, Some(folder)) if folder.best().is_file() => folder.best(),
            (None, Some(folder)) => folder.last(),
            (None, None) => unreachable!("the arguments name a run or a checkpoint"),
        };
        let graph = recipe.graph();
        let mut weights = Weights::random(&graph, 0, device(self.device)?);
        weights.load(&checkpoint, "ema/")?;
        Ok((recipe, graph, weights))
    }

    /// The pictures of a split of the run's data.
    ///
    /// # Errors
    /// No data is named, or the split can't be read.
    pub fn samples(&self, recipe: &Recipe, split: &str) -> Result<Vec<Sample>> {
        let location = self.location(recipe)?;
        let dataset = Dataset::open(location.format, &location.root)?;
        dataset.split(split).with_context(|| location.to_string())
    }

    /// The objects of a split of the run's data, for a network that tells them apart.
    ///
    /// # Errors
    /// As [`samples`](Self::samples).
    pub fn objects(&self, recipe: &Recipe, split: &str) -> Result<Option<ObjectDataset>> {
        if !recipe.tells_objects()? {
            return Ok(None);
        }
        let location = self.location(recipe)?;
        let format = location.format.objects().unwrap_or(ObjectFormat::Voc);
        Ok(Some(ObjectDataset::open(format, &location.root, split)?))
    }

    fn location(&self, recipe: &Recipe) -> Result<Location> {
        Ok(match (&self.data, self.folder()?) {
            (Some(root), _) => Location {
                format: recipe.dataset,
                root: root.clone(),
            },
            (None, Some(folder)) => folder.origin()?.location(),
            (None, None) => anyhow::bail!("name the dataset's folder by --data"),
        })
    }
}

/// A picture to test backends with, if none is named: of the first `MOST` samples, the one with the most classes. A model
/// without one is tested on made pictures, which say little about its 8-bit file.
///
/// # Errors
/// Labels can't be read.
pub fn selftest_picture(samples: &[Sample]) -> Result<Option<PathBuf>> {
    /// Samples that are looked at.
    const MOST: usize = 64;
    let mut best: Option<(usize, &Sample)> = None;
    for sample in samples.iter().take(MOST) {
        let labels = sample.load_labels()?;
        let classes: BTreeSet<u8> = labels.data.into_iter().collect();
        if best.is_none_or(|(most, _)| classes.len() > most) {
            best = Some((classes.len(), sample));
        }
    }
    Ok(best.map(|(_, sample)| sample.image.clone()))
}

/// Lowers the agreement that a folder's self-test asks for to what the 8-bit file reaches here, less what another machine's
/// rounding may cost.
///
/// # Errors
/// The folder can't be read or written, or the 8-bit file can't be run.
pub fn ask_of_backends(folder: &Path, contract: &mut Contract) -> Result<()> {
    const ROUNDING: f64 = 0.03;
    let Some(test) = &mut contract.selftest else {
        return Ok(());
    };
    let model = Arc::new(Model::open(folder)?);
    let found = selftest::run(&model, &score::backend("tract", Precision::Int8)?)?
        .context("the folder has no self-test")?
        .found;
    let least = ((found - ROUNDING).max(0.0) * 100.0).floor() / 100.0;
    test.agreement = test.agreement.min(least);
    model::write(folder, model::CONTRACT, contract.to_toml()?.as_bytes())
}
