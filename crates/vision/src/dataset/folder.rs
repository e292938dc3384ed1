//! A plain folder: `images/` and `labels/` (or `masks/`), and a `classes.toml` that names the classes:
//!
//! ```toml
//! ignore = [255, 0]          # numbers without a label; 255 always is one
//!
//! [[classes]]
//! name = "road"
//! color = [128, 64, 128]     # as drawn, and as stored in label files of colours
//! value = 1                  # the stored number; the class's place in this list where it is left out
//! ```
//!
//! Where `images/` holds folders they are the splits (`images/train/a.jpg`, `labels/train/a.png`).

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::picture::EXTENSIONS;

use super::{Codebook, DatasetClass, IGNORE, Pair, failed, list_files};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Classes {
    #[serde(default)]
    ignore: Vec<u8>,
    #[serde(default)]
    ignore_colors: Vec<[u8; 3]>,
    classes: Vec<Class>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Class {
    name: String,
    color: [u8; 3],
    value: Option<u8>,
}

/// Reads `classes.toml`.
pub(super) fn classes(root: &Path) -> Result<(Vec<DatasetClass>, Codebook)> {
    let path = root.join("classes.toml");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        failed(&path, error).hint("a plain folder needs a classes.toml: see docs/training.md for its keys")
    })?;
    let read: Classes = toml::from_str(&text)
        .map_err(|error| Error::usage(format!("{}: {}", path.display(), error.to_string().trim_end())))?;
    let refuse = |why: String| Err(Error::usage(format!("{}: {why}", path.display())));
    if !(2..=255).contains(&read.classes.len()) {
        return refuse(format!("{} classes, expected 2 to 255", read.classes.len()));
    }
    let mut codebook = Codebook::plain(0, &read.ignore)
        .with_colors(read.ignore_colors.into_iter().map(|color| (color, IGNORE)));
    for (index, class) in read.classes.iter().enumerate() {
        let value = class.value.unwrap_or(index as u8);
        let slot = &mut codebook.numbers[usize::from(value)];
        if let Some(taken) = *slot {
            let by = match taken {
                IGNORE => "ignore".to_owned(),
                other => format!("{:?}", read.classes[usize::from(other)].name),
            };
            return refuse(format!(
                "{:?} has the value {value}, which {by} has too",
                class.name
            ));
        }
        *slot = Some(index as u8);
        if codebook.colors.iter().any(|(color, _)| *color == class.color) {
            return refuse(format!(
                "{:?} has the color {:?}, which is used before",
                class.name, class.color
            ));
        }
        codebook.colors.push((class.color, index as u8));
        if class.name.is_empty() || read.classes[..index].iter().any(|other| other.name == class.name) {
            return refuse(format!("the name {:?} is empty or used twice", class.name));
        }
    }
    let classes = read
        .classes
        .into_iter()
        .map(|class| DatasetClass {
            name: class.name.into(),
            color: class.color,
        })
        .collect();
    Ok((classes, codebook))
}

/// The pictures of the folder `images/<split>`, and true; where `images` has no folders all its pictures, and false.
pub(super) fn pairs(root: &Path, split: &str) -> Result<(Vec<Pair>, bool)> {
    let images = root.join("images");
    let labels = ["labels", "masks"].map(|name| root.join(name));
    let labels = labels
        .iter()
        .find(|folder| folder.is_dir())
        .ok_or_else(|| failed(root, "has no folder labels (or masks)"))?;
    let has_splits = std::fs::read_dir(&images)
        .map_err(|error| failed(&images, error))?
        .any(|entry| entry.is_ok_and(|entry| entry.path().is_dir()));
    let (images, labels) = if has_splits {
        (images.join(split), labels.join(split))
    } else {
        (images, labels.clone())
    };
    let pairs: Result<Vec<Pair>> = list_files(&images, EXTENSIONS)?
        .into_iter()
        .map(|image| Pair::beside(image, &labels, &["png", "bmp"]))
        .collect();
    Ok((pairs?, has_splits))
}
