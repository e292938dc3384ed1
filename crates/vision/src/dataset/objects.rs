//! Data whose objects are labelled one by one: PASCAL VOC's `SegmentationObject`, and COCO's JSON.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use image::RgbImage;
use serde::Deserialize;

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
}

impl ObjectFormat {
    /// The split that is scored if none is asked for.
    pub fn usual_split(self) -> &'static str {
        match self {
            Self::Voc => "val",
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
                    Ok(TrueObject {
                        class: annotation.class,
                        crowd: annotation.crowd,
                        mask: mask
                            .ok_or_else(|| failed(&self.image, "has an annotation whose mask is none"))?,
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
            list.push(TrueObject {
                class: class - 1,
                crowd: false,
                mask: Rle::new(size.0, size.1, |x, y| numbers[y * size.0 + x] == number),
            });
        }
    }
    Ok(TrueObjects {
        objects: list,
        void: Some(Rle::new(size.0, size.1, |x, y| numbers[y * size.0 + x] == VOID)),
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

    #[test]
    fn coco_s_three_ways_to_write_a_mask() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("annotations")).unwrap();
        std::fs::create_dir_all(root.join("v")).unwrap();
        RgbImage::new(4, 3).save(root.join("v/a.png")).unwrap();
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
    fn names_of_the_same_things() {
        assert_eq!(usual_name("Aeroplane"), usual_name("airplane"));
        assert_eq!(usual_name("tv_monitor"), "tv");
        assert_eq!(usual_name("Car"), "car");
    }
}
