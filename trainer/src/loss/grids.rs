//! Terms on grids whose cells find objects, and on the masks that they give.

use tch::{Kind, Tensor};
use vision::dataset::IGNORE;

use super::Term;
use crate::augment::Augment;
use crate::nets::solo_light::LEVELS;
use crate::objects::grids::Taught;
use crate::objects::shown::{STRIDE, Shown, ShownObject, size};

/// Masks of a picture that are taught in a step; if more cells have objects, some of these cells are, evenly.
const MOST_MASKS: usize = 96;
/// Cells between the two of a pair that look alike (Tian et al. 2021).
const PAIR: i64 = 2;
/// To the right and down from the first cell of a pair to the second.
const PAIRS: [[i64; 2]; 4] = [[PAIR, 0], [0, PAIR], [PAIR, PAIR], [-PAIR, PAIR]];

/// What a network says on its grids, and what there is.
pub struct Grids<'a> {
    /// `[N, F, H / 4, W / 4]`
    pub features: &'a Tensor,
    /// Of each grid the logits of classes, `[N, C, S, S]`, and the kernels, `[N, F, S, S]`.
    pub levels: &'a [[Tensor; 2]],
    /// Of each picture.
    pub shown: &'a [Shown],
    /// `[N, H, W, 3]` RGB, u8.
    pub rgb: &'a Tensor,
    /// The crops' sizes.
    pub augment: &'a Augment,
}

/// Masks of a picture.
struct Masks {
    /// `[P, h, w]`
    logits: Tensor,
    objects: Vec<ShownObject>,
    /// Which picture's.
    picture: usize,
}

/// [`Grids`] in the forms that the terms share.
pub(super) struct Prepared<'a> {
    grids: &'a Grids<'a>,
    /// `[N, cells, C]`
    scores: Tensor,
    /// The same, 1 for the class of a cell's object.
    truth: Tensor,
    /// `[N, cells, 1]`, 1 where something is taught.
    counts: Tensor,
    /// How many cells have an object.
    positives: usize,
    masks: Vec<Masks>,
}

impl<'a> Prepared<'a> {
    pub(super) fn new(grids: &'a Grids<'a>) -> Self {
        let count = grids.shown.len();
        let device = grids.features.device();
        let flat = |x: &Tensor| x.flatten(2, 3).transpose(1, 2);
        let join = |which: usize| {
            let levels: Vec<Tensor> = grids.levels.iter().map(|level| flat(&level[which])).collect();
            Tensor::cat(&levels, 1)
        };
        let (scores, kernels) = (join(0), join(1));
        let (_, cells, classes) = scores.size3().expect("scores are [N, cells, C]");
        let mut truth = vec![0_f32; count * (cells * classes) as usize];
        let mut counts = Vec::with_capacity(count * cells as usize);
        let (mut positives, mut masks) = (0, Vec::new());
        for (picture, shown) in grids.shown.iter().enumerate() {
            let mut found: Vec<(i64, usize)> = Vec::new();
            for level in &LEVELS {
                let taught = Taught::new(shown, grids.augment, level);
                let first = counts.len();
                counts.extend(taught.counts.iter().map(|&counts| f32::from(u8::from(counts))));
                for (cell, object) in taught.objects.iter().enumerate() {
                    let Some(object) = *object else { continue };
                    let class = usize::from(shown.list[object].class) - 1;
                    truth[(first + cell) * classes as usize + class] = 1.0;
                    found.push(((first + cell) as i64 - picture as i64 * cells, object));
                }
            }
            positives += found.len();
            let step = found.len().div_ceil(MOST_MASKS).max(1);
            let found: Vec<_> = found.into_iter().step_by(step).collect();
            if found.is_empty() {
                continue;
            }
            let places: Vec<i64> = found.iter().map(|&(cell, _)| cell).collect();
            let kernels = kernels
                .select(0, picture as i64)
                .index_select(0, &Tensor::from_slice(&places).to_device(device));
            let features = grids.features.select(0, picture as i64);
            let (_, h, w) = features.size3().expect("features are [F, H, W]");
            masks.push(Masks {
                logits: kernels.matmul(&features.flatten(1, 2)).reshape([-1, h, w]),
                objects: found.into_iter().map(|(_, object)| shown.list[object]).collect(),
                picture,
            });
        }
        let shape = [count as i64, cells, classes];
        Self {
            grids,
            scores,
            truth: Tensor::from_slice(&truth).reshape(shape).to_device(device),
            counts: Tensor::from_slice(&counts)
                .reshape([count as i64, cells, 1])
                .to_device(device),
            positives,
            masks,
        }
    }

    /// A term's value, without its weight.
    ///
    /// # Panics
    /// The term is none of grids.
    pub(super) fn term(&self, term: &Term) -> Tensor {
        match *term {
            Term::CellFocal { alpha, gamma, .. } => self.focal(alpha, gamma),
            Term::MaskDice { .. } => {
                self.mean(|object| object.has_mask, |masks, which| self.dice(masks, which))
            }
            Term::BoxProjection { .. } => self.mean(|_| true, |masks, which| self.projection(masks, which)),
            Term::BoxAffinity { threshold, .. } => self.affinity(threshold),
            _ => panic!("{term:?} is no term of grids"),
        }
    }

    /// Lin et al. 2017, over the cells that have an object.
    fn focal(&self, alpha: f64, gamma: f64) -> Tensor {
        let surprise = self.scores.binary_cross_entropy_with_logits::<Tensor>(
            &self.truth,
            None,
            None,
            tch::Reduction::None,
        );
        // 1 - p, kept off 0 where its power has no derivative.
        let doubt = (-surprise.neg().expm1()).clamp_min(1e-12);
        let balance = &self.truth * (2.0 * alpha - 1.0) + (1.0 - alpha);
        let sum = (balance * doubt.pow_tensor_scalar(gamma) * surprise * &self.counts).sum(None);
        sum / self.positives.max(1) as f64
    }

    /// The mean over the masks of objects that `counts` takes of what `each` gives, `[P]`; 0 if there are none.
    fn mean(
        &self,
        counts: impl Fn(&ShownObject) -> bool,
        each: impl Fn(&Masks, &[usize]) -> Tensor,
    ) -> Tensor {
        let values: Vec<Tensor> = self
            .masks
            .iter()
            .filter_map(|masks| {
                let which = masks.which(&counts);
                (!which.is_empty()).then(|| each(masks, &which))
            })
            .collect();
        if values.is_empty() {
            // Nothing, with a gradient of nothing.
            return self.grids.features.sum(None) * 0.0;
        }
        Tensor::cat(&values, 0).mean(None)
    }

    /// `1 - 2 sum(p y) / (sum(p^2) + sum(y^2))` of each mask, where its pixels are known.
    fn dice(&self, masks: &Masks, which: &[usize]) -> Tensor {
        let numbers = &self.grids.shown[masks.picture].numbers;
        let device = masks.logits.device();
        let of = |value: &dyn Fn(u8) -> bool| -> Vec<f32> {
            numbers
                .iter()
                .map(|&number| f32::from(u8::from(value(number))))
                .collect()
        };
        let truth: Vec<f32> = which
            .iter()
            .flat_map(|&index| {
                let own = masks.objects[index].number;
                of(&|number| number == own)
            })
            .collect();
        let truth = Tensor::from_slice(&truth)
            .reshape([which.len() as i64, -1])
            .to_device(device);
        let known = Tensor::from_slice(&of(&|number| number != IGNORE)).to_device(device);
        let probabilities = masks.select(which).flatten(1, 2).sigmoid() * known;
        dice(&probabilities, &truth)
    }

    /// Boxes from above and from the side: the most that a column and a row have is 1 within the box, and 0 beside it (Tian et
    /// al. 2021, equation 1).
    fn projection(&self, masks: &Masks, which: &[usize]) -> Tensor {
        let probabilities = masks.select(which).sigmoid();
        let cells = size(self.grids.augment);
        let inside = |axis: usize, count: usize| {
            let values: Vec<f32> = which
                .iter()
                .flat_map(|&index| {
                    let bounds = masks.objects[index].bounds;
                    span(bounds[axis], bounds[axis + 2], count)
                })
                .collect();
            Tensor::from_slice(&values)
                .reshape([which.len() as i64, -1])
                .to_device(probabilities.device())
        };
        dice(
            &probabilities.amax([1i64].as_slice(), false),
            &inside(0, cells.width),
        ) + dice(
            &probabilities.amax([2i64].as_slice(), false),
            &inside(1, cells.height),
        )
    }

    /// Neighbours of one colour within a box are of one side (Tian et al. 2021, equation 4).
    fn affinity(&self, threshold: f64) -> Tensor {
        let mut sum = self.grids.features.sum(None) * 0.0;
        let mut count = 0.0;
        let cells = size(self.grids.augment);
        for masks in &self.masks {
            let which = masks.which(|object| !object.has_mask);
            if which.is_empty() {
                continue;
            }
            let logits = masks.select(&which);
            let boxes: Vec<f32> = which
                .iter()
                .flat_map(|&index| {
                    let [left, top, right, bottom] = masks.objects[index].bounds;
                    let columns = span(left, right, cells.width);
                    let rows = span(top, bottom, cells.height);
                    rows.into_iter()
                        .flat_map(|row| columns.iter().map(move |column| row * column).collect::<Vec<_>>())
                        .collect::<Vec<_>>()
                })
                .collect();
            let boxes = Tensor::from_slice(&boxes)
                .reshape(logits.size())
                .to_device(logits.device());
            let colors = lab(&self.grids.rgb.select(0, masks.picture as i64));
            let (own, other) = (logits.log_sigmoid(), (-&logits).log_sigmoid());
            for step in PAIRS {
                let [ends, starts] = [true, false].map(|second| move |x: &Tensor| shifted(x, step, second));
                let same = (starts(&own) + ends(&own)).logaddexp(&(starts(&other) + ends(&other)));
                let away = (starts(&colors) - ends(&colors)).square();
                let alike = (away.sum_dim_intlist([0i64].as_slice(), false, None).sqrt() * -0.5)
                    .exp()
                    .greater_equal(threshold)
                    .to_kind(Kind::Float);
                let counts = starts(&boxes) * alike;
                count += counts.sum(None).double_value(&[]);
                sum -= (same * counts).sum(None);
            }
        }
        sum / f64::max(count, 1.0)
    }
}

impl Masks {
    /// The masks of objects that `counts` takes.
    fn which(&self, counts: impl Fn(&ShownObject) -> bool) -> Vec<usize> {
        let list = self.objects.iter().enumerate();
        list.filter(|(_, object)| counts(object))
            .map(|(index, _)| index)
            .collect()
    }

    fn select(&self, which: &[usize]) -> Tensor {
        let which: Vec<i64> = which.iter().map(|&index| index as i64).collect();
        let which = Tensor::from_slice(&which).to_device(self.logits.device());
        self.logits.index_select(0, &which)
    }
}

/// `1 - 2 sum(p y) / (sum(p^2) + sum(y^2))` of each row of `[P, cells]`.
fn dice(p: &Tensor, y: &Tensor) -> Tensor {
    let sum = |x: Tensor| x.sum_dim_intlist([1i64].as_slice(), false, None);
    let both = sum(p * y) * 2.0;
    1.0 - both / (sum(p.square()) + sum(y.square()) + 2e-3)
}

/// 1 for the cells whose middle lies from `from` to `to`, in pixels; one cell at least.
fn span(from: f32, to: f32, count: usize) -> Vec<f32> {
    let middle = |cell: usize| (cell as f32 + 0.5) * STRIDE as f32;
    let nearest = ((0.5 * (from + to) / STRIDE as f32) as usize).min(count.saturating_sub(1));
    (0..count)
        .map(|cell| f32::from(u8::from((from..to).contains(&middle(cell)) || cell == nearest)))
        .collect()
}

/// The first cells of the pairs that lie `step` apart, or the second ones, of the last two axes.
fn shifted(x: &Tensor, [right, down]: [i64; 2], second: bool) -> Tensor {
    let size = x.size();
    let (h, w) = (size[size.len() - 2], size[size.len() - 1]);
    let top = if second { down } else { 0 };
    let left = if second == (right > 0) { right.abs() } else { 0 };
    x.narrow(-2, top, h - down).narrow(-1, left, w - right.abs())
}

/// Colours of the cells, `[3, H / 4, W / 4]` of CIE's Lab (D65, lightness 0 to 100), from `[H, W, 3]` RGB bytes.
fn lab(rgb: &Tensor) -> Tensor {
    let _guard = tch::no_grad_guard();
    let stride = [STRIDE as i64; 2];
    let rgb = rgb.permute([2, 0, 1]).unsqueeze(0).to_kind(Kind::Float) / 255.0;
    let rgb = rgb
        .avg_pool2d(stride, stride, [0, 0], false, true, None)
        .squeeze_dim(0);
    let bright = ((&rgb + 0.055) / 1.055).pow_tensor_scalar(2.4);
    let linear = bright.where_self(&rgb.greater(0.04045), &(&rgb / 12.92));
    // Rows of X, Y and Z, each over that of white.
    let white = [0.950_47, 1.0, 1.088_83];
    let matrix = [
        [0.412_453_f32, 0.357_58, 0.180_423],
        [0.212_671, 0.715_16, 0.072_169],
        [0.019_334, 0.119_193, 0.950_227],
    ];
    let rows: Vec<f32> = matrix
        .iter()
        .zip(white)
        .flat_map(|(row, white)| row.map(|factor| factor / white))
        .collect();
    let matrix = Tensor::from_slice(&rows).reshape([3, 3]).to_device(rgb.device());
    let size = linear.size();
    let xyz = matrix.matmul(&linear.flatten(1, 2));
    let root = xyz.clamp_min(1e-6).pow_tensor_scalar(1.0 / 3.0);
    let f = root.where_self(&xyz.greater(0.008_856), &(&xyz * 7.787 + 16.0 / 116.0));
    let [x, y, z] = [0, 1, 2].map(|row| f.select(0, row));
    Tensor::stack(&[&y * 116.0 - 16.0, (&x - &y) * 500.0, (&y - &z) * 200.0], 0).reshape(&size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    use crate::augment::Size;

    const SIDE: usize = 64;
    const CELLS: usize = SIDE / STRIDE;

    fn augment() -> Augment {
        Augment::plain(Size {
            width: SIDE,
            height: SIDE,
        })
    }

    fn options() -> (Kind, Device) {
        (Kind::Float, Device::Cpu)
    }

    /// A crop with an object of class 2 in the left half of its box, which fills the middle of the picture.
    fn shown(has_mask: bool) -> Shown {
        let mut numbers = vec![0; CELLS * CELLS];
        for y in 4..12 {
            numbers[y * CELLS + 4..y * CELLS + 8].fill(1);
        }
        let object = ShownObject {
            number: 1,
            class: 2,
            bounds: [16.0, 16.0, 48.0, 48.0],
            is_taught: true,
            has_mask,
        };
        Shown {
            numbers,
            list: vec![object],
        }
    }

    /// Two classes and one feature. Where `class` is one, its logit is `sure` everywhere, and every kernel is 1.
    fn value(term: &Term, shown: &Shown, features: &Tensor, rgb: &Tensor, sure: f64) -> f64 {
        let levels: Vec<[Tensor; 2]> = LEVELS
            .iter()
            .map(|level| {
                let scores = Tensor::full([1, 2, level.side, level.side], -sure, options());
                [scores, Tensor::ones([1, 1, level.side, level.side], options())]
            })
            .collect();
        let grids = Grids {
            features,
            levels: &levels,
            shown: std::slice::from_ref(shown),
            rgb,
            augment: &augment(),
        };
        Prepared::new(&grids).term(term).double_value(&[])
    }

    fn mask(inside: impl Fn(usize, usize) -> bool, logit: f32) -> Tensor {
        let cells = (0..CELLS * CELLS).map(|at| {
            if inside(at % CELLS, at / CELLS) {
                logit
            } else {
                -logit
            }
        });
        Tensor::from_slice(&cells.collect::<Vec<f32>>()).reshape([1, 1, CELLS as i64, CELLS as i64])
    }

    fn grey() -> Tensor {
        Tensor::full([1, SIDE as i64, SIDE as i64, 3], 90, (Kind::Uint8, Device::Cpu))
    }

    fn left(x: usize, y: usize) -> bool {
        (4..8).contains(&x) && (4..12).contains(&y)
    }

    fn whole(x: usize, y: usize) -> bool {
        (4..12).contains(&x) && (4..12).contains(&y)
    }

    #[test]
    fn the_focal_term_worked_by_hand() {
        let term = Term::CellFocal {
            weight: 1.0,
            alpha: 0.25,
            gamma: 2.0,
        };
        let features = mask(left, 1.0);
        let found = value(&term, &shown(true), &features, &grey(), 1.5);
        let p = 1.0 / (1.0 + 1.5_f64.exp());
        let cells: usize = LEVELS
            .iter()
            .map(|level| (level.side * level.side) as usize)
            .sum();
        // The cells that have the object, in the second and the third grid.
        let positives: usize = LEVELS
            .iter()
            .flat_map(|level| Taught::new(&shown(true), &augment(), level).objects)
            .flatten()
            .count();
        let (missed, quiet) = (
            0.25 * (1.0 - p).powi(2) * -p.ln(),
            0.75 * p.powi(2) * -(1.0 - p).ln(),
        );
        let expected =
            (missed * positives as f64 + quiet * (2 * cells - positives) as f64) / positives as f64;
        assert!((found - expected).abs() < 1e-4 * expected, "{found} {expected}");
        assert!(positives > 0);
    }

    #[test]
    fn masks_are_right_where_their_pixels_are_known() {
        let term = Term::MaskDice { weight: 1.0 };
        let of = |shown: &Shown, features: &Tensor| value(&term, shown, features, &grey(), 1.0);
        assert!(of(&shown(true), &mask(left, 20.0)) < 1e-3);
        // Twice the pixels: 1 - 2 * 32 / (64 + 32).
        let twice = of(&shown(true), &mask(whole, 20.0));
        assert!((twice - 1.0 / 3.0).abs() < 1e-3, "{twice}");
        // What nobody knows counts nowhere.
        let mut void = shown(true);
        for (at, number) in void.numbers.iter_mut().enumerate() {
            if !left(at % CELLS, at / CELLS) && whole(at % CELLS, at / CELLS) {
                *number = IGNORE;
            }
        }
        assert!(of(&void, &mask(whole, 20.0)) < 1e-3);
        assert_eq!(of(&shown(false), &mask(whole, 20.0)), 0.0);
    }

    #[test]
    fn boxes_are_filled_from_side_to_side() {
        let term = Term::BoxProjection { weight: 1.0 };
        let of = |inside: &dyn Fn(usize, usize) -> bool| {
            value(&term, &shown(false), &mask(inside, 20.0), &grey(), 1.0)
        };
        assert!(of(&whole) < 1e-3);
        // A cross reaches all sides as well.
        assert!(of(&|x, y| whole(x, y) && (x == 6 || y == 9)) < 1e-3);
        // Half of the width: 1 - 2 * 4 / (4 + 8) on one axis.
        let half = of(&left);
        assert!((half - 1.0 / 3.0).abs() < 1e-3, "{half}");
        // Boxes count where pixels are known as well.
        assert_eq!(value(&term, &shown(true), &mask(left, 20.0), &grey(), 1.0), half);
    }

    #[test]
    fn neighbours_of_one_colour_belong_together() {
        let term = Term::BoxAffinity {
            weight: 1.0,
            threshold: 0.3,
        };
        // The left half is red, the rest blue.
        let colors: Vec<u8> = (0..SIDE * SIDE)
            .flat_map(|at| {
                if at % SIDE < 32 {
                    [200, 20, 20]
                } else {
                    [20, 20, 200]
                }
            })
            .collect();
        let rgb = Tensor::from_slice(&colors).reshape([1, SIDE as i64, SIDE as i64, 3]);
        let of = |inside: &dyn Fn(usize, usize) -> bool, rgb: &Tensor| {
            value(&term, &shown(false), &mask(inside, 8.0), rgb, 1.0)
        };
        let by_color = |x: usize, _: usize| x < 8;
        assert!(of(&by_color, &rgb) < 1e-2);
        // A border where colours are the same is wrong, and so is any on a grey picture.
        assert!(of(&|x, _| x < 6, &rgb) > 0.5);
        assert!(of(&by_color, &grey()) > 0.5);
    }

    #[test]
    fn lab_is_that_of_the_tables() {
        // sRGB's primaries and white, D65.
        for (rgb, expected) in [
            ([255u8, 255, 255], [100.0, 0.0, 0.0]),
            ([255, 0, 0], [53.24, 80.09, 67.2]),
            ([0, 255, 0], [87.74, -86.18, 83.18]),
            ([0, 0, 255], [32.3, 79.19, -107.86]),
            ([0, 0, 0], [0.0, 0.0, 0.0]),
        ] {
            let picture = Tensor::from_slice(&rgb.repeat(16)).reshape([4, 4, 3]);
            let found: Vec<f32> = Vec::try_from(lab(&picture).view([-1])).unwrap();
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 0.15, "{rgb:?}: {found} {expected}");
            }
        }
    }

    #[test]
    fn a_crop_without_objects_has_a_loss_with_a_gradient() {
        let features = mask(left, 1.0).set_requires_grad(true);
        let nothing = Shown::nothing(&augment());
        for term in [
            Term::MaskDice { weight: 1.0 },
            Term::BoxProjection { weight: 1.0 },
            Term::BoxAffinity {
                weight: 1.0,
                threshold: 0.3,
            },
        ] {
            assert_eq!(value(&term, &nothing, &features, &grey(), 1.0), 0.0, "{term:?}");
        }
    }
}
