//! The subcommands.

pub mod archs;
pub mod eval;
pub mod export;
pub mod import;
pub mod plot;
pub mod train;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use segd::dataset::{Dataset, Format, Sample};
use tch::Device;

use crate::graph::Graph;
use crate::recipe::Recipe;
use crate::weights::Weights;

/// What names a trained network.
#[derive(Args)]
pub struct Checkpoint {
    /// The recipe it was trained by.
    #[arg(long)]
    pub recipe: PathBuf,
    /// The checkpoint, such as best.safetensors.
    #[arg(long)]
    pub checkpoint: PathBuf,
    /// The dataset's folder.
    #[arg(long)]
    pub data: PathBuf,
    /// Threads of the network.
    #[arg(long, default_value_t = 2)]
    pub threads: i32,
}

impl Checkpoint {
    /// The recipe, the network and its averaged weights.
    ///
    /// # Errors
    /// A file can't be read, or the two don't belong together.
    pub fn load(&self) -> Result<(Recipe, Graph, Weights)> {
        tch::set_num_threads(self.threads);
        let recipe = Recipe::read(&self.recipe)?;
        let graph = recipe.graph();
        let mut weights = Weights::random(&graph, 0, Device::Cpu);
        weights.load(&self.checkpoint, "ema/")?;
        Ok((recipe, graph, weights))
    }
}

/// The pictures of a dataset's split.
///
/// # Errors
/// The split can't be read.
pub fn samples(format: Format, root: &Path, split: &str) -> Result<Vec<Sample>> {
    Ok(Dataset::open(format, root)?.split(split)?)
}
