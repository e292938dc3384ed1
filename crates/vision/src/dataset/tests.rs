//! Every layout with good data and with bad.

use super::*;
use std::fs;

fn write_grey(path: &Path, width: u32, levels: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let height = levels.len() as u32 / width;
    image::GrayImage::from_raw(width, height, levels.to_vec())
        .unwrap()
        .save(path)
        .unwrap();
}

fn write_picture(path: &Path, width: u32, height: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(width, height, image::Rgb([9, 8, 7]))
        .save(path)
        .unwrap();
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn names(samples: &[Sample]) -> Vec<&str> {
    samples.iter().map(|sample| sample.name.as_str()).collect()
}

fn refused(format: Format, root: &Path, split: &str, parts: &[&str]) {
    let error = Dataset::open(format, root)
        .and_then(|dataset| dataset.split(split))
        .unwrap_err();
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{message}: expected {part}");
    }
}

fn split(format: Format, root: &Path, split: &str) -> Vec<Sample> {
    Dataset::open(format, root).unwrap().split(split).unwrap()
}

#[test]
fn a_location_is_written_as_it_is_read() {
    let location: Location = "camvid:/data/CamVid".parse().unwrap();
    assert_eq!(location.format, Format::Camvid);
    assert_eq!(location.to_string(), "camvid:/data/CamVid");
    for (text, part) in [
        ("/data", "FORMAT:DIR"),
        ("cocoa:/data", "cityscapes"),
        ("voc:", "folder"),
    ] {
        let message = text.parse::<Location>().unwrap_err();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_dataset_that_is_not_there_is_refused() {
    for format in Format::value_variants() {
        refused(
            *format,
            Path::new("/nowhere/data"),
            "train",
            &["/nowhere/data", "does not exist"],
        );
    }
}

#[test]
fn voc() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(
        &root.join("ImageSets/Segmentation/val.txt"),
        "000032\n\n 000061 \n",
    );
    write_picture(&root.join("JPEGImages/000032.jpg"), 3, 1);
    refused(Format::Voc, root, "val", &["000032.jpg", "has no labels"]);
    write_grey(&root.join("SegmentationClass/000032.png"), 3, &[0, 20, 255]);
    refused(Format::Voc, root, "val", &["000061.jpg", "val.txt"]);
    refused(Format::Voc, root, "train", &["train.txt"]);
    write_picture(&root.join("JPEGImages/000061.jpg"), 3, 1);
    write_grey(&root.join("SegmentationClass/000061.png"), 3, &[0, 21, 255]);
    let samples = split(Format::Voc, root, "val");
    assert_eq!(names(&samples), ["000032", "000061"]);
    assert_eq!(samples[0].load().unwrap().1.data, [0, 20, IGNORE]);
    let message = samples[1].load().unwrap_err().to_string();
    assert!(
        message.contains("000061.png") && message.contains("number 21"),
        "{message}"
    );
    // Labels as colours: person, and the border.
    let colors = RgbImage::from_fn(3, 1, |x, _| {
        image::Rgb([[192, 128, 128], [224, 224, 192], [0, 0, 0]][x as usize])
    });
    colors.save(&samples[1].labels).unwrap();
    assert_eq!(samples[1].load().unwrap().1.data, [15, IGNORE, 0]);
}

#[test]
fn camvid() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write_picture(&root.join("val/0016E5_1.jpg"), 2, 2);
    refused(Format::Camvid, root, "val", &["0016E5_1.jpg", "valannot"]);
    write_grey(&root.join("valannot/0016E5_1.png"), 2, &[0, 10, 11, 255]);
    let samples = split(Format::Camvid, root, "val");
    assert_eq!(names(&samples), ["0016E5_1"]);
    assert_eq!(samples[0].load().unwrap().1.data, [0, 10, IGNORE, IGNORE]);
    fs::create_dir(root.join("test")).unwrap();
    refused(Format::Camvid, root, "test", &["test", "holds no file"]);
    write_grey(&root.join("valannot/0016E5_1.png"), 1, &[0, 10, 11, 1]);
    let message = samples[0].load().unwrap_err().to_string();
    assert!(
        message.contains("0016E5_1.png") && message.contains("1x4"),
        "{message}"
    );
}

#[test]
fn masks() {
    for (images, truth) in [("Training_Images", "Ground_Truth"), ("images", "masks")] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        refused(Format::Masks, root, "all", &["Training_Images", "masks"]);
        for name in 0..8 {
            write_picture(&root.join(format!("{images}/{name}.jpg")), 4, 4);
        }
        refused(Format::Masks, root, "all", &["0.jpg", truth]);
        for name in 0..8 {
            write_grey(&root.join(format!("{truth}/{name}.png")), 2, &[0, 255, 0, 255]);
        }
        let all = split(Format::Masks, root, "all");
        assert_eq!(all.len(), 8);
        let (_, labels) = all[0].load().unwrap();
        assert_eq!((labels.width, labels.height), (4, 4));
        assert_eq!(labels.data[..4], [0, 0, 1, 1]);
        assert_eq!(split(Format::Masks, root, "val").len(), 1);
        assert_eq!(split(Format::Masks, root, "train").len(), 7);
    }
}

#[test]
fn a_table_of_paths() {
    let dir = tempfile::tempdir().unwrap();
    let root = &dir.path().join("Human");
    for name in ["a", "b", "c"] {
        write_picture(&root.join(format!("Training_Images/{name}.png")), 2, 2);
        write_grey(
            &root.join(format!("Ground_Truth/{name}.png")),
            2,
            &[0, 255, 0, 255],
        );
    }
    let table = root.join("train.csv");
    // From the table's folder, from the one above, and from a folder that was called otherwise.
    write(
        &table,
        ",masks,images\n0,Ground_Truth/a.png,Training_Images/a.png\n\
         1,Human/Ground_Truth/b.png,Human/Training_Images/b.png\n\
         2,Human-master/Ground_Truth/c.png,Human-master/Training_Images/c.png\n",
    );
    let all = split(Format::Csv, root, "all");
    assert_eq!(names(&all), ["a", "b", "c"]);
    assert_eq!(all[2].load().unwrap().1.data, [0, 1, 0, 1]);
    assert_eq!(names(&split(Format::Csv, &table, "all")), ["a", "b", "c"]);
    assert_eq!(split(Format::Csv, root, "train").len(), 2);
    write(
        &root.join("val.csv"),
        "images,masks\nTraining_Images/b.png,Ground_Truth/b.png\n",
    );
    assert_eq!(names(&split(Format::Csv, root, "val")), ["b"]);
    assert_eq!(split(Format::Csv, root, "train").len(), 3);

    write(&table, "images,masks\nTraining_Images/a.png,Ground_Truth/z.png\n");
    refused(
        Format::Csv,
        root,
        "all",
        &["train.csv", "line 2", "Ground_Truth/z.png"],
    );
    write(&table, "image,mask\na,b\n");
    refused(
        Format::Csv,
        root,
        "all",
        &["train.csv", "image,mask", "images,masks"],
    );
    write(&table, "images,masks\n");
    refused(Format::Csv, root, "all", &["train.csv", "names no picture"]);
}

#[test]
fn pets() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let annotations = root.join("annotations");
    for name in ["Abyssinian_1", "beagle_2", "pug_3"] {
        write_picture(&root.join(format!("images/{name}.jpg")), 3, 1);
        write_grey(&annotations.join(format!("trimaps/{name}.png")), 3, &[1, 2, 3]);
        // What one system's archives leave beside each file.
        write(&annotations.join(format!("trimaps/._{name}.png")), "");
    }
    assert_eq!(split(Format::Pet, root, "all").len(), 3);
    write(
        &annotations.join("trainval.txt"),
        "#Image CLASS-ID SPECIES\nAbyssinian_1 1 1 1\nbeagle_2 5 2 2\n",
    );
    write(&annotations.join("test.txt"), "pug_3 9 2 3\n");
    assert_eq!(names(&split(Format::Pet, root, "test")), ["pug_3"]);
    let held: Vec<Sample> = [split(Format::Pet, root, "train"), split(Format::Pet, root, "val")].concat();
    assert_eq!(held.len(), 2);
    assert_eq!(held[0].load().unwrap().1.data, [1, 0, IGNORE]);
    write_grey(&held[0].labels, 3, &[1, 2, 4]);
    let message = held[0].load().unwrap_err().to_string();
    assert!(
        message.contains("number 4") && message.contains("1 to 3"),
        "{message}"
    );
    write(&annotations.join("test.txt"), "tabby_1 9 2 3\n");
    refused(Format::Pet, root, "test", &["tabby_1.jpg", "test.txt"]);
}

#[test]
fn cityscapes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for (city, name) in [("ulm", "ulm_000000_000019"), ("aachen", "aachen_000001_000019")] {
        write_picture(
            &root.join(format!("leftImg8bit/train/{city}/{name}_leftImg8bit.png")),
            4,
            2,
        );
        if city == "ulm" {
            refused(
                Format::Cityscapes,
                root,
                "train",
                &["ulm_000000_000019", "has no labels"],
            );
        }
        // Out of region, road, traffic light, licence plate; bicycle, person, static, caravan.
        write_grey(
            &root.join(format!("gtFine/train/{city}/{name}_gtFine_labelIds.png")),
            4,
            &[3, 7, 19, 255, 33, 24, 4, 29],
        );
    }
    let samples = split(Format::Cityscapes, root, "train");
    assert_eq!(names(&samples), ["aachen_000001_000019", "ulm_000000_000019"]);
    let expected = [IGNORE, 0, 6, IGNORE, 18, 11, IGNORE, IGNORE];
    assert_eq!(samples[0].load().unwrap().1.data, expected);
    write_grey(&samples[0].labels, 4, &[0, 0, 0, 34, 0, 0, 0, 0]);
    assert!(samples[0].load().unwrap_err().to_string().contains("number 34"));
    fs::create_dir_all(root.join("leftImg8bit/val")).unwrap();
    refused(Format::Cityscapes, root, "val", &["holds no file"]);
    assert_eq!(CITYSCAPES_CLASSES[18].name, "bicycle");
}

const CLASSES: &str = "ignore = [0]\n[[classes]]\nname = 'road'\ncolor = [128, 64, 128]\nvalue = 7\n\
                       [[classes]]\nname = 'other'\ncolor = [1, 2, 3]\nvalue = 9\n";

#[test]
fn a_plain_folder() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    refused(Format::Folder, root, "train", &["classes.toml"]);
    write(&root.join("classes.toml"), CLASSES);
    for name in ["a", "b"] {
        write_picture(&root.join(format!("images/{name}.png")), 4, 1);
        write_grey(&root.join(format!("labels/{name}.png")), 4, &[0, 7, 9, 255]);
    }
    let dataset = Dataset::open(Format::Folder, root).unwrap();
    assert_eq!(dataset.classes[1].name, "other");
    let all = dataset.split("all").unwrap();
    assert_eq!(all[1].load().unwrap().1.data, [IGNORE, 0, 1, IGNORE]);
    assert_eq!(
        dataset.split("train").unwrap().len() + dataset.split("val").unwrap().len(),
        2
    );
    write_grey(&all[1].labels, 4, &[0, 7, 8, 255]);
    let message = all[1].load().unwrap_err().to_string();
    assert!(
        message.contains("b.png") && message.contains("0, 7, 9, 255"),
        "{message}"
    );
}

#[test]
fn a_plain_folder_with_splits() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(&root.join("classes.toml"), CLASSES);
    for (split, name) in [("train", "a"), ("val", "b")] {
        write_picture(&root.join(format!("images/{split}/{name}.png")), 2, 1);
        write_grey(&root.join(format!("labels/{split}/{name}.png")), 2, &[7, 9]);
    }
    assert_eq!(names(&split(Format::Folder, root, "val")), ["b"]);
    refused(Format::Folder, root, "test", &["images/test"]);
    fs::remove_file(root.join("labels/val/b.png")).unwrap();
    refused(Format::Folder, root, "val", &["b.png", "has no labels"]);
}

#[test]
fn bad_classes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (from, to, part) in [
        ("value = 9", "value = 7", "\"road\""),
        ("value = 9", "value = 0", "ignore"),
        ("'other'", "'road'", "used twice"),
        ("[1, 2, 3]", "[128, 64, 128]", "color"),
        ("value = 9", "valeu = 9", "valeu"),
        (
            "[[classes]]\nname = 'other'\ncolor = [1, 2, 3]\nvalue = 9\n",
            "",
            "1 classes",
        ),
    ] {
        let text = CLASSES.replace(from, to);
        assert_ne!(text, CLASSES);
        write(&dir.path().join("classes.toml"), &text);
        refused(Format::Folder, dir.path(), "train", &["classes.toml", part]);
    }
}

/// A JPEG's EXIF block that asks for a quarter turn.
const TURNED: [u8; 36] =
    *b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";

#[test]
fn labels_drawn_before_or_after_the_turn_fit() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.jpg");
    write_picture(&image, 6, 4);
    let mut bytes = fs::read(&image).unwrap();
    bytes.splice(2..2, TURNED);
    fs::write(&image, bytes).unwrap();
    let labels = dir.path().join("a.png");
    for (width, height) in [(6, 4), (4, 6)] {
        write_grey(&labels, width, &[1; 24]);
        let sample = Sample {
            name: "a".into(),
            image: image.clone(),
            labels: labels.clone(),
            encoding: LabelEncoding::Classes(Arc::new(Codebook::plain(2, &[]))),
            size_mismatch: SizeMismatch::Refuse,
        };
        assert_eq!(sample.load().unwrap().0.dimensions(), (width, height));
    }
    assert_eq!(picture::read_rgb(&image).unwrap().dimensions(), (4, 6));
}

#[test]
fn pictures_of_every_kind_are_read_as_rgb() {
    let dir = tempfile::tempdir().unwrap();
    let sample = |file: &str| Sample {
        name: "a".into(),
        image: dir.path().join(file),
        labels: dir.path().join("l.png"),
        encoding: LabelEncoding::Binary,
        size_mismatch: SizeMismatch::Refuse,
    };
    write_grey(&dir.path().join("grey.png"), 1, &[77]);
    assert_eq!(
        sample("grey.png").load_image().unwrap().get_pixel(0, 0).0,
        [77; 3]
    );
    image::ImageBuffer::from_pixel(1, 1, image::Rgb([65535u16, 257 * 100, 0]))
        .save(dir.path().join("deep.png"))
        .unwrap();
    assert_eq!(
        sample("deep.png").load_image().unwrap().get_pixel(0, 0).0,
        [255, 100, 0]
    );
    // A PNG that is called a JPEG.
    fs::copy(dir.path().join("deep.png"), dir.path().join("named.jpg")).unwrap();
    assert_eq!(
        sample("named.jpg").load_image().unwrap().get_pixel(0, 0).0,
        [255, 100, 0]
    );
    // Ink: cyan 0, magenta 200, yellow 220, black 30, of 255.
    let ink = [0u8, 200, 220, 30].repeat(16 * 16);
    let encoder = jpeg_encoder::Encoder::new_file(dir.path().join("print.jpg"), 95).unwrap();
    encoder
        .encode(&ink, 16, 16, jpeg_encoder::ColorType::Cmyk)
        .unwrap();
    let found = sample("print.jpg").load_image().unwrap().get_pixel(8, 8).0;
    let level = |ink: u32| (255 - ink) * (255 - 30) / 255;
    for (found, ink) in found.into_iter().zip([0, 200, 220]) {
        assert!(u32::from(found).abs_diff(level(ink)) < 12, "{found} for {ink}");
    }
}

#[test]
fn sizes_that_differ_are_refused_or_resized() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("p.png");
    let labels = dir.path().join("l.png");
    RgbImage::from_pixel(4, 2, image::Rgb([9, 8, 7]))
        .save(&image)
        .unwrap();
    write_grey(&labels, 2, &[5, 11]);
    let mut sample = Sample {
        name: "p".into(),
        image,
        labels,
        encoding: LabelEncoding::Classes(Arc::new(Codebook::plain(11, &[11]))),
        size_mismatch: SizeMismatch::Refuse,
    };
    let message = sample.load().unwrap_err().to_string();
    assert!(
        message.contains("l.png") && message.contains("2x1") && message.contains("4x2"),
        "{message}"
    );
    sample.size_mismatch = SizeMismatch::ResizeLabels;
    let (picture, labels) = sample.load().unwrap();
    assert_eq!(picture.get_pixel(3, 1).0, [9, 8, 7]);
    assert_eq!(labels.data, [5, 5, 255, 255, 5, 5, 255, 255]);
}

#[test]
fn labels_are_painted_from_objects() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write_picture(&root.join("images/a.png"), 4, 2);
    write_picture(&root.join("images/b.png"), 4, 2);
    write(&root.join("classes.txt"), "cat\ndog\n");
    write(
        &root.join("labels/a.txt"),
        "1 0 0 0.5 0 0.5 1 0 1\n0 0.875 0.5 0.25 1\n",
    );
    let dataset = Dataset::open(Format::YoloSeg, root).unwrap();
    let classes: Vec<(&str, [u8; 3])> = dataset
        .classes
        .iter()
        .map(|class| (&*class.name, class.color))
        .collect();
    assert_eq!(
        classes,
        [("background", [0; 3]), ("cat", [128, 0, 0]), ("dog", [0, 128, 0])]
    );
    let samples = dataset.split("all").unwrap();
    assert_eq!(names(&samples), ["a", "b"]);
    assert_eq!(samples[0].labels, root.join("labels/a.txt"));
    let expected = [2, 2, 0, IGNORE, 2, 2, 0, IGNORE];
    let (image, labels) = samples[0].load().unwrap();
    assert_eq!(
        (image.dimensions(), labels.data.as_slice()),
        ((4, 2), &expected[..])
    );
    assert_eq!(samples[0].load_labels().unwrap().data, expected);
    assert_eq!(samples[1].load().unwrap().1.data, [0; 8]);
    // Without splits they are made from the names.
    let both = ["train", "val"].map(|split| dataset.split(split).unwrap().len());
    assert_eq!(both, [1, 1]);
    refused(Format::YoloSeg, root, "test", &["split \"test\""]);
    refused(Format::Coco, root, "train", &["instances_train.json"]);
    assert!(
        Format::CityscapesThings.is_painted()
            && !Format::Voc.is_painted()
            && !Format::Cityscapes.is_painted()
    );
    assert_eq!(
        VOC_CLASSES
            .iter()
            .zip(0..)
            .find(|(class, index)| class.color != voc::color(*index)),
        None
    );
}
