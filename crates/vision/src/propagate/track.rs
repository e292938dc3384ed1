//! Where the blocks of the current picture lie in a key, followed from frame to frame.

use super::block::block_difference;
use super::field::{BLOCK, MotionField, UNITS, Vector};
use super::luma::{Luma, PAD};

/// A block that differs from the same place of a key at rest by no more than noise does not move.
const AT_REST: u32 = 2 * 64 - 16;
/// What a small pixel of distance from the neighbours' motion costs, in the unit of block differences. It
/// decides where a block has no structure of its own.
const UNLIKELY: u32 = 6;
/// Above this difference a block is searched for further away.
const POOR: u32 = 8 * 64;
/// First step of that search in small pixels; halved three times.
const FAR: i32 = 8;
/// Steps downhill to the nearest small pixel.
const STEPS: usize = 10;
/// Two-by-two means that differ by more than this have changed.
const CHANGED: i32 = 10;

/// How well a key explains a frame.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Fit {
    /// Share of the picture that differs, after the motion is taken out, by more than 10 of 255.
    pub changed: f32,
    /// Mean length of the vectors in source pixels.
    pub motion: f32,
    /// No block moves; what is in them may have changed all the same.
    pub still: bool,
}

/// A picture of which less has changed ...
const STILL_CHANGED: f32 = 0.004;
/// ... and that moves less, in pixels on average, stands still.
const STILL_MOTION: f32 = 0.15;

impl Fit {
    /// Whether the picture equals the key's, except for noise.
    pub fn stands(&self) -> bool {
        self.changed < STILL_CHANGED && self.motion < STILL_MOTION
    }
}

/// A key's luma, and where the current picture's blocks lie in it.
#[derive(Debug, Clone)]
pub struct Track {
    key: Luma,
    field: MotionField,
    before: MotionField,
}

impl Track {
    /// Room for pictures of `width` x `height` pixels.
    pub fn new(width: usize, height: usize) -> Self {
        let key = Luma::new(width, height);
        let field = MotionField::still(key.columns(), key.rows(), key.scale());
        Self {
            key,
            before: field.clone(),
            field,
        }
    }

    /// Makes `luma` the key.
    ///
    /// # Panics
    /// If it has another size than given to [`new`](Self::new).
    pub fn start(&mut self, luma: &Luma) {
        self.key.copy_from(luma);
        self.field.vectors.fill(Vector::default());
        self.field.differences.fill(0);
    }

    /// Where the last picture followed lies in the key.
    pub fn field(&self) -> &MotionField {
        &self.field
    }

    /// Finds the next picture's blocks in the key.
    ///
    /// `velocity` holds each block's motion from the last picture to the one before it, and is updated if `learn` is set.
    /// Of several keys that are followed at the same time, one teaches the others.
    ///
    /// # Panics
    /// If sizes differ.
    pub fn follow(&mut self, current: &Luma, velocity: &mut [Vector], learn: bool) -> Fit {
        let blocks = self.field.vectors.len();
        assert_eq!(velocity.len(), blocks, "a velocity for each block");
        assert_eq!(current.data().len(), self.key.data().len(), "luma of one size");
        std::mem::swap(&mut self.field, &mut self.before);
        let (columns, rows) = (self.field.columns, self.field.rows);
        let mut search = Search {
            current,
            key: &self.key,
            best: Best::default(),
        };
        let (mut changed, mut length, mut still) = (0, 0.0, true);
        for row in 0..rows {
            for column in 0..columns {
                let at = row * columns + column;
                let (vector, difference) = search.block(column, row, &self.before, &self.field, velocity[at]);
                self.field.vectors[at] = vector;
                self.field.differences[at] = difference.min(u32::from(u16::MAX)) as u16;
                if vector != Vector::default() {
                    still = false;
                    length += f32::from(vector.dx).hypot(f32::from(vector.dy));
                }
                if difference > AT_REST {
                    changed += search.changed(column, row, vector);
                }
            }
        }
        if learn {
            let moved = self.field.vectors.iter().zip(&self.before.vectors);
            for (velocity, (now, before)) in velocity.iter_mut().zip(moved) {
                *velocity = now.minus(*before);
            }
        }
        let cells = (blocks * BLOCK * BLOCK / 4) as f32;
        Fit {
            changed: changed as f32 / cells,
            motion: length * self.field.scale as f32 / (UNITS as f32 * blocks as f32),
            still,
        }
    }
}

/// The best match of a block so far.
#[derive(Debug, Clone, Copy, Default)]
struct Best {
    dx: i32,
    dy: i32,
    difference: u32,
    cost: u32,
}

struct Search<'a> {
    current: &'a Luma,
    key: &'a Luma,
    best: Best,
}

/// One block's place in the current picture, and what its neighbours lead to expect.
#[derive(Clone, Copy)]
struct Place {
    x: i32,
    y: i32,
    /// Where the block starts in the current picture's bytes.
    at: usize,
    expected: (i32, i32),
}

impl Search<'_> {
    fn place(&self, column: usize, row: usize) -> Place {
        let (x, y) = (column * BLOCK, row * BLOCK);
        Place {
            x: x as i32,
            y: y as i32,
            at: (y + PAD) * self.current.stride() + x + PAD,
            expected: (0, 0),
        }
    }

    /// Whether the block at `place`, moved by (`dx`, `dy`), lies in the key and its margin.
    fn is_inside(&self, place: &Place, dx: i32, dy: i32) -> bool {
        let pad = PAD as i32;
        let (right, below) = (
            (self.key.columns() * BLOCK - BLOCK) as i32 + pad,
            (self.key.rows() * BLOCK - BLOCK) as i32 + pad,
        );
        (-pad..=right).contains(&(place.x + dx)) && (-pad..=below).contains(&(place.y + dy))
    }

    fn difference(&self, place: &Place, dx: i32, dy: i32) -> u32 {
        let stride = self.key.stride();
        let at = place.at as i32 + dy * stride as i32 + dx;
        block_difference(
            self.current.data(),
            place.at,
            self.key.data(),
            at as usize,
            stride,
        )
    }

    /// Looks at one candidate; gives its difference.
    fn try_at(&mut self, place: &Place, dx: i32, dy: i32) -> u32 {
        if !self.is_inside(place, dx, dy) {
            return u32::MAX;
        }
        let difference = self.difference(place, dx, dy);
        let distance = dx.abs_diff(place.expected.0) + dy.abs_diff(place.expected.1);
        let cost = difference + UNLIKELY * distance;
        if cost < self.best.cost {
            self.best = Best {
                dx,
                dy,
                difference,
                cost,
            };
        }
        difference
    }

    /// The vector of a block and how much it differs there. `found` holds the vectors of the blocks before it.
    fn block(
        &mut self,
        column: usize,
        row: usize,
        before: &MotionField,
        found: &MotionField,
        velocity: Vector,
    ) -> (Vector, u32) {
        let columns = found.columns;
        let at = row * columns + column;
        let last = before.vectors[at];
        let mut place = self.place(column, row);
        self.best = Best {
            cost: u32::MAX,
            ..Best::default()
        };
        let rests = |at: usize| found.vectors[at] == Vector::default();
        let neighbours_rest = (column == 0 || rests(at - 1)) && (row == 0 || rests(at - columns));
        if neighbours_rest && last == Vector::default() && velocity == Vector::default() {
            let difference = self.try_at(&place, 0, 0);
            if difference <= AT_REST {
                return (Vector::default(), difference);
            }
        }
        let predicted = last.plus(velocity);
        let left = (column > 0).then(|| found.vectors[at - 1]);
        let above = (row > 0).then(|| found.vectors[at - columns]);
        let above_right = (row > 0 && column + 1 < columns).then(|| found.vectors[at - columns + 1]);
        let expected = median(
            left.unwrap_or(predicted),
            above.unwrap_or(predicted),
            above_right.unwrap_or(predicted),
        );
        place.expected = expected.rounded();
        self.best.cost = u32::MAX;
        let below = (row + 1 < found.rows).then(|| before.vectors[at + columns].plus(velocity));
        let right = (column + 1 < columns).then(|| before.vectors[at + 1].plus(velocity));
        let candidates = [
            Some(predicted),
            Some(expected),
            Some(last),
            left,
            above,
            above_right,
            right,
            below,
        ];
        let mut seen = [(i32::MIN, 0); 8];
        for (n, candidate) in candidates.into_iter().flatten().enumerate() {
            let (dx, dy) = candidate.rounded();
            if !seen[..n].contains(&(dx, dy)) {
                self.try_at(&place, dx, dy);
            }
            seen[n] = (dx, dy);
        }
        if self.best.cost == u32::MAX {
            self.try_at(&place, 0, 0);
        }
        let mut around = self.descend(&place);
        if self.best.difference > POOR {
            let mut step = FAR;
            while step > 0 {
                let centre = self.best;
                for (dx, dy) in [
                    (1, 0),
                    (-1, 0),
                    (0, 1),
                    (0, -1),
                    (1, 1),
                    (-1, -1),
                    (1, -1),
                    (-1, 1),
                ] {
                    self.try_at(&place, centre.dx + step * dx, centre.dy + step * dy);
                }
                step /= 2;
            }
            around = self.descend(&place);
        }
        (self.between_pixels(around, expected), self.best.difference)
    }

    /// Steps to the neighbour that fits best until none fits better. Gives the differences left, right, above and
    /// below of where that ends.
    fn descend(&mut self, place: &Place) -> [u32; 4] {
        let mut around = [u32::MAX; 4];
        for _ in 0..STEPS {
            let centre = self.best;
            around = [(-1, 0), (1, 0), (0, -1), (0, 1)]
                .map(|(dx, dy)| self.try_at(place, centre.dx + dx, centre.dy + dy));
            if (self.best.dx, self.best.dy) == (centre.dx, centre.dy) {
                break;
            }
        }
        around
    }

    /// The best vector, refined to parts of a pixel by the parabola through the differences at both sides. Where
    /// they are too flat to tell, the neighbours' part is taken.
    fn between_pixels(&self, [left, right, above, below]: [u32; 4], expected: Vector) -> Vector {
        let Best {
            dx, dy, difference, ..
        } = self.best;
        let whole = Vector::whole(dx, dy);
        let agrees = expected.rounded() == (dx, dy);
        let part = |before: u32, after: u32, whole: i16, expected: i16| {
            if before == u32::MAX || after == u32::MAX {
                return whole;
            }
            let (before, after, at) = (i64::from(before), i64::from(after), i64::from(difference));
            let curvature = before + after - 2 * at;
            if curvature < 64 {
                return if agrees { expected } else { whole };
            }
            let part = (before - after) * i64::from(UNITS / 2) / curvature;
            whole.saturating_add(part.clamp(-8, 8) as i16)
        };
        Vector {
            dx: part(left, right, whole.dx, expected.dx),
            dy: part(above, below, whole.dy, expected.dy),
        }
    }

    /// Squares of 2x2 pixels of a block that differ in their mean by more than [`CHANGED`], of 16. The key is read
    /// between its pixels, at the nearest half.
    fn changed(&self, column: usize, row: usize, vector: Vector) -> u32 {
        let place = self.place(column, row);
        let stride = self.key.stride();
        // In half pixels, rounded; the lower whole pixel, and whether the half after it is meant.
        let half = |v: i16| (i32::from(v) + UNITS / 4).div_euclid(UNITS / 2);
        let (half_x, half_y) = (half(vector.dx), half(vector.dy));
        let (dx, dy) = (half_x.div_euclid(2), half_y.div_euclid(2));
        let (mut next, mut below) = (half_x.rem_euclid(2), half_y.rem_euclid(2) * stride as i32);
        let mut moved = place.at as i32 + dy * stride as i32 + dx;
        if !self.is_inside(&place, dx, dy) || !self.is_inside(&place, dx + 1, dy + 1) {
            moved = place.at as i32 + self.best.dy * stride as i32 + self.best.dx;
            (next, below) = (0, 0);
        }
        let (next, below) = (next as usize, below as usize);
        let (a, b) = (
            &self.current.data()[place.at..],
            &self.key.data()[moved as usize..],
        );
        let mut count = 0;
        for pair in 0..BLOCK / 2 {
            let mut sums = [0_i16; BLOCK];
            for at in [2 * pair * stride, (2 * pair + 1) * stride] {
                let row = |from: usize| &b[from..from + BLOCK];
                let taps = row(at)
                    .iter()
                    .zip(row(at + next))
                    .zip(row(at + below).iter().zip(row(at + below + next)));
                for ((sum, &a), ((&k, &l), (&m, &n))) in sums.iter_mut().zip(&a[at..at + BLOCK]).zip(taps) {
                    *sum += 4 * i16::from(a) - i16::from(k) - i16::from(l) - i16::from(m) - i16::from(n);
                }
            }
            for two in sums.chunks_exact(2) {
                count += u32::from((i32::from(two[0]) + i32::from(two[1])).abs() > 16 * CHANGED);
            }
        }
        count
    }
}

/// Each component's median.
fn median(a: Vector, b: Vector, c: Vector) -> Vector {
    let middle = |a: i16, b: i16, c: i16| a.min(b).max(a.max(b).min(c));
    Vector {
        dx: middle(a.dx, b.dx, c.dx),
        dy: middle(a.dy, b.dy, c.dy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameFormat, ImageRef, PixelFormat};

    const WIDTH: usize = 640;
    const HEIGHT: usize = 240;

    /// Brightness of random points 14 pixels apart, interpolated: structure without a period.
    fn texture(x: f32, y: f32) -> u8 {
        let point = |x: i32, y: i32| {
            let mixed = ((x * 7919) ^ (y * 104_729)) as u32;
            let mixed = (mixed ^ (mixed >> 13)).wrapping_mul(2_654_435_761);
            ((mixed ^ (mixed >> 16)) % 200) as f32 + 28.0
        };
        let (u, v) = (x / 14.0, y / 14.0);
        let (x0, y0) = (u.floor(), v.floor());
        let (fx, fy) = (u - x0, v - y0);
        let (x0, y0) = (x0 as i32, y0 as i32);
        let upper = point(x0, y0) * (1.0 - fx) + point(x0 + 1, y0) * fx;
        let lower = point(x0, y0 + 1) * (1.0 - fx) + point(x0 + 1, y0 + 1) * fx;
        (upper * (1.0 - fy) + lower * fy) as u8
    }

    fn luma(value: impl Fn(f32, f32) -> u8) -> Luma {
        let format = FrameFormat::new(PixelFormat::I420, WIDTH, HEIGHT);
        let mut data = vec![128; format.packed_bytes()];
        for y in 0..HEIGHT {
            for x in 0..WIDTH {
                data[y * WIDTH + x] = value(x as f32, y as f32);
            }
        }
        let mut luma = Luma::new(WIDTH, HEIGHT);
        luma.read(&ImageRef::packed(format, &data).unwrap());
        luma
    }

    fn track(key: &Luma) -> (Track, Vec<Vector>) {
        let mut track = Track::new(WIDTH, HEIGHT);
        track.start(key);
        let blocks = track.field.vectors.len();
        (track, vec![Vector::default(); blocks])
    }

    #[test]
    fn a_still_picture_is_still() {
        let key = luma(texture);
        let (mut track, mut velocity) = track(&key);
        let fit = track.follow(&key, &mut velocity, true);
        assert_eq!((fit.still, fit.changed, fit.motion), (true, 0.0, 0.0));
        assert!(track.field().is_still());
    }

    #[test]
    fn a_pan_is_followed_to_parts_of_a_pixel() {
        let (mut track, mut velocity) = track(&luma(texture));
        for frame in 1..=5_u8 {
            let (dx, dy) = (7.0 * f32::from(frame), -3.0 * f32::from(frame));
            let fit = track.follow(&luma(|x, y| texture(x + dx, y + dy)), &mut velocity, true);
            assert!(!fit.still);
            let mut errors: Vec<f32> = (60..HEIGHT - 60)
                .step_by(8)
                .flat_map(|y| (60..WIDTH - 60).step_by(8).map(move |x| (x as f32, y as f32)))
                .map(|(x, y)| {
                    let (v, _) = track.field().at(x, y);
                    (v[0] - dx).hypot(v[1] - dy)
                })
                .collect();
            errors.sort_by(f32::total_cmp);
            let (median, most) = (errors[errors.len() / 2], errors[errors.len() * 9 / 10]);
            // Motion of whole small pixels is found exactly; half a small pixel, which is a pixel here, is the worst case.
            let (median_limit, most_limit) = if frame % 2 == 0 { (0.1, 0.1) } else { (1.0, 2.0) };
            assert!(
                median < median_limit,
                "frame {frame}: half are off by {median} pixels or more"
            );
            assert!(
                most < most_limit,
                "frame {frame}: a tenth are off by {most} pixels or more"
            );
            assert!(fit.changed < 0.12, "frame {frame}: {fit:?}");
        }
    }

    #[test]
    fn something_new_is_seen_as_changed() {
        let (mut track, mut velocity) = track(&luma(texture));
        let fit = track.follow(
            &luma(|x, y| {
                if (200.0..360.0).contains(&x) {
                    250 - texture(y, x) / 2
                } else {
                    texture(x, y)
                }
            }),
            &mut velocity,
            true,
        );
        assert!(
            (0.1..0.3).contains(&fit.changed),
            "a quarter of the picture is new: {fit:?}"
        );
    }

    #[test]
    fn nothing_that_is_seen_leads_outside() {
        // Noise matches nowhere: vectors are arbitrary, but every block stays in the key and its margin.
        let noise = |seed: u32| {
            luma(move |x, y| {
                let v = (x as u32 + 700 * y as u32 + seed).wrapping_mul(2_654_435_761);
                ((v ^ (v >> 15)).wrapping_mul(2_246_822_519) >> 24) as u8
            })
        };
        let (mut track, mut velocity) = track(&noise(1));
        for seed in 2..20 {
            let fit = track.follow(&noise(seed * 7919), &mut velocity, true);
            assert!(fit.changed > 0.2, "{fit:?}");
        }
        let most = track
            .field()
            .vectors
            .iter()
            .map(|v| v.dx.unsigned_abs())
            .max()
            .unwrap();
        assert!(most as usize <= (WIDTH / 2 + 2 * PAD) * 16);
    }
}
