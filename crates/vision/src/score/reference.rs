//! Scores of made objects beside those of pycocotools, panopticapi and TrackEval. `scripts/reference_scores.py` makes the file.

use serde::Deserialize;

use super::objects::{FoundObject, ObjectScores, Panoptic, Shape, Size};
use super::tracks::{TrackScores, Tracked};
use crate::dataset::objects::TrueObject;
use crate::rle::Rle;

#[derive(Deserialize)]
struct Reference {
    precision: Precision,
    polygons: Vec<Polygons>,
    panoptic: Panoptics,
    tracks: Vec<Video>,
}

#[derive(Deserialize)]
struct Truth {
    class: usize,
    mask: String,
    crowd: bool,
    area: Option<f64>,
    bbox: Option<[f64; 4]>,
}

#[derive(Deserialize)]
struct Found {
    class: usize,
    mask: String,
    score: Option<f32>,
}

#[derive(Deserialize)]
struct Picture {
    truth: Vec<Truth>,
    found: Vec<Found>,
    void: Option<String>,
}

#[derive(Deserialize)]
struct Precision {
    size: [usize; 2],
    classes: usize,
    pictures: Vec<Picture>,
    scores: Shapes,
}

#[derive(Deserialize)]
struct Shapes {
    segm: Figures,
    bbox: Figures,
}

#[derive(Deserialize)]
struct Figures {
    /// All, at 0.50, at 0.75, small, medium, large.
    means: [f64; 6],
    /// Of each class: all, small, medium, large.
    classes: Vec<[f64; 4]>,
}

#[derive(Deserialize)]
struct Polygons {
    size: [usize; 2],
    polygons: Vec<Vec<f64>>,
    mask: String,
}

#[derive(Deserialize)]
struct Panoptics {
    size: [usize; 2],
    classes: usize,
    pictures: Vec<Picture>,
    scores: [f64; 3],
    each: Vec<[f64; 3]>,
}

#[derive(Deserialize)]
struct Video {
    size: [usize; 2],
    pictures: Vec<VideoPicture>,
    scores: VideoScores,
}

#[derive(Deserialize)]
struct VideoPicture {
    truth: Vec<(u32, String)>,
    found: Vec<(u32, String)>,
}

#[derive(Deserialize)]
struct VideoScores {
    hota: f64,
    detection: f64,
    association: f64,
    localization: f64,
    idf1: f64,
    mota: f64,
    switches: u64,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("reference.json")).unwrap()
}

fn mask([width, height]: [usize; 2], text: &str) -> Rle {
    Rle::from_coco(width, height, text).unwrap()
}

fn scores(classes: usize, size: [usize; 2], pictures: &[Picture]) -> ObjectScores {
    let mut scores = ObjectScores::new(classes);
    for picture in pictures {
        let truth = picture.truth.iter().map(|t| {
            let object = TrueObject::new(t.class, mask(size, &t.mask), t.crowd);
            TrueObject {
                area: t.area.unwrap_or(object.area),
                bbox: t.bbox.unwrap_or(object.bbox),
                ..object
            }
        });
        let found = picture.found.iter().map(|f| FoundObject {
            class: f.class,
            score: f.score.unwrap_or(1.0),
            mask: mask(size, &f.mask),
        });
        let void = picture.void.as_ref().map(|void| mask(size, void));
        scores.add(
            &truth.collect::<Vec<_>>(),
            void.as_ref(),
            &found.collect::<Vec<_>>(),
        );
    }
    scores
}

#[track_caller]
fn close(what: &str, found: f64, want: f64) {
    assert!((found - want).abs() < 1e-6, "{what}: {found}, expected {want}");
}

const SIZES: [Size; 4] = [Size::Any, Size::Small, Size::Medium, Size::Large];

#[test]
fn average_precision_is_pycocotools_s() {
    let Precision {
        size,
        classes,
        pictures,
        scores: want,
    } = reference().precision;
    let scores = scores(classes, size, &pictures);
    for (shape, want) in [(Shape::Mask, want.segm), (Shape::Box, want.bbox)] {
        let of = |size, limit| scores.mean_precision_of(shape, size, limit).unwrap();
        let found = [
            of(Size::Any, None),
            of(Size::Any, Some(0)),
            of(Size::Any, Some(5)),
            of(Size::Small, None),
            of(Size::Medium, None),
            of(Size::Large, None),
        ];
        for (found, want) in found.into_iter().zip(want.means) {
            close(&format!("mean of {shape:?}"), found, want);
        }
        for (class, want) in want.classes.iter().enumerate() {
            for (size, want) in SIZES.into_iter().zip(want) {
                let found = scores.precision_of(class, shape, size, None).unwrap();
                close(&format!("class {class}, {shape:?}, {size:?}"), found, *want);
            }
        }
    }
}

#[test]
fn polygons_are_filled_as_pycocotools_fills_them() {
    for (number, polygon) in reference().polygons.iter().enumerate() {
        let [width, height] = polygon.size;
        let found = Rle::of_polygons(width, height, &polygon.polygons);
        let want = mask(polygon.size, &polygon.mask);
        assert_eq!(found, want, "polygon {number}");
    }
}

#[test]
fn panoptic_quality_is_panopticapi_s() {
    let reference = reference().panoptic;
    let scores = scores(reference.classes, reference.size, &reference.pictures);
    let check = |what: &str, found: Panoptic, want: [f64; 3]| {
        close(what, found.quality, want[0]);
        close(what, found.segmentation, want[1]);
        close(what, found.recognition, want[2]);
    };
    check("mean", scores.mean_panoptic().unwrap(), reference.scores);
    for (class, want) in reference.each.into_iter().enumerate() {
        check(&format!("class {class}"), scores.panoptic(class).unwrap(), want);
    }
}

#[test]
fn numbers_of_videos_score_as_in_trackeval() {
    for (number, video) in reference().tracks.iter().enumerate() {
        let mut scores = TrackScores::new();
        for picture in &video.pictures {
            let read = |list: &[(u32, String)]| -> Vec<Tracked> {
                let one = |(number, text): &(u32, String)| Tracked {
                    number: *number,
                    mask: mask(video.size, text),
                };
                list.iter().map(one).collect()
            };
            scores.add(&read(&picture.truth), &read(&picture.found));
        }
        let (found, want) = (scores.figures(), &video.scores);
        for (what, found, want) in [
            ("HOTA", found.hota, want.hota),
            ("DetA", found.detection, want.detection),
            ("AssA", found.association, want.association),
            ("LocA", found.localization, want.localization),
            ("IDF1", found.idf1, want.idf1),
            ("MOTA", found.mota, want.mota),
        ] {
            close(&format!("{what} of video {number}"), found, want);
        }
        assert_eq!(found.switches, want.switches, "video {number}");
    }
}
