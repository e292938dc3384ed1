//! Eight zones in a 640x480 map: measured alone, and with all that events cost a frame: the scene, rules, states and sinks.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use criterion::{Criterion, criterion_group, criterion_main};

use segd::clock::RealClock;
use segd::events::file::{FileOptions, Lines};
use segd::events::geometry::Polygon;
use segd::events::measure::{Inside, Measured, Meter};
use segd::events::watch::{Watcher, WatcherParts};
use segd::events::{EventDesk, Watch, Zone};
use segd::observe::{Observer, Seen};
use segd::pipeline::control::{Control, Looks};
use vision::frame::LabelMap;
use vision::model::contract::Class;
use vision::overlay::OverlayOptions;
use vision::scene::{ModelInfo, Scene, Segment};

const WIDTH: usize = 640;
const HEIGHT: usize = 480;

/// Ellipses of 20 segments on a background: more borders than a street has. If `ragged`, every border pixel is thrown about
/// by up to 3 pixels, as no decoder does.
fn map(ragged: bool) -> LabelMap {
    let mut map = LabelMap::zeros(WIDTH, HEIGHT);
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

/// One of eight polygons that overlap their neighbours.
fn corner(number: usize) -> Polygon {
    let (x, y) = ((number % 4) as f64 * 0.2, (number / 4) as f64 * 0.4);
    let corners = [[0.05, 0.0], [0.4, 0.1], [0.35, 0.55], [0.2, 0.6], [0.0, 0.4]];
    Polygon::new(corners.iter().map(|[a, b]| [x + a, y + b]).collect()).expect("a polygon")
}

fn zones(c: &mut Criterion) {
    let zone = |n: usize| Measured {
        polygon: corner(n),
        classes: (1..=4).collect(),
        min_region: 0.001,
        inside: Inside::Footing,
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

/// What compose and the watcher do for a frame more than without events; every 30 frames what is seen comes or goes, so
/// that events are told as well.
fn watched(c: &mut Criterion) {
    let class = |number: usize| Class {
        name: format!("class{number}"),
        color: [0; 3],
        background: number == 0,
        thing: true,
    };
    let model = Arc::new(ModelInfo {
        name: "made".into(),
        generation: 0,
        classes: (0..5).map(class).collect(),
    });
    let looks = Looks {
        model: model.clone(),
        overlay: OverlayOptions::default(),
        colors: Default::default(),
        privacy: None,
    };
    let zone = |number: usize| Zone {
        name: format!("zone{number}"),
        polygon: corner(number),
        classes: (1..5).map(|number| format!("class{number}")).collect(),
        enter: 0.01,
        leave: 0.005,
        after: Duration::ZERO,
        dwell: Some(Duration::from_secs(1)),
        at_most: Some(1),
        none_for: Some(Duration::from_secs(10)),
        min_region: 0.001,
        inside: Inside::Footing,
    };
    let watch = Watch {
        zones: (0..8).map(zone).collect(),
        ..Watch::default()
    };
    let desk = EventDesk::new(["front"]);
    let folder = tempfile::tempdir().expect("a folder");
    let lines = Lines::new(FileOptions {
        path: folder.path().join("events.jsonl"),
        max_bytes: 16_000_000,
        keep: 1,
    });
    desk.add("file", "events.jsonl".into(), Box::new(lines))
        .expect("a thread");
    let mut watcher = Watcher::new(
        Arc::new(ArcSwap::from_pointee(watch)),
        WatcherParts {
            control: Control::new(looks, Duration::ZERO),
            camera: desk.cameras()[0].clone(),
            desk: desk.clone(),
            clock: RealClock::shared(),
        },
    );
    let full = Arc::new(map(false));
    let empty = Arc::new(LabelMap::zeros(WIDTH, HEIGHT));
    let segments: Vec<Segment> = (0..=20)
        .map(|number: u32| Segment {
            instance: (number > 0).then_some(number),
            track: (number > 0).then_some(number),
            ..Segment::of_class(number as u16 % 5)
        })
        .collect();
    let mut frame = 0_u64;
    c.bench_function("events/a frame watched, 8 zones of 4 classes, 640x480", |b| {
        b.iter(|| {
            frame += 1;
            let at = frame * 33_000_000;
            let map = if (frame / 30).is_multiple_of(2) {
                &full
            } else {
                &empty
            };
            let scene = Scene::new((at, frame), at, model.clone(), map.clone(), segments.clone());
            watcher.seen(&Seen::Scene(Arc::new(scene)));
        });
    });
}

criterion_group!(benches, zones, watched);
criterion_main!(benches);
