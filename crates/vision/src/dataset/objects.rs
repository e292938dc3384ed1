//! Data whose objects are labelled one by one: PASCAL VOC's `SegmentationObject`, COCO's JSON, and Cityscapes' `instanceIds`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use image::RgbImage;
use serde::Deserialize;

use super::cityscapes::{self, Kind};
use super::{VOC_CLASSES, failed, labels, read_names};
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
}

impl ObjectFormat {
    /// The split that is scored if none is asked for.
    pub fn usual_split(self) -> &'static str {
        match self {
            Self::Voc | Self::Cityscapes => "val",
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
}

impl TrueObject {
    /// Area and box are the mask's.
    pub fn new(class: usize, mask: Rle, crowd: bool) -> Self {
        Self {
            class,
            crowd,
            area: mask.area() as f64,
            bbox: mask.bbox().map(|n| n as f64),
            mask,
        }
    }
}

/// The number of a VOC label file that stands for no label.
const VOID: u8 = 255;

/// Objects of a picture, as they are written.
#[derive(Debug, Clone)]
enum Written {
    Voc {
        objects: PathBuf,
        classes: PathBuf,
    },
    Coco {
        size: (usize, usize),
        list: Vec<Annotation>,
    },
    Cityscapes(PathBuf),
}

/// A picture whose objects are labelled.
#[derive(Debug, Clone)]
pub struct ObjectSample {
    /// The picture.
    pub image: PathBuf,
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
    segmentation: Segmentation,
    #[serde(default)]
    iscrowd: u8,
    #[serde(default)]
    area: Option<f64>,
    #[serde(default)]
    bbox: Option<[f64; 4]>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Segmentation {
    Polygons(Vec<Vec<f64>>),
    Rle { counts: Counts },
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Counts {
    Text(String),
    List(Vec<u32>),
}

#[derive(Debug, Clone)]
struct Annotation {
    class: usize,
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
        }
    }
}

fn voc(root: &Path, split: &str) -> Result<ObjectDataset> {
    let names = read_names(&root.join("ImageSets/Segmentation").join(format!("{split}.txt")))?;
    let samples = names.into_iter().map(|name| ObjectSample {
        image: root.join("JPEGImages").join(format!("{name}.jpg")),
        written: Written::Voc {
            objects: root.join("SegmentationObject").join(format!("{name}.png")),
            classes: root.join("SegmentationClass").join(format!("{name}.png")),
        },
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
    let path = root.join("annotations").join(format!("instances_{split}.json"));
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
            class,
            crowd: annotation.iscrowd != 0,
            segmentation: annotation.segmentation,
            area: annotation.area,
            bbox: annotation.bbox,
        });
    }
    let samples = file.images.into_iter().map(|image| ObjectSample {
        image: root.join(split).join(&image.file_name),
        written: Written::Coco {
            size: (image.width, image.height),
            list: lists.remove(&image.id).unwrap_or_default(),
        },
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
        let truth = match &self.written {
            Written::Voc { objects, classes } => read_voc(objects, classes, size)?,
            Written::Cityscapes(path) => read_streets(path, size)?,
            Written::Coco { size: said, list } => {
                if *said != size {
                    return Err(failed(
                        &self.image,
                        format!(
                            "is {}x{}, its annotations are for {}x{}",
                            size.0, size.1, said.0, said.1
                        ),
                    ));
                }
                let objects = list.iter().map(|annotation| {
                    let mask = match &annotation.segmentation {
                        Segmentation::Polygons(polygons) => Some(Rle::of_polygons(size.0, size.1, polygons)),
                        Segmentation::Rle {
                            counts: Counts::Text(text),
                        } => Rle::from_coco(size.0, size.1, text),
                        Segmentation::Rle {
                            counts: Counts::List(list),
                        } => Rle::from_counts(size.0, size.1, list.clone()),
                    };
                    let mask =
                        mask.ok_or_else(|| failed(&self.image, "has an annotation whose mask is none"))?;
                    let object = TrueObject::new(annotation.class, mask, annotation.crowd);
                    Ok(TrueObject {
                        area: annotation.area.unwrap_or(object.area),
                        bbox: annotation.bbox.unwrap_or(object.bbox),
                        ..object
                    })
                });
                TrueObjects {
                    objects: objects.collect::<Result<_>>()?,
                    void: None,
                }
            }
        };
        Ok((picture, truth))
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
mod tests {
    use super::*;

    /// A folder in COCO's layout, of a picture of 4x3 and no annotations.
    fn coco_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("annotations")).unwrap();
        std::fs::create_dir_all(root.join("v")).unwrap();
        RgbImage::new(4, 3).save(root.join("v/a.png")).unwrap();
        folder
    }

    #[test]
    fn coco_s_three_ways_to_write_a_mask() {
        let folder = coco_folder();
        let root = folder.path();
        let file = |category: u64, last: &str| {
            format!(
                r#"{{"images": [{{"id": 7, "file_name": "a.png", "width": 4, "height": 3}}],
                "categories": [{{"id": 5, "name": "cup"}}, {{"id": 9, "name": "pen"}}],
                "annotations": [
                {{"image_id": 7, "category_id": {category}, "segmentation": [[0, 0, 2, 0, 2, 3, 0, 3]]}},
                {{"image_id": 7, "category_id": 5, "segmentation": {{"size": [3, 4], "counts": "183"}}, "iscrowd": 1}},
                {{"image_id": 7, "category_id": 5, "segmentation": {{"size": [3, 4], "counts": {last}}}}}]}}"#
            )
        };
        let path = root.join("annotations/instances_v.json");
        std::fs::write(&path, file(9, "[0, 12]")).unwrap();
        let data = ObjectDataset::open(ObjectFormat::Coco, root, "v").unwrap();
        assert_eq!(data.classes, ["cup", "pen"]);
        let (_, truth) = data.samples[0].load().unwrap();
        let found: Vec<(usize, bool, u64)> = truth
            .objects
            .iter()
            .map(|o| (o.class, o.crowd, o.mask.area()))
            .collect();
        assert_eq!(found, [(1, false, 6), (0, true, 8), (0, false, 12)]);

        std::fs::write(&path, file(9, "[0, 13]")).unwrap();
        let data = ObjectDataset::open(ObjectFormat::Coco, root, "v").unwrap();
        assert!(
            data.samples[0]
                .load()
                .unwrap_err()
                .to_string()
                .contains("mask is none")
        );
        std::fs::write(&path, file(1, "[0, 12]")).unwrap();
        let error = ObjectDataset::open(ObjectFormat::Coco, root, "v")
            .unwrap_err()
            .to_string();
        assert!(error.contains("the category 1"), "{error}");
    }

    #[test]
    fn coco_s_area_and_box_are_those_of_the_file() {
        let folder = coco_folder();
        let root = folder.path();
        let text = r#"{"images": [{"id": 7, "file_name": "a.png", "width": 4, "height": 3}],
            "categories": [{"id": 5, "name": "cup"}],
            "annotations": [{"image_id": 7, "category_id": 5, "segmentation": [[0, 0, 2, 0, 2, 3, 0, 3]],
            "area": 5.5, "bbox": [0, 0.5, 2, 2.5]}]}"#;
        std::fs::write(root.join("annotations/instances_v.json"), text).unwrap();
        let data = ObjectDataset::open(ObjectFormat::Coco, root, "v").unwrap();
        let object = data.samples[0].load().unwrap().1.objects.remove(0);
        assert_eq!((object.area, object.bbox), (5.5, [0.0, 0.5, 2.0, 2.5]));
        assert_eq!((object.mask.area(), object.mask.bbox()), (6, [0, 0, 2, 3]));
    }

    #[test]
    fn cityscapes_has_objects_groups_and_pixels_that_are_nobody_s() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        // Two cars, a group of people, a caravan, road, and the rim of the picture.
        let numbers: [u16; 8] = [26_000, 26_001, 26_001, 24, 29_000, 7, 1, 7];
        for (images, truth, kind) in [
            ("leftImg8bit/val/aachen", "gtFine/val/aachen", "gtFine"),
            (
                "leftImg8bit_trainvaltest/leftImg8bit/val/ulm",
                "gtFine_trainvaltest/gtFine/val/ulm",
                "gtFine",
            ),
            ("leftImg8bit/val", "gtCoarse/val", "gtCoarse"),
        ] {
            let root = root.join(format!("{kind}{}", images.len()));
            let (images, truth) = (root.join(images), root.join(truth));
            std::fs::create_dir_all(&images).unwrap();
            std::fs::create_dir_all(&truth).unwrap();
            RgbImage::new(4, 2)
                .save(images.join("a_1_2_leftImg8bit.png"))
                .unwrap();
            let labels = truth.join(format!("a_1_2_{kind}_instanceIds.png"));
            let picture =
                image::ImageBuffer::<image::Luma<u16>, _>::from_raw(4, 2, numbers.to_vec()).unwrap();
            picture.save(&labels).unwrap();
            let data = ObjectDataset::open(ObjectFormat::Cityscapes, &root, "val").unwrap();
            assert_eq!((data.classes.len(), data.classes[2].as_str()), (8, "car"));
            let (_, truth) = data.samples[0].load().unwrap();
            let found: Vec<(usize, bool, u64)> = truth
                .objects
                .iter()
                .map(|o| (o.class, o.crowd, o.mask.area()))
                .collect();
            assert_eq!(found, [(0, true, 1), (2, false, 1), (2, false, 2)]);
            let void = truth.void.unwrap();
            assert_eq!(void, Rle::new(4, 2, |x, y| [4, 6].contains(&(4 * y + x))));

            RgbImage::new(3, 2)
                .save(images.join("a_1_2_leftImg8bit.png"))
                .unwrap();
            let error = data.samples[0].load().unwrap_err().to_string();
            assert!(
                error.contains("instanceIds.png: is 4x2, its picture is 3x2"),
                "{error}"
            );
        }
    }

    #[test]
    fn names_of_the_same_things() {
        assert_eq!(usual_name("Aeroplane"), usual_name("airplane"));
        assert_eq!(usual_name("tv_monitor"), "tv");
        assert_eq!(usual_name("Car"), "car");
    }
}
