//! A validation split for data that comes without one.

use sha2::{Digest, Sha256};

use super::failed;
use crate::error::{Error, Result};
use std::path::Path;

/// The share of pictures that is held out.
const SHARE: f64 = 0.15;

/// Takes the part of `samples` that `split` names: `val` is the 15 % (at least one) whose names have the smallest SHA-256,
/// `train` the rest, `all` all. The choice depends on the names alone, not on their order or on the machine.
///
/// # Errors
/// There is no such split, or there are fewer than two pictures to split.
pub(super) fn hold_out<T>(
    root: &Path,
    samples: Vec<T>,
    name: impl Fn(&T) -> String,
    split: &str,
) -> Result<Vec<T>> {
    if !["train", "val", "all"].contains(&split) {
        return Err(Error::usage(format!(
            "split {split:?}: {} has no list of it; train, val (15 % held out by name) and all are made from its pictures",
            root.display()
        )));
    }
    if split == "all" {
        return Ok(samples);
    }
    if samples.len() < 2 {
        return Err(failed(
            root,
            "holds one picture: a validation split needs two or more",
        ));
    }
    let held = ((samples.len() as f64 * SHARE).round() as usize).max(1);
    let mut by_hash: Vec<_> = samples
        .iter()
        .enumerate()
        .map(|(index, sample)| (Sha256::digest(name(sample).as_bytes()), index))
        .collect();
    by_hash.sort_unstable();
    let mut is_held = vec![false; samples.len()];
    for &(_, index) in &by_hash[..held] {
        is_held[index] = true;
    }
    Ok(samples
        .into_iter()
        .zip(is_held)
        .filter(|(_, held)| *held == (split == "val"))
        .map(|(sample, _)| sample)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{LabelEncoding, Sample, SizeMismatch};

    fn samples(names: impl IntoIterator<Item = String>) -> Vec<Sample> {
        names
            .into_iter()
            .map(|name| Sample {
                image: name.clone().into(),
                labels: name.clone().into(),
                name,
                encoding: LabelEncoding::Binary,
                size_mismatch: SizeMismatch::Refuse,
            })
            .collect()
    }

    fn split(samples: Vec<Sample>, split: &str) -> Result<Vec<Sample>> {
        hold_out(Path::new("data"), samples, |sample| sample.name.clone(), split)
    }

    fn names(samples: &[Sample]) -> Vec<&str> {
        let mut names: Vec<&str> = samples.iter().map(|sample| sample.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_split_is_a_partition_that_depends_on_names_alone() {
        let all = || (0..40).map(|i| format!("{i}"));
        let val = split(samples(all()), "val").unwrap();
        let train = split(samples(all()), "train").unwrap();
        assert_eq!((val.len(), train.len()), (6, 34));
        assert!(val.iter().all(|sample| !train.contains(sample)));
        let turned = split(samples(all().rev()), "val").unwrap();
        assert_eq!(names(&turned), names(&val));
        assert_eq!(split(samples(all()), "all").unwrap().len(), 40);
        // The same on every machine.
        assert_eq!(
            names(&split(samples(["a", "b", "c"].map(String::from)), "val").unwrap()),
            ["c"]
        );
    }

    #[test]
    fn what_cannot_be_split_is_refused() {
        let message = split(samples(["a".to_owned()]), "val").unwrap_err().to_string();
        assert!(
            message.contains("data") && message.contains("one picture"),
            "{message}"
        );
        let message = split(samples(["a".to_owned()]), "test").unwrap_err().to_string();
        assert!(message.contains("\"test\""), "{message}");
    }
}
