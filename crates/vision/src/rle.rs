//! Masks as run lengths, as COCO has them: pixels go down the columns, and runs of outside and inside alternate.

use crate::frame::LabelMap;

/// A mask of `width` x `height` pixels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rle {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Lengths of runs down the columns, the first of them outside; they sum up to `width * height`.
    pub counts: Vec<u32>,
}

impl Rle {
    /// The pixels for which `inside` is true, of column and row.
    pub fn new(width: usize, height: usize, inside: impl Fn(usize, usize) -> bool) -> Self {
        let mut counts = Vec::new();
        let (mut is_inside, mut run) = (false, 0);
        for x in 0..width {
            for y in 0..height {
                if inside(x, y) != is_inside {
                    counts.push(run);
                    (is_inside, run) = (!is_inside, 0);
                }
                run += 1;
            }
        }
        counts.push(run);
        Self {
            width,
            height,
            counts,
        }
    }

    /// The pixels of a map that have one number.
    pub fn of(map: &LabelMap, number: u8) -> Self {
        Self::new(map.width, map.height, |x, y| {
            map.labels[y * map.width + x] == number
        })
    }

    /// The masks of the numbers below `count` in a map, in one pass over it: as [`of`](Self::of) gives them one by one.
    pub fn of_each(map: &LabelMap, count: usize) -> Vec<Self> {
        let (width, height) = (map.width, map.height);
        let empty = Self {
            width,
            height,
            counts: Vec::new(),
        };
        let mut masks = vec![empty; count];
        // Where the last run of each began.
        let mut began = vec![0; count];
        let mut turn = |number: u8, at: usize| {
            if let Some(mask) = masks.get_mut(usize::from(number)) {
                let start = std::mem::replace(&mut began[usize::from(number)], at);
                mask.counts.push((at - start) as u32);
            }
        };
        let mut before: Option<u8> = None;
        for x in 0..width {
            for y in 0..height {
                let label = map.labels[y * width + x];
                if before == Some(label) {
                    continue;
                }
                for changed in [before, Some(label)].into_iter().flatten() {
                    turn(changed, x * height + y);
                }
                before = Some(label);
            }
        }
        for number in 0..count.min(256) {
            turn(number as u8, width * height);
        }
        masks
    }

    /// The inside of polygons, each `[x, y, x, y, ...]` in pixels: what lies in one of them, pixel for pixel as pycocotools
    /// fills them. A polygon of less than three corners is empty, and one that reaches further past the picture than its
    /// longer side is cut off there.
    pub fn of_polygons(width: usize, height: usize, polygons: &[Vec<f64>]) -> Self {
        let mut inside = vec![false; width * height];
        let mut scratch = Boundary::default();
        for polygon in polygons.iter().filter(|p| p.len() >= 6) {
            let edges = scratch.edges(width, height, polygon);
            for pair in edges.chunks(2) {
                let end = pair.get(1).map_or(width * height, |end| *end);
                inside[pair[0]..end].fill(true);
            }
        }
        Self::new(width, height, |x, y| inside[x * height + y])
    }

    /// Pixels.
    pub fn area(&self) -> u64 {
        self.counts.iter().skip(1).step_by(2).map(|&n| u64::from(n)).sum()
    }

    /// First and one past the last pixel of each run inside, counted down the columns.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut at = 0;
        self.counts
            .as_chunks::<2>()
            .0
            .iter()
            .map(move |&[outside, inside]| {
                let start = at + u64::from(outside);
                at = start + u64::from(inside);
                (start, at)
            })
    }

    /// Pixels that both have.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn shared(&self, other: &Self) -> u64 {
        assert_eq!(
            (self.width, self.height),
            (other.width, other.height),
            "masks of one size"
        );
        let (mut a, mut b) = (self.runs().peekable(), other.runs().peekable());
        let mut shared = 0;
        while let (Some(&(a0, a1)), Some(&(b0, b1))) = (a.peek(), b.peek()) {
            shared += a1.min(b1).saturating_sub(a0.max(b0));
            if a1 <= b1 {
                a.next();
            } else {
                b.next();
            }
        }
        shared
    }

    /// The pixels that `other` does not have.
    ///
    /// # Panics
    /// If the sizes differ.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let (own, theirs) = (self.pixels(), other.pixels());
        assert_eq!(own.len(), theirs.len(), "masks of one size");
        Self::new(self.width, self.height, |x, y| {
            let at = x * self.height + y;
            own[at] && !theirs[at]
        })
    }

    /// The pixels that one of both has.
    ///
    /// # Panics
    /// If the sizes differ.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let (own, theirs) = (self.pixels(), other.pixels());
        assert_eq!(own.len(), theirs.len(), "masks of one size");
        Self::new(self.width, self.height, |x, y| {
            let at = x * self.height + y;
            own[at] || theirs[at]
        })
    }

    /// Each pixel, down the columns.
    fn pixels(&self) -> Vec<bool> {
        let mut pixels = Vec::with_capacity(self.width * self.height);
        for (number, &run) in self.counts.iter().enumerate() {
            pixels.resize(pixels.len() + run as usize, number % 2 == 1);
        }
        pixels
    }

    /// Left, top, width, height of the smallest box; zeros for no pixel.
    pub fn bbox(&self) -> [u64; 4] {
        let height = self.height.max(1) as u64;
        let (mut left, mut right, mut top, mut bottom) = (u64::MAX, 0, u64::MAX, 0);
        for (start, end) in self.runs().filter(|(start, end)| start < end) {
            let (first, last) = (start / height, (end - 1) / height);
            (left, right) = (left.min(first), right.max(last));
            // A run over the end of a column takes all rows.
            let (low, high) = if first == last {
                (start % height, (end - 1) % height)
            } else {
                (0, height - 1)
            };
            (top, bottom) = (top.min(low), bottom.max(high));
        }
        match left {
            u64::MAX => [0; 4],
            _ => [left, top, right - left + 1, bottom - top + 1],
        }
    }

    /// The counts as COCO writes them: differences to the count before the last, five bits a letter.
    pub fn to_coco(&self) -> String {
        let mut text = String::new();
        for (at, &count) in self.counts.iter().enumerate() {
            let before = if at > 2 { i64::from(self.counts[at - 2]) } else { 0 };
            let mut rest = i64::from(count) - before;
            loop {
                let bits = (rest & 31) as u8;
                rest >>= 5;
                let more = if bits & 16 != 0 { rest != -1 } else { rest != 0 };
                text.push(char::from(48 + bits + if more { 32 } else { 0 }));
                if !more {
                    break;
                }
            }
        }
        text
    }

    /// Reads what [`to_coco`](Self::to_coco) writes; `None` for anything else, such as counts of another size.
    pub fn from_coco(width: usize, height: usize, text: &str) -> Option<Self> {
        let mut counts: Vec<u32> = Vec::new();
        let mut letters = text.bytes();
        while let Some(first) = letters.next() {
            let (mut value, mut shift, mut letter) = (0_i64, 0, first);
            loop {
                let bits = letter.checked_sub(48).filter(|bits| *bits < 64 && shift < 60)?;
                value |= i64::from(bits & 31) << shift;
                shift += 5;
                if bits & 32 == 0 {
                    if bits & 16 != 0 {
                        value |= -1 << shift;
                    }
                    break;
                }
                letter = letters.next()?;
            }
            if counts.len() > 2 {
                value += i64::from(counts[counts.len() - 2]);
            }
            counts.push(u32::try_from(value).ok()?);
        }
        Self::from_counts(width, height, counts)
    }

    /// Counts that are written as a list; `None` if they are those of another size.
    pub fn from_counts(width: usize, height: usize, counts: Vec<u32>) -> Option<Self> {
        let all: u64 = counts.iter().map(|&n| u64::from(n)).sum();
        let pixels = u64::try_from(width.checked_mul(height)?).ok()?;
        (all == pixels).then_some(Self {
            width,
            height,
            counts,
        })
    }
}

/// Steps of a polygon's boundary to a pixel.
const STEPS: f64 = 5.0;

/// Where a polygon's boundary runs.
#[derive(Debug, Default)]
struct Boundary {
    /// Points along it, `STEPS` to a pixel.
    points: Vec<[i64; 2]>,
    /// Pixels at which it is crossed, down the columns.
    edges: Vec<usize>,
}

impl Boundary {
    /// The pixels, counted down the columns, at which the inside of a polygon begins and ends in turn.
    fn edges(&mut self, width: usize, height: usize, polygon: &[f64]) -> &[usize] {
        let side = width.max(height) as f64;
        let corner = |corner: &[f64; 2]| corner.map(|at| (STEPS * at.clamp(-side, 2.0 * side) + 0.5) as i64);
        self.points.clear();
        let corners = polygon.as_chunks::<2>().0;
        for (from, to) in corners.iter().zip(corners.iter().cycle().skip(1)) {
            self.line(corner(from), corner(to));
        }
        self.edges.clear();
        for pair in self.points.windows(2) {
            let [[x0, y0], [x1, y1]] = [pair[0], pair[1]];
            if x0 == x1 {
                continue;
            }
            // A column is crossed at its middle.
            let column = (if x1 < x0 { x1 } else { x1 - 1 } as f64 + 0.5) / STEPS - 0.5;
            if column.fract() != 0.0 || column < 0.0 || column > width as f64 - 1.0 {
                continue;
            }
            let row = ((y1.min(y0) as f64 + 0.5) / STEPS - 0.5)
                .clamp(0.0, height as f64)
                .ceil();
            self.edges.push(column as usize * height + row as usize);
        }
        self.edges.sort_unstable();
        &self.edges
    }

    /// Adds the points of a line, both ends among them. It is drawn from its lower end in the longer direction, so that it
    /// is the same both ways.
    fn line(&mut self, from: [i64; 2], to: [i64; 2]) {
        let long = usize::from((to[0] - from[0]).abs() < (to[1] - from[1]).abs());
        let short = 1 - long;
        let length = (to[long] - from[long]).abs();
        let turned = from[long] > to[long];
        let (low, high) = if turned { (to, from) } else { (from, to) };
        let slope = if length == 0 {
            0.0
        } else {
            (high[short] - low[short]) as f64 / length as f64
        };
        for step in 0..=length {
            let step = if turned { length - step } else { step };
            let mut point = [0; 2];
            point[long] = low[long] + step;
            point[short] = (low[short] as f64 + slope * step as f64 + 0.5) as i64;
            self.points.push(point);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn letters_are_coco_s() {
        // What `mask.encode` of pycocotools 2.0.11 gives for these pixels.
        let mask = Rle::new(4, 3, |x, y| (x, y) != (0, 0) && x < 3);
        assert_eq!(
            (mask.counts.as_slice(), mask.to_coco().as_str()),
            (&[1, 8, 3][..], "183")
        );
        let long = Rle::new(100, 100, |x, y| (20..70).contains(&x) && (10..90).contains(&y));
        assert_eq!(long.area(), 4000);
        assert_eq!(long.bbox(), [20, 10, 50, 80]);
        assert_eq!(long.to_coco(), format!("jn1`2d0{}^m2", "0".repeat(97)));
        let square = Rle::new(100, 100, |x, y| (20..60).contains(&x) && (30..70).contains(&y));
        assert_eq!(square.to_coco(), format!("^o1X1l1{}Rl3", "0".repeat(77)));
    }

    #[test]
    fn polygons_are_filled_where_pixels_have_their_centres() {
        let square = Rle::of_polygons(10, 10, &[vec![2.0, 3.0, 6.0, 3.0, 6.0, 8.0, 2.0, 8.0]]);
        assert_eq!(
            square,
            Rle::new(10, 10, |x, y| (2..6).contains(&x) && (3..8).contains(&y))
        );
        let two = Rle::of_polygons(
            10,
            10,
            &[
                vec![0.0, 0.0, 2.0, 0.0, 0.0, 2.0],
                vec![5.0, 5.0, 9.0, 5.0, 9.0, 9.0, 5.0, 9.0],
            ],
        );
        assert_eq!(two.area(), 1 + 16);
        assert_eq!(Rle::of_polygons(10, 10, &[vec![1.0, 2.0]]).area(), 0);
    }

    proptest! {
        #[test]
        fn masks_survive_writing_and_share_what_their_pixels_share(
            (width, height) in (1..40_usize, 1..40_usize), seed in any::<u64>(), block in 1..9_usize,
        ) {
            let pixel = |x: usize, y: usize, salt: u64| {
                let cell = (x / block * 41 + y / block) as u64;
                (cell ^ salt).wrapping_mul(seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 1
            };
            let a = Rle::new(width, height, |x, y| pixel(x, y, 1));
            let b = Rle::new(width, height, |x, y| pixel(x, y, 77));
            prop_assert_eq!(Rle::from_coco(width, height, &a.to_coco()), Some(a.clone()));
            prop_assert_eq!(Rle::from_coco(width, height + 1, &a.to_coco()), None);
            let all = || (0..width).flat_map(|x| (0..height).map(move |y| (x, y)));
            prop_assert_eq!(a.area(), all().filter(|&(x, y)| pixel(x, y, 1)).count() as u64);
            let both = all().filter(|&(x, y)| pixel(x, y, 1) && pixel(x, y, 77)).count() as u64;
            prop_assert_eq!(a.shared(&b), both);
            prop_assert_eq!(a.without(&b).area(), a.area() - both);
            prop_assert_eq!(a.with(&b).area(), a.area() + b.area() - both);
            let own: Vec<(usize, usize)> = all().filter(|&(x, y)| pixel(x, y, 1)).collect();
            let want = own.first().map(|_| {
                let (l, r) = (own.iter().map(|p| p.0).min().unwrap(), own.iter().map(|p| p.0).max().unwrap());
                let (t, b) = (own.iter().map(|p| p.1).min().unwrap(), own.iter().map(|p| p.1).max().unwrap());
                [l, t, r - l + 1, b - t + 1].map(|n| n as u64)
            });
            prop_assert_eq!(a.bbox(), want.unwrap_or_default());
        }

        #[test]
        fn one_pass_gives_the_mask_of_each_number(
            (width, labels) in (1..40_usize).prop_flat_map(|width| {
                let rows = (1..40_usize).prop_flat_map(move |height| prop::collection::vec(0..4_u8, width * height));
                (Just(width), rows)
            }),
            smooth in 1..9_usize,
        ) {
            // Runs as masks have them, beside noise.
            let labels: Vec<u8> = (0..labels.len()).map(|at| labels[at / smooth]).collect();
            let map = LabelMap { width, height: labels.len() / width, labels };
            let expected: Vec<Rle> = (0..3).map(|number| Rle::of(&map, number)).collect();
            prop_assert_eq!(Rle::of_each(&map, 3), expected);
        }

        #[test]
        fn any_text_is_a_mask_or_none(text in "[0-~]{0,40}", (width, height) in (0..9_usize, 0..9_usize)) {
            if let Some(mask) = Rle::from_coco(width, height, &text) {
                prop_assert_eq!(mask.pixels().len(), width * height);
            }
        }
    }
}
