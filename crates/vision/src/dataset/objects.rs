//! Data whose objects are labelled one by one: PASCAL VOC's `SegmentationObject`, COCO's JSON, Cityscapes' `instanceIds`,
//! LabelMe's JSON, and YOLO's text.

mod labelme;
mod yolo;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use image::RgbImage;
use serde::Deserialize;

use super::cityscapes::{self, Kind};
use super::{IGNORE, Labels, VOC_CLASSES, failed, hold_out, labels, read_names, stem};
use crate::error::Result;
use crate::picture;
use crate::rle::Rle;

/// Layout of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ObjectFormat {
    /// PASCAL VOC: ImageSets/Segmentation/SPLIT.txt, JPEGImages, SegmentationClass, SegmentationObject
    Voc,
    /// COCO: annotations/instances_SPLIT.json, pictures in SPLIT/
    Coco,
    /// Cityscapes: leftImg8bit/SPLIT/CITY, gtFine/SPLIT/CITY/*_gtFine_instanceIds.png
    Cityscapes,
    /// LabelMe: a JSON beside each picture, in one folder or in SPLIT/
    Labelme,
    /// YOLO's text: images/SPLIT, labels/SPLIT/*.txt (or SPLIT/images, SPLIT/labels), data.yaml or classes.txt
    YoloSeg,
}

impl ObjectFormat {
    /// The split that is scored if none is asked for.
    pub fn usual_split(self) -> &'static str {
        match self {
            Self::Voc | Self::Cityscapes | Self::Labelme | Self::YoloSeg => "val",
            Self::Coco => "val2017",
        }
    }
}

/// A true object.
#[derive(Debug, Clone, PartialEq)]
pub struct TrueObject {
    /// Its class, of those that are scored.
    pub class: usize,
    /// Its pixels.
    pub mask: Rle,
    /// Many that nobody told apart.
    pub crowd: bool,
    /// Its pixels, as the data has them: COCO's may be those of a polygon.
    pub area: f64,
    /// Left, top, width, height of its box in pixels.
    pub bbox: [f64; 4],
    /// Its box alone is known: the mask is that of the box.
    pub boxed: bool,
}

impl TrueObject {
    /// Area and box are the mask's.
    pub fn new(class: usize, mask: Rle, crowd: bool) -> Self {
        Self {
            class,
            crowd,
            area: mask.area() as f64,
            bbox: mask.bbox().map(|n| n as f64),
            boxed: false,
            mask,
        }
    }
}

/// The number of a VOC label file that stands for no label.
const VOID: u8 = 255;

/// Objects of a picture, as they are written.
#[derive(Debug, Clone, PartialEq)]
enum Written {
    Voc {
        objects: PathBuf,
        classes: PathBuf,
    },
    Cityscapes(PathBuf),
    /// In pixels of a picture of that size.
    Listed {
        size: (usize, usize),
        list: Vec<Annotation>,
    },
    Shares(Vec<Share>),
}

/// An object in shares of the picture's sides.
#[derive(Debug, Clone, PartialEq)]
struct Share {
    class: usize,
    /// `x, y, x, y, ...`
    outline: Vec<f64>,
    /// The outline is that of its box.
    boxed: bool,
}

/// A picture whose objects are labelled.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectSample {
    /// The picture.
    pub image: PathBuf,
    /// The file that has its objects.
    pub labels: PathBuf,
    written: Written,
}

/// The true objects of a picture.
#[derive(Debug, Clone)]
pub struct TrueObjects {
    /// Classes count [`ObjectDataset::classes`].
    pub objects: Vec<TrueObject>,
    /// Pixels that nobody has labelled, if there are such.
    pub void: Option<Rle>,
}

/// Pictures whose objects are labelled.
#[derive(Debug, Clone)]
pub struct ObjectDataset {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// The pictures of the split.
    pub samples: Vec<ObjectSample>,
}

#[derive(Debug, Deserialize)]
struct CocoFile {
    images: Vec<CocoImage>,
    annotations: Vec<CocoAnnotation>,
    categories: Vec<CocoCategory>,
}

#[derive(Debug, Deserialize)]
struct CocoImage {
    id: u64,
    file_name: String,
    width: usize,
    height: usize,
}

#[derive(Debug, Deserialize)]
struct CocoCategory {
    id: u64,
    name: String,
}

#[derive(Debug, Deserialize)]
struct CocoAnnotation {
    image_id: u64,
    category_id: u64,
    #[serde(default)]
    segmentation: Segmentation,
    #[serde(default)]
    iscrowd: u8,
    #[serde(default)]
    area: Option<f64>,
    #[serde(default)]
    bbox: Option<[f64; 4]>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Segmentation {
    Polygons(Vec<Vec<f64>>),
    Rle { counts: Counts },
}

impl Default for Segmentation {
    /// That of an object of which the box alone is known.
    fn default() -> Self {
        Self::Polygons(Vec::new())
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Counts {
    Text(String),
    List(Vec<u32>),
}

#[derive(Debug, Clone, PartialEq)]
struct Annotation {
    /// Nothing if the pixels are those of no label.
    class: Option<usize>,
    crowd: bool,
    segmentation: Segmentation,
    area: Option<f64>,
    bbox: Option<[f64; 4]>,
}

impl ObjectDataset {
    /// The pictures of `split` below `root`.
    ///
    /// # Errors
    /// Fatal, naming the file, for what is missing or not as the layout has it.
    pub fn open(format: ObjectFormat, root: &Path, split: &str) -> Result<Self> {
        match format {
            ObjectFormat::Voc => voc(root, split),
            ObjectFormat::Coco => coco(root, split),
            ObjectFormat::Cityscapes => streets(root, split),
            ObjectFormat::Labelme => held_out(root, split, labelme::open(root, split)?),
            ObjectFormat::YoloSeg => held_out(root, split, yolo::open(root, split)?),
        }
    }
}

/// The pictures of `split`, of data that has splits or not.
fn held_out(
    root: &Path,
    split: &str,
    (mut data, has_splits): (ObjectDataset, bool),
) -> Result<ObjectDataset> {
    if !has_splits {
        data.samples = hold_out::hold_out(root, data.samples, |sample| stem(&sample.image), split)?;
    }
    Ok(data)
}

fn voc(root: &Path, split: &str) -> Result<ObjectDataset> {
    let names = read_names(&root.join("ImageSets/Segmentation").join(format!("{split}.txt")))?;
    let samples = names.into_iter().map(|name| ObjectSample {
        image: root.join("JPEGImages").join(format!("{name}.jpg")),
        written: Written::Voc {
            objects: root.join("SegmentationObject").join(format!("{name}.png")),
            classes: root.join("SegmentationClass").join(format!("{name}.png")),
        },
        labels: root.join("SegmentationObject").join(format!("{name}.png")),
    });
    Ok(ObjectDataset {
        samples: samples.collect(),
        // The background is no object.
        classes: VOC_CLASSES[1..]
            .iter()
            .map(|c| c.name.clone().into_owned())
            .collect(),
    })
}

fn coco(root: &Path, split: &str) -> Result<ObjectDataset> {
    // COCO's own splits have their year.
    let splits = ["", "2017", "2014"].map(|year| format!("{split}{year}"));
    let file = |split: &str| root.join("annotations").join(format!("instances_{split}.json"));
    let split = splits
        .iter()
        .find(|split| file(split).is_file())
        .unwrap_or(&splits[0]);
    let path = file(split);
    let text = std::fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
    let file: CocoFile = serde_json::from_str(&text).map_err(|error| failed(&path, error))?;
    let classes: HashMap<u64, usize> = file.categories.iter().zip(0..).map(|(c, n)| (c.id, n)).collect();
    let mut lists: HashMap<u64, Vec<Annotation>> = HashMap::new();
    for annotation in file.annotations {
        let class = classes.get(&annotation.category_id).copied().ok_or_else(|| {
            failed(
                &path,
                format!(
                    "an annotation has the category {}, which is none",
                    annotation.category_id
                ),
            )
        })?;
        lists.entry(annotation.image_id).or_default().push(Annotation {
            class: Some(class),
            crowd: annotation.iscrowd != 0,
            segmentation: annotation.segmentation,
            area: annotation.area,
            bbox: annotation.bbox,
        });
    }
    let samples = file.images.into_iter().map(|image| ObjectSample {
        image: root.join(split).join(&image.file_name),
        written: Written::Listed {
            size: (image.width, image.height),
            list: lists.remove(&image.id).unwrap_or_default(),
        },
        labels: path.clone(),
    });
    Ok(ObjectDataset {
        samples: samples.collect(),
        classes: file.categories.into_iter().map(|c| c.name).collect(),
    })
}

impl ObjectSample {
    /// Reads the picture and its objects.
    ///
    /// # Errors
    /// Fatal, naming the file, if one can't be read, if sizes differ, or if a mask is none.
    pub fn load(&self) -> Result<(RgbImage, TrueObjects)> {
        let picture = picture::read_rgb_as_stored(&self.image)?;
        let size = (picture.width() as usize, picture.height() as usize);
        let truth = self.truth(size)?;
        Ok((picture, truth))
    }

    /// Reads the objects of a picture of `size`, width and height in pixels.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn truth(&self, size: (usize, usize)) -> Result<TrueObjects> {
        let truth = match &self.written {
            Written::Voc { objects, classes } => read_voc(objects, classes, size)?,
            Written::Cityscapes(path) => read_streets(path, size)?,
            Written::Shares(list) => TrueObjects {
                objects: list.iter().map(|share| share.object(size)).collect(),
                void: None,
            },
            Written::Listed { size: said, list } => {
                if *said != size {
                    return Err(failed(
                        &self.image,
                        format!(
                            "is {}x{}, its annotations are for {}x{}",
                            size.0, size.1, said.0, said.1
                        ),
                    ));
                }
                let masks = list.iter().map(|annotation| {
                    let mask = match &annotation.segmentation {
                        Segmentation::Polygons(polygons) if polygons.is_empty() => {
                            annotation.bbox.map(|bbox| boxed(size, bbox))
                        }
                        Segmentation::Polygons(polygons) => Some(Rle::of_polygons(size.0, size.1, polygons)),
                        Segmentation::Rle {
                            counts: Counts::Text(text),
                        } => Rle::from_coco(size.0, size.1, text),
                        Segmentation::Rle {
                            counts: Counts::List(list),
                        } => Rle::from_counts(size.0, size.1, list.clone()),
                    };
                    mask.ok_or_else(|| failed(&self.image, "has an annotation whose mask is none"))
                });
                let mut truth = TrueObjects {
                    objects: Vec::new(),
                    void: None,
                };
                for (annotation, mask) in list.iter().zip(masks) {
                    let mask = mask?;
                    let Some(class) = annotation.class else {
                        let void = truth.void.take();
                        truth.void = Some(void.map_or_else(|| mask.clone(), |void| void.with(&mask)));
                        continue;
                    };
                    let object = TrueObject::new(class, mask, annotation.crowd);
                    truth.objects.push(TrueObject {
                        area: annotation.area.unwrap_or(object.area),
                        bbox: annotation.bbox.unwrap_or(object.bbox),
                        boxed: annotation.segmentation == Segmentation::default(),
                        ..object
                    });
                }
                truth
            }
        };
        Ok(truth)
    }
}

impl ObjectSample {
    /// The objects of a picture of `size`, and what each of its pixels is.
    ///
    /// # Errors
    /// As [`truth`](Self::truth), and for more than 254 objects.
    pub fn map(&self, size: (usize, usize)) -> Result<(TrueObjects, ObjectMap)> {
        let truth = self.truth(size)?;
        let map = truth.map(size).map_err(|count| {
            failed(
                &self.labels,
                format!(
                    "{} has {count} objects, expected at most 254",
                    self.image.display()
                ),
            )
        })?;
        Ok((truth, map))
    }
}

impl Share {
    fn object(&self, (width, height): (usize, usize)) -> TrueObject {
        let sides = [width as f64, height as f64];
        let outline: Vec<f64> = self
            .outline
            .iter()
            .zip(sides.iter().cycle())
            .map(|(at, side)| at * side)
            .collect();
        let mask = Rle::of_polygons(width, height, std::slice::from_ref(&outline));
        let object = TrueObject::new(self.class, mask, false);
        if !self.boxed {
            return object;
        }
        let [left, top, _, _, right, bottom, ..] = outline[..] else {
            return object;
        };
        TrueObject {
            bbox: [left, top, right - left, bottom - top],
            boxed: true,
            ..object
        }
    }
}

/// The pixels of a box: left, top, width, height.
fn boxed((width, height): (usize, usize), [left, top, w, h]: [f64; 4]) -> Rle {
    let (right, bottom) = (left + w, top + h);
    Rle::of_polygons(
        width,
        height,
        &[vec![left, top, right, top, right, bottom, left, bottom]],
    )
}

/// Objects in one map: each pixel is that of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMap {
    /// Of each pixel the place of its object in [`TrueObjects::objects`], counted from 1; 0 for none, [`IGNORE`] for a crowd's
    /// and where nobody knows.
    pub numbers: Vec<u8>,
    /// Of each pixel its class, counted from 1; 0 for none, [`IGNORE`] where nobody knows.
    pub classes: Labels,
}

impl TrueObjects {
    /// The objects in one map of `width` by `height`: small ones lie in front of large ones, crowds behind. The pixels of an
    /// object whose box alone is known are no object's and have no known class, but where another one lies.
    ///
    /// # Errors
    /// The number of objects, if it is more than 254.
    pub fn map(&self, (width, height): (usize, usize)) -> Result<ObjectMap, usize> {
        if self.objects.len() >= usize::from(IGNORE) {
            return Err(self.objects.len());
        }
        let (mut numbers, mut classes) = (vec![0; width * height], vec![0; width * height]);
        let mut paint = |mask: &Rle, number: u8, class: u8| {
            for (start, end) in mask.runs() {
                for at in start as usize..end as usize {
                    let pixel = at % height * width + at / height;
                    (numbers[pixel], classes[pixel]) = (number, class);
                }
            }
        };
        let mut order: Vec<(usize, &TrueObject)> = self.objects.iter().enumerate().collect();
        order.sort_by_key(|(_, object)| {
            (
                !object.crowd,
                !object.boxed,
                std::cmp::Reverse(object.mask.area()),
            )
        });
        if let Some(void) = &self.void {
            paint(void, IGNORE, IGNORE);
        }
        for (index, object) in order {
            let class = object.class as u8 + 1;
            match (object.crowd, object.boxed) {
                (true, _) => paint(&object.mask, IGNORE, class),
                (false, true) => paint(&object.mask, 0, IGNORE),
                (false, false) => paint(&object.mask, index as u8 + 1, class),
            }
        }
        let classes = Labels {
            width,
            height,
            data: classes,
        };
        Ok(ObjectMap { numbers, classes })
    }
}

fn read_voc(objects: &Path, classes: &Path, size: (usize, usize)) -> Result<TrueObjects> {
    let read = |path: &Path| {
        let labels = labels::read_index_png(path)?;
        match (labels.width, labels.height) == size {
            true => Ok(labels.data),
            false => Err(failed(
                path,
                format!(
                    "is {}x{}, its picture is {}x{}",
                    labels.width, labels.height, size.0, size.1
                ),
            )),
        }
    };
    let (numbers, classes_of) = (read(objects)?, read(classes)?);
    let mut list = Vec::new();
    for number in 1..VOID {
        // The class that most of the object's pixels have.
        let mut counts = [0_u32; 256];
        numbers
            .iter()
            .zip(&classes_of)
            .filter(|(n, _)| **n == number)
            .for_each(|(_, class)| counts[usize::from(*class)] += 1);
        let most = (1..VOC_CLASSES.len())
            .max_by_key(|&class| counts[class])
            .filter(|&class| counts[class] > 0);
        if let Some(class) = most {
            let mask = Rle::new(size.0, size.1, |x, y| numbers[y * size.0 + x] == number);
            list.push(TrueObject::new(class - 1, mask, false));
        }
    }
    Ok(TrueObjects {
        objects: list,
        void: Some(Rle::new(size.0, size.1, |x, y| numbers[y * size.0 + x] == VOID)),
    })
}

fn streets(root: &Path, split: &str) -> Result<ObjectDataset> {
    let pairs = cityscapes::pairs(root, split, Kind::InstanceIds)?;
    let samples = pairs.into_iter().map(|pair| ObjectSample {
        image: pair.image,
        labels: pair.labels.clone(),
        written: Written::Cityscapes(pair.labels),
    });
    Ok(ObjectDataset {
        samples: samples.collect(),
        classes: cityscapes::things().map(|(_, name)| name.to_owned()).collect(),
    })
}

/// Pixels hold a class's id, or of an object 1000 times the id and its number. A thing's id alone stands for several that
/// nobody told apart.
fn read_streets(path: &Path, size: (usize, usize)) -> Result<TrueObjects> {
    /// Objects of a class.
    const EACH: u16 = 1000;
    let (found, numbers) = labels::read_wide_png(path)?;
    if found != size {
        return Err(failed(
            path,
            format!("is {}x{}, its picture is {}x{}", found.0, found.1, size.0, size.1),
        ));
    }
    let id = |number: u16| if number < EACH { number } else { number / EACH };
    let mut present: Vec<u16> = numbers.clone();
    present.sort_unstable();
    present.dedup();
    let objects = present.into_iter().filter_map(|number| {
        let class = cityscapes::things().position(|(thing, _)| u16::from(thing) == id(number))?;
        let mask = Rle::new(size.0, size.1, |x, y| numbers[y * size.0 + x] == number);
        Some(TrueObject::new(class, mask, number < EACH))
    });
    Ok(TrueObjects {
        objects: objects.collect(),
        void: Some(Rle::new(size.0, size.1, |x, y| {
            !cityscapes::is_class(id(numbers[y * size.0 + x]))
        })),
    })
}

/// The name that most data have for a class that some call otherwise.
pub fn usual_name(name: &str) -> String {
    let name = name.to_lowercase().replace(['_', '-'], " ");
    let usual = match name.as_str() {
        "aeroplane" => "airplane",
        "motorbike" => "motorcycle",
        "sofa" => "couch",
        "tv monitor" | "tvmonitor" => "tv",
        "diningtable" => "dining table",
        "pottedplant" => "potted plant",
        other => other,
    };
    usual.to_owned()
}

#[cfg(test)]
mod tests;
