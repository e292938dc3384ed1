//! Pictures with one mask of two tones each: two folders whose files pair by name, or a table of paths.
//!
//! The Human Segmentation Dataset has both: `Training_Images` and `Ground_Truth`, and a `train.csv` with the columns
//! `images` and `masks`, whose paths start at the folder above its own.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::picture::EXTENSIONS;

use super::voc::classes;
use super::{DatasetClass, Pair, failed, list_files, stem};

/// The two classes of a set of masks.
pub static MASK_CLASSES: [DatasetClass; 2] = classes!["background" 0 0 0, "foreground" 192 128 128];

/// Folders of pictures, each with the folder of their masks.
const FOLDERS: [(&str, &str); 2] = [("Training_Images", "Ground_Truth"), ("images", "masks")];

/// All pictures under `root`. Masks may differ from their pictures in type and size.
pub(super) fn pairs(root: &Path) -> Result<Vec<Pair>> {
    let (images, masks) = FOLDERS
        .iter()
        .map(|(images, masks)| (root.join(images), root.join(masks)))
        .find(|(images, _)| images.is_dir())
        .ok_or_else(|| {
            failed(
                root,
                "has no folder Training_Images (beside Ground_Truth), or images (beside masks)",
            )
        })?;
    list_files(&images, EXTENSIONS)?
        .into_iter()
        .map(|image| Pair::beside(image, &masks, EXTENSIONS))
        .collect()
}

/// The pictures of `<split>.csv`, and true; without one all of `train.csv`, and false. `root` may be the file.
pub(super) fn csv_pairs(root: &Path, split: &str) -> Result<(Vec<Pair>, bool)> {
    if root.is_file() {
        return Ok((read_csv(root)?, false));
    }
    let own = root.join(format!("{split}.csv"));
    // With a list for validation the lists are the splits; a train.csv alone is all there is.
    if own.is_file() && (split != "train" || root.join("val.csv").is_file()) {
        return Ok((read_csv(&own)?, true));
    }
    Ok((read_csv(&root.join("train.csv"))?, false))
}

fn read_csv(path: &Path) -> Result<Vec<Pair>> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(path)
        .map_err(|error| failed(path, error))?;
    let header = reader.headers().map_err(|error| failed(path, error))?.clone();
    let column = |name: &str| {
        header
            .iter()
            .position(|column| column.eq_ignore_ascii_case(name))
            .ok_or_else(|| {
                failed(
                    path,
                    format!(
                        "has the columns {}, expected images,masks",
                        header.iter().collect::<Vec<_>>().join(",")
                    ),
                )
            })
    };
    let (images, masks) = (column("images")?, column("masks")?);
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut pairs: Vec<Pair> = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| failed(path, error))?;
        let line = record.position().map_or(0, csv::Position::line);
        let file = |column: usize| {
            let written = record.get(column).unwrap_or_default();
            find(folder, written).ok_or_else(|| {
                failed(
                    path,
                    format!(
                        "line {line}: there is no file {written:?} in {} or above it",
                        folder.display()
                    ),
                )
            })
        };
        let (image, labels) = (file(images)?, file(masks)?);
        pairs.push(Pair {
            name: stem(&image),
            image,
            labels,
        });
    }
    if pairs.is_empty() {
        return Err(failed(path, "names no picture"));
    }
    Ok(pairs)
}

/// A file by its path from `folder` or from the one above; a first component that names neither is left out.
fn find(folder: &Path, written: &str) -> Option<PathBuf> {
    let written = Path::new(written);
    let below_first: PathBuf = written.components().skip(1).collect();
    let mut candidates = vec![folder.join(written), folder.join("..").join(written)];
    if below_first.components().next().is_some() {
        candidates.push(folder.join(below_first));
    }
    candidates.into_iter().find(|path| path.is_file())
}
