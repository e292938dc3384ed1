//! LabelMe: pictures in a folder, or in one for each split, and beside each a JSON of its name with the shapes that were drawn.
//!
//! Shapes of one label and one `group_id` are one object. Classes are those of `labels.txt`, a name a line, or all that are
//! found, by name. `__ignore__` and `_background_` are no class; the pixels of the former are left out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::super::{failed, list_files, stem};
use super::{Annotation, ObjectDataset, ObjectSample, Segmentation, Written};
use crate::error::Result;
use crate::picture::EXTENSIONS;

/// Pixels that nobody labelled.
const IGNORE: &str = "__ignore__";
const BACKGROUND: &str = "_background_";
/// Corners of a circle.
const CORNERS: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    shapes: Vec<Shape>,
    image_path: String,
    image_width: usize,
    image_height: usize,
}

#[derive(Deserialize)]
struct Shape {
    label: String,
    points: Vec<[f64; 2]>,
    #[serde(default)]
    group_id: Option<i64>,
    #[serde(default = "polygon")]
    shape_type: String,
}

fn polygon() -> String {
    "polygon".to_owned()
}

/// The pictures of `split`, or all of a folder without splits, and whether it has some.
pub(super) fn open(root: &Path, split: &str) -> Result<(ObjectDataset, bool)> {
    let has_splits = root.join("train").is_dir();
    let folders = if has_splits {
        let entries = std::fs::read_dir(root).map_err(|error| failed(root, error))?;
        let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        folders.retain(|path| path.is_dir());
        folders.sort();
        folders
    } else {
        vec![root.to_owned()]
    };
    let own = if has_splits {
        root.join(split)
    } else {
        root.to_owned()
    };
    if !own.is_dir() {
        return Err(failed(&own, "does not exist: expected a folder for the split"));
    }
    let mut files = Vec::new();
    let mut found = BTreeSet::new();
    for folder in folders {
        // A folder of something else, such as pictures that nobody has labelled.
        let Ok(list) = list_files(&folder, &["json"]) else {
            continue;
        };
        for path in list {
            let file = read(&path)?;
            found.extend(file.shapes.iter().map(|shape| shape.label.clone()));
            if folder == own {
                files.push((path, file));
            }
        }
    }
    let list = root.join("labels.txt");
    let mut classes: Vec<String> = if list.is_file() {
        let text = std::fs::read_to_string(&list).map_err(|error| failed(&list, error))?;
        text.lines()
            .map(|line| line.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect()
    } else {
        found.into_iter().collect()
    };
    classes.retain(|name| name != IGNORE && name != BACKGROUND);
    let samples = files
        .into_iter()
        .map(|(path, file)| sample(&path, &file, &classes).map_err(|reason| failed(&path, reason)))
        .collect::<Result<Vec<_>>>()?;
    Ok((ObjectDataset { classes, samples }, has_splits))
}

fn read(path: &Path) -> Result<File> {
    let text = std::fs::read_to_string(path).map_err(|error| failed(path, error))?;
    serde_json::from_str(&text).map_err(|error| failed(path, format!("is no file of LabelMe's: {error}")))
}

fn sample(path: &Path, file: &File, classes: &[String]) -> Result<ObjectSample, String> {
    let mut list: Vec<(Option<(&str, i64)>, Annotation)> = Vec::new();
    for (index, shape) in file.shapes.iter().enumerate() {
        if shape.label == BACKGROUND {
            continue;
        }
        let name = format!("shape {}", index + 1);
        let class = classes.iter().position(|class| *class == shape.label);
        if class.is_none() && shape.label != IGNORE {
            return Err(format!(
                "{name} is called {:?}, which labels.txt does not name",
                shape.label
            ));
        }
        let outline = outline(shape).map_err(|reason| format!("{name} {reason}"))?;
        let group = shape.group_id.map(|group| (shape.label.as_str(), group));
        let before = list
            .iter_mut()
            .find(|(other, _)| group.is_some() && *other == group);
        if let Some((
            _,
            Annotation {
                segmentation: Segmentation::Polygons(polygons),
                ..
            },
        )) = before
        {
            polygons.push(outline);
            continue;
        }
        let annotation = Annotation {
            class,
            crowd: false,
            segmentation: Segmentation::Polygons(vec![outline]),
            area: None,
            bbox: None,
        };
        list.push((group, annotation));
    }
    Ok(ObjectSample {
        image: picture(path, &file.image_path)?,
        labels: path.to_owned(),
        written: Written::Listed {
            size: (file.image_width, file.image_height),
            list: list.into_iter().map(|(_, annotation)| annotation).collect(),
        },
    })
}

/// The outline of a shape as `x, y, x, y, ...`.
fn outline(shape: &Shape) -> Result<Vec<f64>, String> {
    if shape.points.iter().flatten().any(|at| !at.is_finite()) {
        return Err("has a point that is no number".to_owned());
    }
    let count = |expected: &str| {
        format!(
            "is a {} of {} points, expected {expected}",
            shape.shape_type,
            shape.points.len()
        )
    };
    match (shape.shape_type.as_str(), shape.points.as_slice()) {
        ("polygon", points) if points.len() >= 3 => Ok(points.as_flattened().to_vec()),
        ("polygon", _) => Err(count("three or more")),
        ("rectangle", &[[x0, y0], [x1, y1]]) => Ok(vec![x0, y0, x1, y0, x1, y1, x0, y1]),
        ("circle", &[[x, y], [u, v]]) => {
            let radius = (u - x).hypot(v - y);
            let corner = |corner: usize| {
                let (sine, cosine) = (std::f64::consts::TAU * corner as f64 / CORNERS as f64).sin_cos();
                [x + radius * cosine, y + radius * sine]
            };
            Ok((0..CORNERS).flat_map(corner).collect())
        }
        ("rectangle" | "circle", _) => Err(count("two")),
        (other, _) => Err(format!(
            "is a {other}, expected a polygon, a rectangle or a circle"
        )),
    }
}

/// The picture that a file names, or the one of its own name.
fn picture(path: &Path, named: &str) -> Result<PathBuf, String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    // Files made on Windows have its separators.
    let named = folder.join(named.replace('\\', "/"));
    let own = EXTENSIONS
        .iter()
        .map(|extension| folder.join(format!("{}.{extension}", stem(path))));
    std::iter::once(named.clone())
        .chain(own)
        .find(|path| path.is_file())
        .ok_or_else(|| format!("has no picture: {} does not exist", named.display()))
}
