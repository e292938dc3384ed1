//! `segd eval --objects`: scores of objects.

use serde::Serialize;
use tracing::info;

use super::eval::EvalArgs;
use super::image::progress;
use crate::metrics::Metrics;
use vision::dataset::objects::{ObjectDataset, ObjectFormat, TrueObject, usual_name};
use vision::error::{Error, Result};
use vision::frame::LabelMap;
use vision::model::Contract;
use vision::picture::image_ref;
use vision::rle::Rle;
use vision::scene::Segment;
use vision::score::ObjectBootstrap;
use vision::score::objects::{FoundObject, Panoptic, Shape, Size};
use vision::segment::Engine;

/// What was scored, how, and the scores: shares, 0 to 1; null for a class without objects.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    backend: String,
    precision: String,
    dataset: String,
    split: String,
    images: usize,
    protocol: &'static str,
    /// Classes of the data that the model does not have: they are not scored.
    not_scored: Vec<String>,
    mask_ap: Option<f64>,
    mask_ap50: Option<f64>,
    mask_ap75: Option<f64>,
    mask_ap_small: Option<f64>,
    mask_ap_medium: Option<f64>,
    mask_ap_large: Option<f64>,
    box_ap: Option<f64>,
    box_ap50: Option<f64>,
    box_ap75: Option<f64>,
    box_ap_small: Option<f64>,
    box_ap_medium: Option<f64>,
    box_ap_large: Option<f64>,
    panoptic_quality: Option<f64>,
    segmentation_quality: Option<f64>,
    recognition_quality: Option<f64>,
    /// 95 %, bootstrap over pictures.
    mask_ap_interval: Option<[f64; 2]>,
    mask_ap50_interval: Option<[f64; 2]>,
    box_ap_interval: Option<[f64; 2]>,
    box_ap50_interval: Option<[f64; 2]>,
    panoptic_quality_interval: Option<[f64; 2]>,
    classes: Vec<ClassReport>,
}

#[derive(Debug, Serialize)]
struct ClassReport {
    name: String,
    objects: u64,
    mask_ap: Option<f64>,
    mask_ap50: Option<f64>,
    box_ap: Option<f64>,
    panoptic_quality: Option<f64>,
}

const PROTOCOL: &str = "AP as COCO has it: mean over IoU 0.50 to 0.95, 101 recalls, at most 100 objects of a class and picture, \
    sizes by area up to 32x32, 96x96 and above; boxes are those of the masks; panoptic quality over objects; void pixels and crowds not counted; masks that do not overlap, as they are streamed";

/// Scores the model's objects and prints the report.
///
/// # Errors
/// Usage if the model tells no objects apart or has none of the data's classes; fatal, naming the file, for data that can't
/// be read.
pub(super) fn run(args: &EvalArgs, format: ObjectFormat) -> Result<()> {
    let options = args.model.options()?;
    let mut model = options.find()?;
    if !model.contract.output.tells_objects() {
        if model.contract.output.kind.has_objects() {
            return Err(
                Error::usage(format!("model {} tells no objects apart", model.contract.name))
                    .hint("score it with --format, class by class"),
            );
        }
        // As `--regions` shows them.
        model.contract.tell_regions_apart()?;
    }
    let split = args.split.as_deref().unwrap_or_else(|| format.usual_split());
    let mut data = ObjectDataset::open(format, &args.dataset, split)?;
    if let Some(limit) = args.limit {
        data.samples.truncate(limit.max(1));
    }
    let scored = Scored::of(&data.classes, &model.contract)?;
    let chosen = options.choose_for(model)?;
    info!(
        model = chosen.model.contract.name,
        backend = chosen.backend.name(),
        why = chosen.why,
        "model"
    );
    let name = chosen.model.contract.name.clone();
    let mut engine = Engine::new(chosen.model, chosen.backend, chosen.longest, Metrics::shared());
    let mut pictures = ObjectBootstrap::new(scored.names.len());
    let (mut map, mut segments) = (LabelMap::zeros(0, 0), Vec::new());
    let mut ran = None;
    let bar = progress(data.samples.len());
    for sample in &data.samples {
        let (picture, truth) = sample.load()?;
        let image = image_ref(&picture)?;
        if ran.is_none() {
            ran = Some(engine.prepare(image.format)?);
        }
        engine.segment_objects(&image, &mut map, &mut segments)?;
        let objects = truth.objects.into_iter().filter_map(|object| {
            Some(TrueObject {
                class: scored.of_data[object.class]?,
                ..object
            })
        });
        let objects: Vec<TrueObject> = objects.collect();
        pictures.add(&objects, truth.void.as_ref(), &scored.found(&map, &segments));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let ran = ran.ok_or_else(|| Error::usage("the split has no picture"))?;
    let scores = pictures.whole();
    let intervals = pictures.intervals();
    let panoptic = scores.mean_panoptic();
    let of = |part: fn(&Panoptic) -> f64| panoptic.as_ref().map(part);
    let classes = scored.names.iter().enumerate();
    let report = Report {
        model: name,
        backend: format!("{} {} on {}", ran.backend, ran.version, ran.provider),
        precision: ran.precision,
        dataset: args.dataset.display().to_string(),
        split: split.to_owned(),
        images: data.samples.len(),
        protocol: PROTOCOL,
        not_scored: scored.left_out.clone(),
        mask_ap: scores.mean_precision(None),
        mask_ap50: scores.mean_precision(Some(0)),
        mask_ap75: scores.mean_precision(Some(5)),
        mask_ap_small: scores.mean_precision_of(Shape::Mask, Size::Small, None),
        mask_ap_medium: scores.mean_precision_of(Shape::Mask, Size::Medium, None),
        mask_ap_large: scores.mean_precision_of(Shape::Mask, Size::Large, None),
        box_ap: scores.mean_precision_of(Shape::Box, Size::Any, None),
        box_ap50: scores.mean_precision_of(Shape::Box, Size::Any, Some(0)),
        box_ap75: scores.mean_precision_of(Shape::Box, Size::Any, Some(5)),
        box_ap_small: scores.mean_precision_of(Shape::Box, Size::Small, None),
        box_ap_medium: scores.mean_precision_of(Shape::Box, Size::Medium, None),
        box_ap_large: scores.mean_precision_of(Shape::Box, Size::Large, None),
        panoptic_quality: of(|p| p.quality),
        segmentation_quality: of(|p| p.segmentation),
        recognition_quality: of(|p| p.recognition),
        mask_ap_interval: intervals.mask_precision,
        mask_ap50_interval: intervals.mask_precision_50,
        box_ap_interval: intervals.box_precision,
        box_ap50_interval: intervals.box_precision_50,
        panoptic_quality_interval: intervals.panoptic,
        classes: classes
            .map(|(class, name)| ClassReport {
                name: name.clone(),
                objects: scores.objects(class),
                mask_ap: scores.precision(class),
                mask_ap50: scores.precision_at(class, 0),
                box_ap: scores.precision_of(class, Shape::Box, Size::Any, None),
                panoptic_quality: scores.panoptic(class).map(|p| p.quality),
            })
            .collect(),
    };
    super::print_report(args.json, &report, print)
}

/// The classes that data and model share.
struct Scored {
    names: Vec<String>,
    /// For each class of the data, and of the model, its place among them.
    of_data: Vec<Option<usize>>,
    of_model: Vec<Option<usize>>,
    left_out: Vec<String>,
}

impl Scored {
    fn of(data: &[String], contract: &Contract) -> Result<Self> {
        let mut scored = Self {
            names: Vec::new(),
            of_data: Vec::new(),
            of_model: vec![None; contract.classes.len()],
            left_out: Vec::new(),
        };
        for name in data {
            let class = contract
                .classes
                .iter()
                .position(|class| class.thing && usual_name(&class.name) == usual_name(name));
            scored.of_data.push(class.map(|class| {
                scored.of_model[class] = Some(scored.names.len());
                scored.names.push(name.clone());
                scored.names.len() - 1
            }));
            if class.is_none() {
                scored.left_out.push(name.clone());
            }
        }
        match scored.names.is_empty() {
            true => Err(Error::usage(format!(
                "model {} has none of the data's classes ({})",
                contract.name,
                data.join(", ")
            ))
            .hint("name the model's classes as the data does")),
            false => Ok(scored),
        }
    }

    fn found(&self, map: &LabelMap, segments: &[Segment]) -> Vec<FoundObject> {
        let objects = (0..=u8::MAX)
            .zip(segments)
            .filter(|(_, s)| s.instance.is_some() && !s.doubtful);
        objects
            .filter_map(|(number, segment)| {
                Some(FoundObject {
                    class: (*self.of_model.get(usize::from(segment.class))?)?,
                    score: segment.score,
                    mask: Rle::of(map, number),
                })
            })
            .filter(|found| found.mask.area() > 0)
            .collect()
    }
}

fn print(report: &Report) {
    let percent = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{:.2}", 100.0 * v));
    println!(
        "{:<20} {:>8} {:>9} {:>7} {:>9} {:>7}",
        "class", "objects", "mask AP %", "AP50 %", "box AP %", "PQ %"
    );
    for class in &report.classes {
        println!(
            "{:<20} {:>8} {:>9} {:>7} {:>9} {:>7}",
            class.name,
            class.objects,
            percent(class.mask_ap),
            percent(class.mask_ap50),
            percent(class.box_ap),
            percent(class.panoptic_quality)
        );
    }
    println!();
    let rows = [
        (
            "mask AP",
            [
                report.mask_ap,
                report.mask_ap50,
                report.mask_ap75,
                report.mask_ap_small,
                report.mask_ap_medium,
                report.mask_ap_large,
            ],
        ),
        (
            "box AP",
            [
                report.box_ap,
                report.box_ap50,
                report.box_ap75,
                report.box_ap_small,
                report.box_ap_medium,
                report.box_ap_large,
            ],
        ),
    ];
    for (name, values) in rows {
        let [all, at50, at75, small, medium, large] = values.map(percent);
        println!(
            "{name:<8} {all} %   AP50 {at50} %   AP75 {at75} %   small {small} %   medium {medium} %   large {large} %"
        );
    }
    println!(
        "PQ       {} %   SQ {} %   RQ {} %",
        percent(report.panoptic_quality),
        percent(report.segmentation_quality),
        percent(report.recognition_quality)
    );
    let between = |interval: Option<[f64; 2]>| {
        interval.map_or("-".to_owned(), |[low, high]| {
            format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high)
        })
    };
    println!(
        "95 %     mask AP {}   AP50 {}   box AP {}   AP50 {}   PQ {} (bootstrap over pictures)",
        between(report.mask_ap_interval),
        between(report.mask_ap50_interval),
        between(report.box_ap_interval),
        between(report.box_ap50_interval),
        between(report.panoptic_quality_interval)
    );
    println!(
        "model    {}, {}, {}",
        report.model, report.precision, report.backend
    );
    println!(
        "data     {} ({}), {} images",
        report.dataset, report.split, report.images
    );
    if !report.not_scored.is_empty() {
        println!(
            "without  {}, which the model does not have",
            report.not_scored.join(", ")
        );
    }
    println!("protocol {}", report.protocol);
}
