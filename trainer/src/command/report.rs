//! `segd-train report`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use indicatif::ProgressBar;
use vision::dataset::Sample;
use vision::score::{ConfusionMatrix, Scores};

use super::Checkpoint;
use crate::report::{Report, Row, sheet, write};
use crate::{data, validate};

/// Arguments of `report`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    checkpoint: Checkpoint,
    /// The split to score on
    #[arg(long, default_value = "val")]
    split: String,
    /// The file to write [default: RUN/report.html]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Pictures on the qualitative sheet
    #[arg(long, default_value_t = 12)]
    pictures: usize,
    /// Score only the first pictures
    #[arg(long)]
    limit: Option<usize>,
}

/// Runs the command.
///
/// # Errors
/// A file can't be read or written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let (recipe, graph, weights) = arguments.checkpoint.load()?;
    let folder = arguments.checkpoint.folder()?;
    let mut samples = arguments.checkpoint.samples(&recipe, &arguments.split)?;
    samples.truncate(arguments.limit.unwrap_or(samples.len()));
    let classes = recipe.network.classes as usize;

    let mut scores = Scores::new(classes);
    let mut each: Vec<(f64, usize)> = Vec::with_capacity(samples.len());
    let bar = ProgressBar::new(samples.len() as u64);
    for (index, sample) in samples.iter().enumerate() {
        let (image, truth) = data::read(sample, classes)?;
        let predicted = validate::predict(&graph, &weights, &recipe, &image)?;
        scores.add(truth.width, &truth.data, &predicted);
        let mut own = ConfusionMatrix::new(classes);
        own.add(&truth.data, &predicted);
        each.extend(own.mean_iou().map(|iou| (iou, index)));
        bar.inc(1);
    }
    bar.finish_and_clear();

    let rows = chosen(each, arguments.pictures)
        .into_iter()
        .map(|(iou, index)| {
            let sample: &Sample = &samples[index];
            let (image, truth) = sample.load()?;
            let predicted = validate::predict(&graph, &weights, &recipe, &image)?;
            Ok(Row {
                title: format!("{}: mean IoU {:.1} %", sample.name, 100.0 * iou),
                jpeg: sheet::jpeg(&sheet::panels(&image, &truth, &predicted, recipe.classes()))?,
            })
        })
        .collect::<Result<Vec<Row>>>()?;

    let log = match &folder {
        Some(folder) if folder.log().is_file() => Some(folder.read_log()?),
        _ => None,
    };
    let side = recipe.validate.longest as i64;
    let parameters: i64 = weights
        .iter()
        .filter(|(name, _)| !name.ends_with(".bn.mean") && !name.ends_with(".bn.var"))
        .map(|(_, tensor)| tensor.numel() as i64)
        .sum();
    let mut facts = vec![
        ("network".to_owned(), recipe.network.arch.clone()),
        (
            "parameters".to_owned(),
            format!("{:.2} million", parameters as f64 / 1e6),
        ),
        (
            "cost".to_owned(),
            format!(
                "{:.2} G multiply-adds at {side}x{side}",
                graph.macs(side, side) as f64 / 1e9
            ),
        ),
        (
            "scored on".to_owned(),
            format!(
                "{} pictures of {} of {}",
                samples.len(),
                arguments.split,
                recipe.about.dataset
            ),
        ),
    ];
    if let Some(log) = &log {
        let steps = log.losses.last().map_or(0.0, |(step, _)| *step);
        facts.push((
            "trained".to_owned(),
            format!(
                "{steps:.0} of {} steps, {:.1} hours",
                recipe.train.steps,
                log.seconds / 3600.0
            ),
        ));
    }
    let report = Report {
        name: recipe.name.clone(),
        facts,
        log,
        classes: recipe.classes()[..classes.min(recipe.classes().len())].to_vec(),
        scores,
        protocol: format!(
            "Single scale, longest side {}, sides rounded to multiples of {}; scored at each picture's full size; pixels \
             without a label left out; counts summed over all pictures; boundary F-score (Csurka et al. 2013) within 0.75 % \
             of the diagonal, a mean over pictures; over- and under-segmentation after Clinton et al. 2010.",
            recipe.validate.longest, recipe.validate.multiple
        ),
        rows,
    };
    let out = match (&arguments.out, &folder) {
        (Some(out), _) => out.clone(),
        (None, Some(folder)) => folder.path().join("report.html"),
        (None, None) => PathBuf::from("report.html"),
    };
    std::fs::write(&out, write(&report)?).with_context(|| format!("writing {}", out.display()))?;
    println!(
        "{}: mean IoU {:.2}",
        out.display(),
        100.0 * report.scores.matrix.mean_iou().unwrap_or(0.0)
    );
    Ok(())
}

/// `count` pictures spread evenly from the worst to the best.
fn chosen(mut each: Vec<(f64, usize)>, count: usize) -> Vec<(f64, usize)> {
    each.sort_by(|a, b| a.0.total_cmp(&b.0));
    let count = count.min(each.len());
    (0..count)
        .map(|i| each[i * (each.len() - 1) / (count - 1).max(1)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_chosen_from_the_worst_to_the_best() {
        let each: Vec<(f64, usize)> = [0.5, 0.1, 0.9, 0.3, 0.7].into_iter().zip(0..).collect();
        assert_eq!(chosen(each.clone(), 3), [(0.1, 1), (0.5, 0), (0.9, 2)]);
        assert_eq!(chosen(each.clone(), 9).len(), 5);
        assert_eq!(chosen(each, 1), [(0.1, 1)]);
        assert_eq!(chosen(vec![], 3), []);
    }
}
