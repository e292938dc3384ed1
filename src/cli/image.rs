//! `segd image`: single pictures.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value as Json;
use tracing::{info, warn};

use super::segments::{Panoptic, write_instances};
use crate::cli::args::{ModelArgs, VisualizeArgs};
use crate::config;
use crate::metrics::Metrics;
use vision::error::{Error, Result};
use vision::frame::{FrameFormat, LabelMap};
use vision::model::contract::Class;
use vision::overlay::{OverlayOptions, Painter, Visualize};
use vision::picture::{image_ref, is_picture, read_rgb, write_index_png, write_rgb_png};
use vision::rle::Rle;
use vision::scene::{Segment, classes_of};
use vision::segment::Engine;

/// Arguments of `segd image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// Pictures (JPEG, PNG, WebP, BMP), or folders of them
    #[arg(required = true, value_name = "IN")]
    pub inputs: Vec<PathBuf>,
    /// FILE.png for one picture; a folder, made if needed, for several
    #[arg(long, short, value_name = "OUT", required_unless_present_any = ["json", "instances", "panoptic"])]
    pub output: Option<PathBuf>,
    /// Write which object each pixel is of, as 16-bit PNG: 256 times the class, plus the object's number, from 1 on
    #[arg(long, value_name = "OUT")]
    pub instances: Option<PathBuf>,
    /// Write things and stuff as COCO's panoptic PNG (id = R + 256 G + 65536 B), and OUT.json beside it
    #[arg(long, value_name = "OUT")]
    pub panoptic: Option<PathBuf>,
    /// Print what is in the pictures, in the form of COCO's results: file, class, score, box, area, mask as run lengths
    #[arg(long)]
    pub json: bool,
    /// Model and backend.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Drawing.
    #[command(flatten)]
    pub visualize: VisualizeArgs,
}

/// Segments pictures. With `--visualize labels` the PNG's bytes are class indices, with the classes' colours as palette.
///
/// # Errors
/// Usage for wrong arguments; fatal, after all others are done, if a picture could not be segmented.
pub fn run(args: ImageArgs) -> Result<()> {
    let inputs = expand(&args.inputs)?;
    let planned = |output: &Option<PathBuf>| -> Result<Vec<Option<PathBuf>>> {
        Ok(match output {
            Some(output) => plan(&inputs, output)?
                .into_iter()
                .map(|(_, to)| Some(to))
                .collect(),
            None => vec![None; inputs.len()],
        })
    };
    let (drawn, instances, panoptic) = (
        planned(&args.output)?,
        planned(&args.instances)?,
        planned(&args.panoptic)?,
    );
    let jobs: Vec<Job> = inputs
        .into_iter()
        .zip(drawn)
        .zip(instances.into_iter().zip(panoptic))
        .map(|((input, drawn), (instances, panoptic))| Job {
            input,
            drawn,
            instances,
            panoptic,
        })
        .collect();
    refuse_twice(&jobs)?;
    say_replaced(&jobs);
    let drawing = config::drawing(&args.visualize.section())?;
    let options = args.model.options()?;
    let model = options.find()?;
    // Classes that don't exist are told before a backend is tried.
    let overlay = drawing.options(&model.contract)?;
    let chosen = options.choose_for(model)?;
    info!(
        model = chosen.model.contract.name,
        backend = chosen.backend.name(),
        why = chosen.why,
        "model"
    );
    let classes = chosen.model.contract.classes.clone();
    let engine = Engine::new(chosen.model, chosen.backend, chosen.longest, Metrics::shared());
    let mut images = Images {
        engine,
        overlay,
        classes,
        mask: LabelMap::zeros(0, 0),
        segments: Vec::new(),
        painter: None,
        painted: Vec::new(),
        results: args.json.then(Vec::new),
        panoptic: Panoptic::default(),
    };

    let bar = progress(jobs.len());
    let mut failed = 0;
    for job in &jobs {
        if let Err(error) = images.segment(job) {
            failed += 1;
            bar.suspend(|| eprintln!("segd: {error}"));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let Some(output) = &args.panoptic {
        std::mem::take(&mut images.panoptic).write(output, &images.classes)?;
    }
    if let Some(results) = &images.results {
        super::print_report(true, results, |_| ())?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(Error::fatal(format!(
            "{failed} of {} pictures could not be segmented",
            jobs.len()
        ))),
    }
}

/// A picture, and what is written of it.
struct Job {
    input: PathBuf,
    drawn: Option<PathBuf>,
    instances: Option<PathBuf>,
    panoptic: Option<PathBuf>,
}

/// Refuses two outputs of one name.
fn refuse_twice(jobs: &[Job]) -> Result<()> {
    let mut written = HashSet::new();
    let all = jobs
        .iter()
        .flat_map(|job| [&job.drawn, &job.instances, &job.panoptic]);
    match all.flatten().find(|path| !written.insert(*path)) {
        Some(twice) => Err(
            Error::usage(format!("{} would be written twice", twice.display()))
                .hint("give --output, --instances and --panoptic a place each"),
        ),
        None => Ok(()),
    }
}

/// Says what earlier runs have written and this one writes anew.
fn say_replaced(jobs: &[Job]) {
    let all = jobs
        .iter()
        .flat_map(|job| [&job.drawn, &job.instances, &job.panoptic]);
    let there: Vec<_> = all.flatten().filter(|path| path.exists()).collect();
    match there.as_slice() {
        [] => {}
        [one] => warn!("{}: replaces the file that is there", one.display()),
        [first, .., last] => warn!(
            "{} to {}: {} files that are there are replaced",
            first.display(),
            last.display(),
            there.len()
        ),
    }
}

/// What segments one picture after the other.
struct Images {
    engine: Engine,
    overlay: OverlayOptions,
    classes: Vec<Class>,
    mask: LabelMap,
    segments: Vec<Segment>,
    painter: Option<(FrameFormat, Painter)>,
    painted: Vec<u8>,
    /// What was found, if it is to be printed.
    results: Option<Vec<CocoResult>>,
    panoptic: Panoptic,
}

/// One object, or all of a class, as COCO writes results; with the names that numbers stand for.
#[derive(Debug, Serialize)]
struct CocoResult {
    /// The picture's file name without its extension; a number where it is one, as in COCO.
    image_id: Json,
    file_name: String,
    /// The class's number in the contract.
    category_id: u16,
    category_name: String,
    score: f32,
    /// Left, top, width, height in pixels.
    bbox: [u64; 4],
    area: u64,
    segmentation: CocoMask,
}

#[derive(Debug, Serialize)]
struct CocoMask {
    /// Height, width.
    size: [usize; 2],
    counts: String,
}

/// A picture's file name without its extension; a number where it is one, as in COCO.
pub(super) fn image_id(input: &Path) -> Json {
    let name = input.file_stem().unwrap_or_default().to_string_lossy();
    name.parse::<u64>()
        .map_or_else(|_| Json::from(name.as_ref()), Json::from)
}

/// What a picture's map holds; without classes that are background.
fn results<'a>(
    input: &'a Path,
    map: &'a LabelMap,
    segments: &'a [Segment],
    classes: &'a [Class],
) -> impl Iterator<Item = CocoResult> + 'a {
    (0..=u8::MAX).zip(segments).filter_map(move |(number, segment)| {
        let class = classes
            .get(usize::from(segment.class))
            .filter(|class| !class.background)?;
        let mask = Rle::of(map, number);
        (mask.area() > 0).then(|| CocoResult {
            image_id: image_id(input),
            file_name: input
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            category_id: segment.class,
            category_name: class.name.clone(),
            score: segment.score,
            bbox: mask.bbox(),
            area: mask.area(),
            segmentation: CocoMask {
                size: [mask.height, mask.width],
                counts: mask.to_coco(),
            },
        })
    })
}

impl Images {
    fn segment(&mut self, job: &Job) -> Result<()> {
        let input = &job.input;
        let picture = read_rgb(input)?;
        let image = image_ref(&picture)?;
        self.engine
            .segment_objects(&image, &mut self.mask, &mut self.segments)
            .map_err(|e| Error::fatal(format!("{}: not segmented", input.display())).caused_by(e))?;
        if let Some(all) = &mut self.results {
            all.extend(results(input, &self.mask, &self.segments, &self.classes));
        }
        if let Some(to) = &job.instances {
            write_instances(to, &self.mask, &self.segments)?;
        }
        if let Some(to) = &job.panoptic {
            let scene = (&self.mask, &self.segments[..]);
            self.panoptic.add(input, to, scene, &self.classes)?;
        }
        let Some(output) = &job.drawn else {
            return Ok(());
        };
        if self.overlay.mode == Visualize::Labels {
            classes_of(&mut self.mask, &self.segments);
            return write_index_png(output, &self.mask, &self.classes);
        }
        let painter = match &mut self.painter {
            Some((known, painter)) if *known == image.format => painter,
            slot => {
                let painter = Painter::new(image.format, &self.classes, self.overlay.clone());
                &mut slot.insert((image.format, painter)).1
            }
        };
        let out = painter.output_format();
        self.painted.resize(out.packed_bytes(), 0);
        let scene = Some((&self.mask, &self.segments[..]));
        painter.paint_segments(&image, scene, &mut self.painted);
        write_rgb_png(output, out.width, out.height, &self.painted)
    }
}

/// Files stay; a folder becomes the pictures in it, by name.
fn expand(inputs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for input in inputs {
        if !input.is_dir() {
            all.push(input.clone());
            continue;
        }
        let entries = std::fs::read_dir(input)
            .map_err(|e| Error::usage(format!("{}: can't be listed", input.display())).caused_by(e))?;
        let mut pictures: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_file() && is_picture(path))
            .collect();
        if pictures.is_empty() {
            return Err(Error::usage(format!("{} holds no picture", input.display())));
        }
        pictures.sort();
        all.extend(pictures);
    }
    Ok(all)
}

/// Which file each picture is written to. Folders are made.
fn plan(inputs: &[PathBuf], output: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let extension = output.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let trailing_slash = output.as_os_str().as_encoded_bytes().ends_with(b"/");
    let named_file = !output.is_dir() && !trailing_slash && !extension.is_empty();
    let jobs: Vec<(PathBuf, PathBuf)> = if let (true, [input]) = (named_file, inputs) {
        if !extension.eq_ignore_ascii_case("png") {
            return Err(Error::usage(format!(
                "--output {}: pictures are written as PNG",
                output.display()
            ))
            .hint("name a file that ends in .png, or a folder"));
        }
        vec![(input.clone(), output.to_path_buf())]
    } else if named_file && extension.eq_ignore_ascii_case("png") || output.is_file() {
        return Err(Error::usage(format!(
            "--output {} is one file, for {} pictures",
            output.display(),
            inputs.len()
        ))
        .hint("name a folder"));
    } else {
        std::fs::create_dir_all(output)
            .map_err(|e| Error::fatal(format!("{}: can't be made", output.display())).caused_by(e))?;
        in_folder(inputs, output)
    };
    // A picture that is read must not be written over.
    let read: HashSet<PathBuf> = inputs.iter().filter_map(|i| i.canonicalize().ok()).collect();
    for (_, to) in &jobs {
        if to.canonicalize().is_ok_and(|to| read.contains(&to)) {
            return Err(
                Error::usage(format!("{} would be written over itself", to.display()))
                    .hint("name another --output"),
            );
        }
    }
    Ok(jobs)
}

/// `NAME.png` for each; where names collide `NAME-2.png` and so on.
fn in_folder(inputs: &[PathBuf], folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let stem = |path: &PathBuf| {
        path.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let plain: HashSet<String> = inputs.iter().map(stem).collect();
    let mut used = HashSet::new();
    inputs
        .iter()
        .map(|input| {
            let stem = stem(input);
            let mut name = stem.clone();
            let mut number = 2;
            while !used.insert(name.clone()) {
                name = format!("{stem}-{number}");
                number += 1;
                // Another picture may be called so.
                while plain.contains(&name) {
                    name = format!("{stem}-{number}");
                    number += 1;
                }
            }
            (input.clone(), folder.join(format!("{name}.png")))
        })
        .collect()
}

/// A progress bar if standard error is a terminal and there is more than one picture.
pub(crate) fn progress(total: usize) -> ProgressBar {
    if total < 2 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} pictures, {per_sec}, {eta} left");
    ProgressBar::new(total as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_collide_get_numbers() {
        let inputs: Vec<PathBuf> = ["a/x.jpg", "b/x.png", "x-2.jpg", "c/x.bmp"]
            .into_iter()
            .map(PathBuf::from)
            .collect();
        let names: Vec<String> = in_folder(&inputs, Path::new("out"))
            .into_iter()
            .map(|(_, to)| to.to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["out/x.png", "out/x-3.png", "out/x-2.png", "out/x-4.png"]);
    }
}
