//! Picture files: photographs in, PNGs out. What is written appears whole or not at all.

use std::io::{BufWriter, Cursor, Write};
use std::path::Path;

use image::codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{AnimationDecoder, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use tracing::warn;

use crate::error::{Error, Result};
use crate::file;
use crate::frame::{FrameFormat, ImageRef, LabelMap, PixelFormat};
use crate::model::contract::Class;

/// Extensions of picture files that are read, in lower case.
pub const EXTENSIONS: &[&str] = &["jpg", "jpeg", "png", "webp", "bmp", "gif", "apng"];

/// What stands behind transparent pixels: white, as paper and most viewers have it.
pub const BACKGROUND: [u8; 3] = [255; 3];

/// Largest side in pixels of a picture that is read.
pub const MAX_SIDE: u32 = 16_384;

/// Largest picture file in bytes that is read.
const MAX_BYTES: u64 = 1 << 30;

/// Whether the file's extension is one of [`EXTENSIONS`].
pub fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    EXTENSIONS
        .iter()
        .any(|known| known.eq_ignore_ascii_case(extension))
}

/// Reads a picture, turned as its EXIF orientation says, transparent pixels laid onto [`BACKGROUND`]. Of an animation
/// the first picture is taken, and a warning says so.
///
/// # Errors
/// Fatal, naming the file: unreadable, not a picture, damaged, cut short, or a side longer than [`MAX_SIDE`].
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
    file::read(path, MAX_BYTES)
        .map_err(|e| Error::fatal(format!("{}: can't be read", path.display())).caused_by(e))
}

/// Decodes a picture of any known type; `name` stands for it in errors.
///
/// # Errors
/// As [`read_rgb`].
pub fn decode_rgb(bytes: &[u8], name: &str) -> Result<RgbImage> {
    decode(bytes, name, true)
}

/// The colours of a picture, transparent pixels laid onto [`BACKGROUND`]: what lies hidden under them is no part of it.
pub fn opaque(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let picture = picture.into_rgba8();
    let mut out = RgbImage::new(picture.width(), picture.height());
    for (to, from) in out.pixels_mut().zip(picture.pixels()) {
        let [red, green, blue, alpha] = from.0;
        for ((to, color), behind) in to.0.iter_mut().zip([red, green, blue]).zip(BACKGROUND) {
            *to = over(color, behind, alpha);
        }
    }
    out
}

/// A sample of `alpha` 255ths before one behind it.
#[inline]
pub fn over(sample: u8, behind: u8, alpha: u8) -> u8 {
    let alpha = u32::from(alpha);
    ((u32::from(sample) * alpha + u32::from(behind) * (255 - alpha) + 127) / 255) as u8
}

/// Whether a JPEG reaches its end marker (ITU-T T.81, B.1.1): decoders fill what is missing with grey, without a word.
pub fn jpeg_is_whole(jpeg: &[u8]) -> bool {
    let mut at = 2;
    loop {
        let (Some(&byte), Some(&marker)) = (jpeg.get(at), jpeg.get(at + 1)) else {
            return false;
        };
        at += match (byte, marker) {
            (0xff, 0xd9) => return true,
            // Fill bytes may stand before a marker.
            (0xff, 0xff) => 1,
            // Within a scan: a byte 0xff of the data, a restart.
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => 2,
            // A segment, which states its length.
            (0xff, _) => match (jpeg.get(at + 2), jpeg.get(at + 3)) {
                (Some(&high), Some(&low)) => 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
            _ => 1,
        };
    }
}

/// Whether a file holds several pictures that follow each other: an animated GIF, WebP or PNG.
pub fn is_animation(bytes: &[u8]) -> bool {
    let input = Cursor::new(bytes);
    match image::guess_format(bytes) {
        Ok(ImageFormat::Gif) => GifDecoder::new(input)
            .is_ok_and(|decoder| decoder.into_frames().take(2).filter(Result::is_ok).count() > 1),
        Ok(ImageFormat::WebP) => WebPDecoder::new(input).is_ok_and(|decoder| decoder.has_animation()),
        Ok(ImageFormat::Png) => {
            PngDecoder::new(input).is_ok_and(|decoder| decoder.is_apng().unwrap_or(false))
        }
        _ => false,
    }
}

fn decode(bytes: &[u8], name: &str, turn: bool) -> Result<RgbImage> {
    let decode = || -> image::ImageResult<RgbImage> {
        let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
        let mut limits = Limits::default();
        limits.max_image_width = Some(MAX_SIDE);
        limits.max_image_height = Some(MAX_SIDE);
        reader.limits(limits);
        let mut decoder = reader.into_decoder()?;
        // A broken EXIF block says nothing about the pixels.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut picture = DynamicImage::from_decoder(decoder)?;
        if turn {
            picture.apply_orientation(orientation);
        }
        Ok(opaque(picture))
    };
    let picture =
        decode().map_err(|e| Error::fatal(format!("{name}: not a picture that can be read")).caused_by(e))?;
    if bytes.starts_with(b"\xff\xd8") && !jpeg_is_whole(bytes) {
        return Err(
            Error::fatal(format!("{name}: the picture is cut short: the JPEG has no end"))
                .hint("copy it again from where it came"),
        );
    }
    if is_animation(bytes) {
        warn!("{name}: an animation; its first picture is taken");
    }
    Ok(picture)
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
    let png = encode_png(width, height, rgb, |encoder| {
        encoder.set_color(png::ColorType::Rgb);
    });
    write_png(path, png)
}

/// Writes 16-bit grey levels as PNG.
///
/// # Errors
/// Fatal if the file can't be written.
pub fn write_grey16_png(path: &Path, width: usize, height: usize, levels: &[u16]) -> Result<()> {
    let bytes: Vec<u8> = levels.iter().flat_map(|level| level.to_be_bytes()).collect();
    let png = encode_png(width, height, &bytes, |encoder| {
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Sixteen);
    });
    write_png(path, png)
}

/// Writes a mask as an 8-bit palette PNG: the stored bytes are the class indices, the palette their colours.
///
/// # Errors
/// Fatal if the file can't be written.
pub fn write_index_png(path: &Path, mask: &LabelMap, classes: &[Class]) -> Result<()> {
    write_png(path, index_png(mask, classes))
}

/// A mask as an 8-bit palette PNG: the stored bytes are the class indices, the palette their colours.
///
/// # Errors
/// If the mask has no pixels, or not as many labels as its sides say.
pub fn index_png(mask: &LabelMap, classes: &[Class]) -> std::result::Result<Vec<u8>, png::EncodingError> {
    encode_png(mask.width, mask.height, &mask.labels, |encoder| {
        encoder.set_color(png::ColorType::Indexed);
        // A palette of 256 colours, so that no reader packs the indices into fewer bits.
        let mut palette = vec![0; 3 * 256];
        for (slot, class) in palette.chunks_exact_mut(3).zip(classes) {
            slot.copy_from_slice(&class.color);
        }
        encoder.set_palette(palette);
    })
}

fn encode_png(
    width: usize,
    height: usize,
    bytes: &[u8],
    set_color: impl FnOnce(&mut png::Encoder<'_, &mut Vec<u8>>),
) -> std::result::Result<Vec<u8>, png::EncodingError> {
    let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, side(width), side(height));
    encoder.set_depth(png::BitDepth::Eight);
    set_color(&mut encoder);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(bytes)?;
    writer.finish()?;
    Ok(file)
}

fn write_png(path: &Path, png: std::result::Result<Vec<u8>, png::EncodingError>) -> Result<()> {
    let png = png.map_err(|e| Error::fatal(format!("{}: can't be encoded", path.display())).caused_by(e))?;
    write_whole(path, &png)
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
        let mask = LabelMap {
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
    fn a_jpeg_without_its_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("photo.jpg");
        let photo = RgbImage::from_fn(64, 48, |x, y| {
            image::Rgb([4 * x as u8, 5 * y as u8, ((x * y) % 251) as u8])
        });
        photo.save(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert!(jpeg_is_whole(&whole));
        // What follows the end is no part of the picture.
        assert!(jpeg_is_whole(&[&whole[..], b"\xff\xd8trailer"].concat()));
        for end in [whole.len() - 2, whole.len() * 3 / 4, whole.len() / 2] {
            assert!(!jpeg_is_whole(&whole[..end]), "{end} of {}", whole.len());
            assert!(decode_rgb(&whole[..end], "photo.jpg").is_err());
        }
        let error = decode_rgb(&whole[..whole.len() - 40], "photo.jpg").unwrap_err();
        assert!(
            error.to_string().contains("photo.jpg: the picture is cut short"),
            "{error}"
        );
    }

    #[test]
    fn an_end_marker_inside_a_segment_is_none() {
        // A thumbnail in APP1 has an end of its own.
        let mut jpeg = b"\xff\xd8\xff\xe1\0\x08\xff\xd8\xff\xd9..".to_vec();
        assert!(!jpeg_is_whole(&jpeg));
        jpeg.extend(b"\xff\xda\0\x02\x12\xff\0\xff\xd3\x34");
        assert!(!jpeg_is_whole(&jpeg));
        jpeg.extend(b"\xff\xff\xd9");
        assert!(jpeg_is_whole(&jpeg));
        for length in 0..jpeg.len() {
            assert!(!jpeg_is_whole(&jpeg[..length]), "{length}");
        }
    }

    #[test]
    fn transparent_pixels_show_the_background() {
        use image::{ImageBuffer, LumaA, Rgba};
        let rgba = |pixel| DynamicImage::from(ImageBuffer::from_pixel(1, 1, Rgba::<u8>(pixel)));
        let shown = |picture| opaque(picture).get_pixel(0, 0).0;
        assert_eq!(shown(rgba([10, 20, 30, 255])), [10, 20, 30]);
        assert_eq!(shown(rgba([10, 20, 30, 0])), BACKGROUND);
        assert_eq!(shown(rgba([255, 0, 100, 0])), BACKGROUND);
        assert_eq!(shown(rgba([0, 100, 200, 51])), [204, 224, 244]);
        let grey = ImageBuffer::from_pixel(1, 1, LumaA::<u8>([0, 51]));
        assert_eq!(shown(DynamicImage::from(grey)), [204; 3]);
        let deep = ImageBuffer::from_pixel(1, 1, Rgba::<u16>([0, 0, 0, 0]));
        assert_eq!(shown(DynamicImage::from(deep)), BACKGROUND);
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
