//! Letters of legends, notices and captions.

use font8x8::{BASIC_FONTS, LATIN_FONTS, UnicodeFonts};

use super::canvas::{Canvas, Rect};
use super::ink::Ink;

/// Sides of a letter in font pixels.
pub const GLYPH: usize = 8;

/// A letter's rows of pixels, the lowest bit leftmost; a question mark for letters that the font lacks.
pub fn glyph(letter: char) -> [u8; GLYPH] {
    let find = |c: char| BASIC_FONTS.get(c).or_else(|| LATIN_FONTS.get(c));
    find(letter).or_else(|| find('?')).unwrap_or([0; GLYPH])
}

/// Draws a letter with its upper left corner at column and row `at`, `scale` output pixels a font pixel. Chroma stays
/// as it is.
pub fn draw_glyph(canvas: &mut Canvas<'_>, at: [usize; 2], scale: usize, rows: &[u8; GLYPH], ink: Ink) {
    for (row, bits) in rows.iter().enumerate() {
        for column in (0..GLYPH).filter(|column| bits >> column & 1 == 1) {
            let dot = Rect {
                x: at[0] + column * scale,
                y: at[1] + row * scale,
                width: scale,
                height: scale,
            };
            canvas.fill_bright(dot, ink);
        }
    }
}
