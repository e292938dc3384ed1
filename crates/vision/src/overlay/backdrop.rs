//! Puts something else behind the classes that stay: a blur of the picture, a colour, or another picture. Pure, in place.
//!
//! A pixel's weight is how much of it stays: the mask of those classes, smoothed over 3x3 pixels (1 2 1 both ways, in
//! 16ths), so that an edge is soft over two pixels. The blur is made of background alone, so nothing that stays leaves a
//! halo: means of cells, smoothed, and interpolated between the cells' middles.

use std::sync::Arc;

use image::RgbImage;
use image::imageops::{FilterType, crop_imm, resize};
use simd::{Level, by_cpu};

use super::ink;
use crate::frame::{FrameFormat, LabelMap, PixelFormat};
use crate::scene::{Segment, is_by_class};

/// What stands behind the classes that stay.
#[derive(Debug, Clone, PartialEq)]
pub enum Behind {
    /// The picture without detail.
    Blur,
    /// A colour: red, green, blue.
    Color([u8; 3]),
    /// A picture, cut so that it covers the frame.
    Picture(Arc<RgbImage>),
}

/// A cell's side in pixels, even: a 30th of the picture's height, at least 8.
fn cell_side(height: usize) -> usize {
    (height / 30).max(8).next_multiple_of(2)
}

/// The blur of one plane.
#[derive(Debug)]
struct Cells {
    side: usize,
    columns: usize,
    rows: usize,
    /// Of each cell: the sum of its background's samples, and their number.
    sums: Vec<(u32, u32)>,
    /// The smoothed means, times 256.
    means: Vec<u16>,
    /// The means along the row that is being made.
    line: Vec<u16>,
}

/// Exchanges what is behind in pictures of one format. Allocates nothing after it is made.
#[derive(Debug)]
pub(super) struct Backdrop {
    format: FrameFormat,
    stays: [bool; 256],
    level: Level,
    /// The planes of what stands behind; those of a blur are made anew for each picture.
    behind: Vec<u8>,
    cells: Option<[Cells; 3]>,
    /// 1 for what stays, else 0.
    marks: Vec<u8>,
    /// Sums of three marks in a row, of three rows.
    sums: [Vec<u8>; 3],
    weights: Vec<u8>,
    chroma_weights: Vec<u8>,
}

/// The samples of a plane of the frame.
fn plane_size(format: FrameFormat, plane: usize) -> (usize, usize) {
    let size = PixelFormat::I420.plane_size(plane, format.width, format.height);
    (size.row_bytes, size.rows)
}

by_cpu! {
    /// Adds a mark, twice the one between, and the next, for each pixel of a row.
    fn sum_row(_cpu, marks: &[u8], out: &mut [u8]) {
        let last = marks.len() - 1;
        out[0] = 3 * marks[0] + marks[1.min(last)];
        out[last] = marks[last.saturating_sub(1)] + 3 * marks[last];
        if let Some(inner) = out.get_mut(1..last) {
            for (o, m) in inner.iter_mut().zip(marks.windows(3)) {
                *o = m[0] + 2 * m[1] + m[2];
            }
        }
    }
}

by_cpu! {
    /// The same for sums of three rows.
    fn sum_rows(_cpu, above: &[u8], row: &[u8], below: &[u8], out: &mut [u8]) {
        for (((o, a), r), b) in out.iter_mut().zip(above).zip(row).zip(below) {
            *o = a + 2 * r + b;
        }
    }
}

by_cpu! {
    /// The sum of each four weights: 64 for a chroma sample that stays.
    fn quarter(_cpu, upper: &[u8], lower: &[u8], out: &mut [u8]) {
        let pairs = upper.chunks(2).zip(lower.chunks(2));
        for (o, (a, b)) in out.iter_mut().zip(pairs) {
            // Past an odd width the last column counts twice.
            *o = a[0] + a[a.len() - 1] + b[0] + b[b.len() - 1];
        }
    }
}

by_cpu! {
    /// Blends: as much of `behind` as the weights leave of `1 << shift`.
    fn blend(_cpu, out: &mut [u8], behind: &[u8], weights: &[u8], shift: u32) {
        let (whole, half) = (1_u16 << shift, 1_u16 << (shift - 1));
        for ((o, b), w) in out.iter_mut().zip(behind).zip(weights) {
            let w = u16::from(*w);
            *o = ((u16::from(*o) * w + u16::from(*b) * (whole - w) + half) >> shift) as u8;
        }
    }
}

impl Backdrop {
    /// For pictures of `format`, which is I420, and masks of its size. `stays[label]` says whether a class stays; those
    /// beyond the list don't.
    ///
    /// # Panics
    /// If the format is not I420, or has no pixel.
    pub(super) fn new(format: FrameFormat, stays: &[bool], behind: &Behind) -> Self {
        assert_eq!(format.pixel, PixelFormat::I420, "outgoing pictures are I420");
        assert!(format.width > 0 && format.height > 0, "a picture has pixels");
        let mut of_label = [false; 256];
        for (all, one) in of_label.iter_mut().zip(stays) {
            *all = *one;
        }
        let planes = match behind {
            Behind::Blur => vec![0; format.packed_bytes()],
            Behind::Color(rgb) => flat(format, *rgb),
            Behind::Picture(picture) => covering(format, picture),
        };
        let cells = matches!(behind, Behind::Blur).then(|| {
            [0, 1, 2].map(|plane| {
                let side = cell_side(format.height) / if plane == 0 { 1 } else { 2 };
                let (width, height) = plane_size(format, plane);
                Cells::new(side, width, height)
            })
        });
        let (width, height) = (format.width, format.height);
        let (chroma_width, chroma_height) = plane_size(format, 1);
        Self {
            format,
            stays: of_label,
            level: Level::best(),
            behind: planes,
            cells,
            marks: vec![0; width * height],
            sums: [(); 3].map(|()| vec![0; width]),
            weights: vec![0; width * height],
            chroma_weights: vec![0; chroma_width * chroma_height],
        }
    }

    /// Exchanges what is behind in `out`, a packed picture. Without a mask, or with one of another size, all of it is
    /// behind. The map's numbers stand for `segments`; for classes, if there are none.
    ///
    /// # Panics
    /// If `out` is shorter than the picture.
    pub(super) fn put(&mut self, scene: Option<(&LabelMap, &[Segment])>, out: &mut [u8]) {
        let (width, height) = (self.format.width, self.format.height);
        let fits = |mask: &LabelMap| (mask.width, mask.height) == (width, height);
        match scene.filter(|(mask, _)| fits(mask)) {
            Some((mask, segments)) => self.mark(mask, segments),
            None => self.marks.fill(0),
        }
        self.weigh();
        let out = &mut out[..self.format.packed_bytes()];
        let mut at = 0;
        for plane in 0..3 {
            let (width, height) = plane_size(self.format, plane);
            let samples = width * height;
            let part = &mut out[at..at + samples];
            let behind = &mut self.behind[at..at + samples];
            if let Some(cells) = &mut self.cells {
                let step = if plane == 0 { 1 } else { 2 };
                cells[plane].blur(
                    part,
                    (width, height),
                    (&self.marks, self.format.width, step),
                    behind,
                );
            }
            match plane {
                0 => blend(self.level, part, behind, &self.weights, 4),
                _ => blend(self.level, part, behind, &self.chroma_weights, 6),
            }
            at += samples;
        }
    }

    fn mark(&mut self, mask: &LabelMap, segments: &[Segment]) {
        let mut stays = self.stays;
        if !is_by_class(segments) {
            // What is doubtful, or has no segment, is behind.
            for (number, stays) in stays.iter_mut().enumerate() {
                *stays = segments
                    .get(number)
                    .is_some_and(|s| !s.doubtful && self.stays[usize::from(s.class).min(255)]);
            }
        }
        let marks = stays.map(u8::from);
        for (mark, &label) in self.marks.iter_mut().zip(&mask.labels) {
            *mark = marks[usize::from(label)];
        }
    }

    /// Marks to weights.
    fn weigh(&mut self) {
        let (width, height) = (self.format.width, self.format.height);
        let row = |y: usize| y * width..(y + 1) * width;
        // Of rows y - 1, y and y + 1; those at the border count for the ones beyond it.
        let [above, here, below] = &mut self.sums;
        sum_row(self.level, &self.marks[row(0)], here);
        above.copy_from_slice(here);
        for y in 0..height {
            let next = (y + 1).min(height - 1);
            sum_row(self.level, &self.marks[row(next)], below);
            sum_rows(self.level, above, here, below, &mut self.weights[row(y)]);
            std::mem::swap(above, here);
            std::mem::swap(here, below);
        }
        let (chroma_width, chroma_height) = plane_size(self.format, 1);
        for y in 0..chroma_height {
            let (upper, lower) = (row(2 * y), row((2 * y + 1).min(height - 1)));
            let out = &mut self.chroma_weights[y * chroma_width..(y + 1) * chroma_width];
            quarter(self.level, &self.weights[upper], &self.weights[lower], out);
        }
    }
}

/// A picture of one colour.
fn flat(format: FrameFormat, rgb: [u8; 3]) -> Vec<u8> {
    let mut out = Vec::with_capacity(format.packed_bytes());
    for (plane, code) in ink::code(format, rgb).into_iter().enumerate() {
        let (width, height) = plane_size(format, plane);
        out.resize(out.len() + width * height, code);
    }
    out
}

/// A picture that covers the frame: what of it is too wide or too high is cut at both sides.
fn covering(format: FrameFormat, picture: &RgbImage) -> Vec<u8> {
    let (width, height) = (format.width as u32, format.height as u32);
    let (w, h) = picture.dimensions();
    // The largest part of the frame's shape.
    let part_w = (u64::from(h) * u64::from(width) / u64::from(height)).clamp(1, u64::from(w.max(1))) as u32;
    let part_h = (u64::from(w) * u64::from(height) / u64::from(width)).clamp(1, u64::from(h.max(1))) as u32;
    let part = crop_imm(picture, (w - part_w) / 2, (h - part_h) / 2, part_w, part_h);
    let scaled = resize(&part.to_image(), width, height, FilterType::Triangle);
    let codes: Vec<[u8; 3]> = scaled.pixels().map(|pixel| ink::code(format, pixel.0)).collect();
    let mut out: Vec<u8> = codes.iter().map(|code| code[0]).collect();
    let (chroma_width, chroma_height) = plane_size(format, 1);
    for channel in [1, 2] {
        for y in 0..chroma_height {
            for x in 0..chroma_width {
                let at = |x: usize, y: usize| {
                    let (x, y) = (x.min(format.width - 1), y.min(format.height - 1));
                    u16::from(codes[y * format.width + x][channel])
                };
                let sum =
                    at(2 * x, 2 * y) + at(2 * x + 1, 2 * y) + at(2 * x, 2 * y + 1) + at(2 * x + 1, 2 * y + 1);
                out.push(((sum + 2) / 4) as u8);
            }
        }
    }
    out
}

impl Cells {
    fn new(side: usize, width: usize, height: usize) -> Self {
        let (columns, rows) = (width.div_ceil(side), height.div_ceil(side));
        Self {
            side,
            columns,
            rows,
            sums: vec![(0, 0); columns * rows],
            means: vec![0; columns * rows],
            line: vec![0; columns],
        }
    }

    /// Blurs a plane's background into `out`. `marks`: those of the pixels, their row's length, and how many pixels a
    /// sample of this plane has along it.
    fn blur(
        &mut self,
        plane: &[u8],
        (width, height): (usize, usize),
        (marks, stride, step): (&[u8], usize, usize),
        out: &mut [u8],
    ) {
        self.sums.fill((0, 0));
        for y in 0..height {
            let samples = &plane[y * width..(y + 1) * width];
            let marks = &marks[y * step * stride..][..stride];
            let sums = &mut self.sums[y / self.side * self.columns..][..self.columns];
            for (x, sum) in sums.iter_mut().enumerate() {
                let from = x * self.side;
                for (n, &sample) in samples[from..width.min(from + self.side)].iter().enumerate() {
                    let background = 1 - u32::from(marks[(from + n) * step]);
                    sum.0 += background * u32::from(sample);
                    sum.1 += background;
                }
            }
        }
        self.smooth();
        for (y, row) in out.chunks_exact_mut(width).enumerate() {
            self.row(y, row);
        }
    }

    /// The means of 3x3 cells, 1 2 1 both ways, each by its background. What has none near is grey: it is not seen.
    fn smooth(&mut self) {
        for y in 0..self.rows {
            for x in 0..self.columns {
                let (mut sum, mut count) = (0_u64, 0_u64);
                for cy in y.saturating_sub(1)..(y + 2).min(self.rows) {
                    for cx in x.saturating_sub(1)..(x + 2).min(self.columns) {
                        let weight = (2 - cy.abs_diff(y) as u64) * (2 - cx.abs_diff(x) as u64);
                        let (s, n) = self.sums[cy * self.columns + cx];
                        sum += weight * u64::from(s);
                        count += weight * u64::from(n);
                    }
                }
                self.means[y * self.columns + x] = match count {
                    0 => 128 << 8,
                    // A mean of bytes is a byte.
                    _ => ((256 * sum + count / 2) / count) as u16,
                };
            }
        }
    }

    /// The two cells of a place, and how far it is from the first one's middle to the second's, in 512ths.
    fn between(&self, at: usize, cells: usize) -> (usize, usize, u32) {
        // Twice the distance from the middle of cell 0.
        let from = (2 * at + 1).saturating_sub(self.side);
        let first = (from / (2 * self.side)).min(cells - 1);
        let part = from - first * 2 * self.side;
        let part = (part * 512 / (2 * self.side)).min(512) as u32;
        (first, (first + 1).min(cells - 1), part)
    }

    fn row(&mut self, y: usize, out: &mut [u8]) {
        let (above, below, part) = self.between(y, self.rows);
        let columns = self.columns;
        for x in 0..columns {
            let (a, b) = (self.means[above * columns + x], self.means[below * columns + x]);
            self.line[x] = ((u32::from(a) * (512 - part) + u32::from(b) * part + 256) / 512) as u16;
        }
        for (x, sample) in out.iter_mut().enumerate() {
            let (left, right, part) = self.between(x, columns);
            let (a, b) = (u32::from(self.line[left]), u32::from(self.line[right]));
            *sample = ((a * (512 - part) + b * part + 65_536) / 131_072).min(255) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{Colorimetry, Matrix, Range};

    fn i420(width: usize, height: usize) -> FrameFormat {
        FrameFormat::new(PixelFormat::I420, width, height)
    }

    /// A picture in which every sample differs from its neighbours.
    fn noise(format: FrameFormat) -> Vec<u8> {
        (0..format.packed_bytes() as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect()
    }

    /// How much of a pixel stays, by the definition.
    fn weight(mask: &LabelMap, x: usize, y: usize) -> u32 {
        let mut sum = 0;
        for (dy, ky) in [(-1, 1), (0, 2), (1, 1)] {
            for (dx, kx) in [(-1, 1), (0, 2), (1, 1)] {
                let x = (x as isize + dx).clamp(0, mask.width as isize - 1) as usize;
                let y = (y as isize + dy).clamp(0, mask.height as isize - 1) as usize;
                sum += ky * kx * u32::from(mask.labels[y * mask.width + x] == 1);
            }
        }
        sum
    }

    /// What stands behind at each sample of a plane, by the definition, in floating point.
    fn blurred(format: FrameFormat, plane: usize, picture: &[u8], mask: &LabelMap) -> Vec<f64> {
        let (width, height) = plane_size(format, plane);
        let step = if plane == 0 { 1 } else { 2 };
        let side = cell_side(format.height) / step;
        let (columns, rows) = (width.div_ceil(side), height.div_ceil(side));
        let cell = |cx: usize, cy: usize| {
            let (mut sum, mut count) = (0.0, 0.0);
            for y in cy * side..height.min((cy + 1) * side) {
                for x in cx * side..width.min((cx + 1) * side) {
                    if mask.labels[y * step * mask.width + x * step] != 1 {
                        sum += f64::from(picture[y * width + x]);
                        count += 1.0;
                    }
                }
            }
            (sum, count)
        };
        let mean = |cx: usize, cy: usize| {
            let (mut sum, mut count) = (0.0, 0.0);
            for y in cy.saturating_sub(1)..(cy + 2).min(rows) {
                for x in cx.saturating_sub(1)..(cx + 2).min(columns) {
                    let weight = (2 - y.abs_diff(cy)) as f64 * (2 - x.abs_diff(cx)) as f64;
                    let (s, n) = cell(x, y);
                    sum += weight * s;
                    count += weight * n;
                }
            }
            if count == 0.0 { 128.0 } else { sum / count }
        };
        let means: Vec<f64> = (0..rows * columns)
            .map(|n| mean(n % columns, n / columns))
            .collect();
        let place = |at: usize, cells: usize| {
            let from = ((at as f64 + 0.5) / side as f64 - 0.5).clamp(0.0, cells as f64 - 1.0);
            let first = from.floor() as usize;
            (first, (first + 1).min(cells - 1), from - first as f64)
        };
        (0..width * height)
            .map(|n| {
                let (x0, x1, fx) = place(n % width, columns);
                let (y0, y1, fy) = place(n / width, rows);
                let at = |x: usize, y: usize| means[y * columns + x];
                let upper = at(x0, y0) * (1.0 - fx) + at(x1, y0) * fx;
                let lower = at(x0, y1) * (1.0 - fx) + at(x1, y1) * fx;
                upper * (1.0 - fy) + lower * fy
            })
            .collect()
    }

    fn expected(format: FrameFormat, picture: &[u8], mask: &LabelMap, behind: &Behind) -> Vec<f64> {
        let mut out = Vec::new();
        let mut at = 0;
        for plane in 0..3 {
            let (width, height) = plane_size(format, plane);
            let part = &picture[at..at + width * height];
            let back = match behind {
                Behind::Blur => blurred(format, plane, part, mask),
                Behind::Color(rgb) => vec![f64::from(ink::code(format, *rgb)[plane]); part.len()],
                Behind::Picture(_) => unreachable!("it has tests of its own"),
            };
            for (n, &sample) in part.iter().enumerate() {
                let (x, y) = (n % width, n / width);
                let stays = if plane == 0 {
                    f64::from(weight(mask, x, y)) / 16.0
                } else {
                    let x1 = (2 * x + 1).min(format.width - 1);
                    let y1 = (2 * y + 1).min(format.height - 1);
                    let sum = weight(mask, 2 * x, 2 * y)
                        + weight(mask, x1, 2 * y)
                        + weight(mask, 2 * x, y1)
                        + weight(mask, x1, y1);
                    f64::from(sum) / 64.0
                };
                out.push(f64::from(sample) * stays + back[n] * (1.0 - stays));
            }
            at += width * height;
        }
        out
    }

    proptest! {
        #[test]
        fn every_level_agrees_with_the_definition(
            width in 1usize..70, height in 1usize..70,
            boxes in prop::collection::vec((0usize..70, 0usize..70, 1usize..40, 1usize..40), 0..3),
            blur in any::<bool>(),
        ) {
            let mut mask = LabelMap::zeros(width, height);
            for (left, top, w, h) in boxes {
                for y in top..height.min(top + h) {
                    for x in left..width.min(left + w) {
                        mask.labels[y * width + x] = 1;
                    }
                }
            }
            let format = i420(width, height);
            let behind = if blur { Behind::Blur } else { Behind::Color([10, 200, 60]) };
            let before = noise(format);
            let wanted = expected(format, &before, &mask, &behind);
            for level in Level::available() {
                let mut backdrop = Backdrop::new(format, &[false, true], &behind);
                backdrop.level = level;
                let mut out = before.clone();
                backdrop.put(Some((&mask, &[])), &mut out);
                for (n, (&found, &wanted)) in out.iter().zip(&wanted).enumerate() {
                    prop_assert!(
                        (f64::from(found) - wanted).abs() <= 1.1,
                        "{}: sample {n} is {found}, not {wanted}", level.as_str()
                    );
                }
            }
        }
    }

    #[test]
    fn an_edge_is_soft_over_two_pixels_and_the_rest_is_as_it_was() {
        let format = i420(16, 8);
        let mut mask = LabelMap::zeros(16, 8);
        for row in mask.labels.chunks_exact_mut(16) {
            row[8..].fill(1);
        }
        let mut out = vec![200; format.packed_bytes()];
        let black = Behind::Color([0; 3]);
        Backdrop::new(format, &[false, true], &black).put(Some((&mask, &[])), &mut out);
        for row in out[..16 * 8].chunks_exact(16) {
            assert_eq!(row[..7], [16; 7]);
            assert_eq!(row[7..9], [62, 154], "a quarter and three");
            assert_eq!(row[9..], [200; 7]);
        }
    }

    #[test]
    fn without_a_mask_all_of_it_is_behind() {
        let format = i420(32, 16);
        let mut backdrop = Backdrop::new(format, &[true, true], &Behind::Color([255, 0, 0]));
        let mut out = noise(format);
        backdrop.put(None, &mut out);
        assert_eq!(out, flat(format, [255, 0, 0]));
        let mut out = noise(format);
        backdrop.put(Some((&LabelMap::zeros(8, 8), &[])), &mut out);
        assert_eq!(out, flat(format, [255, 0, 0]), "a mask of another size");
        // A blur leaves no detail.
        let mut out = noise(format);
        Backdrop::new(format, &[true], &Behind::Blur).put(None, &mut out);
        let luma = &out[..32 * 16];
        assert!(
            luma.windows(2).all(|pair| pair[0].abs_diff(pair[1]) < 12),
            "{luma:?}"
        );
    }

    #[test]
    fn objects_that_are_doubtful_are_behind() {
        let format = i420(8, 8);
        let mut mask = LabelMap::zeros(8, 8);
        mask.labels[32..].fill(1);
        let segment = |doubtful| Segment {
            instance: Some(1),
            doubtful,
            ..Segment::of_class(1)
        };
        for (doubtful, last) in [(false, 200), (true, 16)] {
            let segments = [Segment::of_class(0), segment(doubtful)];
            let mut out = vec![200; format.packed_bytes()];
            let black = Behind::Color([0; 3]);
            Backdrop::new(format, &[false, true], &black).put(Some((&mask, &segments)), &mut out);
            assert_eq!((out[0], out[63]), (16, last));
        }
    }

    #[test]
    fn a_picture_covers_the_frame_and_keeps_its_shape() {
        // Red, green, blue and white, 10 pixels each, in a row; the frame shows the two in the middle.
        let colors = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255; 3]];
        let picture = RgbImage::from_fn(40, 10, |x, _| image::Rgb(colors[x as usize / 10]));
        let mut format = i420(40, 20);
        format.color = Colorimetry {
            matrix: Matrix::Bt709,
            range: Range::Full,
        };
        let mut out = noise(format);
        let behind = Behind::Picture(Arc::new(picture));
        Backdrop::new(format, &[false], &behind).put(Some((&LabelMap::zeros(40, 20), &[])), &mut out);
        let [green, blue] = [[0, 255, 0], [0, 0, 255]].map(|rgb| ink::code(format, rgb));
        for row in out[..40 * 20].chunks_exact(40) {
            assert_eq!(
                (row[0], row[15], row[25], row[39]),
                (green[0], green[0], blue[0], blue[0])
            );
        }
        let u = &out[40 * 20..][..20 * 10];
        assert_eq!((u[0], u[19]), (green[1], blue[1]));
    }
}
