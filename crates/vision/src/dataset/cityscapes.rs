//! Cityscapes: `leftImg8bit/<split>/<city>/*_leftImg8bit.png` and `gtFine/<split>/<city>/*_gtFine_labelIds.png`.
//!
//! Both folders may lie in those of the archives, `leftImg8bit_trainvaltest` and `gtFine_trainvaltest`. Files may lie in the
//! split's folder itself. Without `gtFine` the coarse labels are read, `gtCoarse`.
//!
//! The label files store the 34 ids of the dataset; 19 of them are classes, in the order of its train ids
//! (`cityscapesscripts/helpers/labels.py`).

use std::path::Path;

use crate::error::Result;

use super::voc::classes;
use super::{Codebook, DatasetClass, Pair, failed, list_files, stem};

/// Cityscapes' 19 classes in the order of their train ids.
pub static CITYSCAPES_CLASSES: [DatasetClass; 19] = classes![
    "road" 128 64 128, "sidewalk" 244 35 232, "building" 70 70 70, "wall" 102 102 156, "fence" 190 153 153,
    "pole" 153 153 153, "traffic light" 250 170 30, "traffic sign" 220 220 0, "vegetation" 107 142 35,
    "terrain" 152 251 152, "sky" 70 130 180, "person" 220 20 60, "rider" 255 0 0, "car" 0 0 142, "truck" 0 0 70,
    "bus" 0 60 100, "train" 0 80 100, "motorcycle" 0 0 230, "bicycle" 119 11 32,
];

/// The id of each class.
const IDS: [u8; 19] = [
    7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33,
];
/// The largest id.
const LAST_ID: u8 = 33;

/// Ids that are no class have no label; 255 is the id -1, the licence plate.
pub(super) fn codebook() -> Codebook {
    let others: Vec<u8> = (0..=LAST_ID).collect();
    let mut codebook = Codebook::plain(0, &others);
    for (id, class) in IDS.into_iter().zip(0..) {
        codebook.numbers[usize::from(id)] = Some(class);
    }
    codebook
}

/// The classes that can be counted: id and name.
pub(super) fn things() -> impl Iterator<Item = (u8, &'static str)> {
    const FIRST: u8 = 24;
    let classes = IDS.into_iter().zip(&CITYSCAPES_CLASSES);
    classes
        .filter(|(id, _)| *id >= FIRST)
        .map(|(id, class)| (id, class.name.as_ref()))
}

/// Whether an id is a class's.
pub(super) fn is_class(id: u16) -> bool {
    IDS.into_iter().any(|class| u16::from(class) == id)
}

/// What a label file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A class for each pixel.
    LabelIds,
    /// Class and object.
    InstanceIds,
}

/// The pictures of `split` (`train`, `val`) under `root`, by city.
pub(super) fn pairs(root: &Path, split: &str, kind: Kind) -> Result<Vec<Pair>> {
    const PICTURE: &str = "_leftImg8bit";
    const LABELS: [&str; 4] = [
        "gtFine",
        "gtFine_trainvaltest/gtFine",
        "gtCoarse",
        "gtCoarse_trainvaltest/gtCoarse",
    ];
    let place = |folders: &[&'static str]| {
        let of = |folder: &&str| root.join(folder).join(split).is_dir();
        *folders.iter().find(|folder| of(folder)).unwrap_or(&folders[0])
    };
    let images = root
        .join(place(&["leftImg8bit", "leftImg8bit_trainvaltest/leftImg8bit"]))
        .join(split);
    let truth = place(&LABELS);
    let suffix = match (truth.contains("gtCoarse"), kind) {
        (false, Kind::LabelIds) => "_gtFine_labelIds.png",
        (false, Kind::InstanceIds) => "_gtFine_instanceIds.png",
        (true, Kind::LabelIds) => "_gtCoarse_labelIds.png",
        (true, Kind::InstanceIds) => "_gtCoarse_instanceIds.png",
    };
    let truth = root.join(truth).join(split);
    let mut cities: Vec<_> = std::fs::read_dir(&images)
        .map_err(|error| failed(&images, error))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    cities.sort();
    let mut pairs = Vec::new();
    let mut places: Vec<_> = cities
        .into_iter()
        .map(|city| {
            let labels = truth.join(city.file_name().unwrap_or_default());
            (city, labels)
        })
        .collect();
    if places.is_empty() {
        places.push((images, truth));
    }
    for (folder, annotations) in places {
        for image in list_files(&folder, &["png", "jpg"])? {
            let file = stem(&image);
            let Some(name) = file.strip_suffix(PICTURE) else {
                return Err(failed(&image, format!("expected a name that ends in {PICTURE}")));
            };
            let labels = annotations.join(format!("{name}{suffix}"));
            if !labels.is_file() {
                return Err(failed(
                    &image,
                    format!("has no labels: {} does not exist", labels.display()),
                ));
            }
            pairs.push(Pair {
                name: name.to_owned(),
                image,
                labels,
            });
        }
    }
    Ok(pairs)
}
