//! Oxford-IIIT Pet: `images/*.jpg` and `annotations/trimaps/*.png`, where 1 is the pet, 2 the background, 3 the border.

use std::path::Path;

use crate::error::Result;

use super::voc::classes;
use super::{Codebook, DatasetClass, Pair, failed, list_files, read_names};

/// Background and pet.
pub static PET_CLASSES: [DatasetClass; 2] = classes!["background" 0 0 0, "pet" 192 128 128];

/// What a trimap's numbers mean. The border is neither.
pub(super) fn codebook() -> Codebook {
    let mut codebook = Codebook::plain(0, &[3]);
    codebook.numbers[1] = Some(1);
    codebook.numbers[2] = Some(0);
    codebook
}

/// The pictures of the list `annotations/<split>.txt` (`trainval`, `test`), and true. Without that list, those of
/// `trainval.txt`, or else of the folder, and false.
pub(super) fn pairs(root: &Path, split: &str) -> Result<(Vec<Pair>, bool)> {
    let (images, annotations) = (root.join("images"), root.join("annotations"));
    let trimaps = annotations.join("trimaps");
    let own = annotations.join(format!("{split}.txt"));
    let common = annotations.join("trainval.txt");
    let (list, is_own) = if own.is_file() {
        (own, true)
    } else {
        (common, false)
    };
    if !list.is_file() {
        let pairs: Result<Vec<Pair>> = list_files(&images, &["jpg"])?
            .into_iter()
            .map(|image| Pair::beside(image, &trimaps, &["png"]))
            .collect();
        return Ok((pairs?, false));
    }
    let pairs: Result<Vec<Pair>> = read_names(&list)?
        .into_iter()
        .map(|name| {
            let image = images.join(format!("{name}.jpg"));
            if !image.is_file() {
                return Err(failed(
                    &image,
                    format!("does not exist, and {} names it", list.display()),
                ));
            }
            Pair::beside(image, &trimaps, &["png"])
        })
        .collect();
    Ok((pairs?, is_own))
}
