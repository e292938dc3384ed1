//! A picture with a few words, for when there is no picture to show.

use super::canvas::{Canvas, Rect};
use super::ink::{Ink, code};
use super::text::{GLYPH, draw_glyph, glyph};
use crate::frame::FrameFormat;

/// From line to line, in font pixels.
const LINE: usize = 12;

/// Fills the first [`FrameFormat::packed_bytes`] of `out` with dark grey and writes `lines` in its middle, as
/// large as a third of the picture's height and its whole width allow. `format` is I420 or RGB24.
///
/// # Panics
/// If `out` is too short.
pub fn notice(format: FrameFormat, lines: &[&str], out: &mut [u8]) {
    let bytes = format.packed_bytes();
    let mut canvas = Canvas::new(format, &mut out[..bytes]);
    let (width, height) = (format.width, format.height);
    let whole = Rect {
        x: 0,
        y: 0,
        width,
        height,
    };
    canvas.fill(whole, Ink::new(code(format, [32; 3]), 256));
    let letters = lines.iter().map(|l| l.chars().count()).max().unwrap_or(0);
    if letters == 0 {
        return;
    }
    let by_width = width / (GLYPH * (letters + 2));
    let by_height = height / (3 * LINE * lines.len());
    let s = by_width.min(by_height).max(1);
    let white = Ink::new(code(format, [235; 3]), 256);
    let top = (height / 2).saturating_sub(s * LINE * lines.len() / 2);
    for (row, line) in lines.iter().enumerate() {
        let left = (width / 2).saturating_sub(s * GLYPH * line.chars().count() / 2);
        for (column, letter) in line.chars().enumerate() {
            let at = [left + s * GLYPH * column, top + s * LINE * row];
            draw_glyph(&mut canvas, at, s, &glyph(letter), white);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PixelFormat;

    #[test]
    fn text_is_bright_on_dark_and_nothing_of_the_old_picture_is_left() {
        for (width, height) in [(320, 240), (17, 33), (1, 1)] {
            let format = FrameFormat::new(PixelFormat::I420, width, height);
            let mut out = vec![200; format.packed_bytes()];
            notice(format, &["camera lost", "12 s"], &mut out);
            let luma = &out[..width * height];
            assert!(luma.iter().all(|&y| y == 43 || y == 218), "two tones only");
            assert!(out[width * height..].iter().all(|&c| c == 128));
            if width == 320 {
                let bright = luma.iter().filter(|&&y| y == 218).count();
                assert!((500..20_000).contains(&bright), "{bright}");
                let middle = luma[width * (height / 2 - 40)..width * (height / 2 + 40)].iter();
                assert_eq!(middle.filter(|&&y| y == 218).count(), bright, "in the middle");
            }
        }
    }
}
