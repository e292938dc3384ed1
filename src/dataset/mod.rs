//! Labelled images on disk, as the trainer and `segd eval` read them.
//!
//! A loader lists [`Sample`]s; a sample reads its picture as RGB and its labels as one class number a pixel,
//! with [`IGNORE`] where the labels say nothing.

mod camvid;
mod masks;
mod voc;

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek};
use std::path::{Path, PathBuf};

use image::RgbImage;

use crate::error::{Error, Result};

pub use camvid::{CAMVID_CLASSES, camvid};
pub use masks::masks;
pub use voc::{VOC_CLASSES, pseudo, voc};

/// The label of a pixel that is neither trained on nor scored.
pub const IGNORE: u8 = 255;

/// A class of a dataset: its name and its palette colour as RGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatasetClass {
    /// Name, in lower case.
    pub name: &'static str,
    /// Palette colour, RGB.
    pub color: [u8; 3],
}

/// Class numbers of a picture, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `[height * width]` class numbers, [`IGNORE`] where there is no label.
    pub data: Vec<u8>,
}

impl Labels {
    /// The labels at another size, each pixel taken from the nearest centre.
    #[must_use]
    pub fn resize_nearest(&self, width: usize, height: usize) -> Self {
        if (width, height) == (self.width, self.height) {
            return self.clone();
        }
        let columns: Vec<usize> = (0..width)
            .map(|x| (2 * x + 1) * self.width / (2 * width))
            .collect();
        let mut data = Vec::with_capacity(width * height);
        for y in 0..height {
            let row = (2 * y + 1) * self.height / (2 * height) * self.width;
            data.extend(columns.iter().map(|x| self.data[row + x]));
        }
        Self { width, height, data }
    }
}

/// How a label file stores classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelEncoding {
    /// The stored number is the class: palette index, or grey level. `void` is read as [`IGNORE`].
    Index {
        /// The number that means "no label", beside 255.
        void: Option<u8>,
    },
    /// A picture of two tones: 1 where the grey level is 128 or more, else 0.
    Binary,
}

/// What to do where the label file's size differs from its picture's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeMismatch {
    /// Refuse the sample, by name.
    Refuse,
    /// Bring the labels to the picture's size.
    ResizeLabels,
}

/// One labelled picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The picture's file name without its extension.
    pub name: String,
    /// The picture.
    pub image: PathBuf,
    /// The label file, PNG or a picture of two tones.
    pub labels: PathBuf,
    /// How the label file stores classes.
    pub encoding: LabelEncoding,
    /// What to do where the two sizes differ.
    pub size_mismatch: SizeMismatch,
}

impl Sample {
    /// Reads the picture, as RGB.
    ///
    /// # Errors
    /// The file can't be read or is no picture.
    pub fn load_image(&self) -> Result<RgbImage> {
        read_rgb(&self.image)
    }

    /// Reads the picture and its labels, which are of the same size.
    ///
    /// # Errors
    /// A file can't be read, or the two differ in size and [`SizeMismatch::Refuse`] holds.
    pub fn load(&self) -> Result<(RgbImage, Labels)> {
        let image = self.load_image()?;
        let labels = self.load_labels()?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        if (labels.width, labels.height) == (width, height) {
            return Ok((image, labels));
        }
        match self.size_mismatch {
            SizeMismatch::ResizeLabels => Ok((image, labels.resize_nearest(width, height))),
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
        match self.encoding {
            LabelEncoding::Index { void } => {
                let mut labels = read_index_png(&self.labels)?;
                if let Some(void) = void {
                    for label in &mut labels.data {
                        if *label == void {
                            *label = IGNORE;
                        }
                    }
                }
                Ok(labels)
            }
            LabelEncoding::Binary => {
                let grey = image::open(&self.labels)
                    .map_err(|error| failed(&self.labels, error))?
                    .to_luma8();
                Ok(Labels {
                    width: grey.width() as usize,
                    height: grey.height() as usize,
                    data: grey
                        .into_raw()
                        .into_iter()
                        .map(|level| u8::from(level >= 128))
                        .collect(),
                })
            }
        }
    }
}

/// An error about a dataset's file, which the message names.
fn failed(path: &Path, reason: impl fmt::Display) -> Error {
    Error::fatal(format!("{}: {reason}", path.display()))
}

fn read_rgb(path: &Path) -> Result<RgbImage> {
    Ok(image::open(path).map_err(|error| failed(path, error))?.to_rgb8())
}

/// Reads a PNG's palette indices, or its grey levels, as they are stored: a palette is not applied.
///
/// # Errors
/// The file is no PNG, or it stores colour rather than one number a pixel, or 16-bit numbers.
pub fn read_index_png(path: &Path) -> Result<Labels> {
    let file = File::open(path).map_err(|error| failed(path, error))?;
    decode_index_png(BufReader::new(file), path)
}

/// Decodes a PNG as [`read_index_png`] does; `path` stands for it in errors.
///
/// # Errors
/// As [`read_index_png`].
pub fn decode_index_png(png: impl BufRead + Seek, path: &Path) -> Result<Labels> {
    let mut decoder = png::Decoder::new(png);
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(|error| failed(path, error))?;
    let (color, depth) = reader.output_color_type();
    if !matches!(color, png::ColorType::Indexed | png::ColorType::Grayscale)
        || depth == png::BitDepth::Sixteen
    {
        return Err(failed(
            path,
            format!(
                "stores {color:?} with {depth:?} bits, found where a palette or 8-bit grey PNG of class numbers was expected"
            ),
        ));
    }
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| failed(path, "is too large"))?;
    let mut bytes = vec![0; size];
    let info = reader
        .next_frame(&mut bytes)
        .map_err(|error| failed(path, error))?;
    let bits = depth as usize;
    let mut data = Vec::with_capacity(width * height);
    for row in bytes.chunks_exact(info.line_size).take(height) {
        if bits == 8 {
            data.extend_from_slice(&row[..width]);
        } else {
            let mask = (1u8 << bits) - 1;
            data.extend((0..width).map(|x| row[x * bits / 8] >> (8 - bits - x * bits % 8) & mask));
        }
    }
    Ok(Labels { width, height, data })
}

/// Reads a list file: one name a line, blank lines skipped.
fn read_names(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|error| failed(path, error))?;
    let names: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        return Err(failed(path, "names no picture"));
    }
    Ok(names)
}

/// Lists a folder's files with one of `extensions` (lower case), by name.
fn list_files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        let path = entry.map_err(|error| failed(folder, error))?.path();
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default()
            .to_ascii_lowercase();
        if extensions.contains(&extension.as_str()) {
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
mod tests {
    use super::*;

    fn write_png(path: &Path, color: png::ColorType, depth: png::BitDepth, size: (u32, u32), bytes: &[u8]) {
        let mut encoder = png::Encoder::new(File::create(path).unwrap(), size.0, size.1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == png::ColorType::Indexed {
            // A palette that would change every number if it were applied.
            encoder.set_palette((0..768).map(|i| (i % 251) as u8 ^ 0x5a).collect::<Vec<u8>>());
        }
        encoder.write_header().unwrap().write_image_data(bytes).unwrap();
    }

    #[test]
    fn palette_indices_are_read_without_the_palette() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        write_png(
            &path,
            png::ColorType::Indexed,
            png::BitDepth::Eight,
            (3, 2),
            &[0, 15, 255, 1, 2, 20],
        );
        let labels = read_index_png(&path).unwrap();
        assert_eq!((labels.width, labels.height), (3, 2));
        assert_eq!(labels.data, [0, 15, 255, 1, 2, 20]);
    }

    #[test]
    fn packed_indices_are_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        // Three pixels of four bits a row: the last half byte is padding.
        write_png(
            &path,
            png::ColorType::Indexed,
            png::BitDepth::Four,
            (3, 2),
            &[0x1f, 0x20, 0x03, 0x40],
        );
        assert_eq!(read_index_png(&path).unwrap().data, [1, 15, 2, 0, 3, 4]);
        write_png(
            &path,
            png::ColorType::Grayscale,
            png::BitDepth::One,
            (9, 1),
            &[0b1010_0001, 0b1000_0000],
        );
        assert_eq!(read_index_png(&path).unwrap().data, [1, 0, 1, 0, 0, 0, 0, 1, 1]);
    }

    #[test]
    fn a_colour_png_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("colour.png");
        write_png(
            &path,
            png::ColorType::Rgb,
            png::BitDepth::Eight,
            (1, 1),
            &[1, 2, 3],
        );
        let message = read_index_png(&path).unwrap_err().to_string();
        assert!(
            message.contains("colour.png") && message.contains("Rgb"),
            "{message}"
        );
    }

    #[test]
    fn a_cut_png_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        write_png(
            &path,
            png::ColorType::Grayscale,
            png::BitDepth::Eight,
            (64, 64),
            &[7; 64 * 64],
        );
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 8, 20, bytes.len() / 2, bytes.len() - 13] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(read_index_png(&path).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn nearest_takes_pixel_centres() {
        let labels = Labels {
            width: 2,
            height: 2,
            data: vec![1, 2, 3, 4],
        };
        assert_eq!(
            labels.resize_nearest(4, 4).data,
            [1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]
        );
        assert_eq!(labels.resize_nearest(4, 4).resize_nearest(2, 2), labels);
        assert_eq!(labels.resize_nearest(1, 1).data, [4]);
    }

    #[test]
    fn sizes_that_differ_are_refused_or_resized() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("p.png");
        let labels = dir.path().join("l.png");
        RgbImage::from_pixel(4, 2, image::Rgb([9, 8, 7]))
            .save(&image)
            .unwrap();
        write_png(
            &labels,
            png::ColorType::Grayscale,
            png::BitDepth::Eight,
            (2, 1),
            &[5, 11],
        );
        let mut sample = Sample {
            name: "p".into(),
            image,
            labels,
            encoding: LabelEncoding::Index { void: Some(11) },
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
}
