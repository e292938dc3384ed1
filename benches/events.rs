//! Eight zones measured in one 640x480 map.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};

use segd::events::geometry::Polygon;
use segd::events::measure::{Inside, Measured, Meter};
use vision::frame::Mask;
use vision::scene::Segment;

const WIDTH: usize = 640;
const HEIGHT: usize = 480;

/// Ellipses of 20 segments on a background: more borders than a street has. If `ragged`, every border pixel is thrown about
/// by up to 3 pixels, as no decoder does.
fn map(ragged: bool) -> Mask {
    let mut map = Mask::zeros(WIDTH, HEIGHT);
    for number in 1..=20_u32 {
        let (x, y) = (number * 193 % WIDTH as u32, number * 131 % HEIGHT as u32);
        let (a, b) = (20 + number * 7 % 60, 30 + number * 11 % 80);
        for row in 0..HEIGHT as u32 {
            for column in 0..WIDTH as u32 {
                let noise = u32::from(ragged) * ((row * 31 + column * 17).wrapping_mul(2_654_435_761) >> 30);
                let (dx, dy) = (f64::from(column.abs_diff(x)), f64::from(row.abs_diff(y)));
                let at = (dx / f64::from(a + noise)).powi(2) + (dy / f64::from(b + noise)).powi(2);
                if at < 1.0 {
                    map.labels[row as usize * WIDTH + column as usize] = number as u8;
                }
            }
        }
    }
    map
}

fn zones(c: &mut Criterion) {
    let zone = |n: usize| {
        let (x, y) = ((n % 4) as f64 * 0.2, (n / 4) as f64 * 0.4);
        let corners = [[0.05, 0.0], [0.4, 0.1], [0.35, 0.55], [0.2, 0.6], [0.0, 0.4]];
        Measured {
            polygon: Polygon::new(corners.iter().map(|[a, b]| [x + a, y + b]).collect()).expect("a polygon"),
            classes: (1..=4).collect(),
            min_region: 0.001,
            inside: Inside::Footing,
        }
    };
    let zones: Vec<Measured> = (0..8).map(zone).collect();
    let segments = |tracked: bool| -> Vec<Segment> {
        let one = |number: u32| Segment {
            instance: (tracked && number > 0).then_some(number),
            track: (tracked && number > 0).then_some(number),
            ..Segment::of_class(number as u16 % 5)
        };
        (0..=20).map(one).collect()
    };
    let mut group = c.benchmark_group("events");
    for (name, tracked, ragged) in [
        ("regions", false, false),
        ("tracks", true, false),
        ("tracks, ragged", true, true),
    ] {
        let map = map(ragged);
        let segments = segments(tracked);
        let mut meter = Meter::new(&zones, WIDTH, HEIGHT);
        group.bench_function(format!("8 zones, {name}, 640x480"), |b| {
            b.iter(|| {
                meter.measure(black_box(&map), &segments);
                black_box(meter.zones().len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, zones);
criterion_main!(benches);
