//! Labelled images on disk, as the trainer and `segd eval` read them.
//!
//! A [`Dataset`] knows its classes and lists the [`Sample`]s of its splits; a sample reads its picture as RGB and its
//! labels as one class number a pixel, with [`IGNORE`] where the labels say nothing.

mod camvid;
mod cityscapes;
mod folder;
mod hold_out;
mod labels;
mod masks;
pub mod objects;
mod pet;
mod voc;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::ValueEnum;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::file;
use crate::picture;

use objects::{ObjectDataset, ObjectFormat, ObjectSample};

pub use camvid::CAMVID_CLASSES;
pub use cityscapes::CITYSCAPES_CLASSES;
pub use labels::{Codebook, LabelEncoding, Labels, decode_index_png, read_index_png};
pub use masks::MASK_CLASSES;
pub use pet::PET_CLASSES;
pub use voc::{VOC_CLASSES, pseudo};

/// The label of a pixel that is neither trained on nor scored.
pub const IGNORE: u8 = 255;

/// A class of a dataset: its name and its palette colour as RGB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetClass {
    /// Name, in lower case.
    pub name: Cow<'static, str>,
    /// Palette colour, RGB.
    pub color: [u8; 3],
}

/// How a dataset lies in its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// PASCAL VOC: JPEGImages, SegmentationClass, ImageSets/Segmentation/SPLIT.txt; 21 classes, 255 void
    Voc,
    /// CamVid as SegNet's authors split it: SPLIT/, SPLITannot/; 11 classes, void not scored
    Camvid,
    /// Pictures and masks of two tones: Training_Images/ and Ground_Truth/, or images/ and masks/
    Masks,
    /// A train.csv with the columns images,masks: pictures and masks of two tones
    Csv,
    /// Oxford-IIIT Pet: images/, annotations/trimaps/; pet and background, the border not scored
    Pet,
    /// Cityscapes: leftImg8bit/SPLIT/CITY/, gtFine/SPLIT/CITY/; 19 classes
    Cityscapes,
    /// images/ and labels/, with or without folders for splits, and a classes.toml
    Folder,
    /// COCO: annotations/instances_SPLIT.json, pictures in SPLIT/; things alone
    Coco,
    /// The things of Cityscapes: gtFine/SPLIT/CITY/*_instanceIds.png; 8 classes and the background
    CityscapesThings,
    /// LabelMe: a JSON beside each picture, in one folder or in SPLIT/
    Labelme,
    /// YOLO's text: images/SPLIT, labels/SPLIT/*.txt (or SPLIT/images, SPLIT/labels), data.yaml or classes.txt
    YoloSeg,
}

impl Format {
    /// As in `FORMAT:DIR`.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// The classes that every dataset of this format has; `None` where the data names them.
    #[must_use]
    pub fn classes(self) -> Option<&'static [DatasetClass]> {
        match self {
            Self::Voc => Some(&VOC_CLASSES),
            Self::Camvid => Some(&CAMVID_CLASSES),
            Self::Masks | Self::Csv => Some(&MASK_CLASSES),
            Self::Pet => Some(&PET_CLASSES),
            Self::Cityscapes => Some(&CITYSCAPES_CLASSES),
            Self::Folder | Self::Coco | Self::CityscapesThings | Self::Labelme | Self::YoloSeg => None,
        }
    }

    /// How its objects are written, where it has some.
    #[must_use]
    pub fn objects(self) -> Option<ObjectFormat> {
        match self {
            Self::Voc => Some(ObjectFormat::Voc),
            Self::Coco => Some(ObjectFormat::Coco),
            Self::CityscapesThings => Some(ObjectFormat::Cityscapes),
            Self::Labelme => Some(ObjectFormat::Labelme),
            Self::YoloSeg => Some(ObjectFormat::YoloSeg),
            Self::Camvid | Self::Masks | Self::Csv | Self::Pet | Self::Cityscapes | Self::Folder => None,
        }
    }

    /// Whether its classes are those of its objects, and its labels are painted from them.
    #[must_use]
    pub fn is_painted(self) -> bool {
        self != Self::Voc && self.objects().is_some()
    }

    /// Whether the data itself says which pictures are for validation.
    #[must_use]
    pub fn has_splits(self) -> bool {
        matches!(
            self,
            Self::Voc | Self::Camvid | Self::Cityscapes | Self::Coco | Self::CityscapesThings
        )
    }
}

/// A dataset and where it is, as `FORMAT:DIR` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// How it lies there.
    pub format: Format,
    /// Its folder.
    pub root: PathBuf,
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let formats = || {
            let names: Vec<String> = Format::value_variants()
                .iter()
                .map(|format| format.name())
                .collect();
            names.join(", ")
        };
        let Some((format, root)) = text.split_once(':') else {
            return Err(format!("expected FORMAT:DIR, FORMAT being one of {}", formats()));
        };
        let format = Format::from_str(format, false)
            .map_err(|_| format!("format {format:?}: expected one of {}", formats()))?;
        if root.is_empty() {
            return Err("expected FORMAT:DIR, the folder is missing".to_owned());
        }
        Ok(Self {
            format,
            root: root.into(),
        })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.format.name(), self.root.display())
    }
}

/// A labelled dataset.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Where it is.
    pub location: Location,
    /// Its classes in label order.
    pub classes: Vec<DatasetClass>,
    encoding: LabelEncoding,
}

impl Dataset {
    /// Opens a dataset: reads its classes where the data names them.
    ///
    /// # Errors
    /// The folder does not exist, or its classes can't be read.
    pub fn open(format: Format, root: &Path) -> Result<Self> {
        if !root.exists() {
            return Err(failed(root, "does not exist"));
        }
        let palette = |classes: &[DatasetClass]| -> Vec<([u8; 3], u8)> {
            classes.iter().map(|class| class.color).zip(0..).collect()
        };
        let numbers = |codebook| LabelEncoding::Classes(Arc::new(codebook));
        let mut classes = format.classes().unwrap_or_default().to_vec();
        let encoding = match format {
            Format::Voc => {
                let border = [([224, 224, 192], IGNORE)];
                let codebook = Codebook::plain(21, &[]).with_colors(palette(&classes));
                numbers(codebook.with_colors(border))
            }
            Format::Camvid => {
                let void = [([0, 0, 0], IGNORE)];
                let codebook = Codebook::plain(11, &[11]).with_colors(palette(&classes));
                numbers(codebook.with_colors(void))
            }
            Format::Masks | Format::Csv => LabelEncoding::Binary,
            Format::Pet => numbers(pet::codebook()),
            Format::Cityscapes => numbers(cityscapes::codebook()),
            Format::Folder => {
                let codebook;
                (classes, codebook) = folder::classes(root)?;
                numbers(codebook)
            }
            Format::Coco | Format::CityscapesThings | Format::Labelme | Format::YoloSeg => {
                classes = painted_classes(format, root)?;
                // Each sample has its own.
                LabelEncoding::Binary
            }
        };
        Ok(Self {
            location: Location {
                format,
                root: root.to_owned(),
            },
            classes,
            encoding,
        })
    }

    /// The pictures of a split, by name. Data without splits has `train`, `val` (15 % of the pictures, chosen by their
    /// names) and `all`.
    ///
    /// # Errors
    /// There is no such split, it is empty, or a picture has no labels.
    pub fn split(&self, split: &str) -> Result<Vec<Sample>> {
        let root = &self.location.root;
        if let Some(format) = self
            .location
            .format
            .objects()
            .filter(|_| self.location.format.is_painted())
        {
            let data = ObjectDataset::open(format, root, split)?;
            let samples: Vec<Sample> = data.samples.into_iter().map(Sample::painted).collect();
            return match samples.is_empty() {
                true => Err(failed(root, "the split has no picture")),
                false => Ok(samples),
            };
        }
        let pairs = match self.location.format {
            Format::Voc => voc::pairs(root, split)?,
            Format::Camvid => camvid::pairs(root, split)?,
            Format::Cityscapes => cityscapes::pairs(root, split, cityscapes::Kind::LabelIds)?,
            Format::Masks => masks::pairs(root)?,
            Format::Csv => match masks::csv_pairs(root, split)? {
                (pairs, true) => return self.samples(pairs),
                (pairs, false) => pairs,
            },
            Format::Pet => match pet::pairs(root, split)? {
                (pairs, true) => return self.samples(pairs),
                (pairs, false) => pairs,
            },
            Format::Folder => match folder::pairs(root, split)? {
                (pairs, true) => return self.samples(pairs),
                (pairs, false) => pairs,
            },
            Format::Coco | Format::CityscapesThings | Format::Labelme | Format::YoloSeg => vec![],
        };
        let samples = self.samples(pairs)?;
        if self.location.format.has_splits() {
            return Ok(samples);
        }
        hold_out::hold_out(root, samples, |sample| sample.name.clone(), split)
    }

    fn samples(&self, pairs: Vec<Pair>) -> Result<Vec<Sample>> {
        if pairs.is_empty() {
            return Err(failed(&self.location.root, "the split has no picture"));
        }
        let size_mismatch = match self.location.format {
            Format::Masks | Format::Csv | Format::Folder => SizeMismatch::ResizeLabels,
            _ => SizeMismatch::Refuse,
        };
        Ok(pairs
            .into_iter()
            .map(|Pair { name, image, labels }| Sample {
                name,
                image,
                labels,
                encoding: self.encoding.clone(),
                size_mismatch,
            })
            .collect())
    }
}

/// A picture and its label file.
struct Pair {
    name: String,
    image: PathBuf,
    labels: PathBuf,
}

impl Pair {
    /// The picture with its labels in `folder`, called `<stem>.<one of extensions>`.
    fn beside(image: PathBuf, folder: &Path, extensions: &[&str]) -> Result<Self> {
        let name = stem(&image);
        let found = extensions
            .iter()
            .map(|extension| folder.join(format!("{name}.{extension}")))
            .find(|path| path.is_file());
        match found {
            Some(labels) => Ok(Self { name, image, labels }),
            None => Err(failed(
                &image,
                format!(
                    "has no labels: there is no {name}.{} in {}",
                    extensions.join(" or ."),
                    folder.display()
                ),
            )),
        }
    }
}

/// What to do if the label file's size differs from its picture's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeMismatch {
    /// Refuse the sample, by name.
    Refuse,
    /// Scale the labels to the picture's size.
    ResizeLabels,
}

/// One labelled picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The picture's file name without its extension.
    pub name: String,
    /// The picture.
    pub image: PathBuf,
    /// The label file.
    pub labels: PathBuf,
    /// How the label file stores classes.
    pub encoding: LabelEncoding,
    /// What to do if the two sizes differ.
    pub size_mismatch: SizeMismatch,
}

impl Sample {
    /// A picture whose labels are painted from its objects.
    fn painted(objects: ObjectSample) -> Self {
        Self {
            name: stem(&objects.image),
            image: objects.image.clone(),
            labels: objects.labels.clone(),
            encoding: LabelEncoding::Objects(Arc::new(objects)),
            size_mismatch: SizeMismatch::Refuse,
        }
    }

    /// Reads the picture, as RGB, turned as its EXIF orientation says.
    ///
    /// # Errors
    /// The file can't be read or is no picture.
    pub fn load_image(&self) -> Result<RgbImage> {
        match self.encoding {
            // Objects are drawn on the picture as it is stored.
            LabelEncoding::Objects(_) => picture::read_rgb_as_stored(&self.image),
            _ => picture::read_rgb(&self.image),
        }
    }

    /// Reads the picture and its labels, which are of the same size.
    ///
    /// A picture whose labels were drawn on it as it is stored, not as its EXIF orientation turns it, is left as stored.
    ///
    /// # Errors
    /// A file can't be read, the labels hold a number or colour that is no class, or the two differ in size under
    /// [`SizeMismatch::Refuse`].
    pub fn load(&self) -> Result<(RgbImage, Labels)> {
        let mut image = self.load_image()?;
        let labels = match &self.encoding {
            LabelEncoding::Objects(objects) => paint(objects, &image)?,
            _ => self.load_labels()?,
        };
        let size = (labels.width as u32, labels.height as u32);
        if image.dimensions() != size && image.dimensions() == (size.1, size.0) {
            image = picture::read_rgb_as_stored(&self.image)?;
        }
        if image.dimensions() == size {
            return Ok((image, labels));
        }
        let (width, height) = image.dimensions();
        match self.size_mismatch {
            SizeMismatch::ResizeLabels => Ok((image, labels.resize_nearest(width as usize, height as usize))),
            SizeMismatch::Refuse => Err(failed(
                &self.labels,
                format!(
                    "is {}x{}, its picture {} is {width}x{height}: both must have one size",
                    labels.width,
                    labels.height,
                    self.image.display()
                ),
            )),
        }
    }

    /// Reads the labels, at the label file's own size.
    ///
    /// # Errors
    /// The file can't be read, or does not store classes as [`Sample::encoding`] says.
    pub fn load_labels(&self) -> Result<Labels> {
        match &self.encoding {
            LabelEncoding::Objects(objects) => paint(objects, &self.load_image()?),
            encoding => labels::read(&self.labels, encoding),
        }
    }
}

/// The class of each pixel of a picture.
fn paint(objects: &ObjectSample, image: &RgbImage) -> Result<Labels> {
    let size = (image.width() as usize, image.height() as usize);
    Ok(objects.map(size)?.1.classes)
}

/// The background and the classes of objects, in the colours of PASCAL VOC's palette.
fn painted_classes(format: Format, root: &Path) -> Result<Vec<DatasetClass>> {
    let Some(objects) = format.objects() else {
        return Ok(vec![]);
    };
    // Every split names all classes; data may lack one, and a single picture can't be split.
    let open = |split| ObjectDataset::open(objects, root, split);
    let found = open("train").or_else(|error| open("val").or_else(|_| open("all")).map_err(|_| error));
    let names = found?.classes;
    if names.len() >= usize::from(IGNORE) {
        return Err(failed(
            root,
            format!("{} classes, expected at most 254", names.len()),
        ));
    }
    let names = std::iter::once("background".to_owned()).chain(names);
    Ok((0..=u8::MAX)
        .zip(names)
        .map(|(index, name)| DatasetClass {
            name: name.into(),
            color: voc::color(index),
        })
        .collect())
}

/// An error about a dataset's file, which the message names.
fn failed(path: &Path, reason: impl fmt::Display) -> Error {
    Error::fatal(format!("{}: {reason}", path.display()))
}

/// Largest list file in bytes.
const MAX_LIST_BYTES: u64 = 1 << 30;

/// Reads a list file: the first word of each line, blank lines and comments (`#`) skipped.
fn read_names(path: &Path) -> Result<Vec<String>> {
    let text = file::read_text(path, MAX_LIST_BYTES).map_err(|error| failed(path, error))?;
    let names: Vec<String> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        return Err(failed(path, "names no picture"));
    }
    Ok(names)
}

/// Lists a folder's files with one of `extensions` (lower case), by name. Hidden files are left out.
fn list_files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        let path = entry.map_err(|error| failed(folder, error))?.path();
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default()
            .to_ascii_lowercase();
        if extensions.contains(&extension.as_str()) && !stem(&path).starts_with('.') {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(failed(
            folder,
            format!("holds no file that ends in {}", extensions.join(", ")),
        ));
    }
    files.sort();
    Ok(files)
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests;
