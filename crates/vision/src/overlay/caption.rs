//! One line of words on a picture, in its lower left corner, where no legend is.

use super::canvas::{Canvas, Rect};
use super::ink::{Ink, code};
use super::text::{GLYPH, draw_glyph, glyph};
use crate::frame::FrameFormat;

/// Between the picture's edge and the box, and inside the box, in font pixels.
const GAP: usize = 4;

/// Writes `text` onto the first [`FrameFormat::packed_bytes`] of `out`, a picture of `format` (I420 or RGB24), on a
/// darkened box: one output pixel a font pixel for each 320 rows, and less where the line would not fit.
///
/// # Panics
/// If `out` is too short.
pub fn caption(format: FrameFormat, text: &str, out: &mut [u8]) {
    let bytes = format.packed_bytes();
    let mut canvas = Canvas::new(format, &mut out[..bytes]);
    let letters = text.chars().count();
    if letters == 0 {
        return;
    }
    let fits = format.width / (GLYPH * letters + 4 * GAP);
    let s = ((format.height + 160) / 320).min(fits).max(1);
    // Even, so that chroma samples are wholly inside or outside.
    let top = format.height.saturating_sub((GLYPH + 3 * GAP) * s) & !1;
    let shaded = Rect {
        x: GAP * s,
        y: top,
        width: (2 * GAP + GLYPH * letters) * s,
        height: (2 * GAP + GLYPH) * s,
    };
    canvas.fill(shaded, Ink::new(code(format, [0; 3]), 160));
    let white = Ink::new(code(format, [255; 3]), 256);
    for (index, letter) in text.chars().enumerate() {
        let at = [(2 * GAP + GLYPH * index) * s, top + GAP * s];
        draw_glyph(&mut canvas, at, s, &glyph(letter), white);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PixelFormat;

    #[test]
    fn the_line_stands_in_the_lower_left_and_the_rest_stays() {
        let format = FrameFormat::new(PixelFormat::I420, 320, 240);
        let mut out = vec![200; format.packed_bytes()];
        caption(format, "preparing TensorRT: 3 min", &mut out);
        let changed: Vec<usize> = (0..320 * 240).filter(|&i| out[i] != 200).collect();
        assert!(
            changed
                .iter()
                .all(|i| i / 320 >= 240 - 20 && i % 320 < 4 + 8 + 8 * 25)
        );
        let bright = changed.iter().filter(|&&i| out[i] == 235).count();
        // As many font pixels as the letters have.
        let dots: u32 = "preparing TensorRT: 3 min"
            .chars()
            .flat_map(glyph)
            .map(u8::count_ones)
            .sum();
        assert_eq!(bright, dots as usize);
        assert!(
            out[320 * 240..].iter().any(|&c| c != 200),
            "the box has no colour of its own"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_fits_any_picture(
            text in ".{0,40}", width in 1usize..200, height in 1usize..200, rgb in proptest::bool::ANY,
        ) {
            let pixel = if rgb { PixelFormat::Rgb24 } else { PixelFormat::I420 };
            let format = FrameFormat::new(pixel, width, height);
            // A byte beyond the picture is not touched.
            let mut out = vec![7; format.packed_bytes() + 1];
            caption(format, &text, &mut out);
            proptest::prop_assert_eq!(out[format.packed_bytes()], 7);
        }
    }
}
