//! `segd-train eval`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use image::RgbImage;
use vision::dataset::DatasetClass;
use vision::score::ConfusionMatrix;
use vision::score::objects::ObjectScores;

use super::Checkpoint;
use crate::report::sheet;
use crate::validate;

/// Arguments of `eval`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    checkpoint: Checkpoint,
    /// The split to score on.
    #[arg(long, default_value = "val")]
    split: String,
    /// Draw each picture, its truth, its prediction and its errors side by side into this folder.
    #[arg(long)]
    draw: Option<PathBuf>,
    /// Score only the first pictures.
    #[arg(long)]
    limit: Option<usize>,
}

/// Runs the command.
///
/// # Errors
/// A file can't be read or written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let (recipe, graph, weights) = arguments.checkpoint.load()?;
    let mut samples = arguments.checkpoint.samples(&recipe, &arguments.split)?;
    samples.truncate(arguments.limit.unwrap_or(samples.len()));
    let classes = recipe.classes();
    let mut drawn = Ok(());
    let matrix = validate::score(
        &graph,
        &weights,
        &recipe,
        &samples,
        |sample, image, truth, predicted| {
            if let Some(folder) = &arguments.draw {
                let path = folder.join(format!("{}.png", sample.name));
                if let Err(error) = save(&path, &sheet::panels(image, truth, predicted, classes)) {
                    drawn = Err(error);
                }
            }
        },
    )?;
    drawn?;
    print(&matrix, classes);
    if let Some(mut data) = arguments.checkpoint.objects(&recipe, &arguments.split)? {
        data.samples
            .truncate(arguments.limit.unwrap_or(data.samples.len()));
        print_objects(
            &validate::score_objects(&graph, &weights, &recipe, &data)?,
            &data.classes,
        );
    }
    Ok(())
}

fn print(matrix: &ConfusionMatrix, classes: &[DatasetClass]) {
    let percent =
        |value: Option<f64>| value.map_or("   -".to_owned(), |value| format!("{:5.1}", 100.0 * value));
    for (index, class) in classes.iter().enumerate() {
        println!(
            "{:14} IoU {}  accuracy {}",
            class.name,
            percent(matrix.iou(index)),
            percent(matrix.class_accuracy(index))
        );
    }
    println!("mean IoU       {}", percent(matrix.mean_iou()));
    println!("pixel accuracy {}", percent(matrix.pixel_accuracy()));
}

fn print_objects(scores: &ObjectScores, classes: &[String]) {
    let percent =
        |value: Option<f64>| value.map_or("   -".to_owned(), |value| format!("{:5.1}", 100.0 * value));
    println!();
    for (index, class) in classes.iter().enumerate() {
        println!(
            "{class:14} AP50 {}  of {} objects",
            percent(scores.precision_at(index, 0)),
            scores.objects(index)
        );
    }
    println!("mask AP50      {}", percent(scores.mean_precision(Some(0))));
    println!("mask AP        {}", percent(scores.mean_precision(None)));
    let panoptic = scores.mean_panoptic().map(|panoptic| panoptic.quality);
    println!("PQ             {}", percent(panoptic));
}

fn save(path: &Path, sheet: &RgbImage) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    sheet
        .save(path)
        .with_context(|| format!("writing {}", path.display()))
}
