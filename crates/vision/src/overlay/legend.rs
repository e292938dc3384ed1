//! The box that names the classes in the picture.

use super::canvas::{Canvas, Rect};
use super::ink::Ink;
use super::text::{GLYPH, draw_glyph, glyph};

/// From line to line.
const LINE: usize = 10;
/// Between the picture's corner and the box, inside the box, and between swatch and name.
const GAP: usize = 4;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Opaque colour.
    pub swatch: Ink,
    glyphs: Vec<[u8; GLYPH]>,
}

impl Entry {
    /// A line with `name`; letters that the font lacks are question marks.
    pub fn new(name: &str, swatch: Ink) -> Self {
        Self {
            swatch,
            glyphs: name.chars().map(glyph).collect(),
        }
    }
}

/// Output pixels a font pixel, for a picture of `height` rows and a legend of `lines`: one for each 320 rows, fewer if
/// the lines would not fit, at least one.
fn scale(height: usize, lines: usize) -> usize {
    let fits = height / (lines * LINE + 4 * GAP);
    ((height + 160) / 320).min(fits).max(1)
}

/// The inks of box and letters.
#[derive(Debug, Clone, Copy)]
pub struct Inks {
    /// Darkens what lies under the box.
    pub shade: Ink,
    /// The letters.
    pub text: Ink,
}

/// Letters that a count takes behind a name, with the gap before it.
fn count_letters(count: Option<usize>) -> usize {
    count.map_or(0, |count| 2 + count.checked_ilog10().unwrap_or(0) as usize)
}

/// Draws the box in the upper left corner of the part of the canvas from column `left` on, clipped to it.
/// Behind a name stands how many there are, where that is known.
/// All sides are even, so that chroma samples are wholly inside or outside.
pub fn draw<'a>(
    canvas: &mut Canvas<'_>,
    left: usize,
    entries: impl Iterator<Item = (&'a Entry, Option<usize>)> + Clone,
    inks: Inks,
) {
    let lines = entries.clone().count();
    if lines == 0 {
        return;
    }
    let s = scale(canvas.height, lines);
    let letters = entries
        .clone()
        .map(|(e, count)| e.glyphs.len() + count_letters(count));
    let letters = letters.max().unwrap_or(0);
    let (x, y) = (left + GAP * s, GAP * s);
    canvas.fill(
        Rect {
            x,
            y,
            width: (3 * GAP + GLYPH + GLYPH * letters) * s,
            height: (2 * GAP + LINE * lines - (LINE - GLYPH)) * s,
        },
        inks.shade,
    );
    for (line, (entry, count)) in entries.enumerate() {
        let (x, y) = (x + GAP * s, y + (GAP + LINE * line) * s);
        canvas.fill(
            Rect {
                x,
                y,
                width: GLYPH * s,
                height: GLYPH * s,
            },
            entry.swatch,
        );
        for (letter, rows) in entry.glyphs.iter().enumerate() {
            let x = x + (GLYPH + GAP + GLYPH * letter) * s;
            draw_glyph(canvas, [x, y], s, rows, inks.text);
        }
        // From the last digit to the first.
        let mut rest = count.unwrap_or(0);
        for digit in (1..count_letters(count)).rev() {
            let x = x + (GLYPH + GAP + GLYPH * (entry.glyphs.len() + digit)) * s;
            let rows = glyph(char::from_digit((rest % 10) as u32, 10).unwrap_or('0'));
            draw_glyph(canvas, [x, y], s, &rows, inks.text);
            rest /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_with_the_picture_and_fits() {
        assert_eq!(scale(480, 2), 2);
        assert_eq!(scale(1080, 5), 3);
        assert_eq!(scale(240, 1), 1);
        assert_eq!(scale(480, 40), 1);
        // 21 lines of 10 and the gaps take 226 rows at scale 1.
        assert_eq!(scale(460, 21), 1);
        assert_eq!(scale(480, 21), 2);
    }

    #[test]
    fn unknown_letters_are_question_marks() {
        let ink = Ink::COPY;
        assert_eq!(
            Entry::new("a\u{4e00}\u{e9}", ink).glyphs[1],
            Entry::new("?", ink).glyphs[0]
        );
        assert_ne!(Entry::new("\u{e9}", ink).glyphs, Entry::new("?", ink).glyphs);
    }
}
