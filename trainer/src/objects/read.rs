//! Where the objects of a picture are read from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use vision::dataset::objects::TrueObject;
use vision::dataset::{IGNORE, LabelEncoding, Labels, Location, Sample, VOC_CLASSES, read_index_png};

use super::annotation::read_boxes;
use crate::picture::{Object, Objects};

/// Where the objects of pictures are, file by file with the pictures' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// VOC's `SegmentationObject`: the number of each pixel's object, by hand. The box is what the pixels fill.
    ByHand {
        /// The folder.
        objects: PathBuf,
    },
    /// Boxes by hand, pixels by a machine: number `n + 1` is the annotation's object `n`, counted from 0.
    Boxes {
        /// The folder of numbers.
        numbers: PathBuf,
        /// The folder of VOC's XML.
        annotations: PathBuf,
        /// Whether the machine's pixels count as known.
        masks: bool,
    },
    /// The picture's own labels are painted from objects: COCO, Cityscapes' things, LabelMe, YOLO's text.
    Painted,
}

impl Source {
    /// What is beside the hand-made labels of a VOC folder, and beside its machine-made ones if it has objects for them.
    ///
    /// # Errors
    /// There is no `SegmentationObject`.
    pub fn of_voc(root: &Path) -> Result<(Self, Option<Self>)> {
        let objects = root.join("SegmentationObject");
        ensure!(
            objects.is_dir(),
            "{} does not exist: the network tells objects apart, and learns that from it",
            objects.display()
        );
        let (numbers, annotations) = (root.join("instances"), root.join("Annotations"));
        let boxes = numbers.is_dir() && annotations.is_dir();
        let boxes = boxes.then_some(Self::Boxes {
            numbers,
            annotations,
            masks: true,
        });
        Ok((Self::ByHand { objects }, boxes))
    }

    /// Where the objects of `location` are: of the pictures of its splits, and of VOC's machine-labelled ones if they have some.
    ///
    /// # Errors
    /// The data tells no objects apart.
    pub fn of(location: &Location) -> Result<(Self, Option<Self>)> {
        match location.format.objects() {
            Some(_) if location.format.is_painted() => Ok((Self::Painted, None)),
            Some(_) => Self::of_voc(&location.root),
            None => bail!(
                "{location} tells no objects apart: expected data of the format voc, coco, cityscapes-things, labelme or yolo-seg"
            ),
        }
    }

    /// The same, with the pixels of a machine taken as known or not.
    #[must_use]
    pub fn with_machine_masks(mut self, known: bool) -> Self {
        if let Self::Boxes { masks, .. } = &mut self {
            *masks = known;
        }
        self
    }

    /// The objects of the picture `sample`, whose `labels` have its size.
    ///
    /// # Errors
    /// A file can't be read, has another size, or names what is no object; the message names it.
    pub fn read(&self, sample: &Sample, labels: &Labels) -> Result<Objects> {
        let name = &sample.name;
        match self {
            Self::Painted => painted(sample, labels),
            Self::ByHand { objects } => by_hand(&objects.join(format!("{name}.png")), labels),
            Self::Boxes {
                numbers,
                annotations,
                masks,
            } => {
                let size = [labels.width, labels.height];
                let annotation = annotations.join(format!("{name}.xml"));
                let boxes = read_boxes(&annotation, size)?;
                let path = numbers.join(format!("{name}.png"));
                let numbers = read_numbers(&path, labels)?;
                ensure!(
                    boxes.len() < usize::from(IGNORE),
                    "{} holds {} objects, expected at most 254",
                    annotation.display(),
                    boxes.len()
                );
                let unknown = numbers
                    .iter()
                    .find(|&&number| number != IGNORE && usize::from(number) > boxes.len());
                ensure!(
                    unknown.is_none(),
                    "{} holds object {}, {} has {}",
                    path.display(),
                    unknown.copied().unwrap_or_default(),
                    annotation.display(),
                    boxes.len()
                );
                let list = (1..=u8::MAX).zip(boxes).map(|(number, boxed)| Object {
                    number,
                    class: boxed.class,
                    bounds: boxed.bounds,
                    difficult: boxed.difficult,
                    has_mask: *masks,
                });
                Ok(Objects {
                    numbers,
                    list: list.collect(),
                })
            }
        }
    }
}

fn painted(sample: &Sample, labels: &Labels) -> Result<Objects> {
    let LabelEncoding::Objects(own) = &sample.encoding else {
        bail!("{}: holds no objects", sample.labels.display())
    };
    let (truth, map) = own.map((labels.width, labels.height))?;
    let object = |(number, object): (u8, &TrueObject)| {
        let [left, top, width, height] = object.bbox.map(|side| side as f32);
        let [right, bottom] = [
            (left + width).min(labels.width as f32),
            (top + height).min(labels.height as f32),
        ];
        let (left, top) = (left.max(0.0), top.max(0.0));
        // What lies outside of the picture, or takes no pixel, can't be shown.
        let is_shown = left < right && top < bottom && !object.crowd;
        is_shown.then_some(Object {
            number,
            class: object.class as u8 + 1,
            bounds: [left, top, right, bottom],
            difficult: false,
            has_mask: !object.boxed,
        })
    };
    Ok(Objects {
        numbers: map.numbers,
        list: (1..=u8::MAX).zip(&truth.objects).filter_map(object).collect(),
    })
}

fn read_numbers(path: &Path, labels: &Labels) -> Result<Vec<u8>> {
    let numbers = read_index_png(path).with_context(|| format!("reading {}", path.display()))?;
    ensure!(
        (numbers.width, numbers.height) == (labels.width, labels.height),
        "{} is {}x{}, its picture's labels are {}x{}",
        path.display(),
        numbers.width,
        numbers.height,
        labels.width,
        labels.height
    );
    Ok(numbers.data)
}

fn by_hand(path: &Path, labels: &Labels) -> Result<Objects> {
    let numbers = read_numbers(path, labels)?;
    // Of each number the box that its pixels fill, and how many of them have each class.
    let mut found: Vec<Option<([usize; 4], [u32; VOC_CLASSES.len()])>> = vec![None; usize::from(IGNORE)];
    for (index, (&number, &class)) in numbers.iter().zip(&labels.data).enumerate() {
        if number == 0 || number == IGNORE {
            continue;
        }
        let (x, y) = (index % labels.width, index / labels.width);
        let (bounds, classes) =
            found[usize::from(number)].get_or_insert(([x, y, x, y], [0; VOC_CLASSES.len()]));
        *bounds = [
            bounds[0].min(x),
            bounds[1].min(y),
            bounds[2].max(x),
            bounds[3].max(y),
        ];
        if let Some(count) = classes.get_mut(usize::from(class)) {
            *count += 1;
        }
    }
    let mut list = Vec::new();
    for (number, found) in (0..=u8::MAX).zip(found) {
        let Some(([left, top, right, bottom], classes)) = found else {
            continue;
        };
        let most = (1..classes.len()).max_by_key(|&class| classes[class]);
        let class = most.filter(|&class| classes[class] > 0);
        list.push(Object {
            number,
            class: class.with_context(|| format!("{}: object {number} lies on no class", path.display()))?
                as u8,
            bounds: [left, top, right + 1, bottom + 1].map(|side| side as f32),
            difficult: false,
            has_mask: true,
        });
    }
    Ok(Objects { numbers, list })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma};

    fn labels() -> Labels {
        // Columns 0..4 background, 4..8 class 7.
        Labels {
            width: 8,
            height: 4,
            data: (0..32).map(|i| if i % 8 < 4 { 0 } else { 7 }).collect(),
        }
    }

    fn sample() -> Sample {
        Sample {
            name: "a".to_owned(),
            image: "a.jpg".into(),
            labels: "a.png".into(),
            encoding: LabelEncoding::Binary,
            size_mismatch: vision::dataset::SizeMismatch::Refuse,
        }
    }

    fn write(folder: &Path, numbers: impl Fn(u32, u32) -> u8, size: (u32, u32)) -> PathBuf {
        let path = folder.join("a.png");
        GrayImage::from_fn(size.0, size.1, |x, y| Luma([numbers(x, y)]))
            .save(&path)
            .unwrap();
        folder.to_owned()
    }

    #[test]
    fn objects_by_hand_have_the_box_and_the_class_of_their_pixels() {
        let folder = tempfile::tempdir().unwrap();
        let number = |x: u32, y: u32| match (x, y) {
            (3..6, 1..3) => 2,
            (6, _) => 255,
            (7, 3) => 9,
            _ => 0,
        };
        let objects = write(folder.path(), number, (8, 4));
        let read = Source::ByHand { objects }.read(&sample(), &labels()).unwrap();
        assert_eq!(read.numbers[8 + 3], 2);
        assert_eq!(read.numbers[6], IGNORE);
        let object = |number, bounds| Object {
            number,
            class: 7,
            bounds,
            difficult: false,
            has_mask: true,
        };
        assert_eq!(
            read.list,
            [object(2, [3.0, 1.0, 6.0, 3.0]), object(9, [7.0, 3.0, 8.0, 4.0])]
        );
    }

    #[test]
    fn objects_that_can_t_be_are_refused_by_file() {
        let folder = tempfile::tempdir().unwrap();
        let source = |numbers: &dyn Fn(u32, u32) -> u8, size| Source::ByHand {
            objects: write(folder.path(), numbers, size),
        };
        let message = |source: &Source| format!("{:#}", source.read(&sample(), &labels()).unwrap_err());
        let found = message(&source(&|x, _| u8::from(x == 0), (8, 4)));
        assert!(found.contains("a.png: object 1 lies on no class"), "{found}");
        let found = message(&source(&|_, _| 0, (4, 8)));
        assert!(found.contains("a.png is 4x8"), "{found}");
        let none = Source::ByHand {
            objects: folder.path().join("none"),
        };
        assert!(message(&none).contains("none/a.png"));
        assert!(
            Source::of_voc(folder.path())
                .unwrap_err()
                .to_string()
                .contains("SegmentationObject")
        );
    }

    #[test]
    fn numbers_of_boxes_count_the_annotation() {
        let folder = tempfile::tempdir().unwrap();
        let object = |left: u32, difficult: u32| {
            format!(
                "<object><name>car</name><difficult>{difficult}</difficult><bndbox><xmin>{left}</xmin><ymin>1</ymin>\
                 <xmax>8</xmax><ymax>4</ymax></bndbox></object>"
            )
        };
        let file = format!("<annotation>{}{}</annotation>", object(5, 0), object(7, 1));
        std::fs::write(folder.path().join("a.xml"), file).unwrap();
        let with = |number: u8| Source::Boxes {
            numbers: write(folder.path(), |x, _| if x == 7 { number } else { 0 }, (8, 4)),
            annotations: folder.path().to_owned(),
            masks: false,
        };
        let read = with(2).read(&sample(), &labels()).unwrap();
        let facts: Vec<(u8, f32, bool)> = read
            .list
            .iter()
            .map(|object| (object.number, object.bounds[0], object.difficult))
            .collect();
        assert_eq!(facts, [(1, 4.0, false), (2, 6.0, true)]);
        assert!(read.list.iter().all(|object| !object.has_mask));
        assert_eq!((read.numbers[6], read.numbers[7]), (0, 2));
        assert!(with(IGNORE).read(&sample(), &labels()).is_ok());
        let message = with(3).read(&sample(), &labels()).unwrap_err().to_string();
        assert!(
            message.contains("holds object 3") && message.contains("a.xml has 2"),
            "{message}"
        );
    }

    #[test]
    fn objects_of_a_painted_picture_have_numbers_boxes_and_masks() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for place in ["images", "labels"] {
            std::fs::create_dir_all(root.join(place)).unwrap();
        }
        image::RgbImage::new(8, 4)
            .save(root.join("images/a.png"))
            .unwrap();
        std::fs::write(root.join("classes.txt"), "cat\ndog\n").unwrap();
        // A dog in the left half, a cat of which the box alone is known, and one outside of the picture's pixels.
        let lines = "1 0 0 0.5 0 0.5 1 0 1\n0 0.75 0.5 0.25 0.5\n0 0.5 0 0 0\n";
        std::fs::write(root.join("labels/a.txt"), lines).unwrap();
        let dataset = vision::dataset::Dataset::open(vision::dataset::Format::YoloSeg, root).unwrap();
        let (source, boxes) = Source::of(&dataset.location).unwrap();
        assert_eq!((&source, boxes), (&Source::Painted, None));
        let samples = dataset.split("all").unwrap();
        let (_, labels) = samples[0].load().unwrap();
        let read = source.read(&samples[0], &labels).unwrap();
        let object = |number, class, bounds, has_mask| Object {
            number,
            class,
            bounds,
            difficult: false,
            has_mask,
        };
        assert_eq!(
            read.list,
            [
                object(1, 2, [0.0, 0.0, 4.0, 4.0], true),
                object(2, 1, [5.0, 1.0, 7.0, 3.0], false)
            ]
        );
        let row = [1, 1, 1, 1, 0, 0, 0, 0];
        assert_eq!(read.numbers, [row; 4].concat());
        let other = Location {
            format: vision::dataset::Format::Camvid,
            root: root.to_owned(),
        };
        let message = Source::of(&other).unwrap_err().to_string();
        assert!(
            message.contains("tells no objects apart") && message.contains("labelme"),
            "{message}"
        );
        assert!(
            source
                .read(&sample(), &labels)
                .unwrap_err()
                .to_string()
                .contains("holds no objects")
        );
    }
}
