//! Frame and mask to output frame, in the frame's own colours: Y, U and V are blended as they are.
//!
//! A class has one ink, opaque or not, in the samples of the output. A sample becomes
//! `(sample * (256 - a) + ink * a + 128) / 256`, where `a` is the opacity in 256ths. A chroma sample stands for
//! four pixels (two at an odd edge, one in an odd corner); it becomes the rounded mean of what it would become
//! under each of them. 4:2:2 pictures come out as 4:2:0, the two rows averaged in the same step.

mod backdrop;
mod canvas;
mod caption;
mod contour;
mod ink;
mod legend;
mod notice;
mod objects;
mod rows;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::frame::{FrameFormat, ImageRef, LabelMap, PixelFormat};
use crate::model::contract::Class;
use crate::scene::{Segment, is_by_class};

use backdrop::Backdrop;
pub use backdrop::Behind;
use canvas::{Canvas, Planes};
pub use caption::caption;
use contour::Contour;
use ink::Ink;
use legend::Entry;
pub use notice::notice;
use objects::{Labels as ObjectLabels, Object};
use rows::{ChromaRows, Inks};

/// The legend names a class that takes at least this many pixels of a thousand.
const LEGEND_PER_MILLE: usize = 1;

/// What is made of picture and mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Visualize {
    /// Class colours blended onto the picture.
    #[default]
    Overlay,
    /// Class colours on black.
    Mask,
    /// The class index itself as brightness (Y, or R = G = B), without colour: for programs.
    Labels,
    /// The picture with the borders of classes drawn in their colours.
    Contour,
    /// The picture, and on its right the overlay.
    SideBySide,
    /// The overlay with each object in a colour of its own, outlined and labelled with its number and score.
    Instances,
    /// The overlay, things and stuff in the colours of their classes, with each object outlined in a colour of its own and
    /// labelled with its number and score.
    Panoptic,
}

impl Visualize {
    /// As in options and configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Mask => "mask",
            Self::Labels => "labels",
            Self::Contour => "contour",
            Self::SideBySide => "side-by-side",
            Self::Instances => "instances",
            Self::Panoptic => "panoptic",
        }
    }
}

impl fmt::Display for Visualize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Visualize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::value_variants()
            .iter()
            .copied()
            .find(|v| v.as_str() == text)
            .ok_or_else(|| {
                let known: Vec<_> = Self::value_variants().iter().map(|v| v.as_str()).collect();
                format!("{text:?} is none of {}", known.join(", "))
            })
    }
}

/// How masks are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct OverlayOptions {
    /// What is made of picture and mask.
    pub mode: Visualize,
    /// Opacity of colours on the picture, 0 to 1; other values are clamped. Masks and contours are opaque.
    pub alpha: f32,
    /// Labels of the classes to draw; all that are not background if `None`. [`Visualize::Labels`] shows all.
    pub shown: Option<Vec<u8>>,
    /// Objects of a lower score are not drawn, 0 to 1. What tells no objects apart is drawn whatever its score.
    pub score: f32,
    /// Name the classes that are drawn and take at least a thousandth of the picture, in the upper left corner.
    /// [`Visualize::Labels`] has no legend.
    pub legend: bool,
    /// With [`Visualize::Overlay`], on YUV pictures: the classes that would be drawn stay as they are, and this stands in
    /// place of all else. Without a mask that is all of the picture. Nothing else is drawn.
    pub behind: Option<Behind>,
}

impl Default for OverlayOptions {
    fn default() -> Self {
        Self {
            mode: Visualize::Overlay,
            alpha: 0.5,
            shown: None,
            score: 0.0,
            legend: true,
            behind: None,
        }
    }
}

/// Draws masks onto frames of one format. All tables and rows are made once.
#[derive(Debug)]
pub struct Painter {
    format: FrameFormat,
    output: FrameFormat,
    options: OverlayOptions,
    /// An ink for each class.
    inks: Box<Inks>,
    /// An ink for each segment, where segments are not classes.
    segment_inks: Box<Inks>,
    /// For a picture without a mask: the same for each label.
    bare: Box<Inks>,
    /// A label that draws nothing.
    hidden: u8,
    /// A legend line for each drawn class.
    entries: Vec<(u8, Entry)>,
    /// The names of the classes, for labels.
    names: Vec<String>,
    colors: Vec<[u8; 3]>,
    objects: ObjectLabels,
    legend_inks: legend::Inks,
    contour: Contour,
    /// The contour's labels of the whole picture.
    borders: Vec<u8>,
    /// Labels of a row of a picture without a mask.
    no_labels: Vec<u8>,
    scratch: Deinterleaved,
    backdrop: Option<Box<Backdrop>>,
}

impl Painter {
    /// For frames of `format` and masks whose label `i` is `classes[i]`. Labels without a class are not drawn.
    ///
    /// Of 256 drawn classes the last has no contour: the label stands for "none" there.
    pub fn new(format: FrameFormat, classes: &[Class], options: OverlayOptions) -> Self {
        let yuv = format.pixel != PixelFormat::Rgb24;
        let black = Ink::new(ink::code(format, [0; 3]), 256);
        let (nothing, opacity) = match options.mode {
            Visualize::Overlay | Visualize::SideBySide | Visualize::Instances | Visualize::Panoptic => {
                (Ink::COPY, ink::opacity(options.alpha))
            }
            Visualize::Contour => (Ink::COPY, 256),
            Visualize::Mask | Visualize::Labels => (black, 256),
        };
        let mut inks = Box::new([nothing; 256]);
        let mut entries = Vec::new();
        let mut is_drawn = [false; 256];
        for (label, class) in (0..=255_u8).zip(classes) {
            let drawn = match &options.shown {
                Some(shown) => shown.contains(&label),
                None => !class.background,
            };
            if drawn {
                is_drawn[usize::from(label)] = true;
                let code = ink::code(format, class.color);
                inks[usize::from(label)] = Ink::new(code, opacity);
                entries.push((label, Entry::new(&class.name, Ink::new(code, 256))));
            }
        }
        if options.mode == Visualize::Labels {
            for (label, ink) in (0..=255_u8).zip(inks.iter_mut()) {
                *ink = Ink::new(if yuv { [label, 128, 128] } else { [label; 3] }, 256);
            }
        }
        let hidden = (0..=255_u8).find(|&l| !is_drawn[usize::from(l)]).unwrap_or(255);
        if options.mode == Visualize::Contour {
            inks[usize::from(hidden)] = nothing;
        }
        let mut output = format;
        if yuv {
            output.pixel = PixelFormat::I420;
        }
        if options.mode == Visualize::SideBySide {
            output.width = 2 * half_width(format);
        }
        let backdrop = options
            .behind
            .as_ref()
            .filter(|_| yuv && options.mode == Visualize::Overlay && format.width * format.height > 0)
            .map(|behind| Box::new(Backdrop::new(output, &is_drawn, behind)));
        let borders = match options.mode {
            Visualize::Contour => format.width * format.height,
            _ => 0,
        };
        Self {
            format,
            output,
            inks,
            segment_inks: Box::new([nothing; 256]),
            bare: Box::new([nothing; 256]),
            hidden,
            entries,
            names: classes.iter().map(|class| class.name.clone()).collect(),
            colors: classes.iter().map(|class| class.color).collect(),
            objects: ObjectLabels::default(),
            legend_inks: legend::Inks {
                shade: Ink::new(ink::code(format, [0; 3]), 166),
                text: Ink::new(ink::code(format, [255; 3]), 256),
            },
            contour: Contour::default(),
            borders: vec![0; borders],
            no_labels: vec![0; format.width],
            scratch: Deinterleaved::new(format),
            backdrop,
            options,
        }
    }

    /// The format of what is painted: [`PixelFormat::I420`] for YUV frames, [`PixelFormat::Rgb24`] for RGB ones,
    /// with the frame's size and colorimetry. [`Visualize::SideBySide`] doubles the width, after rounding it up
    /// to an even one for YUV (the column that this adds repeats the last).
    pub fn output_format(&self) -> FrameFormat {
        self.output
    }

    /// Paints `mask` onto `image` into the first [`FrameFormat::packed_bytes`] of `out`, planes without padding.
    ///
    /// Without a mask, or with one of another size, the picture goes out as it is, or black for
    /// [`Visualize::Mask`] and [`Visualize::Labels`].
    ///
    /// # Panics
    /// If `image` is not of the painter's format, or `out` is shorter than the output.
    pub fn paint(&mut self, image: &ImageRef<'_>, mask: Option<&LabelMap>, out: &mut [u8]) {
        self.paint_segments(image, mask.map(|mask| (mask, &[][..])), out);
    }

    /// As [`paint`](Self::paint) for a map whose numbers stand for `segments`; for classes, if there are none. Each is
    /// drawn as its class is, with [`Visualize::Instances`] each object in its own colour, with [`Visualize::Panoptic`] outlined
    /// in it; borders run between segments, and the legend names classes and counts their objects.
    ///
    /// # Panics
    /// As [`paint`](Self::paint).
    pub fn paint_segments(
        &mut self,
        image: &ImageRef<'_>,
        scene: Option<(&LabelMap, &[Segment])>,
        out: &mut [u8],
    ) {
        if let Some(backdrop) = &mut self.backdrop {
            assert_eq!(
                image.format, self.format,
                "the painter was made for another format"
            );
            let out = &mut out[..self.output.packed_bytes()];
            let none = Labels::same(&self.no_labels);
            let mut canvas = Canvas::new(self.output, out);
            paint_at(image, none, &self.bare, &mut canvas, 0, &mut self.scratch);
            backdrop.put(scene, out);
            return;
        }
        let (mask, segments) = (scene.map(|(mask, _)| mask), scene.map_or(&[][..], |(_, s)| s));
        let by_class = is_by_class(segments);
        let no_class = usize::from(self.hidden);
        let least = self.options.score;
        // Numbers without a segment have no class either, and what is doubtful or too unsure is not shown.
        let class_of = |number: usize| match segments.get(number).filter(|segment| is_drawn(segment, least)) {
            Some(segment) => usize::from(segment.class).min(255),
            None => no_class,
        };
        let mut hidden = self.hidden;
        if !by_class {
            for number in 0..256 {
                self.segment_inks[number] = self.inks[class_of(number)];
            }
            hidden = (0..=255_u8)
                .find(|&n| usize::from(n) >= segments.len())
                .unwrap_or(255);
            if self.options.mode == Visualize::Instances {
                let numbered = are_numbered(segments);
                for (number, segment) in segments.iter().enumerate().take(256) {
                    if let Some(color) = self.own_color(segment, numbered) {
                        let opacity = ink::opacity(self.options.alpha);
                        self.segment_inks[number] = Ink::new(ink::code(self.format, color), opacity);
                    }
                }
            }
            if self.options.mode == Visualize::Contour {
                self.segment_inks[usize::from(hidden)] = self.bare[0];
            }
        }
        assert_eq!(
            image.format, self.format,
            "the painter was made for another format"
        );
        let (width, height) = (self.format.width, self.format.height);
        let whole_mask = mask;
        let mask = mask
            .filter(|m| (m.width, m.height) == (width, height) && m.labels.len() == width * height)
            .map(|m| m.labels.as_slice());
        let bytes = self.output.packed_bytes();
        let mut canvas = Canvas::new(self.output, &mut out[..bytes]);
        let mut left = 0;
        if self.options.mode == Visualize::SideBySide {
            let none = Labels::same(&self.no_labels);
            paint_at(image, none, &self.bare, &mut canvas, 0, &mut self.scratch);
            left = half_width(self.format);
        }
        let mask_inks = if by_class { &self.inks } else { &self.segment_inks };
        let (labels, inks) = match mask {
            None => (Labels::same(&self.no_labels), &self.bare),
            Some(mask) if self.options.mode == Visualize::Contour => {
                let radius = contour::radius(height);
                for (y, row) in self.borders.chunks_exact_mut(width).enumerate() {
                    self.contour.row(mask, y, radius, hidden, row);
                }
                (Labels::each(&self.borders, width), mask_inks)
            }
            Some(mask) => (Labels::each(mask, width), mask_inks),
        };
        paint_at(image, labels, inks, &mut canvas, left, &mut self.scratch);
        if let (Some(_), Some(whole)) = (mask, whole_mask)
            && !by_class
        {
            self.objects.measure(whole, segments.len());
            if matches!(self.options.mode, Visualize::Instances | Visualize::Panoptic) {
                self.draw_objects(whole, segments, hidden, &mut canvas);
            }
        }
        if let Some(mask) = mask
            && self.options.legend
            && self.options.mode != Visualize::Labels
        {
            let mut counts = [0; 256];
            rows::count(mask, &mut counts);
            if !by_class {
                let numbers = counts;
                counts = [0; 256];
                for (number, pixels) in numbers.iter().enumerate() {
                    counts[class_of(number)] += pixels;
                }
            }
            let least = (mask.len() * LEGEND_PER_MILLE / 1000).max(1);
            let present = self
                .entries
                .iter()
                .filter(|(label, _)| counts[usize::from(*label)] as usize >= least)
                .map(|(label, entry)| {
                    let objects = segments.iter().zip(&self.objects.extents).filter(|(s, e)| {
                        s.class == u16::from(*label)
                            && s.instance.is_some()
                            && is_drawn(s, self.options.score)
                            && e.area > 0
                    });
                    let is_thing = segments
                        .iter()
                        .any(|s| s.class == u16::from(*label) && s.instance.is_some());
                    (entry, (!by_class && is_thing).then(|| objects.count()))
                });
            legend::draw(&mut canvas, left, present, self.legend_inks);
        }
    }
}

impl Painter {
    /// The colour of an object that is drawn; `None` for anything else. In a video, an object that has no number yet has its
    /// class's colour.
    fn own_color(&self, segment: &Segment, numbered: bool) -> Option<[u8; 3]> {
        let drawn = self
            .entries
            .iter()
            .any(|(label, _)| u16::from(*label) == segment.class);
        let is_drawn = drawn && is_drawn(segment, self.options.score);
        let instance = segment.instance.filter(|_| is_drawn)?;
        match segment.track {
            Some(track) => Some(objects::color(track)),
            None if numbered => self.colors.get(usize::from(segment.class)).copied(),
            None => Some(objects::color(instance)),
        }
    }

    /// Outlines and labels.
    fn draw_objects(&mut self, mask: &LabelMap, segments: &[Segment], hidden: u8, canvas: &mut Canvas<'_>) {
        let mut inks = [None; 256];
        let numbered = are_numbered(segments);
        for (ink, segment) in inks.iter_mut().zip(segments) {
            *ink = self
                .own_color(segment, numbered)
                .map(|color| Ink::new(ink::code(self.format, color), 256));
        }
        self.objects.outline(canvas, mask, &inks, hidden);
        let drawn = segments
            .iter()
            .enumerate()
            .filter(|(number, _)| matches!(inks.get(*number), Some(Some(_))));
        let named = drawn.map(|(number, segment)| Object {
            number,
            segment,
            class: self
                .names
                .get(usize::from(segment.class))
                .map_or("", String::as_str),
        });
        self.objects.write(canvas, named, self.legend_inks);
    }
}

/// Whether a segment is surely there, and sure enough if it is an object.
fn is_drawn(segment: &Segment, least: f32) -> bool {
    !segment.doubtful && (segment.instance.is_none() || segment.score >= least)
}

/// Whether objects have numbers that last, as in a video.
fn are_numbered(segments: &[Segment]) -> bool {
    segments.iter().any(|segment| segment.track.is_some())
}

/// Columns of the left part of a side-by-side picture.
fn half_width(format: FrameFormat) -> usize {
    match format.pixel {
        PixelFormat::Rgb24 => format.width,
        _ => format.width.next_multiple_of(2),
    }
}

/// The labels of a picture, row by row.
#[derive(Clone, Copy)]
struct Labels<'a> {
    data: &'a [u8],
    width: usize,
    stride: usize,
}

impl<'a> Labels<'a> {
    fn each(data: &'a [u8], width: usize) -> Self {
        Self {
            data,
            width,
            stride: width,
        }
    }

    /// The same for each row.
    fn same(row: &'a [u8]) -> Self {
        Self {
            data: row,
            width: row.len(),
            stride: 0,
        }
    }

    fn row(&self, y: usize) -> &'a [u8] {
        &self.data[y * self.stride..][..self.width]
    }
}

/// Rows of the samples of an interleaved picture.
#[derive(Debug)]
struct Deinterleaved {
    luma: Vec<u8>,
    /// Of two rows.
    u: [Vec<u8>; 2],
    v: [Vec<u8>; 2],
}

impl Deinterleaved {
    fn new(format: FrameFormat) -> Self {
        let half = || vec![0; format.width.div_ceil(2)];
        Self {
            luma: vec![0; format.width],
            u: [half(), half()],
            v: [half(), half()],
        }
    }

    /// Luma of row `y`.
    fn luma<'s>(&'s mut self, image: &ImageRef<'s>, y: usize) -> &'s [u8] {
        let (width, plane) = (image.width(), image.plane(0));
        if image.format.pixel != PixelFormat::Yuyv {
            return plane.row(y, width);
        }
        let row = plane.row(y, 4 * width.div_ceil(2));
        rows::take::<2>(row, 0, &mut self.luma);
        &self.luma
    }

    /// Chroma of pixel rows `y` and `y + 1`, or `y` twice at the bottom of an odd height; `y` is even.
    fn chroma<'s>(&'s mut self, image: &ImageRef<'s>, y: usize) -> ChromaRows<'s> {
        let half = image.width().div_ceil(2);
        match image.format.pixel {
            PixelFormat::Nv12 => {
                let row = image.plane(1).row(y / 2, 2 * half);
                rows::take::<2>(row, 0, &mut self.u[0]);
                rows::take::<2>(row, 1, &mut self.v[0]);
                ChromaRows {
                    u: [&self.u[0], &self.u[0]],
                    v: [&self.v[0], &self.v[0]],
                }
            }
            PixelFormat::Yuyv => {
                for (of_two, (u, v)) in self.u.iter_mut().zip(&mut self.v).enumerate() {
                    let y = (y + of_two).min(image.height() - 1);
                    let row = image.plane(0).row(y, 4 * half);
                    rows::take::<4>(row, 1, u);
                    rows::take::<4>(row, 3, v);
                }
                ChromaRows {
                    u: [&self.u[0], &self.u[1]],
                    v: [&self.v[0], &self.v[1]],
                }
            }
            // RGB has no chroma and does not come here.
            PixelFormat::I420 | PixelFormat::Rgb24 => {
                let (u, v) = (image.plane(1).row(y / 2, half), image.plane(2).row(y / 2, half));
                ChromaRows { u: [u, u], v: [v, v] }
            }
        }
    }
}

/// Paints `image` with its `labels` at column `left` of the canvas; `left` is even for YUV.
fn paint_at(
    image: &ImageRef<'_>,
    labels: Labels<'_>,
    inks: &Inks,
    canvas: &mut Canvas<'_>,
    left: usize,
    scratch: &mut Deinterleaved,
) {
    let (width, height, out_width) = (image.width(), image.height(), canvas.width);
    match &mut canvas.planes {
        Planes::Rgb24(out) => {
            for (y, row) in out.chunks_exact_mut(3 * out_width).enumerate() {
                let from = image.plane(0).row(y, 3 * width);
                rows::rgb(from, labels.row(y), inks, &mut row[3 * left..3 * (left + width)]);
            }
        }
        Planes::I420([out_y, out_u, out_v]) => {
            for (y, row) in out_y.chunks_exact_mut(out_width).enumerate() {
                let from = scratch.luma(image, y);
                rows::luma(from, labels.row(y), inks, &mut row[left..left + width]);
                if left + width < out_width && width % 2 == 1 {
                    row[left + width] = row[left + width - 1];
                }
            }
            let (half, stride) = (width.div_ceil(2), out_width.div_ceil(2));
            let rows_u = out_u.chunks_exact_mut(stride);
            let rows_v = out_v.chunks_exact_mut(stride);
            for (row, (out_u, out_v)) in rows_u.zip(rows_v).enumerate() {
                let upper = labels.row(2 * row);
                let lower = labels.row((2 * row + 1).min(height - 1));
                let from = scratch.chroma(image, 2 * row);
                let at = left / 2..left / 2 + half;
                rows::chroma(from, upper, lower, inks, &mut out_u[at.clone()], &mut out_v[at]);
            }
        }
    }
}
