//! Picture, truth, prediction and errors side by side.

use anyhow::Result;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{Rgb, RgbImage};
use vision::dataset::{DatasetClass, IGNORE, Labels};

/// Pixels without a label.
const UNLABELLED: [u8; 3] = [255; 3];
/// Pixels with a wrong label, on the sheet's last panel.
const WRONG: [u8; 3] = [230, 30, 30];
/// Width of a panel in pixels, at most.
pub const PANEL: u32 = 320;
const QUALITY: u8 = 88;

/// The colour of a label.
#[must_use]
pub fn color(classes: &[DatasetClass], label: u8) -> [u8; 3] {
    match classes.get(usize::from(label)) {
        Some(class) => class.color,
        None if label == IGNORE => UNLABELLED,
        None => [255, 0, 255],
    }
}

/// A picture with its labels in their colours over it; `background`, where given, is left as it is.
#[must_use]
pub fn overlay(
    image: &RgbImage,
    labels: &[u8],
    classes: &[DatasetClass],
    background: Option<u8>,
) -> RgbImage {
    let mut out = image.clone();
    for (pixel, &label) in out.pixels_mut().zip(labels) {
        if Some(label) == background {
            continue;
        }
        let color = color(classes, label);
        pixel.0 = std::array::from_fn(|c| ((u16::from(color[c]) * 3 + u16::from(pixel.0[c]) * 2) / 5) as u8);
    }
    out
}

/// The four panels of a picture: as it is, its true labels, the predicted ones, and in red where they differ.
///
/// The picture is brought down to [`PANEL`] pixels a panel; labels of pixels without a true one are white in the second
/// panel and dark in the last.
#[must_use]
pub fn panels(image: &RgbImage, truth: &Labels, predicted: &[u8], classes: &[DatasetClass]) -> RgbImage {
    let (width, height) = image.dimensions();
    let shown = width.min(PANEL);
    let (w, h) = (shown, (height * shown / width).max(1));
    let small = image::imageops::resize(image, w, h, FilterType::Triangle);
    let at = |x: u32, y: u32| {
        let (x, y) = ((2 * x + 1) * width / (2 * w), (2 * y + 1) * height / (2 * h));
        (y * width + x) as usize
    };
    RgbImage::from_fn(4 * w, h, |x, y| {
        let (panel, x) = (x / w, x % w);
        let index = at(x, y);
        let (truth, predicted) = (truth.data[index], predicted[index]);
        let pixel = small.get_pixel(x, y).0;
        Rgb(match panel {
            0 => pixel,
            1 => color(classes, truth),
            2 => color(classes, predicted),
            _ if truth == IGNORE => pixel.map(|level| level / 4),
            _ if truth != predicted => WRONG,
            _ => {
                let grey = pixel.iter().map(|&level| u16::from(level)).sum::<u16>() / 3;
                [(grey / 2 + 100) as u8; 3]
            }
        })
    })
}

/// The picture as JPEG.
///
/// # Errors
/// It can't be encoded.
pub fn jpeg(image: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode_image(image)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<DatasetClass> {
        [("a", [10, 20, 30]), ("b", [200, 0, 0])]
            .map(|(name, color)| DatasetClass {
                name: name.into(),
                color,
            })
            .into()
    }

    #[test]
    fn panels_show_truth_prediction_and_errors() {
        let image = RgbImage::from_pixel(3, 1, Rgb([100, 100, 100]));
        let truth = Labels {
            width: 3,
            height: 1,
            data: vec![0, 1, IGNORE],
        };
        let sheet = panels(&image, &truth, &[0, 0, 1], &classes());
        let row: Vec<[u8; 3]> = sheet.pixels().map(|pixel| pixel.0).collect();
        assert_eq!(row[..3], [[100; 3]; 3]);
        assert_eq!(row[3..6], [[10, 20, 30], [200, 0, 0], UNLABELLED]);
        assert_eq!(row[6..9], [[10, 20, 30], [10, 20, 30], [200, 0, 0]]);
        assert_eq!(row[9..], [[150; 3], WRONG, [25; 3]]);
    }

    #[test]
    fn large_pictures_are_brought_down() {
        let image = RgbImage::new(1000, 500);
        let truth = Labels {
            width: 1000,
            height: 500,
            data: vec![0; 500_000],
        };
        assert_eq!(
            panels(&image, &truth, &vec![0; 500_000], &classes()).dimensions(),
            (4 * PANEL, 160)
        );
    }

    #[test]
    fn an_overlay_leaves_the_background() {
        let image = RgbImage::from_pixel(2, 1, Rgb([100, 100, 100]));
        let drawn = overlay(&image, &[0, 1], &classes(), Some(0));
        assert_eq!(drawn.get_pixel(0, 0).0, [100; 3]);
        assert_eq!(drawn.get_pixel(1, 0).0, [160, 40, 40]);
    }
}
