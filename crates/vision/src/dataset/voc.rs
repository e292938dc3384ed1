//! PASCAL VOC segmentation: `ImageSets/Segmentation/<split>.txt`, `JPEGImages`, `SegmentationClass`.
//!
//! Layout and label numbers: the VOC 2007 development kit, section 3.3.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;

use super::{
    Codebook, DatasetClass, LabelEncoding, Pair, Sample, SizeMismatch, failed, list_files, read_names, stem,
};

macro_rules! classes {
    ($($name:literal $r:literal $g:literal $b:literal),* $(,)?) => {
        [$(DatasetClass { name: std::borrow::Cow::Borrowed($name), color: [$r, $g, $b] }),*]
    };
}
pub(super) use classes;

/// VOC's classes in label order, with the colours of its palette.
pub static VOC_CLASSES: [DatasetClass; 21] = classes![
    "background" 0 0 0, "aeroplane" 128 0 0, "bicycle" 0 128 0, "bird" 128 128 0, "boat" 0 0 128,
    "bottle" 128 0 128, "bus" 0 128 128, "car" 128 128 128, "cat" 64 0 0, "chair" 192 0 0,
    "cow" 64 128 0, "dining table" 192 128 0, "dog" 64 0 128, "horse" 192 0 128, "motorbike" 64 128 128,
    "person" 192 128 128, "potted plant" 0 64 0, "sheep" 128 64 0, "sofa" 0 192 0, "train" 128 192 0,
    "tv monitor" 0 64 128,
];

/// The colour of class `index` in VOC's palette: the bits of the number, from the lowest on, are the highest of red, green and
/// blue in turn.
pub(super) fn color(index: u8) -> [u8; 3] {
    // The ninth bit of a byte, which blue asks for, is none.
    let index = u32::from(index);
    let channel = |channel: u32| {
        (0..3).fold(0, |value, bit| {
            value | (index >> (3 * bit + channel) & 1) << (7 - bit)
        }) as u8
    };
    [channel(0), channel(1), channel(2)]
}

/// The pictures of `split` (`train`, `val`, `trainval`, `test`) under `root`.
pub(super) fn pairs(root: &Path, split: &str) -> Result<Vec<Pair>> {
    let labels = root.join("SegmentationClass");
    read_names(&root.join("ImageSets/Segmentation").join(format!("{split}.txt")))?
        .into_iter()
        .map(|name| {
            let image = root.join("JPEGImages").join(format!("{name}.jpg"));
            if !image.is_file() {
                return Err(failed(
                    &image,
                    format!("does not exist, and {split}.txt names it"),
                ));
            }
            Pair::beside(image, &labels, &["png"])
        })
        .collect()
}

/// Pictures of `images` with machine-made labels of the same name in `labels`; those without labels are left out.
///
/// # Errors
/// A folder can't be listed, or no label file has a picture.
pub fn pseudo(images: &Path, labels: &Path) -> Result<Vec<Sample>> {
    let encoding = LabelEncoding::Classes(Arc::new(Codebook::plain(VOC_CLASSES.len(), &[])));
    let samples: Vec<Sample> = list_files(labels, &["png"])?
        .into_iter()
        .filter_map(|labels| {
            let name = stem(&labels);
            let image = images.join(format!("{name}.jpg"));
            image.is_file().then_some(Sample {
                name,
                image,
                labels,
                encoding: encoding.clone(),
                size_mismatch: SizeMismatch::Refuse,
            })
        })
        .collect();
    if samples.is_empty() {
        return Err(failed(
            labels,
            format!("no label file has a .jpg in {}", images.display()),
        ));
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn palette_is_voc_s_bit_pattern() {
        // The development kit's `VOCcolormap`: three bits of the class number a round, from the highest bit down.
        for (index, class) in VOC_CLASSES.iter().enumerate() {
            let mut color = [0u8; 3];
            for bit in 0..8 {
                for (channel, value) in color.iter_mut().enumerate() {
                    *value |= ((index >> (3 * bit + channel) & 1) as u8) << (7 - bit);
                }
            }
            assert_eq!(class.color, color, "{}", class.name);
        }
    }

    #[test]
    fn pseudo_labels_pair_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (images, labels) = (dir.path().join("i"), dir.path().join("l"));
        std::fs::create_dir_all(&images).unwrap();
        std::fs::create_dir_all(&labels).unwrap();
        std::fs::write(labels.join("b.png"), "").unwrap();
        assert!(
            pseudo(&images, &labels)
                .unwrap_err()
                .to_string()
                .contains("no label file")
        );
        std::fs::write(labels.join("a.png"), "").unwrap();
        std::fs::write(images.join("a.jpg"), "").unwrap();
        let samples = pseudo(&images, &labels).unwrap();
        assert_eq!(samples.len(), 1);
        assert_eq!(samples[0].name, "a");
    }
}
