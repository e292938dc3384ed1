//! `segd-train train`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use indicatif::ProgressBar;
use tch::Device;
use vision::dataset::objects::{ObjectDataset, ObjectFormat};
use vision::dataset::{self, Dataset, Format, Location};

use super::{DeviceName, device};
use crate::augment::Size;
use crate::data::{self, Batch, Donors};
use crate::import::{self, huggingface};
use crate::nets::panoptic_deeplab_light::PREFIX;
use crate::objects::Source;
use crate::recipe::{self, Recipe};
use crate::run::{Folder, Origin};
use crate::train::{End, Run, Validation, train};
use crate::weights::Weights;

/// Batches that the head's statistics are measured on where an exported file is gone on from.
const MEASURED_BATCHES: u64 = 12;

/// Arguments of `train`.
#[derive(Args)]
pub struct Arguments {
    /// The network, by a name that `segd-train archs` lists; everything else is as in the built-in recipe for it
    #[arg(long, value_name = "NAME", required_unless_present_any = ["recipe", "resume"])]
    arch: Option<String>,
    /// A recipe: a file, or the name of a built-in one
    #[arg(long, value_name = "FILE", conflicts_with = "arch")]
    recipe: Option<String>,
    /// The data as FORMAT:DIR, such as camvid:data/CamVid; formats: voc, camvid, masks, csv, pet, cityscapes, folder,
    /// coco, cityscapes-things, labelme, yolo-seg
    #[arg(long, value_name = "FORMAT:DIR", required_unless_present_any = ["data", "resume"])]
    dataset: Option<Location>,
    /// The data's folder, in the recipe's format
    #[arg(long, value_name = "DIR", conflicts_with = "dataset")]
    data: Option<PathBuf>,
    /// The size of a picture at the network's input; another aspect is kept, with the same longest side
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = parse_size)]
    size: Option<Size>,
    /// The run's folder: recipe, checkpoints, log
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// The trunk's published weights (.pth, .safetensors, .onnx); without them every layer starts from random weights
    #[arg(long, value_name = "FILE")]
    trunk: Option<PathBuf>,
    /// Start from the averaged weights of this checkpoint, from a model's f32 ONNX file, or for segformer-b0 from a file of
    /// Hugging Face's transformers
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Continue from the run's last checkpoint; needs no other option than --out
    #[arg(long)]
    resume: bool,
    /// Steps, in place of the recipe's
    #[arg(long)]
    steps: Option<u64>,
    /// Crops a batch, in place of the recipe's
    #[arg(long)]
    batch: Option<usize>,
    /// Where the network runs [default: cuda if there is a GPU]
    #[arg(long, value_enum)]
    device: Option<DeviceName>,
    /// Threads of the network
    #[arg(long, default_value_t = 2)]
    threads: i32,
    /// Time this many steps and stop, without scores or checkpoints
    #[arg(long)]
    bench_steps: Option<u64>,
}

fn parse_size(text: &str) -> Result<Size, String> {
    let parsed = text
        .split_once('x')
        .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    match parsed {
        Some((width, height)) if width > 0 && height > 0 => Ok(Size { width, height }),
        _ => Err("expected WIDTHxHEIGHT in pixels, such as 480x360".to_owned()),
    }
}

/// Runs the command.
///
/// # Errors
/// As [`train`].
pub fn run(arguments: &Arguments) -> Result<()> {
    tch::set_num_threads(arguments.threads);
    let folder = Folder::create(&arguments.out)?;
    let (recipe, origin, dataset) = plan(arguments, &folder)?;
    let device = device(arguments.device)?;
    let (mut run, new) = start(&recipe, &origin, device, arguments.resume)?;
    if arguments.resume {
        run.restore(&folder.last())?;
    }

    let real = dataset.split("train")?;
    let (objects, pseudo_objects) = sources(&recipe, &origin)?;
    let validation = if objects.is_some() {
        let format = origin.format.objects().unwrap_or(ObjectFormat::Voc);
        Validation::Objects(ObjectDataset::open(format, &origin.data, "val")?)
    } else {
        Validation::Classes(dataset.split("val")?)
    };
    let mut pseudo = match origin.format {
        // Machine-made labels teach no objects where nobody told these apart.
        Format::Voc
            if origin.data.join("pseudo").is_dir() && objects.is_some() == pseudo_objects.is_some() =>
        {
            dataset::pseudo(&origin.data.join("unlabelled"), &origin.data.join("pseudo"))?
        }
        _ => vec![],
    };
    if arguments.bench_steps.is_some() {
        pseudo.truncate(200);
    }
    let longest = (recipe.augment.longest * 1.05) as usize;
    let classes = recipe.network.classes as usize;
    let progress = ProgressBar::new((real.len() + pseudo.len()) as u64);
    let mut pictures = data::load_with(&real, classes, objects.as_ref(), longest, 2, &progress)?;
    let real_count = pictures.len() as u32;
    let made = data::load_with(&pseudo, classes, pseudo_objects.as_ref(), longest, 2, &progress)?;
    pictures.extend(made);
    progress.finish();
    let mut order: Vec<u32> = (0..pictures.len() as u32).collect();
    for _ in 1..recipe.train.real_weight {
        order.extend(0..real_count);
    }

    if let (Some(path), false) = (&origin.init, arguments.resume)
        && is_onnx(path)
    {
        let batches: Vec<Batch> = (0..MEASURED_BATCHES)
            .map(|step| data::batch(&pictures, &order, &Donors::default(), &recipe, step))
            .collect();
        import::whole::measure(&run.graph, &mut run.weights, &recipe, &batches, &new)?;
        run.ema = run.weights.deep_copy();
    }

    if let Some(steps) = arguments.bench_steps {
        let loss = data::loss(&pictures, &order, &recipe, device);
        let donors = Donors::new(&pictures, &recipe);
        for step in 0..steps {
            let started = Instant::now();
            let batch = data::batch(&pictures, &order, &donors, &recipe, step);
            let made = started.elapsed();
            let loss = run.train_step(&recipe, &loss, &batch, device);
            println!(
                "{step} batch {made:?} step {:?} loss {loss:.4}",
                started.elapsed() - made
            );
        }
        return Ok(());
    }
    if !arguments.resume {
        folder.start(&recipe, &origin)?;
    }
    eprintln!(
        "{}: {} pictures to train on, {} to score on, {} classes, {} steps of {} crops, on {device:?}",
        recipe.name,
        pictures.len(),
        validation.len(),
        classes,
        recipe.train.steps,
        recipe.train.batch * recipe.train.accumulate
    );
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("saving a checkpoint; once more to exit at once");
    })?;
    let end = train(&mut run, &recipe, &pictures, &order, &validation, &folder, &stop)?;
    match end {
        End::Stopped => eprintln!(
            "stopped at step {} of {}; to go on:\n    {}",
            run.step,
            recipe.train.steps,
            resume_command(arguments)
        ),
        End::Early => eprintln!(
            "ended early at step {}: no better score in {} scores; best {} {:.2}",
            run.step,
            recipe.train.patience,
            validation.metric().name(),
            100.0 * run.best
        ),
        End::Done => eprintln!(
            "done; best {} {:.2}",
            validation.metric().name(),
            100.0 * run.best
        ),
    }
    Ok(())
}

/// Where the objects are that the network learns: of the hand-labelled pictures, and of the machine-labelled ones.
fn sources(recipe: &Recipe, origin: &Origin) -> Result<(Option<Source>, Option<Source>)> {
    if !recipe.tells_objects()? {
        return Ok((None, None));
    }
    let (by_hand, boxes) =
        Source::of(&origin.location()).with_context(|| format!("{} learns objects", recipe.network.arch))?;
    let boxes = boxes.map(|boxes| boxes.with_machine_masks(recipe.train.machine_masks));
    Ok((Some(by_hand), boxes))
}

/// The command that continues the run.
fn resume_command(arguments: &Arguments) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "segd-train".to_owned());
    let mut command = format!(
        "{} train --resume --out {}",
        quoted(&program),
        quoted(&arguments.out.to_string_lossy())
    );
    if let Some(device) = arguments.device {
        let name = if device == DeviceName::Cpu { "cpu" } else { "cuda" };
        command += &format!(" --device {name}");
    }
    if arguments.threads != 2 {
        command += &format!(" --threads {}", arguments.threads);
    }
    command
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The recipe, what the run starts from, and its data.
fn plan(arguments: &Arguments, folder: &Folder) -> Result<(Recipe, Origin, Dataset)> {
    if arguments.resume && folder.recipe_file().is_file() {
        for (option, is_given) in [
            ("--arch", arguments.arch.is_some()),
            ("--recipe", arguments.recipe.is_some()),
            ("--size", arguments.size.is_some()),
            ("--steps", arguments.steps.is_some()),
            ("--batch", arguments.batch.is_some()),
            ("--trunk", arguments.trunk.is_some()),
            ("--init", arguments.init.is_some()),
        ] {
            ensure!(
                !is_given,
                "{option} can't change a run that goes on: {} decides",
                folder.recipe_file().display()
            );
        }
        let (recipe, mut origin) = (folder.recipe()?, folder.origin()?);
        if let Some(data) = arguments
            .data
            .clone()
            .or(arguments.dataset.clone().map(|dataset| dataset.root))
        {
            origin.data = data;
        }
        let dataset = Dataset::open(origin.format, &origin.data)?;
        return Ok((recipe, origin, dataset));
    }
    if !arguments.resume && folder.last().exists() {
        bail!(
            "{} holds a run: go on with it by --resume, or name another folder by --out",
            folder.path().display()
        );
    }
    let named = match &arguments.recipe {
        Some(name) => Some(recipe::named(name)?),
        None => None,
    };
    let location = match (&arguments.dataset, &arguments.data, &named) {
        (Some(location), _, _) => location.clone(),
        (None, Some(root), Some(recipe)) => Location {
            format: recipe.dataset,
            root: root.clone(),
        },
        _ => bail!("name the data by --dataset FORMAT:DIR"),
    };
    let dataset = Dataset::open(location.format, &location.root)?;
    let mut recipe = match (named, &arguments.arch) {
        (Some(recipe), _) => recipe,
        (None, Some(arch)) => recipe::for_arch(arch, location.format)?,
        (None, None) => bail!("name a network by --arch, or a recipe by --recipe"),
    };
    let same_classes = recipe.network.classes as usize == dataset.classes.len();
    if arguments.recipe.is_some() && same_classes && location.format.classes().is_some() {
        recipe.dataset = location.format;
    } else if recipe.dataset != location.format
        || location.format.classes().is_none()
        || recipe.name == recipe::DEFAULT_NAME
    {
        recipe.take_data(&dataset);
    }
    ensure!(
        recipe.network.classes as usize == dataset.classes.len(),
        "{location} has {} classes, the recipe's network {}",
        dataset.classes.len(),
        recipe.network.classes
    );
    if arguments.arch.is_some() {
        recipe.network.pretrained = match &arguments.init {
            Some(path) if !is_onnx(path) => huggingface::is_segformer(path)?,
            _ => arguments.trunk.is_some(),
        };
        recipe.thaw();
    }
    if let Some(size) = arguments.size {
        recipe.take_size(size)?;
    }
    recipe.train.steps = arguments.steps.unwrap_or(recipe.train.steps);
    recipe.train.batch = arguments.batch.unwrap_or(recipe.train.batch);
    recipe.check()?;
    let absolute = |path: &Path| std::path::absolute(path).with_context(|| path.display().to_string());
    let origin = Origin {
        format: location.format,
        data: absolute(&location.root)?,
        trunk: arguments.trunk.as_deref().map(absolute).transpose()?,
        init: arguments.init.as_deref().map(absolute).transpose()?,
    };
    Ok((recipe, origin, dataset))
}

fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "onnx")
}

/// The run at its first step, and the layers that a file to start from lacks.
fn start(recipe: &Recipe, origin: &Origin, device: Device, resume: bool) -> Result<(Run, Vec<String>)> {
    let graph = recipe.graph();
    let mut new = vec![];
    let mut weights = Weights::random(&graph, recipe.train.seed as i64, device);
    match (&origin.trunk, &origin.init) {
        // All is in the checkpoint.
        _ if resume => {}
        (_, Some(path)) if is_onnx(path) => new = import::whole::load(path, &graph, &mut weights)?,
        (_, Some(path)) if huggingface::is_segformer(path)? => {
            let read = huggingface::load_segformer(path, &graph, &mut weights)?;
            eprintln!("{}: {} tensors", path.display(), read.tensors);
            if let Some(kept) = read.kept {
                eprintln!("{}: {kept}", path.display());
            }
        }
        (_, Some(path)) => weights.load_but(path, "ema/", PREFIX)?,
        (_, None) if recipe.network.frozen_classes => bail!(
            "network.frozen_classes is set: name the network whose trunk and classes stay as they are by --init"
        ),
        (Some(path), None) => match recipe.network.trunk_kind()? {
            Some(kind) => import::trunk::load(path, kind, &graph, &mut weights)?,
            None => bail!(
                "--trunk: {} has no trunk that starts from published weights",
                recipe.network.arch
            ),
        },
        (None, None) if recipe.network.pretrained => bail!(
            "network.pretrained is set: name the trunk's weights by --trunk (trainer/fetch-trunk.sh fetches them), \
             or start from a checkpoint by --init"
        ),
        (None, None) => {}
    }
    Ok((Run::new(recipe, graph, weights), new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        train: Arguments,
    }

    fn parse(words: &str) -> Result<Arguments, clap::Error> {
        let words = std::iter::once("x").chain(words.split_whitespace());
        Program::try_parse_from(words).map(|program| program.train)
    }

    #[test]
    fn sizes_are_width_by_height() {
        assert_eq!(
            parse_size("480x360"),
            Ok(Size {
                width: 480,
                height: 360
            })
        );
        for text in ["480", "480x", "0x4", "axb"] {
            assert!(parse_size(text).unwrap_err().contains("480x360"));
        }
    }

    #[test]
    fn going_on_needs_only_the_folder() {
        assert!(parse("--resume --out runs/x").is_ok());
        assert!(parse("--arch unet --dataset camvid:d --size 480x360 --out runs/x --device cpu").is_ok());
        assert!(parse("--recipe voc21 --data d --out runs/x").is_ok());
        assert!(parse("--out runs/x").is_err());
        assert!(parse("--arch unet --recipe voc21 --dataset camvid:d --out x").is_err());
        let arguments = parse("--resume --out runs/my_run,1 --device cpu").unwrap();
        let command = resume_command(&arguments);
        assert!(
            command.ends_with(" train --resume --out 'runs/my_run,1' --device cpu"),
            "{command}"
        );
        // The command is one that is understood.
        let words = command.split_once("train ").unwrap().1.replace('\'', "");
        assert!(parse(&words).unwrap().resume);
    }

    /// What README and the recipes themselves say they start from.
    #[test]
    fn recipes_that_start_from_voc21_s_trunk_can() {
        let voc21 = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/voc21/fp32.onnx");
        for name in ["human-unet", "solo-light", "voc-centers"] {
            let recipe = recipe::named(name).unwrap();
            let graph = recipe.graph();
            let mut weights = Weights::random(&graph, 1, Device::Cpu);
            let kind = recipe.network.trunk_kind().unwrap().unwrap();
            if let Err(why) = import::trunk::load(&voc21, kind, &graph, &mut weights) {
                panic!("{name}: {why:#}");
            }
        }
    }

    #[test]
    fn a_folder_that_holds_a_run_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::create(dir.path()).unwrap();
        std::fs::write(folder.last(), "").unwrap();
        let arguments = parse(&format!(
            "--arch unet --dataset camvid:d --out {}",
            dir.path().display()
        ))
        .unwrap();
        let message = plan(&arguments, &folder).unwrap_err().to_string();
        assert!(message.contains("--resume"), "{message}");
    }
}
