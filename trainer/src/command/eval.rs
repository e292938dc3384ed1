//! `segd-train eval`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use image::RgbImage;
use segd::dataset::{DatasetClass, IGNORE, Labels};
use segd::score::ConfusionMatrix;

use super::{Checkpoint, samples};
use crate::validate;

/// Arguments of `eval`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    checkpoint: Checkpoint,
    /// The split to score on.
    #[arg(long, default_value = "val")]
    split: String,
    /// Draw each picture, its truth and its prediction side by side into this folder.
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
    let mut samples = samples(recipe.dataset, &arguments.checkpoint.data, &arguments.split)?;
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
                if let Err(error) = draw(&path, image, truth, predicted, classes) {
                    drawn = Err(error);
                }
            }
        },
    )?;
    drawn?;
    print(&matrix, classes);
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

/// Picture, truth and prediction side by side.
fn draw(
    path: &Path,
    image: &RgbImage,
    truth: &Labels,
    predicted: &[u8],
    classes: &[DatasetClass],
) -> Result<()> {
    let (width, height) = image.dimensions();
    let color = |label: u8, at: [u8; 3]| match classes.get(usize::from(label)) {
        Some(class) => {
            std::array::from_fn(|c| ((u16::from(class.color[c]) * 3 + u16::from(at[c]) * 2) / 5) as u8)
        }
        None if label == IGNORE => [255; 3],
        None => [255, 0, 255],
    };
    let sheet = RgbImage::from_fn(3 * width, height, |x, y| {
        let (panel, x) = (x / width, x % width);
        let at = image.get_pixel(x, y).0;
        let index = (y * width + x) as usize;
        image::Rgb(match panel {
            0 => at,
            1 => color(truth.data[index], at),
            _ => color(predicted[index], at),
        })
    });
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    sheet
        .save(path)
        .with_context(|| format!("writing {}", path.display()))
}
