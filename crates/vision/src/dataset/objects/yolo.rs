//! YOLO's text: `images/SPLIT/NAME.jpg` and `labels/SPLIT/NAME.txt`, or `SPLIT/images` and `SPLIT/labels`.
//!
//! A line is an object: its class, and the corners of its outline as shares of the picture's sides; or its class and a box
//! (centre x, centre y, width, height), of which the pixels are not known. A picture without a file has no object. Classes are
//! those of `data.yaml` (`names`), or of `classes.txt` or `obj.names`, a name a line.

use std::path::{Path, PathBuf};

use super::super::{failed, list_files, stem};
use super::{ObjectDataset, ObjectSample, Share, Written};
use crate::error::Result;
use crate::picture::EXTENSIONS;

/// Files that name the classes, a name a line.
const LISTS: [&str; 2] = ["classes.txt", "obj.names"];
/// How far outside of the picture a rounded number may lie.
const ROUNDING: f64 = 1e-3;

/// The pictures of `split`, or all of a folder without splits, and whether it has some.
pub(super) fn open(root: &Path, split: &str) -> Result<(ObjectDataset, bool)> {
    let classes = classes(root)?;
    // Roboflow calls the split so.
    let names = [split, if split == "val" { "valid" } else { split }];
    let places = names.iter().flat_map(|name| {
        [
            (
                root.join("images").join(name),
                root.join("labels").join(name),
                true,
            ),
            (
                root.join(name).join("images"),
                root.join(name).join("labels"),
                true,
            ),
        ]
    });
    let has_splits = ["images/train", "train/images"]
        .iter()
        .any(|folder| root.join(folder).is_dir());
    let whole = (root.join("images"), root.join("labels"), false);
    let found = places
        .chain((!has_splits).then_some(whole))
        .find(|(images, _, _)| images.is_dir());
    let Some((images, labels, has_splits)) = found else {
        return Err(failed(
            root,
            format!("has no pictures of the split {split}: expected images/{split} or {split}/images"),
        ));
    };
    let samples = list_files(&images, EXTENSIONS)?
        .into_iter()
        .map(|image| {
            let path = labels.join(format!("{}.txt", stem(&image)));
            let list = read(&path, classes.len())?;
            Ok(ObjectSample {
                image,
                labels: path,
                written: Written::Shares(list),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok((ObjectDataset { classes, samples }, has_splits))
}

fn read(path: &Path, classes: usize) -> Result<Vec<Share>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(path, error))?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            object(line, classes).map_err(|reason| failed(path, format!("line {}: {reason}", index + 1)))
        })
        .collect()
}

fn object(line: &str, classes: usize) -> Result<Share, String> {
    let mut words = line.split_whitespace();
    let first = words.next().unwrap_or_default();
    let class = first
        .parse()
        .ok()
        .filter(|&class: &usize| class < classes)
        .ok_or_else(|| format!("class {first:?}, expected 0 to {}", classes.saturating_sub(1)))?;
    let numbers = words
        .map(|word| {
            let number: f64 = word.parse().map_err(|_| format!("{word:?} is no number"))?;
            if (-ROUNDING..=1.0 + ROUNDING).contains(&number) {
                Ok(number.clamp(0.0, 1.0))
            } else {
                Err(format!("{word} is no share of a side, expected 0 to 1"))
            }
        })
        .collect::<Result<Vec<f64>, String>>()?;
    let boxed = numbers.len() == 4;
    let outline = match numbers[..] {
        [x, y, width, height] => {
            let (left, right) = (x - 0.5 * width, x + 0.5 * width);
            let (top, bottom) = (y - 0.5 * height, y + 0.5 * height);
            vec![left, top, right, top, right, bottom, left, bottom]
        }
        _ if numbers.len() < 6 || !numbers.len().is_multiple_of(2) => {
            return Err(format!(
                "{} numbers after the class, expected 4 of a box, or 6 or more of an outline, two a corner",
                numbers.len()
            ));
        }
        _ => numbers.clone(),
    };
    Ok(Share {
        class,
        outline,
        boxed,
    })
}

fn classes(root: &Path) -> Result<Vec<String>> {
    let yaml = root.join("data.yaml");
    let (path, names) = if yaml.is_file() {
        let text = std::fs::read_to_string(&yaml).map_err(|error| failed(&yaml, error))?;
        (yaml, names(&text))
    } else {
        let found: Option<PathBuf> = LISTS
            .iter()
            .map(|name| root.join(name))
            .find(|path| path.is_file());
        let path = found.ok_or_else(|| {
            failed(
                root,
                "names no classes: expected data.yaml, classes.txt or obj.names in it",
            )
        })?;
        let text = std::fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
        let lines = text.lines().map(|line| line.trim().to_owned());
        (path, Some(lines.filter(|name| !name.is_empty()).collect()))
    };
    match names {
        Some(names) if !names.is_empty() => Ok(names),
        _ => Err(failed(
            &path,
            "has no names that can be read: expected `names: [a, b]`, or a line `0: a` or `- a` for each; a classes.txt with a name \
             a line does as well, if data.yaml is taken away",
        )),
    }
}

/// The `names` of a data.yaml, in one of the three forms that exporters write; `None` for another.
fn names(text: &str) -> Option<Vec<String>> {
    let mut lines = text
        .lines()
        .map(|line| line.split(" #").next().unwrap_or_default().trim_end());
    let rest = lines.find_map(|line| line.strip_prefix("names:"))?.trim();
    let plain = |word: &str| {
        let word = word.trim();
        let quoted = ['"', '\'']
            .iter()
            .find_map(|&quote| word.strip_prefix(quote)?.strip_suffix(quote));
        let name = quoted.unwrap_or(word);
        (!name.is_empty() && !name.contains(['[', ']', '{', '}', '"', '\''])).then(|| name.to_owned())
    };
    if !rest.is_empty() {
        let list = rest.strip_prefix('[')?.strip_suffix(']')?;
        return list.split(',').map(plain).collect();
    }
    let mut names = Vec::new();
    for line in lines.filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
        let word = line.trim_start();
        let is_item = word.starts_with("- ");
        if word.len() == line.len() && !is_item {
            break;
        }
        let name = if let Some(item) = word.strip_prefix("- ") {
            plain(item)?
        } else {
            let (number, name) = word.split_once(':')?;
            if number.trim().parse() != Ok(names.len()) {
                return None;
            }
            plain(name)?
        };
        names.push(name);
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_the_forms_that_exporters_write() {
        for text in [
            "path: x\nnames: ['cat', \"traffic light\", dog]\nnc: 3\n",
            "names:\n  0: cat\n  1: traffic light # red\n  2: dog\nnc: 3",
            "nc: 3\nnames:\n- cat\n- 'traffic light'\n\n- dog\nval: images/val\n",
        ] {
            assert_eq!(names(text).unwrap(), ["cat", "traffic light", "dog"], "{text}");
        }
        for text in [
            "nc: 2",
            "names: {0: a}",
            "names:\n  1: a\n",
            "names: [[a]]",
            "names: ['a, b']",
        ] {
            assert_eq!(names(text), None, "{text}");
        }
    }

    #[test]
    fn lines_are_outlines_or_boxes() {
        let found = object("1 0.1 0.2 0.5 0.2 0.5 1.0005", 2).unwrap();
        assert_eq!((found.class, found.boxed), (1, false));
        assert_eq!(found.outline, [0.1, 0.2, 0.5, 0.2, 0.5, 1.0]);
        let found = object("0 0.5 0.5 0.5 1", 2).unwrap();
        assert_eq!((found.class, found.boxed), (0, true));
        assert_eq!(found.outline, [0.25, 0.0, 0.75, 0.0, 0.75, 1.0, 0.25, 1.0]);
        for (line, part) in [
            ("2 0.1 0.1 0.2 0.2", "class \"2\", expected 0 to 1"),
            ("-1 0.1 0.1 0.2 0.2", "class \"-1\""),
            ("x", "class \"x\""),
            ("0 0.1 0.1 0.2", "3 numbers"),
            ("0 0.1 0.1 0.2 0.2 0.3", "5 numbers"),
            ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "7 numbers"),
            ("0 0.1 0.1 0.2 nan", "nan is no share"),
            ("0 0.1 0.1 0.2 1.2", "1.2 is no share"),
            ("0 0.1 0.1 0.2 a", "\"a\" is no number"),
        ] {
            let message = object(line, 2).unwrap_err();
            assert!(message.contains(part), "{line}: {message}");
        }
    }
}
