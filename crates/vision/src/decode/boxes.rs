//! Boxes: from the network's numbers to pixels, and which of them are of one object.

use super::stamp::Area;
use crate::model::contract::{BoxForm, BoxUnit, Objects};
use crate::tensor::{InputSize, Placement};

/// A box in pixels of the network's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Corners {
    pub left: f32,
    pub top: f32,
    pub right: f32,
    pub bottom: f32,
}

impl Corners {
    /// As the contract writes boxes, in an input of `size`.
    pub fn new(numbers: [f32; 4], objects: &Objects, size: InputSize) -> Self {
        let (across, down) = match objects.box_unit {
            BoxUnit::Pixels => (1.0, 1.0),
            BoxUnit::Shares => (size.width as f32, size.height as f32),
        };
        let [a, b, c, d] = numbers;
        let [left, top, right, bottom] = match objects.boxes {
            BoxForm::Corners => [a, b, c, d],
            BoxForm::CenterSize | BoxForm::Cells => [a - c / 2.0, b - d / 2.0, a + c / 2.0, b + d / 2.0],
        };
        Self {
            left: left * across,
            top: top * down,
            right: right * across,
            bottom: bottom * down,
        }
    }

    /// Of the cell `row` as [`BoxForm::Cells`] writes it, in an input of `size`.
    pub fn of_cell([x, y, width, height]: [f32; 4], row: usize, size: InputSize) -> Self {
        let mut first = 0;
        let mut stride = FIRST_STRIDE;
        while stride < LAST_STRIDE && row >= first + cells(size, stride) {
            first += cells(size, stride);
            stride *= 2;
        }
        let columns = size.width.div_ceil(stride);
        let (across, down) = ((row - first) % columns, (row - first) / columns);
        let stride = stride as f32;
        let middle = |at: usize, from: f32| (at as f32 + from) * stride;
        // More than any picture has, and finite whatever the network says.
        let half = |log: f32| log.min(12.0).exp() * stride / 2.0;
        let (x, y) = (middle(across, x), middle(down, y));
        let (width, height) = (half(width), half(height));
        Self {
            left: x - width,
            top: y - height,
            right: x + width,
            bottom: y + height,
        }
    }

    fn area(&self) -> f32 {
        (self.right - self.left).max(0.0) * (self.bottom - self.top).max(0.0)
    }

    /// Intersection over union, 0 to 1; 0 for two boxes without area.
    pub fn overlap(&self, other: &Self) -> f32 {
        let shared = Self {
            left: self.left.max(other.left),
            top: self.top.max(other.top),
            right: self.right.min(other.right),
            bottom: self.bottom.min(other.bottom),
        };
        let shared = shared.area();
        let all = self.area() + other.area() - shared;
        if all > 0.0 { shared / all } else { 0.0 }
    }

    /// The box in a picture of `width` x `height` pixels that fills `placement` of the input: left, top, right, bottom.
    pub fn in_picture(&self, placement: Placement, (width, height): (usize, usize)) -> [f64; 4] {
        let across = |x: f32| (f64::from(x) - placement.x as f64) * width as f64 / placement.width as f64;
        let down = |y: f32| (f64::from(y) - placement.y as f64) * height as f64 / placement.height as f64;
        [
            across(self.left),
            down(self.top),
            across(self.right),
            down(self.bottom),
        ]
    }
}

/// The strides of [`BoxForm::Cells`]: each twice the one before.
const FIRST_STRIDE: usize = 8;
const LAST_STRIDE: usize = 128;

/// Cells of a stride in an input of `size`.
fn cells(size: InputSize, stride: usize) -> usize {
    size.width.div_ceil(stride) * size.height.div_ceil(stride)
}

/// Whether `count` boxes are one for each cell of the first strides.
///
/// # Errors
/// How many were expected.
pub(super) fn check_cells(count: usize, size: InputSize) -> Result<(), String> {
    let mut sum = 0;
    let mut stride = FIRST_STRIDE;
    let mut usual = 0;
    while stride <= LAST_STRIDE {
        sum += cells(size, stride);
        if sum == count {
            return Ok(());
        }
        if stride == 32 {
            usual = sum;
        }
        stride *= 2;
    }
    Err(format!(
        "it gave {count} boxes for an input of {}x{}; output.boxes = \"cells\" expects one for each cell of strides 8, 16 and 32 \
         ({usual}), or of more strides",
        size.width, size.height
    ))
}

/// The pixels whose centres lie in a box, in a picture of `width` x `height`.
pub(super) fn pixels([left, top, right, bottom]: [f64; 4], (width, height): (usize, usize)) -> Area {
    let first = |edge: f64, side: usize| (edge - 0.5).ceil().clamp(0.0, side as f64) as usize;
    Area {
        left: first(left, width),
        top: first(top, height),
        right: first(right, width),
        bottom: first(bottom, height),
    }
}

/// Of two boxes of one object, the share above which the doubtful one shows nothing that the other does not.
pub(super) const SAME: f32 = 0.8;

/// What becomes of a candidate beside better ones of its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    /// It shares much with a better one, and may be another object all the same.
    Doubtful,
    Goes,
}

/// Which candidates stay, of `count` that come in falling order of their scores: of two of a class that share more than
/// `limit` the later one goes. `candidate` gives class and box, `fate` is told what becomes of each.
pub(super) fn suppress(
    count: usize,
    limit: f32,
    kept: &mut Vec<usize>,
    candidate: impl Fn(usize) -> (u8, Corners),
    mut fate: impl FnMut(usize, Fate),
) {
    kept.clear();
    for number in 0..count {
        let (class, own) = candidate(number);
        let most = kept
            .iter()
            .map(|&other| candidate(other))
            .filter(|(other, _)| *other == class)
            .map(|(_, other)| own.overlap(&other))
            .fold(0.0, f32::max);
        if most <= limit {
            kept.push(number);
            fate(number, Fate::Stays);
        } else if most <= SAME {
            fate(number, Fate::Doubtful);
        } else {
            fate(number, Fate::Goes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn corners(left: f32, top: f32, right: f32, bottom: f32) -> Corners {
        Corners {
            left,
            top,
            right,
            bottom,
        }
    }

    #[test]
    fn boxes_are_read_as_the_contract_writes_them() {
        let size = InputSize {
            width: 100,
            height: 50,
        };
        let mut objects = Objects::default();
        let read = |objects: &Objects, numbers| Corners::new(numbers, objects, size);
        assert_eq!(
            read(&objects, [20.0, 10.0, 8.0, 4.0]),
            corners(16.0, 8.0, 24.0, 12.0)
        );
        objects.box_unit = BoxUnit::Shares;
        objects.boxes = BoxForm::Corners;
        assert_eq!(
            read(&objects, [0.5, 0.5, 1.0, 1.0]),
            corners(50.0, 25.0, 100.0, 50.0)
        );
    }

    #[test]
    fn boxes_of_cells_count_from_their_cell() {
        let size = InputSize {
            width: 64,
            height: 32,
        };
        // 8x4 cells of stride 8, 4x2 of 16, 2x1 of 32.
        assert_eq!(check_cells(32, size), Ok(()));
        assert_eq!(check_cells(32 + 8 + 2, size), Ok(()));
        assert_eq!(check_cells(32 + 8 + 2 + 1, size), Ok(()));
        let why = check_cells(41, size).unwrap_err();
        assert!(
            why.contains("41 boxes for an input of 64x32") && why.contains("(42)"),
            "{why}"
        );
        let none = [0.0, 0.0, 0.0, 0.0];
        assert_eq!(Corners::of_cell(none, 0, size), corners(-4.0, -4.0, 4.0, 4.0));
        assert_eq!(
            Corners::of_cell([0.5, 0.25, 0.0, 2.0f32.ln()], 9, size),
            corners(8.0, 2.0, 16.0, 18.0)
        );
        assert_eq!(
            Corners::of_cell(none, 32 + 5, size),
            corners(8.0, 8.0, 24.0, 24.0)
        );
        assert_eq!(
            Corners::of_cell(none, 32 + 8 + 1, size),
            corners(16.0, -16.0, 48.0, 16.0)
        );
        let huge = Corners::of_cell([0.0, 0.0, 1e9, 1e9], 0, size);
        assert!(huge.right.is_finite() && huge.left.is_finite());
    }

    #[test]
    fn a_pixel_is_in_a_box_if_its_centre_is() {
        let area = pixels([0.5, -3.0, 2.5, 1.4], (10, 10));
        assert_eq!((area.left, area.right, area.top, area.bottom), (0, 2, 0, 1));
        assert!(pixels([-9.0, 0.0, -1.0, 5.0], (10, 10)).is_empty());
        assert!(pixels([f64::NAN; 4], (10, 10)).is_empty());
    }

    proptest! {
        #[test]
        fn of_what_stays_no_two_of_a_class_share_more_than_the_limit(
            list in prop::collection::vec((0..3_u8, 0.0..20.0_f32, 0.0..20.0_f32, 0.0..10.0_f32, 0.0..10.0_f32), 0..30),
            limit in 0.05..0.95_f32,
        ) {
            let candidate = |n: usize| {
                let (class, x, y, w, h) = list[n];
                (class, corners(x, y, x + w, y + h))
            };
            let mut stays = Vec::new();
            suppress(list.len(), limit, &mut Vec::new(), candidate, |n, fate| {
                if fate == Fate::Stays { stays.push(n) }
            });
            // Each that goes has a better one that stays, and those that stay have none.
            for n in 0..list.len() {
                let (class, own) = candidate(n);
                let covered = stays.iter().any(|&other| {
                    let (theirs, box_of) = candidate(other);
                    other < n && theirs == class && own.overlap(&box_of) > limit
                });
                prop_assert_eq!(covered, !stays.contains(&n));
            }
        }
    }
}
