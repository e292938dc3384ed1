//! CamVid as SegNet's authors split it: `<split>/*.{png,jpg}` and `<split>annot/*.png`, labels 0 to 10, 11 is void.

use std::path::Path;

use crate::error::Result;

use super::voc::classes;
use super::{DatasetClass, LabelEncoding, Sample, SizeMismatch, failed, list_files, stem};

/// CamVid's 11 classes in label order, with SegNet's colours.
pub const CAMVID_CLASSES: [DatasetClass; 11] = classes![
    "sky" 128 128 128, "building" 128 0 0, "pole" 192 192 128, "road" 128 64 128, "pavement" 60 40 222,
    "tree" 128 128 0, "sign" 192 128 128, "fence" 64 64 128, "car" 64 0 128, "pedestrian" 64 64 0,
    "cyclist" 0 128 192,
];

/// The pictures of `split` (`train`, `val`, `test`) under `root`.
///
/// # Errors
/// The split's folder can't be listed, or a picture has no label file.
pub fn camvid(root: &Path, split: &str) -> Result<Vec<Sample>> {
    let annotations = root.join(format!("{split}annot"));
    list_files(&root.join(split), &["png", "jpg"])?
        .into_iter()
        .map(|image| {
            let name = stem(&image);
            let labels = annotations.join(format!("{name}.png"));
            if !labels.is_file() {
                return Err(failed(
                    &image,
                    format!("has no labels: {} does not exist", labels.display()),
                ));
            }
            Ok(Sample {
                name,
                image,
                labels,
                encoding: LabelEncoding::Index { void: Some(11) },
                size_mismatch: SizeMismatch::Refuse,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_pair_with_annotations() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["val", "valannot"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        std::fs::write(dir.path().join("val/0016E5_1.jpg"), "").unwrap();
        let message = camvid(dir.path(), "val").unwrap_err().to_string();
        assert!(
            message.contains("0016E5_1.jpg") && message.contains("valannot"),
            "{message}"
        );
        std::fs::write(dir.path().join("valannot/0016E5_1.png"), "").unwrap();
        let samples = camvid(dir.path(), "val").unwrap();
        assert_eq!(samples[0].encoding, LabelEncoding::Index { void: Some(11) });
        assert_eq!(samples[0].name, "0016E5_1");
    }
}
