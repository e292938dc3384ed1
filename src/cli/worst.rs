//! The pictures that cost a score most, drawn: picture, truth, answer and what is wrong, side by side.

use std::path::Path;

use image::{Rgb, RgbImage};
use vision::dataset::Labels;
use vision::error::{Error, Result};

/// Pixels without a true label.
const VOID: Rgb<u8> = Rgb([200, 200, 200]);
/// Pixels whose label is wrong.
const WRONG: Rgb<u8> = Rgb([230, 0, 0]);
/// Between two panels.
const GAP: u32 = 4;

/// Draws four panels: `picture`, its true labels, the predicted ones, and the picture in grey with the wrong pixels red.
/// `colors` are those of the classes, RGB; other labels are light grey.
///
/// # Panics
/// If picture, truth and prediction differ in size.
fn panels(picture: &RgbImage, truth: &Labels, predicted: &[u8], colors: &[[u8; 3]]) -> RgbImage {
    let (width, height) = picture.dimensions();
    let paint = |label: u8| colors.get(usize::from(label)).map_or(VOID, |&c| Rgb(c));
    let mut sheet = RgbImage::from_pixel(4 * width + 3 * GAP, height, Rgb([255; 3]));
    for (x, y, &pixel) in picture.enumerate_pixels() {
        let at = y as usize * width as usize + x as usize;
        let (true_label, label) = (truth.data[at], predicted[at]);
        let scored = usize::from(true_label) < colors.len();
        let Rgb([r, g, b]) = pixel;
        let grey = ((u32::from(r) + u32::from(g) + u32::from(b)) / 6 + 110) as u8;
        let verdict = if scored && label != true_label {
            WRONG
        } else {
            Rgb([grey; 3])
        };
        for (panel, color) in [pixel, paint(true_label), paint(label), verdict]
            .into_iter()
            .enumerate()
        {
            sheet.put_pixel(panel as u32 * (width + GAP) + x, y, color);
        }
    }
    sheet
}

/// Writes [`panels`] to a PNG file in `folder`, named by its place among the worst, and the picture's own name.
///
/// # Errors
/// Fatal, naming the file, if it can't be written.
pub(super) fn write(
    (folder, place, name): (&Path, usize, &str),
    picture: &RgbImage,
    truth: &Labels,
    predicted: &[u8],
    colors: &[[u8; 3]],
) -> Result<()> {
    let flat: String = name.chars().map(|c| if c == '/' { '-' } else { c }).collect();
    let path = folder.join(format!("{place:03}-{flat}.png"));
    panels(picture, truth, predicted, colors)
        .save(&path)
        .map_err(|e| Error::fatal(format!("{}: can't be written", path.display())).caused_by(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_stand_side_by_side() {
        let picture = RgbImage::from_pixel(2, 1, Rgb([30, 60, 90]));
        let truth = Labels {
            width: 2,
            height: 1,
            data: vec![1, 255],
        };
        let colors = [[0, 0, 0], [0, 200, 0]];
        let sheet = panels(&picture, &truth, &[0, 1], &colors);
        assert_eq!(sheet.dimensions(), (8 + 12, 1));
        let row: Vec<[u8; 3]> = [0, 1, 6, 7, 12, 13, 18, 19]
            .map(|x| sheet.get_pixel(x, 0).0)
            .to_vec();
        let grey = [140; 3];
        assert_eq!(
            row,
            [
                [30, 60, 90],
                [30, 60, 90],
                [0, 200, 0],
                VOID.0,
                [0, 0, 0],
                [0, 200, 0],
                WRONG.0,
                grey
            ]
        );
    }
}
