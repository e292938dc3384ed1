//! `segd eval`: scores a model on a labelled data set, through the same code that segments video.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tracing::{info, warn};

use crate::cli::args::ModelArgs;
use crate::cli::image::progress;
use crate::cli::worst;
use crate::metrics::{Metrics, Stage};
use vision::dataset::objects::ObjectFormat;
use vision::dataset::{Dataset, DatasetClass, Format};
use vision::error::{Error, Result};
use vision::frame::LabelMap;
use vision::infer::RunsOn;
use vision::model::Contract;
use vision::model::contract::Resize;
use vision::picture::image_ref;
use vision::score::{Bootstrap, Scores};
use vision::segment::Engine;

/// Arguments of `segd eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// The data set's folder
    #[arg(long, value_name = "DIR")]
    pub dataset: PathBuf,
    /// Its layout, to score classes
    #[arg(long, value_enum, required_unless_present = "objects")]
    pub format: Option<Format>,
    /// Its layout, to score objects: AP of masks and boxes, panoptic quality
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "format")]
    pub objects: Option<ObjectFormat>,
    /// Which split to score [default: val, or all pictures where the data has no splits]
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// For data of two classes: the model's class that is the bright tone; all its other classes are the dark one
    #[arg(long, value_name = "CLASS", default_value = "person")]
    pub foreground: String,
    /// Score only the first N pictures
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// List the N pictures that cost the mean IoU most
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub worst: usize,
    /// Draw them into this folder, which is made: picture, truth, answer and errors side by side
    #[arg(long, value_name = "DIR", requires = "worst")]
    pub draw: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Model and backend.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// What was scored, how, and the scores. Shares are 0 to 1; a score that has no pixels is null.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    file: String,
    sha256: String,
    precision: String,
    backend: String,
    provider: String,
    backend_version: String,
    dataset: String,
    format: String,
    split: Option<String>,
    images: usize,
    protocol: String,
    mean_iou: Option<f64>,
    /// 95 % of the sets of as many pictures, drawn from these, score between.
    mean_iou_interval: Option<[f64; 2]>,
    pixel_accuracy: Option<f64>,
    mean_class_accuracy: Option<f64>,
    frequency_weighted_iou: Option<f64>,
    mean_dice: Option<f64>,
    mean_boundary_f: Option<f64>,
    over_segmentation: Option<f64>,
    under_segmentation: Option<f64>,
    /// CPU time of the network alone.
    network_cpu_ms_per_image: f64,
    classes: Vec<ClassReport>,
    /// The pictures that cost most, the costliest first.
    worst: Vec<WorstReport>,
}

#[derive(Debug, Serialize)]
struct WorstReport {
    name: String,
    /// By how much the mean IoU of all pictures rises without this one.
    cost: f64,
    mean_iou: Option<f64>,
}

#[derive(Debug, Serialize)]
struct ClassReport {
    name: String,
    iou: Option<f64>,
    iou_interval: Option<[f64; 2]>,
    accuracy: Option<f64>,
    dice: Option<f64>,
    boundary_f: Option<f64>,
    over_segmentation: Option<f64>,
    under_segmentation: Option<f64>,
}

/// Scores the model and prints the report.
///
/// # Errors
/// Usage if the model's classes are not the data set's; fatal, naming the file, for data that can't be read.
pub fn run(args: EvalArgs) -> Result<()> {
    let format = match (args.objects, args.format) {
        (Some(objects), _) => return super::eval_objects::run(&args, objects),
        (None, Some(format)) => format,
        (None, None) => return Err(Error::usage("--format is missing")),
    };
    let options = args.model.options()?;
    let model = options.find()?;
    // Whether the model fits is said before the data is looked for.
    let known = format.classes();
    let fitting = known
        .map(|known| Classes::of(&args, format, known, &model.contract))
        .transpose()?;
    let dataset = Dataset::open(format, &args.dataset)?;
    let classes = match fitting {
        Some(classes) => classes,
        None => Classes::of(&args, format, &dataset.classes, &model.contract)?,
    };
    let split = match &args.split {
        Some(split) => split,
        None if format.has_splits() => "val",
        None => "all",
    };
    let mut samples = dataset.split(split)?;
    if let Some(limit) = args.limit {
        samples.truncate(limit.max(1));
    }
    let chosen = options.choose_for(model)?;
    info!(
        model = chosen.model.contract.name,
        backend = chosen.backend.name(),
        why = chosen.why,
        "model"
    );
    let metrics = Metrics::shared();
    let contract = chosen.model.contract.clone();
    let longest = chosen.longest;
    let mut engine = Engine::new(chosen.model, chosen.backend, longest, metrics.clone());

    if let Some(folder) = &args.draw {
        std::fs::create_dir_all(folder).map_err(|e| {
            Error::usage(format!("--draw {}: can't be made", folder.display()))
                .caused_by(e)
                .hint("name a folder that this user may write to")
        })?;
    }

    let mut scores = Scores::new(classes.names.len());
    let mut each = Bootstrap::new(classes.names.len());
    let mut mask = LabelMap::zeros(0, 0);
    let mut ran: Option<RunsOn> = None;
    let bar = progress(samples.len());
    for sample in &samples {
        let (picture, labels) = sample.load()?;
        let image = image_ref(&picture)?;
        if ran.is_none() {
            ran = Some(engine.prepare(image.format)?);
        }
        engine.segment(&image, &mut mask)?;
        classes.translate(&mut mask);
        scores.add(labels.width, &labels.data, &mask.labels);
        each.add(&labels.data, &mask.labels);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let costs = each.costs();
    let mut worst: Vec<usize> = (0..samples.len()).collect();
    worst.sort_by(|&a, &b| costs[b].total_cmp(&costs[a]));
    worst.truncate(args.worst);
    if let Some(folder) = &args.draw {
        for (place, &picture) in (1..).zip(&worst) {
            let (image, labels) = samples[picture].load()?;
            engine.segment(&image_ref(&image)?, &mut mask)?;
            classes.translate(&mut mask);
            let name = &samples[picture].name;
            worst::write(
                (folder, place, name),
                &image,
                &labels,
                &mask.labels,
                &classes.colors,
            )?;
        }
    }
    let ran = ran.ok_or_else(|| Error::usage("the split has no picture"))?;

    let file = contract
        .files
        .iter()
        .find(|f| f.precision.as_str() == ran.precision && f.backends.iter().any(|b| b == ran.backend));
    let intervals = each.intervals();
    let Scores {
        matrix,
        boundary,
        regions,
    } = &scores;
    let report = Report {
        model: contract.name.clone(),
        file: file.map(|f| f.path.clone()).unwrap_or_default(),
        sha256: file.map(|f| f.sha256.clone()).unwrap_or_default(),
        precision: ran.precision,
        backend: ran.backend.to_owned(),
        provider: ran.provider,
        backend_version: ran.version,
        dataset: args.dataset.display().to_string(),
        format: format.name(),
        split: (split != "all").then(|| split.to_owned()),
        images: samples.len(),
        protocol: protocol(&contract, longest, &classes),
        mean_iou: matrix.mean_iou(),
        mean_iou_interval: intervals.mean_iou,
        pixel_accuracy: matrix.pixel_accuracy(),
        mean_class_accuracy: matrix.mean_class_accuracy(),
        frequency_weighted_iou: matrix.frequency_weighted_iou(),
        mean_dice: matrix.mean_dice(),
        mean_boundary_f: boundary.mean(),
        over_segmentation: regions.over_all(),
        under_segmentation: regions.under_all(),
        network_cpu_ms_per_image: network_cpu_ms(&metrics) / samples.len() as f64,
        classes: classes
            .names
            .iter()
            .enumerate()
            .map(|(i, name)| ClassReport {
                name: name.clone(),
                iou: matrix.iou(i),
                iou_interval: intervals.iou[i],
                accuracy: matrix.class_accuracy(i),
                dice: matrix.dice(i),
                boundary_f: boundary.class(i),
                over_segmentation: regions.over(i),
                under_segmentation: regions.under(i),
            })
            .collect(),
        worst: worst
            .iter()
            .map(|&picture| WorstReport {
                name: samples[picture].name.clone(),
                cost: costs[picture],
                mean_iou: each.mean_iou_of(picture),
            })
            .collect(),
    };
    super::print_report(args.json, &report, print)
}

/// The classes that are scored, and how the model's labels become theirs.
struct Classes {
    names: Vec<String>,
    /// RGB.
    colors: Vec<[u8; 3]>,
    /// The label that becomes 1; all others become 0.
    foreground: Option<u8>,
}

impl Classes {
    fn of(args: &EvalArgs, format: Format, known: &[DatasetClass], contract: &Contract) -> Result<Self> {
        if matches!(format, Format::Masks | Format::Csv | Format::Pet) {
            // A model that was trained on such data has no other class than the bright tone.
            let only = (contract.classes.len() == 2 && contract.classes[0].background).then_some(1);
            let label = contract.class_index(&args.foreground).or(only).ok_or_else(|| {
                let names: Vec<&str> = contract.classes.iter().map(|c| c.name.as_str()).collect();
                Error::usage(format!(
                    "--foreground {:?}: model {} has {}",
                    args.foreground,
                    contract.name,
                    names.join(", ")
                ))
            })?;
            return Ok(Self {
                names: vec![
                    "background".into(),
                    contract.classes[usize::from(label)].name.clone(),
                ],
                colors: vec![[0; 3], [255; 3]],
                foreground: Some(label),
            });
        }
        if known.len() != contract.classes.len() {
            return Err(Error::usage(format!(
                "model {} has {} classes, {} has {}",
                contract.name,
                contract.classes.len(),
                format.name(),
                known.len()
            ))
            .hint("score a model that was trained on this data set's classes"));
        }
        for (label, (ours, theirs)) in contract.classes.iter().zip(known).enumerate() {
            if !ours.name.eq_ignore_ascii_case(&theirs.name) {
                warn!(
                    "class {label} is {:?} in the model and {:?} in the data set",
                    ours.name, theirs.name
                );
            }
        }
        Ok(Self {
            names: known.iter().map(|c| c.name.clone().into_owned()).collect(),
            colors: contract.classes.iter().map(|c| c.color).collect(),
            foreground: None,
        })
    }

    fn translate(&self, mask: &mut LabelMap) {
        if let Some(foreground) = self.foreground {
            for label in &mut mask.labels {
                *label = u8::from(*label == foreground);
            }
        }
    }
}

/// All that a score depends on, besides model and data.
fn protocol(contract: &Contract, longest: Option<usize>, classes: &Classes) -> String {
    let input = &contract.input;
    let resize = match input.resize {
        Resize::Fit => format!(
            "aspect kept, longer side {} rounded to {}k{}",
            longest.unwrap_or_else(|| input.width.max(input.height)),
            input.multiple,
            if input.offset == 0 {
                String::new()
            } else {
                format!("+{}", input.offset)
            }
        ),
        Resize::Stretch => {
            let size = input.size_for(1, 1, longest);
            format!("stretched to {}x{}", size.width, size.height)
        }
        Resize::Letterbox => {
            let size = input.size_for(1, 1, longest);
            format!("letterboxed into {}x{}", size.width, size.height)
        }
    };
    format!(
        "single scale, no flip; input {resize}; scored at each picture's full resolution; {} classes; void pixels not scored; \
         one confusion matrix over all pictures, classes absent from truth and prediction left out of means; \
         border F-score within 0.75 % of the diagonal; over- and under-segmentation after Clinton et al. 2010",
        classes.names.len()
    )
}

fn network_cpu_ms(metrics: &Metrics) -> f64 {
    let snapshot = metrics.snapshot();
    snapshot
        .stages
        .iter()
        .filter(|(stage, _)| *stage == Stage::Infer)
        .map(|(_, s)| s.cpu_ms)
        .sum()
}

fn print(report: &Report) {
    let percent = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{:.2}", 100.0 * v));
    let between = |interval: Option<[f64; 2]>| {
        interval.map_or("-".to_owned(), |[low, high]| {
            format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high)
        })
    };
    println!(
        "{:<20} {:>7} {:>14} {:>7} {:>7} {:>9} {:>7} {:>7}",
        "class", "IoU %", "95 %", "acc. %", "Dice %", "border F", "over %", "under %"
    );
    for class in &report.classes {
        println!(
            "{:<20} {:>7} {:>14} {:>7} {:>7} {:>9} {:>7} {:>7}",
            class.name,
            percent(class.iou),
            between(class.iou_interval),
            percent(class.accuracy),
            percent(class.dice),
            percent(class.boundary_f),
            percent(class.over_segmentation),
            percent(class.under_segmentation)
        );
    }
    println!(
        "{:<20} {:>7} {:>14} {:>7} {:>7} {:>9} {:>7} {:>7}",
        "mean",
        percent(report.mean_iou),
        between(report.mean_iou_interval),
        percent(report.mean_class_accuracy),
        percent(report.mean_dice),
        percent(report.mean_boundary_f),
        percent(report.over_segmentation),
        percent(report.under_segmentation)
    );
    println!();
    println!(
        "mean IoU               {} % (95 %: {}, bootstrap over pictures)",
        percent(report.mean_iou),
        between(report.mean_iou_interval)
    );
    println!("pixel accuracy         {} %", percent(report.pixel_accuracy));
    println!(
        "frequency-weighted IoU {} %",
        percent(report.frequency_weighted_iou)
    );
    println!(
        "network                {:.1} CPU ms a picture",
        report.network_cpu_ms_per_image
    );
    println!(
        "model                  {} ({}, sha256 {}), {}, {} {} on {}",
        report.model,
        report.file,
        report.sha256.get(..16).unwrap_or_default(),
        report.precision,
        report.backend,
        report.backend_version,
        report.provider
    );
    let split = report.split.as_ref().map(|s| format!(" {s}")).unwrap_or_default();
    println!(
        "data                   {} ({}{split}), {} images",
        report.dataset, report.format, report.images
    );
    println!("protocol               {}", report.protocol);
    if !report.worst.is_empty() {
        println!();
        println!("{:<30} {:>12} {:>10}", "picture", "costs points", "mean IoU %");
        for picture in &report.worst {
            println!(
                "{:<30} {:>12.2} {:>10}",
                picture.name,
                100.0 * picture.cost,
                percent(picture.mean_iou)
            );
        }
    }
}
