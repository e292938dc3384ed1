//! CamVid as SegNet's authors split it: `<split>/*.{png,jpg}` and `<split>annot/*.png`, labels 0 to 10, 11 is void.

use std::path::Path;

use crate::error::Result;

use super::voc::classes;
use super::{DatasetClass, Pair, list_files};

/// CamVid's 11 classes in label order, with SegNet's colours.
pub static CAMVID_CLASSES: [DatasetClass; 11] = classes![
    "sky" 128 128 128, "building" 128 0 0, "pole" 192 192 128, "road" 128 64 128, "pavement" 60 40 222,
    "tree" 128 128 0, "sign" 192 128 128, "fence" 64 64 128, "car" 64 0 128, "pedestrian" 64 64 0,
    "cyclist" 0 128 192,
];

/// The pictures of `split` (`train`, `val`, `test`) under `root`.
pub(super) fn pairs(root: &Path, split: &str) -> Result<Vec<Pair>> {
    let annotations = root.join(format!("{split}annot"));
    list_files(&root.join(split), &["png", "jpg", "jpeg"])?
        .into_iter()
        .map(|image| Pair::beside(image, &annotations, &["png"]))
        .collect()
}
