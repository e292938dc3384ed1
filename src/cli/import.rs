//! `segd import`: an ONNX file becomes a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use image::RgbImage;
use serde_json::Value as Json;

use crate::choose::{BackendName, ChoiceOptions};
use crate::metrics::Metrics;
use vision::error::{Error, Result};
use vision::file;
use vision::frame::{FrameFormat, LabelMap, PixelFormat};
use vision::import::{Beside, Normalization, Proposal, Signature, read_names};
use vision::infer::Backend;
use vision::model::contract::{Contract, InputType};
use vision::model::load::{CONTRACT_FILE, MAX_FILE_BYTES, sha256_hex};
use vision::model::{Model, Origin};
use vision::overlay::{OverlayOptions, Painter, Visualize, caption};
use vision::picture::{image_ref, read_rgb, write_rgb_png, write_whole};
use vision::segment::Engine;
use vision::selftest;

/// Arguments of `segd import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The network: an ONNX file of one picture in, masks out
    #[arg(value_name = "FILE.onnx")]
    pub file: PathBuf,
    /// Names of the classes, one a line, in the network's order
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Folder of the model [default: FILE without .onnx]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// A picture of what the network knows, to look at its answer and for the self-test [default: a made one]
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// How pictures become numbers, if the file does not say: normalizations.png shows the answer to each
    #[arg(long, value_enum, value_name = "HOW")]
    pub normalize: Option<Normalization>,
    /// ONNX Runtime's library [default: $ORT_DYLIB_PATH, or searched for]
    #[arg(long, value_name = "FILE")]
    pub ort_library: Option<PathBuf>,
}

/// The picture of the four normalisations.
const SHEET: &str = "normalizations.png";
/// Largest file of class names, or of what stands beside the network, in bytes.
const MAX_LABELS_BYTES: u64 = 16 << 20;
/// Width of one of its parts in pixels.
const PART_WIDTH: u32 = 640;

/// Writes the model's folder: the network, its contract, the answers to four normalisations, a self-test.
///
/// # Errors
/// Usage for a file that is no network, or one that segd can't read the answer of, saying what to export in its place;
/// fatal if no backend runs it, or if the folder can't be written.
pub fn run(args: &ImportArgs) -> Result<()> {
    let bytes = read_bounded(&args.file)?;
    let origin = args.file.display().to_string();
    let signature = Signature::read(&bytes, &origin)?;
    let name = args
        .file
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let sha256 = sha256_hex(&bytes);
    let out = match &args.out {
        Some(out) => out.clone(),
        None => args.file.with_extension(""),
    };
    if out == args.file {
        return Err(
            Error::usage(format!("{origin} has no extension")).hint("name the model's folder with --out")
        );
    }
    let mut proposal = signature.propose(&name, &format!("{name}.onnx"), &sha256, &beside(args)?)?;
    refuse_other(&out, &sha256)?;
    if let Some(normalization) = args.normalize {
        choose_normalization(&mut proposal, normalization)?;
    }
    let picture = match &args.image {
        Some(path) => read_rgb(path)?,
        None => selftest::made_picture(),
    };

    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let cant_write =
        |e: std::io::Error| Error::fatal(format!("{}: can't be written", out.display())).caused_by(e);
    std::fs::create_dir_all(parent).map_err(cant_write)?;
    // Made beside the folder, and moved when it is whole.
    let stage = tempfile::Builder::new()
        .prefix(".segd-import-")
        .tempdir_in(parent)
        .map_err(cant_write)?;
    let network = proposal.contract.files[0].path.clone();
    write_whole(&stage.path().join(&network), &bytes)?;
    drop(bytes);
    let (backends, refused) = backends(&proposal.contract, stage.path(), args, &picture);
    let Some((_, backend)) = backends.first() else {
        let why: Vec<String> = refused
            .iter()
            .map(|(name, why)| format!("{name}: {why}"))
            .collect();
        return Err(Error::fatal(format!("nothing runs {origin}: {}", why.join("; ")))
            .hint("export again with another operator set, or with operators that ONNX Runtime has"));
    };
    proposal.contract.files[0].backends = backends.iter().map(|(name, _)| (*name).to_owned()).collect();
    let text = proposal.contract.to_toml()?;
    write_whole(&stage.path().join(CONTRACT_FILE), text.as_bytes())?;
    let model = Arc::new(Model {
        contract: Contract::parse(&text, CONTRACT_FILE)?,
        origin: Origin::Folder(stage.path().to_path_buf()),
    });
    let has_sheet = model.contract.input.dtype == InputType::F32;
    if has_sheet {
        draw_sheet(&model, backend, &picture, &stage.path().join(SHEET))?;
    }
    let shown = stage.path().join("picture.png");
    write_rgb_png(
        &shown,
        picture.width() as usize,
        picture.height() as usize,
        picture.as_raw(),
    )?;
    let tested = selftest::write(&model, backend, &shown);
    std::fs::remove_file(&shown).map_err(cant_write)?;

    std::fs::create_dir_all(&out).map_err(cant_write)?;
    for entry in std::fs::read_dir(stage.path()).map_err(cant_write)? {
        let entry = entry.map_err(cant_write)?;
        std::fs::rename(entry.path(), out.join(entry.file_name())).map_err(cant_write)?;
    }
    report(&out, &proposal, &backends, &refused, has_sheet, tested.err());
    Ok(())
}

fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let cant_read =
        |e: std::io::Error| Error::usage(format!("{}: can't be read", path.display())).caused_by(e);
    file::read(path, MAX_FILE_BYTES).map_err(cant_read)
}

/// What lies beside the file.
fn beside(args: &ImportArgs) -> Result<Beside> {
    let labels = match &args.labels {
        None => None,
        Some(path) => {
            let text = file::read_text(path, MAX_LABELS_BYTES).map_err(|e| {
                Error::usage(format!("--labels {}: can't be read", path.display())).caused_by(e)
            })?;
            Some(read_names(&text))
        }
    };
    let json = |name: &str| -> Result<Option<Json>> {
        let path = args.file.with_file_name(name);
        let Ok(text) = file::read_text(&path, MAX_LABELS_BYTES) else {
            return Ok(None);
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| Error::usage(format!("{}: not JSON", path.display())).caused_by(e))
    };
    Ok(Beside {
        labels,
        config: json("config.json")?,
        preprocessor: json("preprocessor_config.json")?,
    })
}

/// A folder that holds another model is not written over.
fn refuse_other(out: &Path, sha256: &str) -> Result<()> {
    if !out.join(CONTRACT_FILE).exists() {
        return Ok(());
    }
    let is_same =
        Model::open(out).is_ok_and(|model| model.contract.files.iter().any(|file| file.sha256 == sha256));
    match is_same {
        true => Ok(()),
        false => Err(Error::usage(format!("{} holds another model", out.display()))
            .hint("name another folder with --out, or remove this one")),
    }
}

fn choose_normalization(proposal: &mut Proposal, normalization: Normalization) -> Result<()> {
    let input = &mut proposal.contract.input;
    if input.dtype == InputType::U8 {
        return Err(Error::usage("--normalize: the network takes bytes as they are"));
    }
    (input.mean, input.std) = normalization.mean_and_std();
    proposal.assumed.retain(|note| !note.contains("--normalize"));
    proposal.known.push(format!(
        "the normalisation is {}, as asked for",
        normalization.as_str()
    ));
    Ok(())
}

/// A backend that runs the network, with its name.
type Running = (&'static str, Arc<dyn Backend>);

/// What runs the network here, and why others don't.
fn backends(
    contract: &Contract,
    folder: &Path,
    args: &ImportArgs,
    picture: &RgbImage,
) -> (Vec<Running>, Vec<(&'static str, Error)>) {
    let model = Model {
        contract: contract.clone(),
        origin: Origin::Folder(folder.to_path_buf()),
    };
    let size = contract
        .input
        .size_for(picture.width() as usize, picture.height() as usize, None);
    let (mut running, mut refused) = (Vec::new(), Vec::new());
    for (name, backend) in [("tract", BackendName::Tract), ("ort", BackendName::Ort)] {
        let options = ChoiceOptions {
            backend,
            selftest: false,
            ort_library: args.ort_library.clone(),
            ..ChoiceOptions::default()
        };
        let found = options
            .choose_for(model.clone())
            .and_then(|choice| choice.backend.prepare(&model, size).map(|_| choice.backend));
        match found {
            Ok(backend) => running.push((name, backend)),
            Err(why) => refused.push((name, why)),
        }
    }
    (running, refused)
}

/// Draws the answer to each of the normalisations, two by two.
fn draw_sheet(model: &Arc<Model>, backend: &Arc<dyn Backend>, picture: &RgbImage, path: &Path) -> Result<()> {
    let height = (u64::from(PART_WIDTH) * u64::from(picture.height()) / u64::from(picture.width()).max(1))
        .clamp(16, 1280);
    let small = image::imageops::resize(
        picture,
        PART_WIDTH,
        height as u32,
        image::imageops::FilterType::Triangle,
    );
    let mut sheet = RgbImage::new(2 * PART_WIDTH, 2 * height as u32);
    let overlay = OverlayOptions {
        mode: Visualize::Instances,
        ..OverlayOptions::default()
    };
    let chosen = &model.contract.input;
    for (place, normalization) in (0_u32..).zip(Normalization::ALL) {
        let mut contract = model.contract.clone();
        (contract.input.mean, contract.input.std) = normalization.mean_and_std();
        let is_chosen = (contract.input.mean, contract.input.std) == (chosen.mean, chosen.std);
        let other = Model {
            contract,
            origin: model.origin.clone(),
        };
        let image = image_ref(&small)?;
        let mut engine = Engine::new(Arc::new(other), backend.clone(), None, Metrics::shared());
        let (mut map, mut segments) = (LabelMap::zeros(0, 0), Vec::new());
        let segmented = engine.segment_objects(&image, &mut map, &mut segments);
        let mut painter = Painter::new(image.format, &model.contract.classes, overlay.clone());
        let mut painted = vec![0; image.format.packed_bytes()];
        let scene = segmented.is_ok().then_some((&map, &segments[..]));
        painter.paint_segments(&image, scene, &mut painted);
        let text = match (&segmented, is_chosen) {
            (Err(_), _) => format!("{}: no answer", normalization.as_str()),
            (Ok(()), true) => format!("{} (in the contract)", normalization.as_str()),
            (Ok(()), false) => normalization.as_str().to_owned(),
        };
        let format = FrameFormat::new(
            PixelFormat::Rgb24,
            small.width() as usize,
            small.height() as usize,
        );
        caption(format, &text, &mut painted);
        if let Some(part) = RgbImage::from_raw(small.width(), small.height(), painted) {
            let (x, y) = (place % 2 * PART_WIDTH, place / 2 * small.height());
            image::imageops::replace(&mut sheet, &part, x.into(), y.into());
        }
    }
    write_rgb_png(
        path,
        sheet.width() as usize,
        sheet.height() as usize,
        sheet.as_raw(),
    )
}

fn report(
    out: &Path,
    proposal: &Proposal,
    backends: &[Running],
    refused: &[(&'static str, Error)],
    has_sheet: bool,
    untested: Option<Error>,
) {
    // A name without a slash is one of the models that are installed.
    let here = if out.components().count() == 1 && out.is_relative() {
        "./"
    } else {
        ""
    };
    let out = format!("{here}{}", out.display());
    for note in &proposal.known {
        println!("known    {note}");
    }
    for note in &proposal.assumed {
        println!("assumed  {note}");
    }
    for (name, _) in backends {
        println!("runs on  {name}");
    }
    for (name, why) in refused {
        println!("not on   {name}: {why}");
    }
    println!("wrote    {out}/{CONTRACT_FILE}");
    if has_sheet && !proposal.normalization_is_known {
        println!("look at  {out}/{SHEET}: which of the four answers is right?");
    }
    match untested {
        None => println!("try      segd image PICTURE.jpg -o out.png --model {out}"),
        Some(why) => println!("no self-test: {why}; segd models --write-selftest PICTURE.jpg {out}"),
    }
}
