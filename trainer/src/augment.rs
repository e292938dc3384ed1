//! Random crops of labelled pictures: scale, aspect, rotation, place and flip in one sampling, then colour and blur.
//!
//! Labels are sampled through the same map as the picture, at the nearest pixel; what lies outside has none.

use rand::Rng;
use serde::{Deserialize, Serialize};
use vision::dataset::IGNORE;

use crate::picture::Picture;

/// Outside the picture is this, near the mean of what networks are trained on.
const OUTSIDE: [f32; 3] = [124.0, 117.0, 104.0];
/// Where pictures shrink more than this, one bilinear sample would alias.
const ALIASING_STEP: f32 = 1.3;

/// Width and height in pixels, as a recipe writes them: `256` for a square, or `[480, 352]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SizeForm", into = "SizeForm")]
pub struct Size {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

impl Size {
    /// Pixels.
    #[must_use]
    pub fn area(self) -> usize {
        self.width * self.height
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum SizeForm {
    Square(usize),
    Sides([usize; 2]),
}

impl From<SizeForm> for Size {
    fn from(form: SizeForm) -> Self {
        let [width, height] = match form {
            SizeForm::Square(side) => [side; 2],
            SizeForm::Sides(sides) => sides,
        };
        Self { width, height }
    }
}

impl From<Size> for SizeForm {
    fn from(Size { width, height }: Size) -> Self {
        if width == height {
            Self::Square(width)
        } else {
            Self::Sides([width, height])
        }
    }
}

/// How crops are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Size of a crop.
    pub crop: Size,
    /// Labels are sampled once every this many pixels.
    pub label_stride: usize,
    /// The picture's longest side at scale 1.
    pub longest: f32,
    /// Smallest and largest scale.
    pub scale: [f32; 2],
    /// The picture's aspect is changed by up to this factor.
    pub aspect: f32,
    /// Largest rotation in degrees, to either side.
    #[serde(default)]
    pub rotate: f32,
    /// Half of the crops are mirrored.
    #[serde(default = "yes")]
    pub flip: bool,
    /// Largest relative change of brightness, contrast and saturation.
    pub color: f32,
    /// Largest standard deviation, in pixels, of the Gaussian that half of the crops are blurred with.
    #[serde(default)]
    pub blur: f32,
    /// Crops are laid so that one of the objects, any of them, is whole, where it fits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
    /// Objects of rare classes are pasted from other pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paste: Option<Paste>,
}

/// Pasting of rare classes: a crop of a picture that shows one is made, and its pixels of that class are laid over the
/// crop (ClassMix, Olsson et al. 2021, with one class).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paste {
    /// The share of the crops that something is pasted into.
    pub share: f64,
    /// The classes, by name; each is taken as often as the others.
    pub classes: Vec<String>,
}

fn yes() -> bool {
    true
}

impl Augment {
    /// Size of a crop's labels.
    #[must_use]
    pub fn labels_size(&self) -> Size {
        Size {
            width: self.crop.width / self.label_stride,
            height: self.crop.height / self.label_stride,
        }
    }
}

/// From crop to picture: `source = origin + x * right + y * down`, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Map {
    origin: [f32; 2],
    right: [f32; 2],
    down: [f32; 2],
}

impl Map {
    fn random(picture: &Picture, augment: &Augment, rng: &mut impl Rng) -> Self {
        let size = [picture.width as f32, picture.height as f32];
        let longest = size[0].max(size[1]);
        let scale =
            between(rng, augment.scale[0].ln(), augment.scale[1].ln()).exp() * augment.longest / longest;
        let aspect = between(rng, -augment.aspect.ln(), augment.aspect.ln())
            .exp()
            .sqrt();
        // Picture pixels per crop pixel.
        let step = [1.0 / (scale * aspect), aspect / scale];
        let side = [augment.crop.width as f32, augment.crop.height as f32];
        let shown = if augment.whole {
            any_object(picture, rng)
        } else {
            None
        };
        let mut centre = [0.0; 2];
        for axis in 0..2 {
            let slack = size[axis] - side[axis] * step[axis];
            // A picture smaller than the crop lies anywhere inside it.
            let (mut low, mut high) = (slack.min(0.0), slack.max(0.0));
            if let Some(bounds) = shown {
                let (first, last) = (bounds[axis + 2] - side[axis] * step[axis], bounds[axis]);
                if first <= last && slack > 0.0 {
                    (low, high) = (low.max(first), high.min(last));
                }
            }
            centre[axis] = between(rng, low, high) + 0.5 * side[axis] * step[axis];
        }
        let flip = augment.flip && rng.random_bool(0.5);
        let angle = if augment.rotate > 0.0 {
            between(rng, -augment.rotate, augment.rotate).to_radians()
        } else {
            0.0
        };
        let (sine, cosine) = angle.sin_cos();
        let mirror = if flip { -1.0 } else { 1.0 };
        let right = [mirror * cosine * step[0], mirror * sine * step[1]];
        let down = [-sine * step[0], cosine * step[1]];
        let origin =
            std::array::from_fn(|axis| centre[axis] - 0.5 * (side[0] * right[axis] + side[1] * down[axis]));
        Self { origin, right, down }
    }

    /// The point of the picture that the crop's point `x`, `y` shows.
    #[must_use]
    pub fn source(&self, x: f32, y: f32) -> [f32; 2] {
        std::array::from_fn(|axis| self.origin[axis] + x * self.right[axis] + y * self.down[axis])
    }

    /// The smallest box of the crop that shows a box of the picture: left, top, right, bottom.
    #[must_use]
    pub fn to_crop(&self, [left, top, right, bottom]: [f32; 4]) -> [f32; 4] {
        let determinant = self.right[0] * self.down[1] - self.right[1] * self.down[0];
        let corners = [(left, top), (right, top), (left, bottom), (right, bottom)].map(|(u, v)| {
            let (u, v) = (u - self.origin[0], v - self.origin[1]);
            [
                (u * self.down[1] - v * self.down[0]) / determinant,
                (v * self.right[0] - u * self.right[1]) / determinant,
            ]
        });
        let over = |axis: usize, pick: fn(f32, f32) -> f32, first: f32| {
            corners.iter().map(|corner| corner[axis]).fold(first, pick)
        };
        [
            over(0, f32::min, f32::INFINITY),
            over(1, f32::min, f32::INFINITY),
            over(0, f32::max, f32::NEG_INFINITY),
            over(1, f32::max, f32::NEG_INFINITY),
        ]
    }

    /// Picture pixels between two crop pixels, on the coarser axis.
    fn step(&self) -> f32 {
        let length = |[x, y]: [f32; 2]| x.hypot(y);
        length(self.right).max(length(self.down))
    }
}

/// The box of one of a picture's objects.
fn any_object(picture: &Picture, rng: &mut impl Rng) -> Option<[f32; 4]> {
    let list = &picture.objects.as_ref()?.list;
    if list.is_empty() {
        return None;
    }
    Some(list[rng.random_range(0..list.len())].bounds)
}

/// Makes one crop: `rgb` is `[height, width, 3]`, `labels` `[height / label_stride, width / label_stride]`. Returns where its
/// points lie in the picture.
pub fn crop(
    picture: &Picture,
    augment: &Augment,
    rng: &mut impl Rng,
    rgb: &mut [u8],
    labels: &mut [u8],
) -> Map {
    let map = Map::random(picture, augment, rng);
    let table = color_table(rng, augment.color);
    let saturation = 1.0 + between(rng, -augment.color, augment.color);
    let taps: &[f32] = if map.step() > ALIASING_STEP {
        &[0.25, 0.75]
    } else {
        &[0.5]
    };
    let share = 1.0 / (taps.len() * taps.len()) as f32;
    for (y, row) in rgb.chunks_exact_mut(augment.crop.width * 3).enumerate() {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let mut sum = [0.0f32; 3];
            for v in taps {
                for u in taps {
                    let sample = picture.bilinear(map.source(x as f32 + u, y as f32 + v));
                    for channel in 0..3 {
                        sum[channel] += sample[channel];
                    }
                }
            }
            let color = sum.map(|value| value * share);
            let grey = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2];
            for (out, value) in pixel.iter_mut().zip(color) {
                let value = (grey + (value - grey) * saturation).round().clamp(0.0, 255.0);
                *out = table[value as usize];
            }
        }
    }
    if augment.blur > 0.0 && rng.random_bool(0.5) {
        blur(rgb, augment.crop, between(rng, 0.1 * augment.blur, augment.blur));
    }
    let centre = |index: usize| (index as f32 + 0.5) * augment.label_stride as f32;
    for (y, row) in labels.chunks_exact_mut(augment.labels_size().width).enumerate() {
        for (x, label) in row.iter_mut().enumerate() {
            *label = picture.label(map.source(centre(x), centre(y)));
        }
    }
    map
}

/// Lays the pixels that `from` labels as `class` over `onto`; both are crops as [`crop`] makes them, pixels first.
pub fn paste(augment: &Augment, class: u8, from: (&[u8], &[u8]), onto: (&mut [u8], &mut [u8])) {
    let (stride, width) = (augment.label_stride, augment.crop.width);
    let columns = augment.labels_size().width;
    for (index, (&label, place)) in from.1.iter().zip(onto.1).enumerate() {
        if label != class {
            continue;
        }
        *place = class;
        let (x, y) = (index % columns * stride, index / columns * stride);
        for row in y..y + stride {
            let pixels = 3 * (row * width + x)..3 * (row * width + x + stride);
            onto.0[pixels.clone()].copy_from_slice(&from.0[pixels]);
        }
    }
}

fn blur(rgb: &mut [u8], size: Size, deviation: f32) {
    let picture = image::RgbImage::from_raw(size.width as u32, size.height as u32, rgb.to_vec())
        .expect("a crop holds its pixels");
    rgb.copy_from_slice(image::imageops::fast_blur(&picture, deviation).as_raw());
}

impl Picture {
    fn holds(&self, [u, v]: [f32; 2]) -> bool {
        u >= 0.0 && v >= 0.0 && u < self.width as f32 && v < self.height as f32
    }

    /// The label of the pixel that a point lies in.
    fn label(&self, at: [f32; 2]) -> u8 {
        if self.holds(at) {
            self.labels[at[1] as usize * self.width + at[0] as usize]
        } else {
            IGNORE
        }
    }

    fn bilinear(&self, at: [f32; 2]) -> [f32; 3] {
        if !self.holds(at) {
            return OUTSIDE;
        }
        let (left, right, x) = neighbours(at[0], self.width);
        let (top, bottom, y) = neighbours(at[1], self.height);
        let color = |x: usize, y: usize| {
            let start = (y * self.width + x) * 3;
            [self.rgb[start], self.rgb[start + 1], self.rgb[start + 2]].map(f32::from)
        };
        let corners = [
            color(left, top),
            color(right, top),
            color(left, bottom),
            color(right, bottom),
        ];
        std::array::from_fn(|c| {
            let top = corners[0][c] + (corners[1][c] - corners[0][c]) * x;
            let bottom = corners[2][c] + (corners[3][c] - corners[2][c]) * x;
            top + (bottom - top) * y
        })
    }
}

/// The two pixels around a coordinate, and the second one's weight.
fn neighbours(position: f32, length: usize) -> (usize, usize, f32) {
    let centre = (position - 0.5).clamp(0.0, (length - 1) as f32);
    let low = centre as usize;
    (low, (low + 1).min(length - 1), centre - low as f32)
}

/// Brightness and contrast as a table from level to level.
fn color_table(rng: &mut impl Rng, strength: f32) -> [u8; 256] {
    let contrast = 1.0 + between(rng, -strength, strength);
    let brightness = 1.0 + between(rng, -strength, strength);
    std::array::from_fn(|level| {
        let value = (level as f32 * brightness - 120.0) * contrast + 120.0;
        value.round().clamp(0.0, 255.0) as u8
    })
}

fn between(rng: &mut impl Rng, low: f32, high: f32) -> f32 {
    low + rng.random::<f32>() * (high - low)
}

#[cfg(test)]
impl Augment {
    /// A crop of this size that changes nothing.
    pub(crate) fn plain(crop: Size) -> Self {
        Self {
            crop,
            label_stride: 1,
            longest: crop.width.max(crop.height) as f32,
            scale: [1.0, 1.0],
            aspect: 1.0,
            rotate: 0.0,
            flip: false,
            color: 0.0,
            blur: 0.0,
            whole: false,
            paste: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    /// A picture that equals its labels: black is 0, white is 1.
    fn masked(width: usize, height: usize, labels: Vec<u8>) -> Picture {
        Picture {
            width,
            height,
            rgb: labels.iter().flat_map(|&label| [255 * label; 3]).collect(),
            labels,
            objects: None,
        }
    }

    fn made(picture: &Picture, augment: &Augment, seed: u64) -> (Vec<u8>, Vec<u8>) {
        let mut rgb = vec![0; 3 * augment.crop.area()];
        let mut labels = vec![0; augment.labels_size().area()];
        crop(
            picture,
            augment,
            &mut Pcg64Mcg::seed_from_u64(seed),
            &mut rgb,
            &mut labels,
        );
        (rgb, labels)
    }

    fn augment(width: usize, height: usize) -> Augment {
        Augment::plain(Size { width, height })
    }

    #[test]
    fn sizes_are_written_as_they_are_read() {
        #[derive(Serialize, Deserialize)]
        struct Holder {
            size: Size,
        }
        for text in ["size = 256\n", "size = [480, 352]\n"] {
            let read: Holder = toml::from_str(text).unwrap();
            assert_eq!(toml::to_string(&read).unwrap(), text);
        }
    }

    #[test]
    fn a_crop_of_the_pictures_size_is_the_picture_or_its_mirror() {
        let labels: Vec<u8> = (0..24).map(|i| u8::from(i % 5 == 0 || i > 17)).collect();
        let picture = masked(6, 4, labels.clone());
        let mirrored: Vec<u8> = labels
            .chunks(6)
            .flat_map(|row| row.iter().rev().copied())
            .collect();
        let mut seen = [false; 2];
        for seed in 0..20 {
            assert_eq!(made(&picture, &augment(6, 4), seed).1, labels);
            let flipping = Augment {
                flip: true,
                ..augment(6, 4)
            };
            let (rgb, found) = made(&picture, &flipping, seed);
            seen[usize::from(found == labels)] = true;
            assert!(found == labels || found == mirrored);
            assert_eq!(
                rgb,
                found
                    .iter()
                    .flat_map(|&label| [255 * label; 3])
                    .collect::<Vec<u8>>()
            );
        }
        assert_eq!(seen, [true; 2]);
    }

    #[test]
    fn a_rotated_line_has_the_angle_of_the_map() {
        // White right of the middle: after a turn the border passes through the centre.
        let size = 64;
        let labels = (0..size * size).map(|i| u8::from(i % size >= size / 2)).collect();
        let picture = masked(size, size, labels);
        let turning = Augment {
            rotate: 30.0,
            ..augment(size, size)
        };
        let mut steepest = 0.0f32;
        for seed in 0..30 {
            let (_, found) = made(&picture, &turning, seed);
            let first = |row: usize| {
                found[row * size..][..size]
                    .iter()
                    .position(|&label| label == 1)
                    .unwrap()
            };
            let rise = (first(20) as f32 - first(44) as f32) / 24.0;
            steepest = steepest.max(rise.abs());
            assert!((first(20) as f32 + first(44) as f32 - size as f32).abs() <= 2.0);
        }
        let limit = 30f32.to_radians().tan();
        assert!(steepest > 0.8 * limit && steepest < limit + 0.1, "{steepest}");
    }

    #[test]
    fn blur_and_colour_leave_labels_alone() {
        let picture = masked(8, 8, (0..64).map(|i| u8::from(i % 7 < 3)).collect());
        let plain = made(&picture, &augment(8, 8), 1);
        let mut changed = 0;
        for seed in 0..8 {
            let strong = Augment {
                color: 0.3,
                blur: 2.0,
                ..augment(8, 8)
            };
            let found = made(&picture, &strong, seed);
            assert_eq!(found.1, plain.1);
            changed += usize::from(found.0 != plain.0);
        }
        assert!(changed > 4);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn labels_go_where_the_picture_goes(
            labels in prop::collection::vec(0u8..2, 15 * 11), seed in any::<u64>(),
            large in 0.8f32..4.0, aspect in 1.0f32..1.6, rotate in prop_oneof![Just(0.0f32), 1.0f32..180.0],
        ) {
            // Blocks of four pixels, so that most samples lie inside one.
            let labels = (0..60 * 44).map(|i| labels[i / 60 / 4 * 15 + i % 60 / 4]).collect();
            let picture = masked(60, 44, labels);
            let augment = Augment { scale: [0.5 * large, large], aspect, rotate, flip: true, ..augment(48, 32) };
            let (rgb, labels) = made(&picture, &augment, seed);
            for (at, (pixel, &label)) in rgb.chunks_exact(3).zip(&labels).enumerate() {
                // A pixel that is no mixture shows its label.
                match (pixel[0], label) {
                    (255, label) => prop_assert_eq!(label, 1, "pixel {}", at),
                    (0, label) => prop_assert_eq!(label, 0, "pixel {}", at),
                    _ => {}
                }
                if rotate == 0.0 && pixel == OUTSIDE.map(|value| value as u8) {
                    prop_assert_eq!(label, IGNORE, "pixel {}", at);
                }
            }
        }
    }

    #[test]
    fn one_object_is_whole_in_every_crop() {
        use crate::picture::{Object, Objects};
        let (width, height) = (80, 60);
        let object = |number, bounds| Object {
            number,
            class: 1,
            bounds,
            difficult: false,
            has_mask: true,
        };
        let list = vec![
            object(1, [2.0, 3.0, 20.0, 15.0]),
            object(2, [60.0, 40.0, 80.0, 58.0]),
        ];
        let picture = Picture {
            objects: Some(Objects {
                numbers: vec![0; width * height],
                list: list.clone(),
            }),
            ..masked(width, height, vec![0; width * height])
        };
        let mut whole = [0; 2];
        for seed in 0..200 {
            let augment = Augment {
                scale: [0.9, 1.2],
                longest: 80.0,
                flip: true,
                whole: true,
                ..augment(32, 24)
            };
            let mut out = (vec![0; 3 * 32 * 24], vec![0; 32 * 24]);
            let map = crop(
                &picture,
                &augment,
                &mut Pcg64Mcg::seed_from_u64(seed),
                &mut out.0,
                &mut out.1,
            );
            let is_whole = |object: &Object| {
                let [left, top, right, bottom] = map.to_crop(object.bounds);
                left > -0.01 && top > -0.01 && right < 32.01 && bottom < 24.01
            };
            let found = [is_whole(&list[0]), is_whole(&list[1])];
            assert!(found[0] || found[1], "seed {seed}");
            whole[0] += u32::from(found[0]);
            whole[1] += u32::from(found[1]);
        }
        assert!(whole.iter().all(|&count| count > 50), "{whole:?}");
    }

    #[test]
    fn pasting_lays_one_class_over_a_crop() {
        let augment = Augment {
            label_stride: 2,
            ..augment(4, 2)
        };
        // Two cells of 2x2 pixels: of class 3 and of class 5.
        let from: Vec<u8> = (0..24).collect();
        let (mut rgb, mut labels) = (vec![100; 24], vec![0, IGNORE]);
        paste(&augment, 5, (&from, &[3, 5]), (&mut rgb, &mut labels));
        assert_eq!(labels, [0, 5]);
        for row in [0, 12] {
            assert_eq!(rgb[row..row + 6], [100; 6]);
            assert_eq!(rgb[row + 6..row + 12], from[row + 6..row + 12]);
        }
    }
}
