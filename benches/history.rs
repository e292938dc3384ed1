//! Pages of a history of 10^6 events, for filters that most, few and none of them fit, and counts by hour.
//!
//! `SEGD_HISTORY_EVENTS` makes it another number. The file takes 0.6 GB of the temporary folder at 10^6.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};

use segd::events::event::{Event, Kind, Rule, Told, VERSION, new_id, text};
use segd::events::history::search::MOST_HOURS;
use segd::events::history::{HistoryOptions, Reader, Search, Store, unix_ms};

const ZONES: [&str; 8] = ["drive", "lawn", "street", "gate", "door", "yard", "shed", "path"];
const CLASSES: [&str; 5] = ["person", "car", "bicycle", "dog", "cat"];
const KINDS: [Kind; 3] = [Kind::Start, Kind::Update, Kind::End];

/// The lawn has cars alone, and no other zone has cats.
fn event(number: u64, now: SystemTime) -> Arc<Told> {
    // A multiplication spreads what follows one another.
    let chance = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let zone = ZONES[chance as usize % ZONES.len()];
    let class = match zone {
        "lawn" => "car",
        _ => CLASSES[(chance >> 8) as usize % (CLASSES.len() - 1)],
    };
    let at = now - Duration::from_secs(30 * 86_400) + Duration::from_millis(number * 2_500);
    Arc::new(Told::new(Event {
        v: VERSION,
        id: new_id(at),
        kind: KINDS[(chance >> 16) as usize % 3],
        rule: Rule::Presence,
        camera: "front".into(),
        zone: Some(zone.into()),
        line: None,
        direction: None,
        class: class.into(),
        time: text(at),
        since: text(at - Duration::from_secs(3)),
        mask_age_ms: 21.4,
        area: 0.081,
        regions: Some(1),
        tracks: None,
        track: None,
        bbox: Some([0.41, 0.55, 0.2, 0.13]),
        dwell_s: 3.0,
        score: 0.93,
        snapshot: None,
        clip: None,
    }))
}

fn pages(c: &mut Criterion) {
    let count: u64 = std::env::var("SEGD_HISTORY_EVENTS").map_or(1_000_000, |n| n.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a folder");
    let options = HistoryOptions {
        path: folder.path().join("events.db"),
        keep: Duration::from_secs(36_500 * 86_400),
        max_bytes: u64::MAX,
    };
    let now = SystemTime::now();
    let mut store = Store::open(&options).expect("a new file");
    let numbers: Vec<u64> = (0..count).collect();
    for some in numbers.chunks(256) {
        let events: Vec<_> = some.iter().map(|number| event(*number, now)).collect();
        store.write(&events).expect("room on the disk");
    }
    let search = |zone: Option<&str>, class: Option<&str>| Search {
        place: zone.map(str::to_owned),
        class: class.map(str::to_owned),
        ..Search::default()
    };
    let mut group = c.benchmark_group("history");
    group.sample_size(20);
    for (name, search) in [
        ("no filter", search(None, None)),
        ("one class", search(None, Some("person"))),
        ("zone and class", search(Some("lawn"), Some("car"))),
        (
            "zone and class that never met",
            search(Some("lawn"), Some("person")),
        ),
    ] {
        // As a request does it: the file is opened for each.
        group.bench_function(format!("a page of 100 of {count}, {name}"), |b| {
            b.iter(|| {
                let reader = Reader::open(&options.path).expect("the file");
                black_box(reader.page(&search, None, 100).expect("a page"))
            });
        });
        group.bench_function(format!("24 hours of {count}, {name}"), |b| {
            b.iter(|| {
                let reader = Reader::open(&options.path).expect("the file");
                black_box(reader.hours(&search, unix_ms(now), 24).expect("counts"))
            });
        });
    }
    group.bench_function(format!("a month's hours of {count}, no filter"), |b| {
        b.iter(|| {
            let reader = Reader::open(&options.path).expect("the file");
            black_box(
                reader
                    .hours(&Search::default(), unix_ms(now), MOST_HOURS)
                    .expect("counts"),
            )
        });
    });
    group.finish();
}

criterion_group!(benches, pages);
criterion_main!(benches);
