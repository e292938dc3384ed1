//! Single objects: a colour for each, an outline, and a label with its number and how sure it is.

use std::fmt::Write;

use super::canvas::{Canvas, Rect};
use super::contour::{Contour, radius};
use super::ink::Ink;
use super::legend::Inks;
use super::text::{GLYPH, draw_glyph, glyph};
use crate::frame::LabelMap;
use crate::scene::{Extent, Segment, measure};

/// An object is labelled from this share of the picture on, in a ten-thousandth.
const LABELLED: usize = 4;
/// Between a label's box and its letters, in font pixels.
const GAP: usize = 2;
/// A label moves only as far as its object has left it behind by more than this, in font pixels.
const SLACK: usize = 4;

/// The colour of the object called `number`: neighbours in the count are far apart in hue.
pub fn color(number: u32) -> [u8; 3] {
    // The golden ratio's part of the circle, in a 2^32-nd.
    let hue = f64::from(number.wrapping_mul(2_654_435_769)) / f64::from(u32::MAX) * 6.0;
    // Saturation 0.75, so that each channel is at least a quarter.
    let channel = |shift: f64| {
        let at = (hue + shift) % 6.0;
        let share = (2.0 - (at - 3.0).abs()).clamp(0.0, 1.0);
        (255.0 * (1.0 - 0.75 * share)).round() as u8
    };
    [channel(3.0), channel(1.0), channel(5.0)].map(|c| c.max(64))
}

/// Where a label was drawn last.
#[derive(Debug, Clone, Copy)]
struct Placed {
    track: u32,
    at: [usize; 2],
    is_there: bool,
}

/// What is kept from picture to picture.
#[derive(Debug, Default)]
pub struct Labels {
    pub extents: Vec<Extent>,
    contour: Contour,
    row: Vec<u8>,
    placed: Vec<Placed>,
    text: String,
}

/// Something to outline and to label.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a> {
    /// Its place among the segments.
    pub number: usize,
    pub segment: &'a Segment,
    pub class: &'a str,
}

impl Labels {
    /// Finds where each segment is.
    pub fn measure(&mut self, mask: &LabelMap, segments: usize) {
        measure(mask, segments, &mut self.extents);
    }

    /// Draws the outlines of the numbers that have an ink. `nothing` is a number that no segment has.
    pub fn outline(
        &mut self,
        canvas: &mut Canvas<'_>,
        mask: &LabelMap,
        inks: &[Option<Ink>; 256],
        nothing: u8,
    ) {
        // Half as wide as a contour, which stands alone.
        let radius = radius(mask.height).div_ceil(2);
        self.row.resize(mask.width, 0);
        for y in 0..mask.height {
            self.contour.row(&mask.labels, y, radius, nothing, &mut self.row);
            let mut x = 0;
            for run in self.row.chunk_by(|a, b| a == b) {
                if let Some(ink) = inks[usize::from(run[0])].filter(|_| run[0] != nothing) {
                    let (width, height) = (run.len(), 1);
                    canvas.fill(Rect { x, y, width, height }, ink);
                }
                x += run.len();
            }
        }
    }

    /// Writes the labels, each at the upper left corner of its object.
    pub fn write<'a>(
        &mut self,
        canvas: &mut Canvas<'_>,
        objects: impl Iterator<Item = Object<'a>>,
        inks: Inks,
    ) {
        self.placed.iter_mut().for_each(|placed| placed.is_there = false);
        let s = (canvas.height / 480).max(1);
        let least = canvas.width * canvas.height * LABELLED / 10_000;
        for object in objects {
            let Some(extent) = self.extents.get(object.number).copied() else {
                continue;
            };
            if (extent.area as usize) < least.max(1) {
                continue;
            }
            let sure = (100.0 * object.segment.score).round() as u32;
            self.text.clear();
            // Writing into a string can't fail.
            let _ = match object.segment.track {
                Some(track) => write!(self.text, "{} #{track} {sure}%", object.class),
                None => write!(self.text, "{} {sure}%", object.class),
            };
            let letters = self.text.chars().count();
            let (width, height) = ((GLYPH * letters + 2 * GAP) * s, (GLYPH + 2 * GAP) * s);
            let inside = |at: u32, length: usize, side: usize| (at as usize).min(side.saturating_sub(length));
            let wanted = [
                inside(extent.bbox.x, width, canvas.width),
                inside(extent.bbox.y, height, canvas.height),
            ];
            let [x, y] = self.place(object.segment.track, wanted, SLACK * s);
            canvas.fill(Rect { x, y, width, height }, inks.shade);
            for (index, letter) in self.text.chars().enumerate() {
                let at = [x + (GAP + GLYPH * index) * s, y + GAP * s];
                draw_glyph(canvas, at, s, &glyph(letter), inks.text);
            }
        }
        self.placed.retain(|placed| placed.is_there);
    }

    /// Where a label goes that is wanted at a place: where it was, if that is near; otherwise as little further as does.
    fn place(&mut self, track: Option<u32>, wanted: [usize; 2], slack: usize) -> [usize; 2] {
        let Some(track) = track else {
            return wanted;
        };
        let known = self.placed.iter_mut().find(|placed| placed.track == track);
        let Some(known) = known else {
            self.placed.push(Placed {
                track,
                at: wanted,
                is_there: true,
            });
            return wanted;
        };
        known.is_there = true;
        known.at = [0, 1].map(|axis| {
            let (low, high) = (wanted[axis].saturating_sub(slack), wanted[axis] + slack);
            known.at[axis].clamp(low, high)
        });
        known.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_have_colours_far_apart() {
        for a in 0..12 {
            for b in 0..a {
                let distance: u32 = color(a)
                    .iter()
                    .zip(color(b))
                    .map(|(x, y)| u32::from(x.abs_diff(y)))
                    .sum();
                assert!(distance > 40, "{a} {:?} {b} {:?}", color(a), color(b));
            }
        }
    }

    #[test]
    fn a_label_stays_while_its_object_trembles_and_follows_it_when_it_goes() {
        let mut labels = Labels::default();
        assert_eq!(labels.place(Some(3), [50, 50], 4), [50, 50]);
        for wanted in [[53, 48], [47, 54], [50, 50]] {
            assert_eq!(labels.place(Some(3), wanted, 4), [50, 50]);
        }
        assert_eq!(labels.place(Some(3), [60, 50], 4), [56, 50]);
        assert_eq!(labels.place(Some(4), [0, 0], 4), [0, 0]);
        assert_eq!(labels.place(None, [9, 9], 4), [9, 9]);
    }
}
