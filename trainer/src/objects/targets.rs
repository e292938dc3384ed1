//! What a network with centres is taught of a crop.
//!
//! An object's centre is that of its box, as far as the crop shows it: boxes are by hand also where pixels are by a machine.
//! Around a centre heat falls as a Gaussian whose deviation grows with the object, as centres of large ones are less sure.

pub use super::shown::size;
use super::shown::{STRIDE, Shown};
use crate::augment::Augment;

/// Planes of the targets: heat, offset down, offset right, weight of the heat, weight of the offsets.
pub const PLANES: usize = 5;

/// A Gaussian's deviation, in shares of the square root of the box's area.
const DEVIATION: f32 = 0.08;
/// Least and most of a deviation, in cells.
const DEVIATIONS: [f32; 2] = [1.0, 4.0];
/// Around a centre that is not taught, heat is not taught where it would be more than this.
const UNTAUGHT: f32 = 0.1;

/// Writes the targets of a crop: [`PLANES`] planes of [`size`].
///
/// Offsets are in pixels of the crop. The offsets of an object weigh together as the square root of its cells.
pub fn write(shown: &Shown, augment: &Augment, out: &mut [f32]) {
    let cells = size(augment);
    let area = cells.area();
    out.fill(0.0);
    let (heat, rest) = out.split_at_mut(area);
    let (offsets, weights) = rest.split_at_mut(2 * area);
    let (heat_weights, offset_weights) = weights.split_at_mut(area);
    heat_weights.fill(1.0);

    let mut centers = [None; 256];
    for object in &shown.list {
        let (center, sides) = (object.center(), object.sides());
        let cell = [
            ((center[0] / STRIDE as f32) as usize).min(cells.width - 1),
            ((center[1] / STRIDE as f32) as usize).min(cells.height - 1),
        ];
        let deviation = DEVIATION * (sides[0] * sides[1]).sqrt() / STRIDE as f32;
        let deviation = deviation.clamp(DEVIATIONS[0], DEVIATIONS[1]);
        // Beyond three deviations nothing is left.
        let reach = (3.0 * deviation).ceil() as usize;
        let around = |at: usize, end: usize| at.saturating_sub(reach)..(at + reach + 1).min(end);
        for y in around(cell[1], cells.height) {
            for x in around(cell[0], cells.width) {
                let (dx, dy) = (x as f32 - cell[0] as f32, y as f32 - cell[1] as f32);
                let value = (-(dx * dx + dy * dy) / (2.0 * deviation * deviation)).exp();
                let index = y * cells.width + x;
                if object.is_taught {
                    heat[index] = heat[index].max(value);
                } else if value > UNTAUGHT {
                    heat_weights[index] = 0.0;
                }
            }
        }
        if object.is_taught {
            centers[usize::from(object.number)] = Some(center);
        }
    }
    // A centre that is taught counts wherever it is.
    for (weight, &heat) in heat_weights.iter_mut().zip(&*heat) {
        if heat == 1.0 {
            *weight = 1.0;
        }
    }

    let middle = |at: usize| (at as f32 + 0.5) * STRIDE as f32;
    let mut counts = [0_u32; 256];
    for &number in &shown.numbers {
        counts[usize::from(number)] += 1;
    }
    for (index, &number) in shown.numbers.iter().enumerate() {
        if let Some([x, y]) = centers[usize::from(number)] {
            offsets[index] = y - middle(index / cells.width);
            offsets[area + index] = x - middle(index % cells.width);
            offset_weights[index] = 1.0 / (counts[usize::from(number)] as f32).sqrt();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::{Size, crop};
    use crate::picture::{Object, Objects, Picture};
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    fn augment() -> Augment {
        Augment::plain(Size {
            width: 64,
            height: 48,
        })
    }

    /// A picture of 64x48 with boxes that their pixels fill, the first in the back.
    fn picture(boxes: &[([usize; 4], bool)]) -> Picture {
        let mut numbers = vec![0; 64 * 48];
        let mut list = Vec::new();
        for (number, &([left, top, right, bottom], difficult)) in (1..).zip(boxes) {
            for y in top..bottom {
                numbers[y * 64 + left..y * 64 + right].fill(number);
            }
            list.push(Object {
                number,
                class: 1,
                bounds: [left, top, right, bottom].map(|side| side as f32),
                difficult,
                has_mask: true,
            });
        }
        Picture {
            width: 64,
            height: 48,
            rgb: vec![0; 3 * 64 * 48],
            labels: numbers.iter().map(|&number| u8::from(number > 0)).collect(),
            objects: Some(Objects { numbers, list }),
        }
    }

    fn made(picture: &Picture, augment: &Augment, seed: u64) -> (Vec<u8>, Vec<f32>) {
        let mut rgb = vec![0; 3 * augment.crop.area()];
        let mut labels = vec![0; augment.labels_size().area()];
        let map = crop(
            picture,
            augment,
            &mut Pcg64Mcg::seed_from_u64(seed),
            &mut rgb,
            &mut labels,
        );
        let mut out = vec![0.0; PLANES * size(augment).area()];
        let objects = picture.objects.as_ref().unwrap();
        let shown = Shown::new(objects, &map, augment, picture.width, picture.height);
        write(&shown, augment, &mut out);
        (labels, out)
    }

    #[test]
    fn heat_peaks_at_centres_and_offsets_lead_there() {
        let (_, out) = made(
            &picture(&[([8, 8, 24, 40], false), ([40, 4, 60, 16], false)]),
            &augment(),
            1,
        );
        let area = 16 * 12;
        let peaks: Vec<usize> = (0..area).filter(|&cell| out[cell] == 1.0).collect();
        // Centres (16, 24) and (50, 10).
        assert_eq!(peaks, [2 * 16 + 12, 6 * 16 + 4]);
        let cell = 2 * 16 + 2;
        // Its middle is (10, 10).
        assert_eq!((out[area + cell], out[2 * area + cell]), (14.0, 6.0));
        // 4 x 8 cells weigh as their root.
        assert!((out[4 * area + cell] - 32f32.sqrt().recip()).abs() < 1e-6);
        let sum: f32 = out[4 * area..].iter().sum();
        assert!((sum - 32f32.sqrt() - 15f32.sqrt()).abs() < 1e-4, "{sum}");
        assert!(out[3 * area..4 * area].iter().all(|&weight| weight == 1.0));
    }

    #[test]
    fn what_is_difficult_or_hardly_seen_is_left_out() {
        let (_, out) = made(
            &picture(&[([8, 8, 24, 40], true), ([40, 4, 44, 16], false)]),
            &augment(),
            1,
        );
        let area = 16 * 12;
        assert!(out[..area].iter().all(|&heat| heat == 0.0));
        assert!(out[4 * area..].iter().all(|&weight| weight == 0.0));
        assert_eq!(out[3 * area + 6 * 16 + 4], 0.0);
        assert_eq!(out[3 * area + 2 * 16 + 10], 0.0);
        assert_eq!(out[3 * area + 11 * 16 + 15], 1.0);
    }

    #[test]
    fn void_teaches_no_offsets() {
        let mut picture = picture(&[([8, 8, 24, 40], false)]);
        picture
            .objects
            .as_mut()
            .unwrap()
            .numbers
            .fill(vision::dataset::IGNORE);
        let (_, out) = made(&picture, &augment(), 1);
        assert!(out[4 * 16 * 12..].iter().all(|&weight| weight == 0.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn targets_move_with_the_picture(
            left in 0usize..40, top in 0usize..30, width in 12usize..24, height in 10usize..18, seed in any::<u64>(),
            scale in 0.7f32..2.0, aspect in 1.0f32..1.4,
        ) {
            let bounds = [left, top, left + width, top + height];
            let augment = Augment { scale: [scale, scale], aspect, flip: true, whole: true, ..augment() };
            let (labels, out) = made(&picture(&[(bounds, false)]), &augment, seed);
            let cells = size(&augment);
            let area = cells.area();
            // The box of what the crop shows of the object.
            let shown: Vec<(usize, usize)> = (0..64 * 48).filter(|&i| labels[i] == 1).map(|i| (i % 64, i / 64)).collect();
            prop_assume!(!shown.is_empty());
            let ends = |of: fn(&(usize, usize)) -> usize| {
                let (low, high) = (shown.iter().map(of).min().unwrap(), shown.iter().map(of).max().unwrap());
                (low as f32, high as f32 + 1.0)
            };
            let (xs, ys) = (ends(|p| p.0), ends(|p| p.1));
            let center = [0.5 * (xs.0 + xs.1), 0.5 * (ys.0 + ys.1)];
            for cell in 0..area {
                let middle = [(cell % cells.width) as f32 * 4.0 + 2.0, (cell / cells.width) as f32 * 4.0 + 2.0];
                // The sample lies in the middle of four pixels.
                let at = |dx: usize, dy: usize| labels[(middle[1] as usize - dy) * 64 + middle[0] as usize - dx];
                let on = [at(0, 0), at(1, 0), at(0, 1), at(1, 1)] == [1; 4];
                if out[4 * area + cell] > 0.0 {
                    prop_assert!((middle[0] + out[2 * area + cell] - center[0]).abs() < 1.1);
                    prop_assert!((middle[1] + out[area + cell] - center[1]).abs() < 1.1);
                }
                let near = (xs.0 - 2.0..xs.1 + 2.0).contains(&middle[0]) && (ys.0 - 2.0..ys.1 + 2.0).contains(&middle[1]);
                prop_assert!(near || out[4 * area + cell] == 0.0);
                prop_assert!(!on || out[4 * area + cell] > 0.0 || xs.1 - xs.0 < 8.0 || ys.1 - ys.0 < 8.0);
            }
        }
    }
}
