//! What a crop shows of a picture's objects.

use vision::dataset::IGNORE;

use crate::augment::{Augment, Map, Size};
use crate::picture::Objects;

/// Pixels between the cells that numbers are sampled at.
pub const STRIDE: usize = 4;

/// Objects of which a crop shows less, by share of their box or by side in pixels, are not taught.
const LEAST_SHARE: f32 = 0.25;
const LEAST_SIDE: f32 = 6.0;
/// A mask of fewer cells is none.
const LEAST_CELLS: u32 = 4;

/// An object as far as a crop shows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShownObject {
    /// Its number in [`Shown::numbers`].
    pub number: u8,
    /// Its class.
    pub class: u8,
    /// Its box in pixels of the crop, within it: left, top, right, bottom.
    pub bounds: [f32; 4],
    /// Whether a network is taught that it is there; if not, it isn't taught either that nothing is.
    pub is_taught: bool,
    /// Whether its pixels are known, and the crop shows enough of them. Of others the box alone is.
    pub has_mask: bool,
}

impl ShownObject {
    /// The middle of what is shown of the box: right, down.
    #[must_use]
    pub fn center(&self) -> [f32; 2] {
        let [left, top, right, bottom] = self.bounds;
        [0.5 * (left + right), 0.5 * (top + bottom)]
    }

    /// Width and height of what is shown of the box.
    #[must_use]
    pub fn sides(&self) -> [f32; 2] {
        let [left, top, right, bottom] = self.bounds;
        [right - left, bottom - top]
    }
}

/// What a crop shows of a picture's objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// The number of the object at the middle of each cell of [`size`]: 0 for none and outside of the picture, [`IGNORE`] where
    /// nobody knows.
    pub numbers: Vec<u8>,
    /// The objects.
    pub list: Vec<ShownObject>,
}

/// Cells of a crop's numbers.
#[must_use]
pub fn size(augment: &Augment) -> Size {
    Size {
        width: augment.crop.width / STRIDE,
        height: augment.crop.height / STRIDE,
    }
}

impl Shown {
    /// A crop without an object.
    #[must_use]
    pub fn nothing(augment: &Augment) -> Self {
        Self {
            numbers: vec![0; size(augment).area()],
            list: Vec::new(),
        }
    }

    /// What the crop shows that `map` leads to a picture of `width` by `height` with `objects`.
    #[must_use]
    pub fn new(objects: &Objects, map: &Map, augment: &Augment, width: usize, height: usize) -> Self {
        let cells = size(augment);
        let middle = |at: usize| (at as f32 + 0.5) * STRIDE as f32;
        let number = |index: usize| {
            let [x, y] = map.source(middle(index % cells.width), middle(index / cells.width));
            let inside = x >= 0.0 && y >= 0.0 && x < width as f32 && y < height as f32;
            if inside {
                objects.numbers[y as usize * width + x as usize]
            } else {
                0
            }
        };
        let numbers: Vec<u8> = (0..cells.area()).map(number).collect();
        let mut counts = [0_u32; 256];
        for &number in numbers.iter().filter(|&&number| number != IGNORE) {
            counts[usize::from(number)] += 1;
        }
        let crop = [augment.crop.width as f32, augment.crop.height as f32];
        let list = objects.list.iter().filter_map(|object| {
            let whole = map.to_crop(object.bounds);
            let bounds = [
                whole[0].max(0.0),
                whole[1].max(0.0),
                whole[2].min(crop[0]),
                whole[3].min(crop[1]),
            ];
            let sides = [bounds[2] - bounds[0], bounds[3] - bounds[1]];
            if sides[0] <= 0.0 || sides[1] <= 0.0 {
                return None;
            }
            let share = sides[0] * sides[1] / ((whole[2] - whole[0]) * (whole[3] - whole[1]));
            Some(ShownObject {
                number: object.number,
                class: object.class,
                bounds,
                is_taught: !object.difficult && share >= LEAST_SHARE && sides[0].min(sides[1]) >= LEAST_SIDE,
                has_mask: object.has_mask && counts[usize::from(object.number)] >= LEAST_CELLS,
            })
        });
        let list = list.collect();
        Self { numbers, list }
    }
}
