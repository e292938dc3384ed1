//! Which cells of a grid are taught which object of a crop (Wang et al. 2020, SOLO, section 3.3.1).
//!
//! An object belongs to the grids of its size. There the cells around its middle, within a fifth of its box, at most three by
//! three, are to name its class and to give its mask. Where two objects want a cell, the smaller one has it.

use vision::dataset::IGNORE;

use super::shown::{Shown, ShownObject, size};
use crate::augment::Augment;
use crate::nets::solo_light::Level;

/// What share of the box the cells may lie in.
const MIDDLE: f32 = 0.2;

/// What a grid's cells are taught of a crop.
#[derive(Clone, Debug, PartialEq)]
pub struct Taught {
    /// Of each cell, the place in [`Shown::list`] of the object that it is to find.
    pub objects: Vec<Option<usize>>,
    /// Of each cell, whether it is taught that it has an object or that it has none.
    pub counts: Vec<bool>,
}

impl Taught {
    /// What the cells of `level` are taught of `shown`.
    #[must_use]
    pub fn new(shown: &Shown, augment: &Augment, level: &Level) -> Self {
        let side = level.side as usize;
        let crop = [augment.crop.width as f32, augment.crop.height as f32];
        let cells = size(augment);
        let mut taught = Self {
            objects: vec![None; side * side],
            // Where nobody knows what there is, nothing is taught.
            counts: (0..side * side)
                .map(|cell| {
                    let at = |index: usize, count: usize| (2 * index + 1) * count / (2 * side);
                    let (x, y) = (at(cell % side, cells.width), at(cell / side, cells.height));
                    shown.numbers[y * cells.width + x] != IGNORE
                })
                .collect(),
        };
        let area = |object: &ShownObject| object.sides().iter().product::<f32>();
        let mut order: Vec<usize> = (0..shown.list.len()).collect();
        order.sort_by(|&a, &b| area(&shown.list[b]).total_cmp(&area(&shown.list[a])));
        for &index in &order {
            let object = &shown.list[index];
            let share = (area(object) / (crop[0] * crop[1])).sqrt();
            if !(level.scales[0]..level.scales[1]).contains(&share) {
                continue;
            }
            let [columns, rows] = {
                let (center, sides) = (center(shown, object, augment), object.sides());
                [0, 1].map(|axis| {
                    let cell = |at: f32| ((at / crop[axis] * side as f32).max(0.0) as usize).min(side - 1);
                    let reach = 0.5 * MIDDLE * sides[axis];
                    let own = cell(center[axis]);
                    let first = cell(center[axis] - reach).max(own.saturating_sub(1));
                    first..=cell(center[axis] + reach).min(own + 1)
                })
            };
            for cell in rows.flat_map(|y| columns.clone().map(move |x| y * side + x)) {
                taught.objects[cell] = object.is_taught.then_some(index);
                taught.counts[cell] = object.is_taught;
            }
        }
        taught
    }
}

/// The middle of an object's pixels, or of its box where they are not known.
fn center(shown: &Shown, object: &ShownObject, augment: &Augment) -> [f32; 2] {
    if !object.has_mask {
        return object.center();
    }
    let cells = size(augment);
    let (mut sum, mut count) = ([0.0, 0.0], 0.0);
    for (index, _) in shown
        .numbers
        .iter()
        .enumerate()
        .filter(|&(_, &number)| number == object.number)
    {
        sum[0] += (index % cells.width) as f32 + 0.5;
        sum[1] += (index / cells.width) as f32 + 0.5;
        count += 1.0;
    }
    [
        sum[0] / count * augment.crop.width as f32 / cells.width as f32,
        sum[1] / count * augment.crop.height as f32 / cells.height as f32,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::Size;
    use crate::nets::solo_light::LEVELS;

    fn augment() -> Augment {
        Augment::plain(Size {
            width: 160,
            height: 160,
        })
    }

    /// 40 x 40 cells; of each object its box, in which its pixels fill the upper half.
    fn shown(list: &[([f32; 4], bool, bool)]) -> Shown {
        let mut numbers = vec![0; 1600];
        let object = |(number, &(bounds, is_taught, has_mask)): (u8, &([f32; 4], bool, bool))| ShownObject {
            number,
            class: number,
            bounds,
            is_taught,
            has_mask,
        };
        let list: Vec<ShownObject> = (1..).zip(list).map(object).collect();
        for object in &list {
            let [left, top, right, bottom] = object.bounds.map(|side| side as usize / 4);
            for y in top..(top + bottom) / 2 {
                numbers[y * 40 + left..y * 40 + right].fill(object.number);
            }
        }
        Shown { numbers, list }
    }

    fn cells(taught: &Taught) -> Vec<(usize, usize)> {
        let found = taught.objects.iter().enumerate();
        found
            .filter_map(|(cell, object)| Some((cell, (*object)?)))
            .collect()
    }

    #[test]
    fn an_object_is_found_around_the_middle_of_its_pixels() {
        // Half of the picture: the second and the third grid. Its pixels' middle is at (80, 60).
        let shown = shown(&[([40.0, 40.0, 120.0, 120.0], true, true)]);
        let of = |level: &Level| Taught::new(&shown, &augment(), level);
        assert_eq!(cells(&of(&LEVELS[0])), []);
        // A fifth of the box is 16 pixels, two cells of 8 on each side of a border.
        let expected = [6, 7, 8]
            .iter()
            .flat_map(|y| [9, 10, 11].map(|x| (y * 20 + x, 0)));
        assert_eq!(cells(&of(&LEVELS[1])), expected.collect::<Vec<_>>());
        let third = of(&LEVELS[2]);
        assert!(cells(&third).contains(&(4 * 12 + 6, 0)));
        assert!(third.counts.iter().all(|&counts| counts));
        // Of a box alone the middle is its own.
        let mut boxed = shown.clone();
        boxed.list[0].has_mask = false;
        let second = Taught::new(&boxed, &augment(), &LEVELS[1]);
        assert!(cells(&second).contains(&(11 * 20 + 10, 0)));
    }

    #[test]
    fn the_smaller_of_two_has_a_cell_and_who_is_not_taught_takes_it_out() {
        let large = ([40.0, 40.0, 120.0, 120.0], true, false);
        let small = [60.0, 60.0, 100.0, 100.0];
        let second = |small| Taught::new(&shown(&[small, large]), &augment(), &LEVELS[1]);
        let taught = second((small, true, false));
        let owner = |taught: &Taught| taught.objects[10 * 20 + 10];
        assert_eq!((owner(&taught), taught.counts[10 * 20 + 10]), (Some(0), true));
        let taught = second((small, false, false));
        assert_eq!((owner(&taught), taught.counts[10 * 20 + 10]), (None, false));
        assert!(cells(&taught).iter().all(|&(_, object)| object == 1));
    }

    #[test]
    fn cells_of_void_are_left_out() {
        let mut shown = shown(&[]);
        shown.numbers[..40 * 20].fill(IGNORE);
        let taught = Taught::new(&shown, &augment(), &LEVELS[2]);
        assert!(taught.counts[..72].iter().all(|&counts| !counts));
        assert!(taught.counts[72..].iter().all(|&counts| counts));
    }
}
