//! Picture files: photographs in, PNGs out. What is written appears whole or not at all.

use std::io::{BufWriter, Cursor, Write};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};

use crate::error::{Error, Result};
use crate::frame::{FrameFormat, ImageRef, Mask, PixelFormat};
use crate::model::contract::Class;

/// Extensions of picture files that are read, in lower case.
pub const EXTENSIONS: &[&str] = &["jpg", "jpeg", "png", "webp", "bmp"];

/// Largest side in pixels of a picture that is read.
pub const MAX_SIDE: u32 = 16_384;

/// Whether the file's extension is one of [`EXTENSIONS`].
pub fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    EXTENSIONS
        .iter()
        .any(|known| known.eq_ignore_ascii_case(extension))
}

/// Reads a picture, turned as its EXIF orientation says.
///
/// # Errors
/// Fatal, naming the file: unreadable, not a picture, damaged, or a side longer than [`MAX_SIDE`].
pub fn read_rgb(path: &Path) -> Result<RgbImage> {
    decode_rgb(&read(path)?, &path.display().to_string())
}

/// Reads a picture as it is stored, whatever its EXIF orientation says.
///
/// # Errors
/// As [`read_rgb`].
pub fn read_rgb_as_stored(path: &Path) -> Result<RgbImage> {
    decode(&read(path)?, &path.display().to_string(), false)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::fatal(format!("{}: can't be read", path.display())).caused_by(e))
}

/// Decodes a picture of any known type; `name` stands for it in errors.
///
/// # Errors
/// As [`read_rgb`].
pub fn decode_rgb(bytes: &[u8], name: &str) -> Result<RgbImage> {
    decode(bytes, name, true)
}

fn decode(bytes: &[u8], name: &str, turn: bool) -> Result<RgbImage> {
    let decode = || -> image::ImageResult<RgbImage> {
        let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
        let mut limits = Limits::default();
        limits.max_image_width = Some(MAX_SIDE);
        limits.max_image_height = Some(MAX_SIDE);
        reader.limits(limits);
        let mut decoder = reader.into_decoder()?;
        let orientation = decoder.orientation()?;
        let mut picture = DynamicImage::from_decoder(decoder)?;
        if turn {
            picture.apply_orientation(orientation);
        }
        Ok(picture.into_rgb8())
    };
    decode().map_err(|e| Error::fatal(format!("{name}: not a picture that can be read")).caused_by(e))
}

/// The picture as the stages take it.
///
/// # Errors
/// It has no pixels.
pub fn image_ref(picture: &RgbImage) -> Result<ImageRef<'_>> {
    let format = FrameFormat::new(
        PixelFormat::Rgb24,
        picture.width() as usize,
        picture.height() as usize,
    );
    ImageRef::packed(format, picture.as_raw()).map_err(Error::fatal)
}

/// Writes an RGB picture as PNG.
///
/// # Errors
/// Fatal if the file can't be written.
pub fn write_rgb_png(path: &Path, width: usize, height: usize, rgb: &[u8]) -> Result<()> {
    write_png(path, width, height, rgb, |encoder| {
        encoder.set_color(png::ColorType::Rgb)
    })
}

/// Writes a mask as an 8-bit palette PNG: the stored bytes are the class indices, the palette their colours.
///
/// # Errors
/// Fatal if the file can't be written.
pub fn write_index_png(path: &Path, mask: &Mask, classes: &[Class]) -> Result<()> {
    write_png(path, mask.width, mask.height, &mask.labels, |encoder| {
        encoder.set_color(png::ColorType::Indexed);
        // A palette of 256 colours, so that no reader packs the indices into fewer bits.
        let mut palette = vec![0; 3 * 256];
        for (slot, class) in palette.chunks_exact_mut(3).zip(classes) {
            slot.copy_from_slice(&class.color);
        }
        encoder.set_palette(palette);
    })
}

fn write_png(
    path: &Path,
    width: usize,
    height: usize,
    bytes: &[u8],
    set_color: impl FnOnce(&mut png::Encoder<'_, &mut Vec<u8>>),
) -> Result<()> {
    let failed =
        |e: png::EncodingError| Error::fatal(format!("{}: can't be encoded", path.display())).caused_by(e);
    let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, side(width), side(height));
    encoder.set_depth(png::BitDepth::Eight);
    set_color(&mut encoder);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(bytes).map_err(failed)?;
    writer.finish().map_err(failed)?;
    write_whole(path, &file)
}

/// Writes a file under a temporary name beside it, then renames it.
///
/// # Errors
/// Fatal, naming the file.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let write = || -> std::io::Result<()> {
        // As `File::create` would make it, less what the umask takes away.
        use std::os::unix::fs::PermissionsExt;
        let mut file = tempfile::Builder::new()
            .prefix(".segd-")
            .permissions(std::fs::Permissions::from_mode(0o666))
            .tempfile_in(folder)?;
        let mut writer = BufWriter::new(file.as_file_mut());
        writer.write_all(bytes)?;
        writer.flush()?;
        drop(writer);
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    write().map_err(|e| Error::fatal(format!("{}: can't be written", path.display())).caused_by(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::read_index_png;

    fn classes(n: u8) -> Vec<Class> {
        (0..n)
            .map(|i| Class {
                name: i.to_string(),
                color: [i, 2, 3],
                background: false,
                thing: false,
            })
            .collect()
    }

    #[test]
    fn indices_survive_a_palette_png() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.png");
        let mask = Mask {
            width: 5,
            height: 3,
            labels: (0..15).map(|i| i % 3).collect(),
        };
        write_index_png(&path, &mask, &classes(3)).unwrap();
        let read = read_index_png(&path).unwrap();
        assert_eq!((read.width, read.height, read.data), (5, 3, mask.labels));
        // Readers that apply palettes show the classes' colours.
        assert_eq!(image::open(&path).unwrap().to_rgb8().get_pixel(2, 0).0, [2, 2, 3]);
        // Nothing temporary is left.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn rgb_survives_a_png() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rgb.png");
        let bytes: Vec<u8> = (0..4 * 3 * 3).collect();
        write_rgb_png(&path, 4, 3, &bytes).unwrap();
        assert_eq!(read_rgb(&path).unwrap().into_raw(), bytes);
    }

    #[test]
    fn what_is_no_picture_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jpg");
        assert!(read_rgb(&path).unwrap_err().to_string().contains("x.jpg"));
        for bytes in [&b""[..], b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"hello"] {
            std::fs::write(&path, bytes).unwrap();
            let error = read_rgb(&path).unwrap_err();
            assert!(error.to_string().contains("x.jpg"), "{error}");
        }
    }

    #[test]
    fn a_huge_picture_is_refused_before_it_is_decoded() {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 100_000, 1);
        encoder.set_color(png::ColorType::Grayscale);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&vec![0; 100_000]).unwrap();
        writer.finish().unwrap();
        assert!(
            decode_rgb(&file, "wide.png")
                .unwrap_err()
                .to_string()
                .contains("wide.png")
        );
    }
}
