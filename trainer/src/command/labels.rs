//! `segd-train labels`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use image::RgbImage;
use image::imageops::FilterType;
use vision::dataset::{self, Dataset, DatasetClass, Format, Location, Sample};

use crate::data;
use crate::objects::Source;
use crate::picture::{Object, Objects};
use crate::report::sheet;

/// Width of a picture on the sheet, at most.
const WIDTH: u32 = 240;
/// Pictures in a row of the sheet, each with its labels.
const COLUMNS: usize = 3;

/// Arguments of `labels`.
#[derive(Args)]
pub struct Arguments {
    /// The data as FORMAT:DIR, as for `train`
    #[arg(value_name = "FORMAT:DIR")]
    dataset: Location,
    /// The split to look at; `pseudo` for VOC's pictures with machine-made labels
    #[arg(long, default_value = "train")]
    split: String,
    /// Pictures on the sheet, spread evenly over the split
    #[arg(long, default_value_t = 12)]
    count: usize,
    /// The sheet to write, as PNG
    #[arg(short, long, default_value = "labels.png")]
    out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// The data can't be read, or the sheet can't be written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let location = &arguments.dataset;
    let dataset = Dataset::open(location.format, &location.root)?;
    let (samples, source) = samples(&dataset, &arguments.split)?;
    ensure!(arguments.count > 0, "--count is 0, expected 1 or more");
    let step = samples.len().div_ceil(arguments.count);
    let mut shown = Vec::new();
    let mut pixels = vec![0_u64; 256];
    let mut objects = vec![0_u64; 256];
    for (index, sample) in samples.iter().enumerate() {
        let (image, labels) = data::read(sample, dataset.classes.len())?;
        let of = source
            .as_ref()
            .map(|source| source.read(sample, &labels))
            .transpose()?;
        for &label in &labels.data {
            pixels[usize::from(label)] += 1;
        }
        for object in of.iter().flat_map(|of| &of.list) {
            objects[usize::from(object.class)] += 1;
        }
        if index % step == 0 {
            let classes = sheet::overlay(&image, &labels.data, &dataset.classes, None);
            let second = match &of {
                Some(of) => drawn(&image, of),
                None => image.clone(),
            };
            shown.push([small(&classes), small(&second)]);
        }
    }
    print(
        &dataset.classes,
        &pixels,
        source.is_some().then_some(&objects),
        samples.len(),
    );
    save(&arguments.out, &shown)?;
    println!("{}: {} pictures", arguments.out.display(), shown.len());
    Ok(())
}

/// The pictures of a split, and where their objects are if they have some.
fn samples(dataset: &Dataset, split: &str) -> Result<(Vec<Sample>, Option<Source>)> {
    let Location { format, root } = &dataset.location;
    let has_objects =
        format.is_painted() || *format == Format::Voc && root.join("SegmentationObject").is_dir();
    let (by_hand, boxes) = if has_objects {
        let (by_hand, boxes) = Source::of(&dataset.location)?;
        (Some(by_hand), boxes)
    } else {
        (None, None)
    };
    if *format == Format::Voc && split == "pseudo" {
        let samples = dataset::pseudo(&root.join("unlabelled"), &root.join("pseudo"))?;
        return Ok((samples, boxes));
    }
    Ok((dataset.split(split)?, by_hand))
}

fn print(classes: &[DatasetClass], pixels: &[u64], objects: Option<&Vec<u64>>, pictures: usize) {
    let all: u64 = pixels.iter().sum();
    let share = |count: u64| 100.0 * count as f64 / all.max(1) as f64;
    println!(
        "{:<16} {:>9}{}",
        "class",
        "pixels %",
        if objects.is_some() { "  objects" } else { "" }
    );
    let names = classes.iter().map(|class| &*class.name).zip(0..);
    for (name, label) in names.chain([("no label", usize::from(dataset::IGNORE))]) {
        let counted = objects.filter(|_| label > 0 && label < classes.len());
        let counted = counted.map_or(String::new(), |objects| format!("{:>9}", objects[label]));
        println!("{name:<16} {:>9.2}{counted}", share(pixels[label]));
    }
    println!("{pictures} pictures");
}

/// The colour of an object; neighbouring numbers differ.
fn color(number: u8) -> [u8; 3] {
    let hue = f32::from(number) * 0.618_034 % 1.0 * 6.0;
    let part = |shift: f32| {
        let at = (hue + shift) % 6.0;
        (60.0 + 195.0 * (2.0 - (at - 3.0).abs()).clamp(0.0, 1.0)) as u8
    };
    [part(3.0), part(1.0), part(5.0)]
}

/// The picture with its objects: each in a colour, with its box; white where nobody knows, difficult ones dashed.
fn drawn(image: &RgbImage, objects: &Objects) -> RgbImage {
    let mut out = image.clone();
    for (pixel, &number) in out.pixels_mut().zip(&objects.numbers) {
        let color = match number {
            0 => continue,
            dataset::IGNORE => [255; 3],
            number => color(number),
        };
        pixel.0 = std::array::from_fn(|c| ((u16::from(color[c]) + u16::from(pixel.0[c])) / 2) as u8);
    }
    for object in &objects.list {
        outline(&mut out, object);
    }
    out
}

fn outline(image: &mut RgbImage, object: &Object) {
    let (width, height) = image.dimensions();
    let [left, top, right, bottom] = object.bounds;
    let column = |x: f32| (x as u32).min(width - 1);
    let row = |y: f32| (y as u32).min(height - 1);
    let (x0, x1, y0, y1) = (column(left), column(right - 1.0), row(top), row(bottom - 1.0));
    let color = color(object.number);
    let sides = (x0..=x1).flat_map(|x| [(x, y0), (x, y1)]);
    for (x, y) in sides.chain((y0..=y1).flat_map(|y| [(x0, y), (x1, y)])) {
        if !object.difficult || (x + y) % 6 < 3 {
            image.get_pixel_mut(x, y).0 = color;
        }
    }
}

fn small(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    if width <= WIDTH {
        return image.clone();
    }
    let rows = (height * WIDTH / width).max(1);
    image::imageops::resize(image, WIDTH, rows, FilterType::Triangle)
}

/// Writes the pairs of pictures, row by row.
fn save(path: &Path, shown: &[[RgbImage; 2]]) -> Result<()> {
    let heights: Vec<u32> = shown
        .chunks(COLUMNS)
        .map(|row| row.iter().flatten().map(RgbImage::height).max().unwrap_or(1))
        .collect();
    let mut out = RgbImage::new(2 * WIDTH * COLUMNS as u32, heights.iter().sum::<u32>().max(1));
    let mut top = 0;
    for (row, height) in shown.chunks(COLUMNS).zip(heights) {
        for (index, picture) in row.iter().flatten().enumerate() {
            image::imageops::replace(&mut out, picture, i64::from(WIDTH) * index as i64, i64::from(top));
        }
        top += height;
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    out.save(path)
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_colours_and_boxes() {
        let image = RgbImage::new(8, 6);
        let mut numbers = vec![0; 48];
        numbers[2 * 8 + 3] = 1;
        numbers[47] = dataset::IGNORE;
        let object = |number, bounds, difficult| Object {
            number,
            class: 1,
            bounds,
            difficult,
            has_mask: true,
        };
        let objects = Objects {
            numbers,
            list: vec![
                object(1, [1.0, 1.0, 6.0, 5.0], false),
                object(2, [0.0, 0.0, 8.0, 6.0], true),
            ],
        };
        let found = drawn(&image, &objects);
        assert_eq!(found.get_pixel(3, 2).0, color(1).map(|level| level / 2));
        assert_eq!(found.get_pixel(1, 3).0, color(1));
        assert_eq!(found.get_pixel(5, 4).0, color(1));
        assert_eq!(found.get_pixel(2, 2).0, [0; 3]);
        // The frame is dashed.
        assert_eq!(
            (found.get_pixel(0, 0).0, found.get_pixel(4, 0).0),
            (color(2), [0; 3])
        );
        let different: Vec<[u8; 3]> = (1..20).map(color).collect();
        assert!(different.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
