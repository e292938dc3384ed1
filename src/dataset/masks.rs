//! A folder of pictures with one mask of two tones each, as the Human Segmentation Dataset has them:
//! `Training_Images` and `Ground_Truth`, paired by file name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::Result;

use super::{LabelEncoding, Sample, SizeMismatch, failed, list_files, stem};

/// The file types of pictures and masks.
const PICTURES: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];

/// The pictures under `root/Training_Images` with their masks in `root/Ground_Truth`.
///
/// Masks may differ from their pictures in type and size; they are brought to the picture's size.
///
/// # Errors
/// A folder can't be listed, or a picture has no mask.
pub fn masks(root: &Path) -> Result<Vec<Sample>> {
    let truth = root.join("Ground_Truth");
    let by_name: BTreeMap<String, PathBuf> = list_files(&truth, &PICTURES)?
        .into_iter()
        .map(|path| (stem(&path), path))
        .collect();
    list_files(&root.join("Training_Images"), &PICTURES)?
        .into_iter()
        .map(|image| {
            let name = stem(&image);
            let labels = by_name
                .get(&name)
                .cloned()
                .ok_or_else(|| failed(&image, format!("has no mask of its name in {}", truth.display())))?;
            Ok(Sample {
                name,
                image,
                labels,
                encoding: LabelEncoding::Binary,
                size_mismatch: SizeMismatch::ResizeLabels,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_pair_across_types_and_sizes() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["Training_Images", "Ground_Truth"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let picture = dir.path().join("Training_Images/a.jpg");
        image::RgbImage::from_pixel(4, 4, image::Rgb([10, 20, 30]))
            .save(&picture)
            .unwrap();
        let message = masks(dir.path()).unwrap_err().to_string();
        assert!(message.contains("Ground_Truth"), "{message}");
        let mask = image::GrayImage::from_fn(2, 2, |x, _| image::Luma([if x == 0 { 127 } else { 128 }]));
        mask.save(dir.path().join("Ground_Truth/a.png")).unwrap();
        let samples = masks(dir.path()).unwrap();
        let (_, labels) = samples[0].load().unwrap();
        assert_eq!(labels.data[..4], [0, 0, 1, 1]);
        assert_eq!((labels.width, labels.height), (4, 4));
    }
}
