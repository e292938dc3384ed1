//! `segd-train predict`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use vision::frame::LabelMap;
use vision::model::contract::Class;
use vision::picture::{self, is_picture};

use super::Checkpoint;
use crate::report::sheet;
use crate::validate;

/// Arguments of `predict`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    checkpoint: Checkpoint,
    /// Pictures, or folders of pictures
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    images: Vec<PathBuf>,
    /// The folder for NAME.png, the class of each pixel, and NAME-overlay.png, its colour over the picture
    #[arg(short, long)]
    out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// A file can't be read or written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let (recipe, graph, weights) = arguments.checkpoint.load()?;
    let images = files(&arguments.images)?;
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("making {}", arguments.out.display()))?;
    let classes: Vec<Class> = recipe
        .classes()
        .iter()
        .map(|class| Class {
            name: class.name.clone().into_owned(),
            color: class.color,
            background: false,
            thing: false,
        })
        .collect();
    let background = recipe
        .classes()
        .first()
        .filter(|class| class.name == "background")
        .map(|_| 0);
    for path in images {
        let image = picture::read_rgb(&path)?;
        let labels = validate::predict(&graph, &weights, &recipe, &image)?;
        let drawn = sheet::overlay(&image, &labels, recipe.classes(), background);
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let (width, height) = (image.width() as usize, image.height() as usize);
        let mask = LabelMap {
            width,
            height,
            labels,
        };
        picture::write_index_png(&arguments.out.join(format!("{name}.png")), &mask, &classes)?;
        let overlay = arguments.out.join(format!("{name}-overlay.png"));
        picture::write_rgb_png(&overlay, width, height, drawn.as_raw())?;
        println!("{}", overlay.display());
    }
    Ok(())
}

/// The pictures that `paths` name, those of a folder by name.
///
/// # Errors
/// A path does not exist, or a folder holds no picture.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let list = || -> std::io::Result<Vec<PathBuf>> {
                std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect()
            };
            let mut found = list().with_context(|| format!("listing {}", path.display()))?;
            found.retain(|path: &PathBuf| is_picture(path));
            ensure!(!found.is_empty(), "{} holds no picture", path.display());
            found.sort();
            files.extend(found);
        } else {
            ensure!(Path::exists(path), "{} does not exist", path.display());
            files.push(path.clone());
        }
    }
    Ok(files)
}
