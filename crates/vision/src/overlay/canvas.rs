//! The output picture as something to draw rectangles on.

use super::ink::Ink;
use crate::frame::{FrameFormat, PixelFormat};

/// Pixels; what lies outside the canvas is not drawn.
#[derive(Debug, Clone, Copy)]
pub struct Rect {
    /// First column.
    pub x: usize,
    /// First row.
    pub y: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// A picture without row padding.
#[derive(Debug)]
pub struct Canvas<'a> {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// What the pixels are.
    pub planes: Planes<'a>,
}

/// The samples of a canvas.
#[derive(Debug)]
pub enum Planes<'a> {
    /// Y, U, V; chroma at half width and height, rounded up.
    I420([&'a mut [u8]; 3]),
    /// R, G, B.
    Rgb24(&'a mut [u8]),
}

impl<'a> Canvas<'a> {
    /// A canvas of `format`, which is [`PixelFormat::I420`] or [`PixelFormat::Rgb24`], over its packed bytes.
    pub fn new(format: FrameFormat, data: &'a mut [u8]) -> Self {
        let (width, height) = (format.width, format.height);
        let planes = if format.pixel == PixelFormat::Rgb24 {
            Planes::Rgb24(data)
        } else {
            let (y, chroma) = data.split_at_mut(width * height);
            let (u, v) = chroma.split_at_mut(width.div_ceil(2) * height.div_ceil(2));
            Planes::I420([y, u, v])
        };
        Self {
            width,
            height,
            planes,
        }
    }

    /// Draws `ink` on `rect`. Chroma samples are drawn where `rect` covers their first pixel.
    pub fn fill(&mut self, rect: Rect, ink: Ink) {
        self.fill_bright(rect, ink);
        if let Planes::I420([_, u, v]) = &mut self.planes {
            let half = |n: usize| n.div_ceil(2);
            let (x0, x1) = (half(rect.x), half(self.width.min(rect.x + rect.width)));
            let (y0, y1) = (half(rect.y), half(self.height.min(rect.y + rect.height)));
            for (channel, plane) in [(1, u), (2, v)] {
                for row in rows(plane, half(self.width), x0, x1, y0, y1) {
                    row.iter_mut().for_each(|o| *o = ink.on(*o, channel));
                }
            }
        }
    }

    /// Draws `ink` on `rect`, leaving chroma planes as they are.
    pub fn fill_bright(&mut self, rect: Rect, ink: Ink) {
        let (x1, y1) = (
            self.width.min(rect.x + rect.width),
            self.height.min(rect.y + rect.height),
        );
        match &mut self.planes {
            Planes::I420([luma, ..]) => {
                for row in rows(luma, self.width, rect.x, x1, rect.y, y1) {
                    row.iter_mut().for_each(|o| *o = ink.on(*o, 0));
                }
            }
            Planes::Rgb24(data) => {
                for row in rows(data, 3 * self.width, 3 * rect.x, 3 * x1, rect.y, y1) {
                    for pixel in row.as_chunks_mut::<3>().0 {
                        *pixel = std::array::from_fn(|c| ink.on(pixel[c], c));
                    }
                }
            }
        }
    }
}

/// Elements `x0..x1` of rows `y0..y1`; none where the ends lie before the starts.
fn rows(
    plane: &mut [u8],
    stride: usize,
    x0: usize,
    x1: usize,
    y0: usize,
    y1: usize,
) -> impl Iterator<Item = &mut [u8]> {
    let count = if x0 < x1 { y1.saturating_sub(y0) } else { 0 };
    plane
        .chunks_exact_mut(stride)
        .skip(y0)
        .take(count)
        .map(move |row| &mut row[x0..x1])
}
