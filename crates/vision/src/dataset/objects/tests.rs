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

/// Class and pixels of each object, and whether it has a box alone.
fn found(truth: &TrueObjects) -> Vec<(usize, u64, bool)> {
    let objects = truth.objects.iter();
    objects.map(|o| (o.class, o.mask.area(), o.boxed)).collect()
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
    assert!(!object.boxed);
    assert_eq!((object.area, object.bbox), (5.5, [0.0, 0.5, 2.0, 2.5]));
    assert_eq!((object.mask.area(), object.mask.bbox()), (6, [0, 0, 2, 3]));

    // Without an outline the box is all that is known.
    let text = text.replace("[[0, 0, 2, 0, 2, 3, 0, 3]]", "[]");
    std::fs::write(root.join("annotations/instances_v2017.json"), text).unwrap();
    std::fs::remove_file(root.join("annotations/instances_v.json")).unwrap();
    std::fs::rename(root.join("v"), root.join("v2017")).unwrap();
    let data = ObjectDataset::open(ObjectFormat::Coco, root, "v").unwrap();
    let object = data.samples[0].load().unwrap().1.objects.remove(0);
    assert!(object.boxed && object.mask.area() > 0);
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
        let picture = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(4, 2, numbers.to_vec()).unwrap();
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

/// A folder in LabelMe's layout: a picture of 8x6, and what `shapes` says of it.
fn labelme_folder(shapes: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    RgbImage::new(8, 6).save(folder.path().join("a.png")).unwrap();
    let file = format!(
        r#"{{"version": "5.0", "flags": {{}}, "shapes": [{shapes}], "imagePath": "..\\x\\a.png", "imageData": null,
        "imageHeight": 6, "imageWidth": 8}}"#
    );
    std::fs::write(folder.path().join("a.json"), file).unwrap();
    folder
}

fn shape(label: &str, kind: &str, points: &str, group: &str) -> String {
    format!(
        r#"{{"label": "{label}", "points": [{points}], "group_id": {group}, "shape_type": "{kind}", "flags": {{}}}}"#
    )
}

#[test]
fn labelme_has_shapes_groups_and_what_is_left_out() {
    let shapes = [
        shape("pen", "polygon", "[0, 0], [2, 0], [2, 3], [0, 3]", "null"),
        shape("cup", "rectangle", "[4, 4], [6, 6]", "1"),
        shape("cup", "rectangle", "[6, 0], [8, 1]", "1"),
        shape("pen", "circle", "[5, 2], [6, 2]", "1"),
        shape("__ignore__", "rectangle", "[7, 5], [8, 6]", "null"),
        shape("_background_", "rectangle", "[0, 0], [8, 6]", "null"),
    ];
    let folder = labelme_folder(&shapes.join(","));
    let data = ObjectDataset::open(ObjectFormat::Labelme, folder.path(), "all").unwrap();
    assert_eq!(data.classes, ["cup", "pen"]);
    let (_, truth) = data.samples[0].load().unwrap();
    let found = found(&truth);
    assert_eq!(found[..2], [(1, 6, false), (0, 4 + 2, false)]);
    assert!(
        found.len() == 3 && found[2].0 == 1 && (2..=4).contains(&found[2].1),
        "{found:?}"
    );
    assert_eq!(truth.void.unwrap(), Rle::new(8, 6, |x, y| (x, y) == (7, 5)));

    // The list decides which classes there are, and their order.
    std::fs::write(
        folder.path().join("labels.txt"),
        "__ignore__\n_background_\npen\ncup\n",
    )
    .unwrap();
    let data = ObjectDataset::open(ObjectFormat::Labelme, folder.path(), "all").unwrap();
    assert_eq!(data.classes, ["pen", "cup"]);
    std::fs::write(folder.path().join("labels.txt"), "pen\n").unwrap();
    let error = ObjectDataset::open(ObjectFormat::Labelme, folder.path(), "all").unwrap_err();
    assert!(
        error.to_string().contains("a.json: shape 2 is called \"cup\""),
        "{error}"
    );
}

#[test]
fn labelme_s_bad_files_are_refused_by_name() {
    for (shapes, part) in [
        (shape("a", "line", "[0, 0], [1, 1]", "null"), "shape 1 is a line"),
        (
            shape("a", "polygon", "[0, 0], [1, 1]", "null"),
            "shape 1 is a polygon of 2 points",
        ),
        (
            shape("a", "rectangle", "[0, 0]", "null"),
            "shape 1 is a rectangle of 1 points, expected two",
        ),
        (
            shape("a", "polygon", "[0, 0], [1]", "null"),
            "is no file of LabelMe's",
        ),
        ("{".to_owned(), "is no file of LabelMe's"),
    ] {
        let folder = labelme_folder(&shapes);
        let error = ObjectDataset::open(ObjectFormat::Labelme, folder.path(), "all")
            .unwrap_err()
            .to_string();
        assert!(error.contains("a.json") && error.contains(part), "{error}");
    }
    let folder = labelme_folder("");
    RgbImage::new(6, 8).save(folder.path().join("a.png")).unwrap();
    let data = ObjectDataset::open(ObjectFormat::Labelme, folder.path(), "all").unwrap();
    let error = data.samples[0].load().unwrap_err().to_string();
    assert!(
        error.contains("a.png: is 6x8, its annotations are for 8x6"),
        "{error}"
    );
    std::fs::remove_file(folder.path().join("a.png")).unwrap();
    let error = ObjectDataset::open(ObjectFormat::Labelme, folder.path(), "all")
        .unwrap_err()
        .to_string();
    assert!(error.contains("has no picture"), "{error}");
    assert!(ObjectDataset::open(ObjectFormat::Labelme, &folder.path().join("none"), "all").is_err());
}

#[test]
fn yolo_s_text_has_outlines_boxes_and_pictures_without_objects() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for place in ["images/train", "labels/train"] {
        std::fs::create_dir_all(root.join(place)).unwrap();
    }
    for name in ["a", "b"] {
        RgbImage::new(10, 20)
            .save(root.join(format!("images/train/{name}.png")))
            .unwrap();
    }
    let labels = root.join("labels/train/a.txt");
    std::fs::write(&labels, "1 0 0 0.2 0 0.2 0.5 0 0.5\n\n0 0.5 0.5 0.4 0.2\n").unwrap();
    let open = || ObjectDataset::open(ObjectFormat::YoloSeg, root, "train");
    assert!(open().unwrap_err().to_string().contains("names no classes"));
    std::fs::write(root.join("data.yaml"), "train: images/train\nnames: [cat, dog]\n").unwrap();
    let data = open().unwrap();
    assert_eq!((data.classes.len(), data.samples.len()), (2, 2));
    let (_, truth) = data.samples[0].load().unwrap();
    let found = found(&truth);
    assert_eq!(found, [(1, 2 * 10, false), (0, 4 * 4, true)]);
    let bbox = truth.objects[1].bbox;
    assert!(
        bbox.iter()
            .zip([3.0, 8.0, 4.0, 4.0])
            .all(|(a, b)| (a - b).abs() < 1e-9),
        "{bbox:?}"
    );
    assert!(data.samples[1].load().unwrap().1.objects.is_empty());

    std::fs::write(&labels, "0 0.5 0.5 0.4 0.2\n2 0.5 0.5 0.4 0.2\n").unwrap();
    let error = open().unwrap_err().to_string();
    assert!(
        error.contains("a.txt: line 2: class \"2\", expected 0 to 1"),
        "{error}"
    );
    let error = ObjectDataset::open(ObjectFormat::YoloSeg, root, "val")
        .unwrap_err()
        .to_string();
    assert!(error.contains("images/val or val/images"), "{error}");
    std::fs::write(root.join("data.yaml"), "nc: 2\n").unwrap();
    assert!(open().unwrap_err().to_string().contains("data.yaml"));
}

#[test]
fn small_objects_lie_in_front_and_boxes_and_crowds_are_nobody_s_pixels() {
    let area = |x0: usize, x1: usize| Rle::new(10, 2, |x, _| (x0..x1).contains(&x));
    let mut boxed = TrueObject::new(2, area(6, 9), false);
    boxed.boxed = true;
    let truth = TrueObjects {
        objects: vec![
            TrueObject::new(0, area(1, 3), false),
            TrueObject::new(1, area(0, 5), false),
            boxed,
            TrueObject::new(3, area(4, 7), true),
        ],
        void: Some(area(9, 10)),
    };
    let map = truth.map((10, 2)).unwrap();
    let row = [2, 1, 1, 2, 2, 255, 0, 0, 0, 255];
    assert_eq!(map.numbers, [row, row].concat());
    let row = [2, 1, 1, 2, 2, 4, 255, 255, 255, 255];
    assert_eq!(map.classes.data, [row, row].concat());
    let many = TrueObjects {
        objects: vec![TrueObject::new(0, area(0, 1), false); 255],
        void: None,
    };
    assert_eq!(many.map((10, 2)), Err(255));
}

#[test]
fn names_of_the_same_things() {
    assert_eq!(usual_name("Aeroplane"), usual_name("airplane"));
    assert_eq!(usual_name("tv_monitor"), "tv");
    assert_eq!(usual_name("Car"), "car");
}
