//! Label files: one class number a pixel, however the file stores it.

use std::io::{BufRead, Cursor, Seek};
use std::path::Path;
use std::sync::Arc;

use image::{DynamicImage, GrayImage};

use super::objects::ObjectSample;
use super::{IGNORE, failed};
use crate::error::Result;
use crate::picture::MAX_SIDE;

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
#[derive(Clone, Debug, PartialEq)]
pub enum LabelEncoding {
    /// A number or a colour for each class.
    Classes(Arc<Codebook>),
    /// A picture of two tones; the bright one is class 1. If the brightest level is 1, the levels are the classes.
    Binary,
    /// No picture: objects, which are painted.
    Objects(Arc<ObjectSample>),
}

/// What each stored number, and each colour, means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codebook {
    /// The class of each number that a palette index or a grey level may be; [`IGNORE`] for "no label".
    pub numbers: [Option<u8>; 256],
    /// The class of each colour, RGB, for files that store colours.
    pub colors: Vec<([u8; 3], u8)>,
}

impl Codebook {
    /// Number `i` is class `i`, below `classes`; 255 and those of `void` have no label.
    #[must_use]
    pub fn plain(classes: usize, void: &[u8]) -> Self {
        let mut numbers = [None; 256];
        for (class, number) in (0..=u8::MAX).zip(&mut numbers).take(classes) {
            *number = Some(class);
        }
        for &void in void {
            numbers[usize::from(void)] = Some(IGNORE);
        }
        numbers[usize::from(IGNORE)] = Some(IGNORE);
        Self {
            numbers,
            colors: vec![],
        }
    }

    /// The same, for files that store colours as well.
    #[must_use]
    pub fn with_colors(mut self, colors: impl IntoIterator<Item = ([u8; 3], u8)>) -> Self {
        self.colors.extend(colors);
        self
    }

    /// The numbers that mean something, as people write them: `0 to 10, 255`.
    fn known(&self) -> String {
        let known: Vec<usize> = (0..256)
            .filter(|&number| self.numbers[number].is_some())
            .collect();
        known
            .chunk_by(|a, b| a + 1 == *b)
            .map(|run| match run {
                [one] => one.to_string(),
                [first, .., last] => format!("{first} to {last}"),
                [] => String::new(),
            })
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// Reads a label file at its own size.
///
/// # Errors
/// The file can't be read, or holds a number or a colour that is no class; the message says where.
pub(super) fn read(path: &Path, encoding: &LabelEncoding) -> Result<Labels> {
    let bytes = std::fs::read(path).map_err(|error| failed(path, error))?;
    match encoding {
        LabelEncoding::Classes(codebook) => classes(&bytes, path, codebook),
        LabelEncoding::Binary => binary(&bytes, path),
        LabelEncoding::Objects(_) => Err(failed(path, "holds objects, which are no picture of labels")),
    }
}

fn classes(bytes: &[u8], path: &Path, codebook: &Codebook) -> Result<Labels> {
    let at = |index: usize, width: usize| format!("at column {}, row {}", index % width, index / width);
    if is_png(bytes)
        && let Some(mut labels) = numbers(Cursor::new(bytes), path)?
    {
        for (index, label) in labels.data.iter_mut().enumerate() {
            let number = *label;
            *label = codebook.numbers[usize::from(number)].ok_or_else(|| {
                failed(
                    path,
                    format!(
                        "holds the number {number} {}, which is no class: expected {}",
                        at(index, labels.width),
                        codebook.known()
                    ),
                )
            })?;
        }
        return Ok(labels);
    }
    let picture = decode(bytes, path)?.into_rgb8();
    let width = picture.width() as usize;
    if codebook.colors.is_empty() {
        return Err(failed(
            path,
            "stores colours, expected a palette or grey PNG of class numbers",
        ));
    }
    let mut last = codebook.colors[0];
    let data = picture
        .pixels()
        .enumerate()
        .map(|(index, pixel)| {
            if pixel.0 != last.0 {
                last = *codebook
                    .colors
                    .iter()
                    .find(|(color, _)| *color == pixel.0)
                    .ok_or_else(|| {
                        failed(
                            path,
                            format!(
                                "holds the colour {:?} {}, which is that of no class",
                                pixel.0,
                                at(index, width)
                            ),
                        )
                    })?;
            }
            Ok(last.1)
        })
        .collect::<Result<Vec<u8>>>()?;
    Ok(Labels {
        width,
        height: picture.height() as usize,
        data,
    })
}

/// A level this dark in an otherwise black mask is noise of its compression.
const NOISE: u8 = 31;

fn binary(bytes: &[u8], path: &Path) -> Result<Labels> {
    let labels = |grey: GrayImage, foreground: &dyn Fn(u8) -> bool| Labels {
        width: grey.width() as usize,
        height: grey.height() as usize,
        data: grey
            .into_raw()
            .into_iter()
            .map(|level| u8::from(foreground(level)))
            .collect(),
    };
    let grey = match decode(bytes, path)? {
        // Levels 0 and 1 of 16 bits must not be scaled away.
        DynamicImage::ImageLuma16(deep) if deep.pixels().all(|pixel| pixel.0[0] <= 1) => {
            GrayImage::from_fn(deep.width(), deep.height(), |x, y| {
                image::Luma([deep.get_pixel(x, y).0[0] as u8])
            })
        }
        picture => picture.into_luma8(),
    };
    let brightest = grey.pixels().map(|pixel| pixel.0[0]).max().unwrap_or(0);
    if brightest >= 128 {
        return Ok(labels(grey, &|level| level >= 128));
    }
    if is_png(bytes) && brightest == 1 {
        return Ok(labels(grey, &|level| level == 1));
    }
    // A dark palette: its second colour may be VOC's dark red.
    if is_png(bytes)
        && let Ok(Some(numbers)) = numbers(Cursor::new(bytes), path)
        && numbers.data.iter().all(|&number| number <= 1)
    {
        return Ok(numbers);
    }
    if brightest <= NOISE {
        return Ok(labels(grey, &|_| false));
    }
    Err(failed(
        path,
        format!("has no level above {brightest}: expected a mask of black and white, or of 0 and 1"),
    ))
}

fn is_png(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x89PNG")
}

fn decode(bytes: &[u8], path: &Path) -> Result<DynamicImage> {
    image::load_from_memory(bytes).map_err(|error| failed(path, error))
}

/// Reads a PNG's palette indices, or its grey levels, as they are stored: a palette is not applied.
///
/// # Errors
/// The file is not a PNG, stores colours rather than one number a pixel, or holds a number above 255.
pub fn read_index_png(path: &Path) -> Result<Labels> {
    let bytes = std::fs::read(path).map_err(|error| failed(path, error))?;
    decode_index_png(Cursor::new(bytes), path)
}

/// Decodes a PNG as [`read_index_png`] does; `path` stands for it in errors.
///
/// # Errors
/// As [`read_index_png`].
pub fn decode_index_png(png: impl BufRead + Seek, path: &Path) -> Result<Labels> {
    numbers(png, path)?.ok_or_else(|| {
        failed(
            path,
            "stores colours, found where a palette or grey PNG of class numbers was expected",
        )
    })
}

/// Reads a PNG of one number a pixel, 8 or 16 bits wide, as it is stored: width and height, and the numbers row by row.
///
/// # Errors
/// The file is not a PNG, or stores colours rather than one number a pixel.
pub(super) fn read_wide_png(path: &Path) -> Result<Wide> {
    let bytes = std::fs::read(path).map_err(|error| failed(path, error))?;
    wide_numbers(Cursor::new(bytes), path)?.ok_or_else(|| {
        failed(
            path,
            "stores colours, found where a grey PNG of numbers was expected",
        )
    })
}

/// The stored numbers of a PNG; `None` where it stores colours.
fn numbers(png: impl BufRead + Seek, path: &Path) -> Result<Option<Labels>> {
    let Some(((width, height), wide)) = wide_numbers(png, path)? else {
        return Ok(None);
    };
    let data = wide.into_iter().map(|number| {
        u8::try_from(number)
            .map_err(|_| failed(path, format!("holds the number {number}: classes are below 255")))
    });
    let data = data.collect::<Result<_>>()?;
    Ok(Some(Labels { width, height, data }))
}

/// Width, height and numbers.
type Wide = ((usize, usize), Vec<u16>);

fn wide_numbers(png: impl BufRead + Seek, path: &Path) -> Result<Option<Wide>> {
    let mut decoder = png::Decoder::new(png);
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(|error| failed(path, error))?;
    let (color, depth) = reader.output_color_type();
    if !matches!(color, png::ColorType::Indexed | png::ColorType::Grayscale) {
        return Ok(None);
    }
    let (width, height) = (reader.info().width, reader.info().height);
    if width.max(height) > MAX_SIDE {
        return Err(failed(
            path,
            format!("is {width}x{height}, expected at most {MAX_SIDE} pixels a side"),
        ));
    }
    let (width, height) = (width as usize, height as usize);
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
        match bits {
            16 => {
                let pairs = row.as_chunks::<2>().0.iter().take(width);
                data.extend(pairs.map(|pair| u16::from_be_bytes(*pair)));
            }
            8 => data.extend(row[..width].iter().map(|&byte| u16::from(byte))),
            _ => {
                let mask = (1_u8 << bits) - 1;
                let number = |x: usize| row[x * bits / 8] >> (8 - bits - x * bits % 8) & mask;
                data.extend((0..width).map(|x| u16::from(number(x))));
            }
        }
    }
    Ok(Some(((width, height), data)))
}

#[cfg(test)]
#[path = "labels_tests.rs"]
mod tests;
