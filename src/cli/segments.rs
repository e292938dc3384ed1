//! Segments of pictures as files for programs: instances as 16-bit PNG, and COCO's panoptic form.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value as Json;

use super::image::image_id;
use vision::error::{Error, Result};
use vision::frame::LabelMap;
use vision::model::contract::Class;
use vision::picture::{write_grey16_png, write_rgb_png, write_whole};
use vision::rle::Rle;
use vision::scene::Segment;

/// Writes for each pixel 256 times its class, plus its object's number, counted from 1; 0 for what is no object's.
///
/// # Errors
/// Fatal if the file can't be written.
pub(super) fn write_instances(path: &Path, map: &LabelMap, segments: &[Segment]) -> Result<()> {
    let level = |segment: &Segment| {
        let number = segment.instance.map_or(0, |number| number + 1);
        // A picture has at most 255 segments, and a contract 256 classes.
        256 * segment.class + u16::try_from(number).unwrap_or(u16::from(u8::MAX))
    };
    let levels: Vec<u16> = segments.iter().map(level).collect();
    let at = |label: &u8| levels.get(usize::from(*label)).copied().unwrap_or_default();
    let pixels: Vec<u16> = map.labels.iter().map(at).collect();
    write_grey16_png(path, map.width, map.height, &pixels)
}

/// The JSON of COCO's panoptic form.
#[derive(Debug, Default, Serialize)]
pub(super) struct Panoptic {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Debug, Serialize)]
struct Image {
    id: Json,
    file_name: String,
    width: usize,
    height: usize,
}

#[derive(Debug, Serialize)]
struct Annotation {
    image_id: Json,
    /// Of the PNG.
    file_name: String,
    segments_info: Vec<SegmentInfo>,
}

#[derive(Debug, Serialize)]
struct SegmentInfo {
    id: u32,
    category_id: u16,
    /// Left, top, width, height in pixels.
    bbox: [u64; 4],
    area: u64,
    iscrowd: u8,
    score: f32,
}

#[derive(Debug, Serialize)]
struct Category {
    id: usize,
    name: String,
    isthing: u8,
    color: [u8; 3],
}

/// The id of segment `number`: each has another, none is 0, and neighbours look different.
fn id(number: u8) -> u32 {
    // An odd factor leaves no two of 24 bits alike.
    (u32::from(number) + 1).wrapping_mul(0x009e_3779) & 0x00ff_ffff
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

impl Panoptic {
    /// Writes a picture's segments to `path` as PNG, whose ids are R + 256 G + 65536 B, and notes what they are. Pixels of
    /// background classes have the id 0.
    ///
    /// # Errors
    /// Fatal if the file can't be written.
    pub fn add(
        &mut self,
        input: &Path,
        path: &Path,
        (map, segments): (&LabelMap, &[Segment]),
        classes: &[Class],
    ) -> Result<()> {
        let mut colors = [[0; 3]; 256];
        let mut infos = Vec::new();
        let masks = Rle::of_each(map, segments.len());
        for ((number, segment), mask) in (0..=u8::MAX).zip(segments).zip(&masks) {
            let is_background = classes
                .get(usize::from(segment.class))
                .is_none_or(|class| class.background);
            if is_background || mask.area() == 0 {
                continue;
            }
            let [red, green, blue, _] = id(number).to_le_bytes();
            colors[usize::from(number)] = [red, green, blue];
            infos.push(SegmentInfo {
                id: id(number),
                category_id: segment.class,
                bbox: mask.bbox(),
                area: mask.area(),
                iscrowd: 0,
                score: segment.score,
            });
        }
        let pixels: Vec<u8> = map
            .labels
            .iter()
            .flat_map(|label| colors[usize::from(*label)])
            .collect();
        write_rgb_png(path, map.width, map.height, &pixels)?;
        self.images.push(Image {
            id: image_id(input),
            file_name: name_of(input),
            width: map.width,
            height: map.height,
        });
        self.annotations.push(Annotation {
            image_id: image_id(input),
            file_name: name_of(path),
            segments_info: infos,
        });
        Ok(())
    }

    /// Writes the JSON beside what was asked for: `out.json` for `out.png` and for the folder `out`.
    ///
    /// # Errors
    /// Fatal if the file can't be written.
    pub fn write(mut self, output: &Path, classes: &[Class]) -> Result<()> {
        let category = |(id, class): (usize, &Class)| Category {
            id,
            name: class.name.clone(),
            isthing: u8::from(class.thing),
            color: class.color,
        };
        let named = classes.iter().enumerate().filter(|(_, class)| !class.background);
        self.categories = named.map(category).collect();
        let path = json_of(output);
        let text = serde_json::to_vec_pretty(&self)
            .map_err(|e| Error::fatal(format!("{}: can't be encoded", path.display())).caused_by(e))?;
        write_whole(&path, &text)
    }
}

/// Where the JSON of a panoptic output lies.
fn json_of(output: &Path) -> PathBuf {
    match output.is_dir() {
        // A folder's name may have a dot in it.
        true => {
            let mut name = output.file_name().unwrap_or_default().to_owned();
            name.push(".json");
            match output.file_name() {
                Some(_) => output.with_file_name(name),
                None => output.join("panoptic.json"),
            }
        }
        false => output.with_extension("json"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_apart_and_not_zero() {
        let ids: std::collections::HashSet<u32> = (0..=u8::MAX).map(id).collect();
        assert_eq!(ids.len(), 256);
        assert!(ids.iter().all(|&id| id > 0 && id < 1 << 24));
    }

    #[test]
    fn the_json_lies_beside_a_file_and_beside_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let val = folder.path().join("val.2017");
        std::fs::create_dir(&val).unwrap();
        assert_eq!(json_of(&val), folder.path().join("val.2017.json"));
        assert_eq!(json_of(Path::new("out/a.png")), Path::new("out/a.json"));
        assert_eq!(json_of(Path::new(".")), Path::new("./panoptic.json"));
    }
}
