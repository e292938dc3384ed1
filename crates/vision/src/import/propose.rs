//! A [`Signature`] to a contract: the forms of answer that are told apart by shapes, names and metadata.

use serde_json::Value as Json;

use super::names::{classes, coco_80, coco_91, is_background, is_thing, python_names};
use super::{Beside, Element, Normalization, Proposal, Refusal, Signature, Value};
use crate::model::contract::{
    Activation, BoxForm, Class, ColorOrder, Contract, DetectionForm, Grid, Input, InputType, Layout,
    ModelFile, Objects, OutputContract, OutputKind, OutputType, Precision, Reading, Resize, Role,
    TensorContract,
};

/// Longer side of the input where the file leaves it open.
const OPEN_SIDE: usize = 512;
/// Sides are multiples of this where the file leaves them open: what most networks halve five times.
const OPEN_MULTIPLE: usize = 32;

/// What is known of the answer.
struct Answer {
    output: OutputContract,
    classes: Vec<Class>,
    what: &'static str,
}

impl Answer {
    /// An answer of objects, or of one channel; cells lie as they do almost everywhere.
    fn of(
        what: &'static str,
        (kind, objects): (OutputKind, Objects),
        tensors: Vec<TensorContract>,
        classes: Vec<Class>,
    ) -> Self {
        Self {
            output: OutputContract {
                kind,
                objects,
                ..OutputContract::of_tensors(tensors, Grid::HalfPixel)
            },
            classes,
            what,
        }
    }
}

/// What was found out so far.
#[derive(Default)]
struct Notes {
    known: Vec<String>,
    assumed: Vec<String>,
}

pub(super) fn propose(
    signature: &Signature,
    name: &str,
    file: &str,
    sha256: &str,
    beside: &Beside,
) -> Result<Proposal, Refusal> {
    let mut notes = Notes::default();
    let is_yolo = signature.metadata.contains_key("names") || signature.metadata.contains_key("stride");
    let (mut input, open) = input(signature, is_yolo)?;
    let answer = answer(signature, beside, &mut notes)?;
    notes
        .known
        .insert(0, format!("{}: {} classes", answer.what, answer.classes.len()));
    let normalization_is_known =
        fill_input(signature, beside, &answer, &mut input, open, is_yolo, &mut notes);
    if input.dtype == InputType::F32 && !is_yolo {
        notes.assumed.push(
            "colours are in the order red, green, blue: otherwise set color = \"bgr\" in [input]".into(),
        );
    }
    let precision = match () {
        _ if signature.operators.contains("QuantizeLinear") => Precision::Int8,
        _ if signature.f16_weights => Precision::Fp16,
        _ => Precision::Fp32,
    };
    let contract = Contract {
        format: crate::model::contract::FORMAT,
        name: clean(name),
        description: signature
            .metadata
            .get("description")
            .cloned()
            .unwrap_or_default()
            .replace('\n', " "),
        license: signature
            .metadata
            .get("license")
            .cloned()
            .unwrap_or_default()
            .replace('\n', " "),
        multiply_accumulates: None,
        input,
        output: answer.output,
        classes: answer.classes,
        files: vec![ModelFile {
            path: clean(file),
            precision,
            backends: vec!["tract".into(), "ort".into()],
            sha256: sha256.to_owned(),
        }],
        selftest: None,
        training: None,
        scores: Vec::new(),
    };
    // What a contract may not hold is refused here, and not when it is read.
    let text = contract
        .to_toml()
        .map_err(|e| Refusal::new(format!("no contract: {e}"), "please report this"))?;
    let contract = Contract::parse(&text, "contract").map_err(|e| {
        Refusal::new(
            format!("what it says makes no contract: {e}"),
            "name the classes with --labels FILE, or write contract.toml by hand: docs/contract.md",
        )
    })?;
    Ok(Proposal {
        contract,
        known: notes.known,
        assumed: notes.assumed,
        normalization_is_known,
    })
}

/// A name that a contract may hold.
fn clean(name: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name: String = name.chars().map(|c| if good(c) { c } else { '-' }).collect();
    let name = name.trim_start_matches('.');
    if name.is_empty() {
        "network".into()
    } else {
        name.into()
    }
}

/// The input, and whether its sides are open.
fn input(signature: &Signature, is_yolo: bool) -> Result<(Input, bool), Refusal> {
    let [image] = &signature.inputs[..] else {
        let names: Vec<&str> = signature.inputs.iter().map(|i| i.name.as_str()).collect();
        return Err(Refusal::new(
            format!(
                "it has {} inputs ({}), expected a picture alone",
                names.len(),
                names.join(", ")
            ),
            "export a network that takes one picture",
        ));
    };
    let dtype = match image.element {
        Element::F32 => InputType::F32,
        Element::U8 => InputType::U8,
        other => {
            return Err(Refusal::new(
                format!(
                    "its input {:?} holds {other:?}, expected 32-bit floats or bytes",
                    image.name
                ),
                "export with float inputs: weights may be 16-bit (keep_io_types=True of onnxconverter-common)",
            ));
        }
    };
    let shape = |why: &str, hint: &str| {
        let dims: Vec<String> = image
            .dims
            .iter()
            .map(|d| d.map_or("?".into(), |d| d.to_string()))
            .collect();
        Refusal::new(format!("its input has shape [{}]: {why}", dims.join(", ")), hint)
    };
    let (batch, sides) = match image.dims.len() {
        4 => (image.dims[0], &image.dims[1..]),
        3 => (Some(1), &image.dims[..]),
        _ => {
            return Err(shape(
                "expected [1, 3, H, W] or [1, H, W, 3]",
                "export a network that takes pictures",
            ));
        }
    };
    if batch.is_some_and(|batch| batch != 1) {
        return Err(shape(
            "it takes several pictures at a time",
            "export with a batch of 1",
        ));
    }
    let (layout, height, width) = match (sides[0], sides[2]) {
        (Some(3), _) => (Layout::Nchw, sides[1], sides[2]),
        (_, Some(3)) => (Layout::Nhwc, sides[0], sides[1]),
        (None, _) => (Layout::Nchw, sides[1], sides[2]),
        _ => {
            return Err(shape(
                "no side has the 3 channels of a colour picture",
                "export a network that takes colour pictures",
            ));
        }
    };
    let size = |key: &str| {
        let numbers = signature.metadata.get(key)?;
        let mut numbers = numbers
            .trim_matches(['[', ']', ' '])
            .split(',')
            .map(|n| n.trim().parse().ok());
        Some((numbers.next()??, numbers.next().flatten()))
    };
    let open = height.is_none() || width.is_none();
    let imgsz: Option<(usize, Option<usize>)> = size("imgsz").filter(|_| is_yolo);
    let usual = imgsz.map_or((OPEN_SIDE, OPEN_SIDE), |(h, w)| (h, w.unwrap_or(h)));
    let (height, width) = (height.unwrap_or(usual.0), width.unwrap_or(usual.1));
    Ok((
        Input {
            layout,
            dtype,
            color: ColorOrder::Rgb,
            mean: [0.0; 3],
            std: [1.0; 3],
            resize: if open { Resize::Fit } else { Resize::Stretch },
            width,
            height,
            multiple: if open { OPEN_MULTIPLE } else { 1 },
            offset: 0,
            pad: 0,
        },
        open,
    ))
}

/// Normalisation and how pictures are brought to size; whether the normalisation is known.
fn fill_input(
    signature: &Signature,
    beside: &Beside,
    answer: &Answer,
    input: &mut Input,
    open: bool,
    is_yolo: bool,
    notes: &mut Notes,
) -> bool {
    if is_yolo {
        input.resize = Resize::Letterbox;
        input.pad = 114;
        input.multiple = 1;
        notes
            .known
            .push("pictures are letterboxed in grey, as its family is trained".into());
    } else if open {
        notes.assumed.push(format!(
            "the file leaves the input's size open: {OPEN_SIDE} pixels on the longer side, in multiples of \
             {OPEN_MULTIPLE}; otherwise set width, height and multiple in [input]"
        ));
    } else {
        notes.assumed.push(
            "pictures are stretched to the input's size: otherwise set resize = \"letterbox\" and pad in [input]".into(),
        );
    }
    if input.dtype == InputType::U8 {
        notes.known.push("the input takes bytes as they are".into());
        return true;
    }
    let numbers = |key: &str| -> Option<[f32; 3]> {
        let list = beside.preprocessor.as_ref()?.get(key)?.as_array()?;
        let values: Vec<f32> = list.iter().filter_map(Json::as_f64).map(|v| v as f32).collect();
        values.try_into().ok()
    };
    let rescales = |key: &str| {
        let flag = beside.preprocessor.as_ref().and_then(|p| p.get(key));
        flag.and_then(Json::as_bool).unwrap_or(true)
    };
    if beside.preprocessor.is_some() {
        let factor = beside.preprocessor.as_ref().and_then(|p| p.get("rescale_factor"));
        let factor = factor.and_then(Json::as_f64).unwrap_or(1.0 / 255.0);
        let unit = if rescales("do_rescale") && factor > 0.0 {
            (1.0 / factor) as f32
        } else {
            1.0
        };
        let (mean, std) = match rescales("do_normalize") {
            true => (
                numbers("image_mean").unwrap_or([0.0; 3]),
                numbers("image_std").unwrap_or([1.0; 3]),
            ),
            false => ([0.0; 3], [1.0; 3]),
        };
        if std.iter().all(|s| s.is_finite() && *s > 0.0) && mean.iter().all(|m| m.is_finite()) {
            (input.mean, input.std) = (mean.map(|m| m * unit), std.map(|s| s * unit));
            notes
                .known
                .push("preprocessor_config.json gives the normalisation".into());
            return true;
        }
    }
    let (normalization, is_known) = match answer.output.kind {
        _ if is_yolo => (Normalization::Unit, true),
        // The graph of torchvision's detectors begins with it.
        OutputKind::BoxesMasks if signature.operators.contains("RoiAlign") => (Normalization::Unit, true),
        _ => (Normalization::Imagenet, false),
    };
    (input.mean, input.std) = normalization.mean_and_std();
    match is_known {
        true => notes.known.push("its family takes numbers from 0 to 1".into()),
        false => notes.assumed.push(format!(
            "the normalisation is ImageNet's: look at normalizations.png, and import again with --normalize {}",
            Normalization::ALL.map(Normalization::as_str).join("|")
        )),
    }
    is_known
}

/// The form of the answer.
fn answer(signature: &Signature, beside: &Beside, notes: &mut Notes) -> Result<Answer, Refusal> {
    let outputs = &signature.outputs;
    if let Some(task) = signature.metadata.get("task")
        && !matches!(task.as_str(), "segment" | "semantic")
    {
        return Err(Refusal::new(
            format!("it is a network for the task {task:?}, which gives no masks"),
            "export one of the same family that segments",
        ));
    }
    if let Some(answer) = prototypes(signature, beside, notes)? {
        return Ok(answer);
    }
    if let Some(answer) = kernels(signature, beside, notes)? {
        return Ok(answer);
    }
    if let Some(answer) = boxes_masks(signature, beside, notes)? {
        return Ok(answer);
    }
    if let Some(answer) = centers(signature, beside, notes)? {
        return Ok(answer);
    }
    if let Some(answer) = queries(signature, beside, notes)? {
        return Ok(answer);
    }
    if let Some(answer) = semantic(signature, beside, notes)? {
        return Ok(answer);
    }
    if !outputs.is_empty() && outputs.iter().all(|output| output.dims.is_empty()) {
        return Err(Refusal::new(
            "its outputs have no shapes",
            "write them into the file: onnx.save(onnx.shape_inference.infer_shapes(onnx.load(FILE)), FILE)",
        ));
    }
    let shapes: Vec<String> = outputs.iter().map(describe).collect();
    Err(Refusal::new(
        format!("segd does not know what its outputs mean: {}", shapes.join("; ")),
        "export class scores [1, C, H, W], or write contract.toml by hand: docs/contract.md",
    ))
}

fn describe(value: &Value) -> String {
    let dims: Vec<String> = value
        .dims
        .iter()
        .map(|d| d.map_or("?".into(), |d| d.to_string()))
        .collect();
    format!("{:?} [{}] of {:?}", value.name, dims.join(", "), value.element)
}

fn tensor(role: Role, value: &Value, layout: Layout) -> TensorContract {
    TensorContract {
        role,
        layout,
        dtype: match value.element {
            Element::I64 => OutputType::I64,
            Element::I32 => OutputType::I32,
            Element::U8 => OutputType::U8,
            _ => OutputType::F32,
        },
        name: Some(value.name.clone()),
    }
}

/// Names that a file gives, with where they are from.
fn given_names(signature: &Signature, beside: &Beside) -> Option<(Vec<String>, &'static str)> {
    if let Some(labels) = &beside.labels {
        return Some((labels.clone(), "--labels"));
    }
    if let Some(names) = signature
        .metadata
        .get("names")
        .and_then(|text| python_names(text))
    {
        return Some((names, "its metadata"));
    }
    let map = beside.config.as_ref()?.get("id2label")?.as_object()?;
    let mut names = vec![None; map.len()];
    for (number, name) in map {
        let slot = number.parse::<usize>().ok().and_then(|n| names.get_mut(n));
        *slot? = name.as_str().map(str::to_owned);
    }
    Some((names.into_iter().collect::<Option<_>>()?, "config.json"))
}

/// Classes that a contract can name.
const MOST_CLASSES: usize = 256;

/// The names of `count` classes: those that are given, those of COCO, or numbers.
fn names(
    signature: &Signature,
    beside: &Beside,
    count: usize,
    notes: &mut Notes,
) -> Result<Vec<String>, Refusal> {
    if count > MOST_CLASSES {
        return Err(Refusal::new(
            format!("it has {count} classes"),
            format!("a model has at most {MOST_CLASSES}: export it with fewer"),
        ));
    }
    if let Some((names, from)) = given_names(signature, beside) {
        if names.len() == count {
            notes.known.push(format!("the classes' names are from {from}"));
            return Ok(names);
        }
        if from == "--labels" {
            return Err(Refusal::new(
                format!(
                    "--labels has {} names, the network has {count} classes",
                    names.len()
                ),
                "give one name a line, in the network's order",
            ));
        }
    }
    let (names, whose) = match count {
        80 => (coco_80(), "COCO's 80 things"),
        91 => (coco_91(), "COCO's, counted to 90"),
        _ => (
            (0..count).map(|n| format!("class {n}")).collect(),
            "not known and numbered",
        ),
    };
    notes.assumed.push(format!(
        "the classes' names are {whose}: otherwise give --labels FILE"
    ));
    Ok(names)
}

fn with_nothing(mut names: Vec<String>) -> Vec<String> {
    names.insert(0, "nothing".into());
    names
}

/// YOLO's segmenting networks: one output of candidates, one of prototypes.
fn prototypes(signature: &Signature, beside: &Beside, notes: &mut Notes) -> Result<Option<Answer>, Refusal> {
    let of_rank = |rank: usize| {
        let found: Vec<&Value> = signature
            .outputs
            .iter()
            .filter(|o| o.element == Element::F32 && o.dims.len() == rank)
            .collect();
        found
    };
    let (candidates, planes) = (of_rank(3), of_rank(4));
    let ([candidates], [planes]) = (&candidates[..], &planes[..]) else {
        return Ok(None);
    };
    let known = given_names(signature, beside).map(|(names, _)| names.len());
    let is_family = signature.metadata.contains_key("task") || signature.metadata.contains_key("stride");
    let masks = match planes.dims[..] {
        [_, Some(masks), ..] if masks <= 64 => masks,
        _ => return Ok(None),
    };
    // Queries have a mask each, and are told by that.
    if candidates.dims[1] == Some(masks) && !is_family {
        return Ok(None);
    }
    let picks = ["end2end", "nms"].iter().any(|key| {
        signature
            .metadata
            .get(*key)
            .is_some_and(|v| v.eq_ignore_ascii_case("true"))
    });
    // What candidates of so many numbers are, with the numbers first or last.
    let form = |by_field: bool| {
        let (fields, rows) = match by_field {
            true => (candidates.dims[1]?, candidates.dims[2]),
            false => (candidates.dims[2]?, candidates.dims[1]),
        };
        let rest = fields.checked_sub(4 + masks)?;
        let few = rows.is_some_and(|rows| rows <= 1000);
        match known {
            _ if rest == 2 && !by_field && (picks || few) => {
                Some((DetectionForm::BestClass, known.unwrap_or(80), by_field))
            }
            Some(known) if rest == known => Some((DetectionForm::ClassScores, known, by_field)),
            Some(known) if rest == known + 1 && !by_field => {
                Some((DetectionForm::Objectness, known, by_field))
            }
            // Without names there are more candidates than numbers of each.
            None if rest > 0 && rows.is_none_or(|rows| rows > fields) => {
                Some((DetectionForm::ClassScores, rest, by_field))
            }
            _ => None,
        }
    };
    let Some((form, count, by_field)) = form(true).or_else(|| form(false)) else {
        return match known {
            Some(known) if is_family => Err(Refusal::new(
                format!(
                    "{} holds no candidates of 4 numbers for the box, {known} for {known} classes and {masks} for the mask",
                    describe(candidates)
                ),
                "give the names of the network's own classes with --labels FILE",
            )),
            _ => Ok(None),
        };
    };
    let names = with_nothing(names(signature, beside, count, notes)?);
    let layout = if by_field { Layout::Nchw } else { Layout::Nhwc };
    Ok(Some(Answer::of(
        "boxes and prototypes of masks, as YOLO gives them",
        (
            OutputKind::Prototypes,
            Objects {
                score: 0.25,
                doubt: 0.125,
                nms: (form != DetectionForm::BestClass).then_some(0.45),
                detections: form,
                boxes: match form {
                    DetectionForm::BestClass => BoxForm::Corners,
                    _ => BoxForm::CenterSize,
                },
                ..Objects::default()
            },
        ),
        vec![
            tensor(Role::Detections, candidates, layout),
            tensor(Role::Prototypes, planes, Layout::Nchw),
        ],
        classes(&names, true, |_, _| true),
    )))
}

/// SOLOv2: scores and kernels of candidates, and the features that kernels are laid on.
fn kernels(signature: &Signature, beside: &Beside, notes: &mut Notes) -> Result<Option<Answer>, Refusal> {
    let of_rank = |rank: usize| {
        let floats = signature.outputs.iter().filter(|o| o.element == Element::F32);
        floats.filter(|o| o.dims.len() == rank).collect::<Vec<&Value>>()
    };
    let ([features], [first, second]) = (&of_rank(4)[..], &of_rank(3)[..]) else {
        return Ok(None);
    };
    let Some(planes) = features.dims[1] else {
        return Ok(None);
    };
    // As many numbers as features, and not as many candidates: those would be queries, with a mask each.
    let is_kernel = |o: &Value| o.dims[2] == Some(planes) && o.dims[1] != Some(planes);
    let (kernels, scores) = match (is_kernel(first), is_kernel(second)) {
        (true, false) => (first, second),
        (false, true) => (second, first),
        // As many classes as features: the name decides.
        (true, true) if first.name.contains("kernel") => (first, second),
        (true, true) if second.name.contains("kernel") => (second, first),
        _ => return Ok(None),
    };
    if scores.dims[1] != kernels.dims[1] {
        return Ok(None);
    }
    let Some(count) = scores.dims[2].filter(|count| *count > 0) else {
        return Ok(None);
    };
    let names = with_nothing(names(signature, beside, count, notes)?);
    notes
        .assumed
        .push("its scores are probabilities: otherwise set activation = \"sigmoid\" in [output]".into());
    Ok(Some(Answer::of(
        "kernels on features, as SOLOv2 gives them",
        (
            OutputKind::Prototypes,
            Objects {
                score: 0.3,
                doubt: 0.15,
                matrix_nms: Some(2.0),
                ..Objects::default()
            },
        ),
        vec![
            tensor(Role::Scores, scores, Layout::Nhwc),
            tensor(Role::Coefficients, kernels, Layout::Nhwc),
            tensor(Role::Prototypes, features, Layout::Nchw),
        ],
        classes(&names, true, |_, _| true),
    )))
}

/// Mask R-CNN: boxes, labels, scores, and a mask each.
fn boxes_masks(signature: &Signature, beside: &Beside, notes: &mut Notes) -> Result<Option<Answer>, Refusal> {
    let find = |rank: usize, integer: bool| {
        let mut found = signature.outputs.iter().filter(|o| {
            let is_integer = matches!(o.element, Element::I64 | Element::I32);
            o.dims.len() == rank && is_integer == integer && (integer || o.element == Element::F32)
        });
        found.next().filter(|_| found.next().is_none())
    };
    let (Some(boxes), Some(labels), Some(scores), Some(masks)) =
        (find(2, false), find(1, true), find(1, false), find(4, false))
    else {
        return Ok(None);
    };
    if boxes.dims[1].is_some_and(|four| four != 4) {
        return Ok(None);
    }
    // torchvision counts from the background, Detectron2 from the first thing.
    let scored = signature.scored_classes;
    let given = given_names(signature, beside).map(|(names, _)| names);
    let (names, first_class) = match (given, scored) {
        (Some(list), _) => match list.first().is_some_and(|name| is_background(name)) {
            true => (names(signature, beside, list.len(), notes)?, 0),
            false if scored == Some(list.len() + 1) => {
                (with_nothing(names(signature, beside, list.len(), notes)?), 0)
            }
            false => (with_nothing(names(signature, beside, list.len(), notes)?), 1),
        },
        (None, Some(scored)) => {
            let mut names = names(signature, beside, scored, notes)?;
            if let Some(first) = names.first_mut() {
                *first = "background".into();
            }
            (names, 0)
        }
        (None, None) => {
            return Err(Refusal::new(
                "its classes' number is not in the file",
                "give their names with --labels FILE, one a line, the background first if the network counts it",
            ));
        }
    };
    Ok(Some(Answer::of(
        "boxes with a mask each, as Mask R-CNN gives them",
        (
            OutputKind::BoxesMasks,
            Objects {
                first_class,
                boxes: BoxForm::Corners,
                ..Objects::default()
            },
        ),
        vec![
            tensor(Role::Boxes, boxes, Layout::Nchw),
            tensor(Role::Scores, scores, Layout::Nchw),
            tensor(Role::Classes, labels, Layout::Nchw),
            tensor(Role::Masks, masks, Layout::Nchw),
        ],
        classes(&names, true, |_, _| true),
    )))
}

/// MaskFormer and its kin: scores and masks of queries.
fn queries(signature: &Signature, beside: &Beside, notes: &mut Notes) -> Result<Option<Answer>, Refusal> {
    let floats = || signature.outputs.iter().filter(|o| o.element == Element::F32);
    let named = |part: &str, rank: usize| floats().find(|o| o.dims.len() == rank && o.name.contains(part));
    let scores = named("class_queries", 3)
        .or_else(|| floats().find(|o| o.dims.len() == 3 && o.dims[2].is_some_and(|last| last != 4)));
    let masks = named("masks_queries", 4)
        .or_else(|| named("pred_masks", 4))
        .or_else(|| floats().find(|o| o.dims.len() == 4));
    let (Some(scores), Some(masks)) = (scores, masks) else {
        return Ok(None);
    };
    if scores.dims[1].is_some() && masks.dims[1].is_some() && scores.dims[1] != masks.dims[1] {
        return Ok(None);
    }
    let Some(fields) = scores.dims[2].filter(|fields| *fields > 1) else {
        return Err(Refusal::new(
            format!("{} leaves the number of classes open", describe(scores)),
            "export with fixed classes",
        ));
    };
    if scores.name == "labels" && floats().any(|o| o.name == "dets") {
        return detr(signature, beside, notes, (scores, masks, fields)).map(Some);
    }
    let known = given_names(signature, beside).map(|(names, _)| names.len());
    let (count, activation) = match known {
        Some(known) if known == fields => (fields, Activation::Sigmoid),
        _ => (fields - 1, Activation::Softmax),
    };
    let names = names(signature, beside, count, notes)?;
    let source = beside
        .config
        .as_ref()
        .and_then(|c| c.get("_name_or_path"))
        .and_then(Json::as_str);
    let reading = match source.unwrap_or_default() {
        name if name.contains("semantic") => Some(Reading::Semantic),
        name if name.contains("panoptic") => Some(Reading::Panoptic),
        name if name.contains("instance") => Some(Reading::Instance),
        _ => None,
    };
    match reading {
        Some(_) => notes
            .known
            .push("config.json names what its queries are for".into()),
        None => notes.assumed.push(
            "each query is an object: otherwise set reading = \"semantic\" or \"panoptic\" in [output]"
                .into(),
        ),
    }
    let reading = reading.unwrap_or(Reading::Instance);
    let (names, first_class) = match reading {
        Reading::Semantic => (names, 0),
        _ => (with_nothing(names), 1),
    };
    let list = match reading {
        Reading::Semantic => classes(&names, names.first().is_some_and(|n| is_background(n)), |_, _| {
            false
        }),
        Reading::Instance => classes(&names, true, |_, _| true),
        // COCO's panoptic networks count the things first.
        Reading::Panoptic if count == 133 => classes(&names, true, |number, _| number <= 80),
        Reading::Panoptic => {
            notes
                .assumed
                .push("which classes are things is told by their names: check thing = true".into());
            classes(&names, true, |_, name| is_thing(name))
        }
    };
    Ok(Some(Answer::of(
        "queries with a mask each, as MaskFormer gives them",
        (
            OutputKind::Queries,
            Objects {
                activation,
                first_class,
                reading,
                ..Objects::default()
            },
        ),
        vec![
            tensor(Role::Scores, scores, Layout::Nhwc),
            tensor(Role::Masks, masks, Layout::Nchw),
        ],
        list,
    )))
}

/// RF-DETR: boxes, a logit for each class, and a mask, of queries. The boxes are not read: masks say where objects are.
fn detr(
    signature: &Signature,
    beside: &Beside,
    notes: &mut Notes,
    (scores, masks, fields): (&Value, &Value, usize),
) -> Result<Answer, Refusal> {
    let given = given_names(signature, beside).map_or(0, |(names, _)| names.len());
    // It has one logit more than classes. COCO's are counted from 1, those of other data from 0.
    let (names, first_class) = match given + 1 == fields {
        true => {
            let mut names = names(signature, beside, given, notes)?;
            names.push("no class".into());
            (with_nothing(names), 1)
        }
        false => {
            let mut names = names(signature, beside, fields, notes)?;
            let counts_nothing = names.first().is_some_and(|name| is_background(name)) || given == 0;
            match names.first_mut().filter(|_| counts_nothing && fields == 91) {
                Some(first) => {
                    *first = "background".into();
                    (names, 0)
                }
                None => (with_nothing(names), 1),
            }
        }
    };
    Ok(Answer::of(
        "queries with boxes and masks, as RF-DETR gives them",
        (
            OutputKind::Queries,
            Objects {
                activation: Activation::Sigmoid,
                first_class,
                reading: Reading::Instance,
                mask_quality: false,
                ..Objects::default()
            },
        ),
        vec![
            tensor(Role::Scores, scores, Layout::Nhwc),
            tensor(Role::Masks, masks, Layout::Nchw),
        ],
        classes(&names, true, |_, _| true),
    ))
}

/// Panoptic-DeepLab: logits, one plane of centres, two of offsets.
fn centers(signature: &Signature, beside: &Beside, notes: &mut Notes) -> Result<Option<Answer>, Refusal> {
    let planes = |count: &dyn Fn(usize) -> bool| {
        let mut found = signature
            .outputs
            .iter()
            .filter(|o| o.element == Element::F32 && o.dims.len() == 4 && o.dims[1].is_some_and(count));
        found.next().filter(|_| found.next().is_none())
    };
    let (Some(heat), Some(offsets), Some(logits)) =
        (planes(&|n| n == 1), planes(&|n| n == 2), planes(&|n| n > 2))
    else {
        return Ok(None);
    };
    let count = logits.dims[1].unwrap_or(0);
    let names = names(signature, beside, count, notes)?;
    let background = names.first().is_some_and(|name| is_background(name));
    let list = classes(&names, background, |_, name| is_thing(name));
    if list.iter().all(|class| !class.thing) || list[0].thing {
        return Err(Refusal::new(
            "it groups pixels to objects, and which of its classes are things can't be told from their names",
            "give the classes' names with --labels FILE: the first one must be stuff",
        ));
    }
    notes
        .assumed
        .push("which classes are things is told by their names: check thing = true".into());
    notes
        .assumed
        .push("offsets are in input pixels, down before right".into());
    Ok(Some(Answer::of(
        "classes, centres and offsets, as Panoptic-DeepLab gives them",
        (
            OutputKind::Centers,
            Objects {
                score: 0.1,
                doubt: 0.05,
                first_class: 0,
                max_objects: 255_usize.saturating_sub(count).clamp(1, 100),
                ..Objects::default()
            },
        ),
        vec![
            tensor(Role::Logits, logits, Layout::Nchw),
            tensor(Role::Heat, heat, Layout::Nchw),
            tensor(Role::Offsets, offsets, Layout::Nchw),
        ],
        list,
    )))
}

/// Scores or labels of each cell.
fn semantic(signature: &Signature, beside: &Beside, notes: &mut Notes) -> Result<Option<Answer>, Refusal> {
    let planes: Vec<&Value> = signature
        .outputs
        .iter()
        .filter(|o| o.element == Element::F32 && o.dims.len() == 4)
        .collect();
    let best = ["out", "logits", "output"]
        .iter()
        .find_map(|name| planes.iter().find(|o| o.name == *name));
    let Some(output) = best.or(planes.first()).copied() else {
        return labels(signature, beside, notes);
    };
    if planes.len() > 1 {
        notes.assumed.push(format!(
            "of {} outputs {:?} is read: otherwise set name in [output]",
            planes.len(),
            output.name
        ));
    }
    let known = given_names(signature, beside).map(|(names, _)| names.len());
    let nhwc = known.is_some_and(|n| output.dims[3] == Some(n) && output.dims[1] != Some(n))
        || output.dims[1].is_none() && output.dims[3].is_some()
        || signature
            .inputs
            .first()
            .is_some_and(|i| i.dims.last() == Some(&Some(3)));
    let (layout, count) = match nhwc {
        true => (Layout::Nhwc, output.dims[3]),
        false => (Layout::Nchw, output.dims[1]),
    };
    let Some(count) = count.or(known) else {
        return Err(Refusal::new(
            format!("{} leaves the number of classes open", describe(output)),
            "export with fixed classes, or give their names with --labels FILE",
        ));
    };
    let name = (signature.outputs.len() > 1).then(|| output.name.clone());
    let role = |role| TensorContract {
        name: name.clone(),
        ..tensor(role, output, layout)
    };
    if count == 1 {
        let mut list = match given_names(signature, beside) {
            Some((names, from)) if (1..=2).contains(&names.len()) => {
                notes.known.push(format!("the classes' names are from {from}"));
                names
            }
            _ => {
                notes
                    .assumed
                    .push("the class is called \"foreground\": otherwise give --labels FILE".into());
                vec!["foreground".into()]
            }
        };
        if list.len() == 1 {
            list.insert(0, "background".into());
        }
        let activation = match output.operator.as_str() {
            "Sigmoid" => Activation::None,
            _ => Activation::Sigmoid,
        };
        match activation {
            Activation::None => notes.known.push("it ends in a sigmoid: its numbers are probabilities".into()),
            _ => notes.assumed.push(
                "its numbers are logits, as it does not end in a sigmoid: otherwise set activation = \"none\"".into(),
            ),
        }
        return Ok(Some(Answer::of(
            "one channel, cut at a threshold",
            (
                OutputKind::Binary,
                Objects {
                    activation,
                    first_class: 0,
                    ..Objects::default()
                },
            ),
            vec![role(Role::Logits)],
            classes(&list, true, |_, _| false),
        )));
    }
    let names = names(signature, beside, count, notes)?;
    let background = names.first().is_some_and(|name| is_background(name));
    Ok(Some(Answer {
        output: OutputContract::of(role(Role::Logits), Grid::HalfPixel),
        classes: classes(&names, background, |_, _| false),
        what: "a score for each class in each cell",
    }))
}

fn labels(signature: &Signature, beside: &Beside, notes: &mut Notes) -> Result<Option<Answer>, Refusal> {
    let found = signature.outputs.iter().find(|o| {
        let is_integer = matches!(o.element, Element::I64 | Element::I32 | Element::U8);
        is_integer && (2..=4).contains(&o.dims.len())
    });
    let Some(output) = found else {
        return Ok(None);
    };
    let Some((list, from)) = given_names(signature, beside) else {
        return Err(Refusal::new(
            format!(
                "{} holds labels, and how many classes there are is not in the file",
                describe(output)
            ),
            "give the classes' names with --labels FILE",
        ));
    };
    notes.known.push(format!("the classes' names are from {from}"));
    let layout = match output.dims.last() {
        Some(Some(1)) if output.dims.len() == 4 && output.dims[1] != Some(1) => Layout::Nhwc,
        _ => Layout::Nchw,
    };
    let background = list.first().is_some_and(|name| is_background(name));
    Ok(Some(Answer {
        output: OutputContract::of(
            TensorContract {
                name: (signature.outputs.len() > 1).then(|| output.name.clone()),
                ..tensor(Role::Labels, output, layout)
            },
            Grid::HalfPixel,
        ),
        classes: classes(&list, background, |_, _| false),
        what: "the class of each cell",
    }))
}
