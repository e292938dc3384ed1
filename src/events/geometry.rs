//! Zones and lines in a picture: polygons and segments in shares of its width and height.

use vision::scene::Rect;

/// A place in the picture: shares of its width and height, 0 to 1, from the upper left corner.
pub type Point = [f64; 2];

/// Twice the signed area of the triangle: positive if `p` lies to the right of the way from `a` to `b`, as it is seen in
/// a picture whose rows count downwards.
fn side(a: Point, b: Point, p: Point) -> f64 {
    (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])
}

/// Whether `p`, which lies on the line through `a` and `b`, lies between them.
fn is_between(a: Point, b: Point, p: Point) -> bool {
    (0..2).all(|i| a[i].min(b[i]) <= p[i] && p[i] <= a[i].max(b[i]))
}

/// Whether the segments `a`-`b` and `c`-`d` have a point in common.
fn meet(a: Point, b: Point, c: Point, d: Point) -> bool {
    let (of_a, of_b) = (side(c, d, a), side(c, d, b));
    let (of_c, of_d) = (side(a, b, c), side(a, b, d));
    let apart = |one: f64, other: f64| one > 0.0 && other < 0.0 || one < 0.0 && other > 0.0;
    apart(of_a, of_b) && apart(of_c, of_d)
        || of_a == 0.0 && is_between(c, d, a)
        || of_b == 0.0 && is_between(c, d, b)
        || of_c == 0.0 && is_between(a, b, c)
        || of_d == 0.0 && is_between(a, b, d)
}

fn check_inside(point: Point, index: usize) -> Result<(), String> {
    match point.iter().all(|share| (0.0..=1.0).contains(share)) {
        true => Ok(()),
        false => Err(format!(
            "point {} is [{}, {}], expected shares of the picture's width and height, 0 to 1",
            index + 1,
            point[0],
            point[1]
        )),
    }
}

/// An area of the picture with a border that does not touch itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Polygon {
    points: Vec<Point>,
}

impl Polygon {
    /// More points than this are refused.
    pub const MAX_POINTS: usize = 256;

    /// The polygon with these corners, in either direction.
    ///
    /// # Errors
    /// What is wrong: fewer than 3 points or too many, one outside the picture, two neighbours that are the same, or a
    /// border that crosses or touches itself.
    pub fn new(points: Vec<Point>) -> Result<Self, String> {
        let count = points.len();
        if !(3..=Self::MAX_POINTS).contains(&count) {
            return Err(format!(
                "{count} points, expected 3 to {} as [x, y]",
                Self::MAX_POINTS
            ));
        }
        for (index, point) in points.iter().enumerate() {
            check_inside(*point, index)?;
        }
        let corner = |index: usize| points[index % count];
        for i in 0..count {
            let (a, b, c) = (corner(i), corner(i + 1), corner(i + 2));
            if a == b {
                let next = (i + 1) % count + 1;
                return Err(format!("points {} and {next} are the same", i + 1));
            }
            let ahead = (b[0] - a[0]) * (c[0] - b[0]) + (b[1] - a[1]) * (c[1] - b[1]);
            if side(a, b, c) == 0.0 && ahead < 0.0 {
                return Err(format!(
                    "the border turns back on itself at point {}",
                    (i + 1) % count + 1
                ));
            }
        }
        for i in 0..count {
            let (a, b) = (corner(i), corner(i + 1));
            // The last side and the first are neighbours too.
            for j in i + 2..count - usize::from(i == 0) {
                if meet(a, b, corner(j), corner(j + 1)) {
                    return Err(format!(
                        "the border crosses itself: the side from point {} meets the side from point {}",
                        i + 1,
                        j + 1
                    ));
                }
            }
        }
        Ok(Self { points })
    }

    /// Its corners.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The columns in which a row crosses the border, in no order.
    fn crossings(&self, y: f64) -> impl Iterator<Item = f64> {
        let next = self.points.iter().cycle().skip(1);
        self.points
            .iter()
            .zip(next)
            .filter(move |(a, b)| (a[1] <= y) != (b[1] <= y))
            .map(move |(a, b)| a[0] + (y - a[1]) / (b[1] - a[1]) * (b[0] - a[0]))
    }

    /// Whether a point lies inside. Of the border, the left and upper parts count.
    pub fn contains(&self, point: Point) -> bool {
        self.crossings(point[1]).filter(|x| *x <= point[0]).count() % 2 == 1
    }

    /// Its pixels in a picture of this size: those whose centres lie inside.
    pub fn raster(&self, width: usize, height: usize) -> Raster {
        let centre = |index: usize, length: usize| (index as f64 + 0.5) / length as f64;
        let mut raster = Raster {
            first_row: 0,
            rows: Vec::new(),
            spans: Vec::new(),
            pixels: 0,
        };
        let mut columns = Vec::new();
        for y in 0..height {
            columns.clear();
            columns.extend(self.crossings(centre(y, height)));
            if columns.is_empty() {
                continue;
            }
            columns.sort_by(f64::total_cmp);
            // The first pixel whose centre is not left of `x`; the guess may be one off.
            let first = |x: f64| {
                let mut pixel = (x * width as f64 - 0.5).ceil().max(0.0) as usize;
                while pixel > 0 && centre(pixel - 1, width) >= x {
                    pixel -= 1;
                }
                while pixel < width && centre(pixel, width) < x {
                    pixel += 1;
                }
                pixel.min(width) as u32
            };
            if raster.rows.is_empty() {
                raster.first_row = y;
                raster.rows.push(0);
            }
            for pair in columns.chunks_exact(2) {
                let span = (first(pair[0]), first(pair[1]));
                if span.0 < span.1 {
                    raster.spans.push(span);
                    raster.pixels += span.1 - span.0;
                }
            }
            // Rows of a polygon follow each other without a gap.
            raster.rows.push(raster.spans.len());
        }
        raster
    }
}

/// A polygon's pixels in a picture of one size, as spans of its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Raster {
    first_row: usize,
    /// Where each row's spans begin, and after the last one the end.
    rows: Vec<usize>,
    /// First column, and the one after the last.
    spans: Vec<(u32, u32)>,
    pixels: u32,
}

impl Raster {
    /// How many pixels.
    pub fn pixels(&self) -> u32 {
        self.pixels
    }

    /// Each row that has some, with its spans: first column, and the one after the last.
    pub fn rows(&self) -> impl Iterator<Item = (usize, &[(u32, u32)])> {
        let of = self.rows.windows(2).map(|ends| &self.spans[ends[0]..ends[1]]);
        (self.first_row..).zip(of)
    }

    /// Whether a pixel is one of them.
    pub fn contains(&self, x: u32, y: u32) -> bool {
        let Some(row) = (y as usize).checked_sub(self.first_row) else {
            return false;
        };
        let Some(ends) = self.rows.get(row..row + 2) else {
            return false;
        };
        let spans = &self.spans[ends[0]..ends[1]];
        spans.iter().any(|(from, end)| (*from..*end).contains(&x))
    }
}

/// A line that tracks may cross.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Where it begins.
    pub from: Point,
    /// Where it ends.
    pub to: Point,
}

impl Line {
    /// The line between two points.
    ///
    /// # Errors
    /// What is wrong: not two points, one outside the picture, or two that are the same.
    pub fn new(points: &[Point]) -> Result<Self, String> {
        let [from, to] = *points else {
            return Err(format!("{} points, expected 2 as [x, y]", points.len()));
        };
        check_inside(from, 0)?;
        check_inside(to, 1)?;
        match from == to {
            true => Err("its two points are the same".into()),
            false => Ok(Self { from, to }),
        }
    }

    /// How far a point lies from the line, drawn on without end, in picture heights; positive to its right, as seen from
    /// its first point. `aspect` is the picture's width over its height.
    pub fn distance(&self, point: Point, aspect: f64) -> f64 {
        let scaled = |p: Point| [p[0] * aspect, p[1]];
        let (from, to) = (scaled(self.from), scaled(self.to));
        let length = (to[0] - from[0]).hypot(to[1] - from[1]);
        side(from, to, scaled(point)) / length
    }

    /// Whether the straight way from one point to another meets it.
    pub fn is_met(&self, from: Point, to: Point) -> bool {
        meet(self.from, self.to, from, to)
    }
}

/// A rectangle as shares of a picture of this size: left, top, width, height.
pub fn normalized(rect: Rect, width: usize, height: usize) -> [f64; 4] {
    let (width, height) = (width.max(1) as f64, height.max(1) as f64);
    [
        f64::from(rect.x) / width,
        f64::from(rect.y) / height,
        f64::from(rect.width) / width,
        f64::from(rect.height) / height,
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Corners around a middle, in the order of their angles: never crossing.
    pub(in crate::events) fn star() -> impl Strategy<Value = Polygon> {
        let corner = (0.05..1.0_f64, 0.05..0.5_f64);
        (prop::collection::vec(corner, 3..9), 0.3..0.7_f64, 0.3..0.7_f64).prop_filter_map(
            "corners too near to each other",
            |(corners, x, y)| {
                let turns: f64 = corners.iter().map(|(turn, _)| turn).sum();
                let mut angle = 0.0;
                let points = corners.iter().map(|(turn, radius)| {
                    angle += turn / turns * std::f64::consts::TAU;
                    let at = |middle: f64, way: f64| (middle + radius * way).clamp(0.0, 1.0);
                    [at(x, angle.cos()), at(y, angle.sin())]
                });
                Polygon::new(points.collect()).ok()
            },
        )
    }

    proptest! {
        #[test]
        fn a_raster_is_the_pixels_whose_centres_lie_inside(
            polygon in star(), width in 1..40_usize, height in 1..40_usize,
        ) {
            let raster = polygon.raster(width, height);
            let mut of_rows = vec![false; width * height];
            for (y, spans) in raster.rows() {
                for (from, end) in spans {
                    of_rows[y * width..][*from as usize..*end as usize].fill(true);
                }
            }
            let mut pixels = 0;
            for y in 0..height {
                for x in 0..width {
                    let centre = [(x as f64 + 0.5) / width as f64, (y as f64 + 0.5) / height as f64];
                    let inside = polygon.contains(centre);
                    prop_assert_eq!(of_rows[y * width + x], inside, "{}, {}", x, y);
                    prop_assert_eq!(raster.contains(x as u32, y as u32), inside);
                    pixels += u32::from(inside);
                }
            }
            prop_assert_eq!(raster.pixels(), pixels);
        }

        #[test]
        fn any_points_make_a_polygon_or_an_error(
            points in prop::collection::vec([-0.2..1.2_f64, -0.2..1.2_f64], 0..8),
        ) {
            let count = points.len();
            let outside = points.iter().flatten().any(|v| !(0.0..=1.0).contains(v));
            match Polygon::new(points) {
                Ok(polygon) => {
                    prop_assert!(!outside && count >= 3);
                    // A border that does not cross itself parts inside from outside: even-odd and winding agree.
                    for i in 0..30 {
                        let p = [f64::from(i % 6) / 5.7, f64::from(i / 6) / 4.7];
                        let turn = winding(polygon.points(), p);
                        prop_assert_eq!(polygon.contains(p), turn != 0);
                        prop_assert!(turn.abs() <= 1);
                    }
                }
                Err(why) => prop_assert!(!why.is_empty()),
            }
        }
    }

    /// How often the border goes round a point.
    fn winding(points: &[Point], p: Point) -> i32 {
        let next = points.iter().cycle().skip(1);
        points.iter().zip(next).fold(0, |turns, (a, b)| {
            let x = a[0] + (p[1] - a[1]) / (b[1] - a[1]) * (b[0] - a[0]);
            match ((a[1] <= p[1]), (b[1] <= p[1])) {
                (true, false) if x <= p[0] => turns + 1,
                (false, true) if x <= p[0] => turns - 1,
                _ => turns,
            }
        })
    }

    #[test]
    fn what_is_no_polygon_is_refused() {
        for (points, part) in [
            (vec![], "0 points, expected 3"),
            (vec![[0.0, 0.0], [1.0, 1.0]], "2 points"),
            (vec![[0.5, 0.5]; 300], "300 points"),
            (vec![[0.0, 0.0], [1.0, 0.0], [0.5, 1.2]], "point 3 is [0.5, 1.2]"),
            (
                vec![[0.0, 0.0], [f64::NAN, 0.0], [0.5, 1.0]],
                "point 2 is [NaN, 0]",
            ),
            (
                vec![[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.5, 1.0]],
                "points 2 and 3 are the same",
            ),
            (
                vec![[0.0, 0.0], [1.0, 0.0], [0.5, 1.0], [0.0, 0.0]],
                "points 4 and 1 are the same",
            ),
            // A bow tie.
            (
                vec![[0.1, 0.1], [0.9, 0.9], [0.9, 0.1], [0.1, 0.9]],
                "the side from point 1 meets the side from point 3",
            ),
            // A corner that touches another side.
            (
                vec![[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.5, 0.0], [0.0, 1.0]],
                "crosses itself",
            ),
            // A spike, and points on one line.
            (
                vec![[0.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.5, 1.0]],
                "turns back on itself at point 2",
            ),
            (vec![[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]], "turns back"),
        ] {
            let why = Polygon::new(points.clone()).unwrap_err();
            assert!(why.contains(part), "{points:?}: {why}");
        }
    }

    #[test]
    fn the_right_of_a_line_is_where_the_clock_goes() {
        let across = Line::new(&[[0.0, 0.5], [1.0, 0.5]]).unwrap();
        assert!(across.distance([0.5, 0.75], 2.0) > 0.0, "below");
        assert_eq!(across.distance([0.1, 0.25], 2.0), -0.25);
        let down = Line::new(&[[0.5, 0.0], [0.5, 1.0]]).unwrap();
        assert_eq!(
            down.distance([0.25, 0.3], 2.0),
            0.5,
            "left of it in the picture, in heights"
        );
        assert!(across.is_met([0.5, 0.4], [0.5, 0.6]) && !across.is_met([0.5, 0.4], [0.5, 0.45]));
        for (points, part) in [
            (vec![[0.0, 0.0]], "1 points"),
            (vec![[0.5, 0.5]; 2], "the same"),
            (vec![[0.0, 0.0], [2.0, 0.0]], "point 2"),
        ] {
            assert!(Line::new(&points).unwrap_err().contains(part));
        }
    }
}
