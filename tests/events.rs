//! What happens in made pictures, known to the frame, and what is told of it.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwap;
use segd::clock::{Clock, SharedClock, SimulatedClock};
use segd::events::event::{Kind, Rule, Told};
use segd::events::gate::Direction;
use segd::events::geometry::{Line, Polygon};
use segd::events::measure::Inside;
use segd::events::watch::{Watcher, WatcherParts};
use segd::events::{Event, EventDesk, LineRule, Watch, Zone};
use segd::observe::{Observer, Seen};
use segd::pipeline::control::{Control, Looks, Privacy};
use tokio::sync::broadcast;
use vision::frame::LabelMap;
use vision::model::contract::Class;
use vision::overlay::OverlayOptions;
use vision::redact::{How, RedactOptions};
use vision::scene::{ModelInfo, Scene, Segment};

#[path = "common/schema.rs"]
mod schema;

const WIDTH: usize = 320;
const HEIGHT: usize = 240;
const FRAME_MS: u64 = 40;

/// What is in a made picture: a rectangle of a class.
#[derive(Debug, Clone, Copy)]
struct Thing {
    class: u16,
    track: Option<u32>,
    left: i32,
    top: i32,
    width: i32,
    height: i32,
}

const PERSON: u16 = 1;
const CAR: u16 = 2;

fn thing(class: u16, track: Option<u32>, (left, top): (i32, i32), (width, height): (i32, i32)) -> Thing {
    Thing {
        class,
        track,
        left,
        top,
        width,
        height,
    }
}

/// Pixels of a rectangle's rows from `first` on that lie in another rectangle: left, top, right, bottom.
fn overlap(thing: &Thing, first: i32, (left, top, right, bottom): (i32, i32, i32, i32)) -> i32 {
    let columns = (thing.left + thing.width).min(right) - thing.left.max(left);
    let rows = (thing.top + thing.height).min(bottom) - first.max(top);
    columns.max(0) * rows.max(0)
}

/// The drive: pixels 96 to 224, 120 to 240.
const DRIVE: (i32, i32, i32, i32) = (96, 120, 224, 240);

fn drive() -> Zone {
    let corner = |x: f64, y: f64| [x / WIDTH as f64, y / HEIGHT as f64];
    let points = vec![
        corner(96.0, 120.0),
        corner(224.0, 120.0),
        corner(224.0, 240.0),
        corner(96.0, 240.0),
    ];
    Zone {
        name: "drive".into(),
        polygon: Polygon::new(points).unwrap(),
        classes: Vec::new(),
        enter: 0.02,
        leave: 0.01,
        after: Duration::ZERO,
        dwell: None,
        at_most: None,
        none_for: None,
        min_region: 0.0001,
        inside: Inside::Footing,
    }
}

fn looks(hides_people: bool) -> Looks {
    let class = |name: &str, background, thing| Class {
        name: name.into(),
        color: [0; 3],
        background,
        thing,
    };
    Looks {
        model: Arc::new(ModelInfo {
            name: "made".into(),
            generation: 0,
            classes: vec![
                class("background", true, false),
                class("person", false, true),
                class("car", false, true),
            ],
        }),
        overlay: OverlayOptions::default(),
        colors: Default::default(),
        privacy: hides_people.then(|| Privacy {
            redact: RedactOptions {
                how: vec![None, Some(How::Fill), None],
                margin: 0.0,
            },
            max_mask_age: Duration::from_secs(1),
        }),
    }
}

/// A watcher, and what it has told.
struct Rig {
    clock: Arc<SimulatedClock>,
    watch: Arc<ArcSwap<Watch>>,
    watcher: Watcher,
    control: Arc<Control>,
    desk: Arc<EventDesk>,
    told: broadcast::Receiver<Arc<Told>>,
    frame: u64,
    events: Vec<(u64, Event)>,
}

impl Rig {
    fn new(watch: Watch) -> Self {
        let clock = SimulatedClock::manual();
        let desk = EventDesk::new(["door"]);
        let watch = Arc::new(ArcSwap::from_pointee(watch));
        let control = Control::new(looks(false), Duration::ZERO);
        let shared: SharedClock = clock.clone();
        let parts = WatcherParts {
            control: control.clone(),
            desk: desk.clone(),
            camera: desk.cameras()[0].clone(),
            clock: shared,
        };
        Self {
            watcher: Watcher::new(watch.clone(), parts),
            told: desk.listen(),
            clock,
            watch,
            control,
            desk,
            frame: 0,
            events: Vec::new(),
        }
    }

    fn zone(zone: Zone) -> Self {
        Self::new(Watch {
            zones: vec![zone],
            ..Watch::default()
        })
    }

    /// Shows the next picture, in which `things` are; those without a track are of a network that tells none apart.
    fn show(&mut self, things: &[Thing]) {
        let mut segments: Vec<Segment> = (0..3).map(Segment::of_class).collect();
        let mut map = LabelMap::zeros(WIDTH, HEIGHT);
        for thing in things {
            let number = match thing.track {
                None => thing.class as u8,
                Some(track) => {
                    segments.push(Segment {
                        instance: Some(track),
                        track: Some(track),
                        score: 0.9,
                        ..Segment::of_class(thing.class)
                    });
                    segments.len() as u8 - 1
                }
            };
            for y in thing.top.max(0)..(thing.top + thing.height).min(HEIGHT as i32) {
                for x in thing.left.max(0)..(thing.left + thing.width).min(WIDTH as i32) {
                    map.labels[y as usize * WIDTH + x as usize] = number;
                }
            }
        }
        let at = self.clock.now_ns();
        let model = self.control.looks().model.clone();
        let scene = Scene::new((at, self.frame), at, model, Arc::new(map), segments);
        self.tell(&Seen::Scene(Arc::new(scene)));
    }

    fn show_nothing_known(&mut self) {
        let seen = Seen::Unknown {
            captured_at_ns: self.clock.now_ns(),
            sequence: self.frame,
        };
        self.tell(&seen);
    }

    fn tell(&mut self, seen: &Seen) {
        self.watcher.seen(seen);
        while let Ok(told) = self.told.try_recv() {
            let value = serde_json::from_str(&told.json).unwrap();
            let faults = schema::faults(&schema::of_events(), &value, "event");
            assert!(faults.is_empty(), "{faults:?}");
            self.events.push((self.frame, told.event.clone()));
        }
        self.frame += 1;
        self.clock.advance(Duration::from_millis(FRAME_MS));
    }

    /// Frame, rule, type, class and track of all that was told.
    fn log(&self) -> Vec<(u64, Rule, Kind, &str, Option<u32>)> {
        let one = |(frame, e): &'_ (u64, Event)| (*frame, e.rule, e.kind, e.track);
        let parts = self.events.iter().map(one);
        let classes = self.events.iter().map(|(_, e)| e.class.as_str());
        parts
            .zip(classes)
            .map(|((frame, rule, kind, track), class)| (frame, rule, kind, class, track))
            .collect()
    }

    fn occupied(&self) -> Vec<(String, Option<bool>)> {
        let zones = self.desk.cameras()[0].zones(self.clock.now_ns(), Duration::from_secs(5));
        zones
            .into_iter()
            .map(|zone| (zone.class.to_string(), zone.occupied))
            .collect()
    }
}

/// Where a walker is that comes from the left, stops in the drive for `stop` frames, and goes on.
fn walk(frame: u64, begins: u64, stop: u64) -> i32 {
    let steps = frame.saturating_sub(begins);
    let before = 60;
    let walked = match steps {
        n if n <= before => n,
        n if n <= before + stop => before,
        n => n - stop,
    };
    walked as i32 * 3 - 30
}

#[test]
fn each_start_stay_and_end_of_regions_is_told_once_in_its_frame() {
    let mut zone = drive();
    zone.dwell = Some(Duration::from_secs(3));
    let mut rig = Rig::zone(zone);
    let at = |frame| {
        [
            thing(PERSON, None, (walk(frame, 20, 100), 100), (20, 60)),
            thing(CAR, None, (WIDTH as i32 - frame as i32 * 4 + 600, 180), (60, 30)),
        ]
    };
    // The truth, from the rectangles alone.
    let zone_pixels = f64::from((DRIVE.2 - DRIVE.0) * (DRIVE.3 - DRIVE.1));
    let mut expected = Vec::new();
    let mut since: [Option<(u64, bool)>; 2] = [None; 2];
    let mut all_ends = 0;
    for frame in 0..400 {
        let things = at(frame);
        for (thing, since) in things.iter().zip(&mut since) {
            let class = if thing.class == PERSON { "person" } else { "car" };
            let share = f64::from(overlap(thing, thing.top, DRIVE)) / zone_pixels;
            let tell = |kind| (frame, Rule::Presence, kind, class, None);
            match since {
                None if share >= 0.02 => {
                    *since = Some((frame, false));
                    expected.push(tell(Kind::Start));
                }
                Some(_) if share < 0.01 => {
                    *since = None;
                    all_ends += 1;
                    expected.push(tell(Kind::End));
                }
                Some((from, dwelt)) if !*dwelt && (frame - *from) * FRAME_MS >= 3000 => {
                    *dwelt = true;
                    expected.push(tell(Kind::Update));
                }
                _ => {}
            }
        }
        rig.show(&things);
    }
    assert_eq!(all_ends, 2, "both come and go");
    assert_eq!(expected.len(), 5, "and one of them stays for long: {expected:?}");
    assert_eq!(rig.log(), expected);
    // One id from start to end, another for each.
    let ids = |class: &str| -> Vec<&str> {
        let of_class = rig.events.iter().filter(|(_, e)| e.class == class);
        of_class.map(|(_, e)| e.id.as_str()).collect()
    };
    let (person, car) = (ids("person"), ids("car"));
    assert!(person.iter().all(|id| *id == person[0]) && car.iter().all(|id| *id == car[0]));
    assert_ne!(person[0], car[0]);
    for (frame, event) in &rig.events {
        let seconds = |text: &str| {
            let time = humantime::parse_rfc3339(text).unwrap();
            time.duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
        };
        let apart = seconds(&event.time) - seconds(&event.since);
        assert!((apart - event.dwell_s).abs() < 0.002, "frame {frame}: {event:?}");
        assert_eq!(event.zone.as_deref(), Some("drive"));
    }
}

#[test]
fn tracks_are_told_by_their_feet_and_cross_a_line_once() {
    let mut zone = drive();
    zone.classes = vec!["Person".into()];
    zone.at_most = Some(1);
    zone.none_for = Some(Duration::from_secs(2));
    let gate = LineRule {
        name: "gate".into(),
        line: Line::new(&[[0.5, 0.0], [0.5, 1.0]]).unwrap(),
        classes: vec!["person".into()],
        direction: None,
        margin: 0.02,
    };
    let mut rig = Rig::new(Watch {
        zones: vec![zone],
        lines: vec![gate],
        tells_hidden: false,
    });
    // One walks through at the height of the drive, another a little later below, and a third whose box overlaps the drive
    // while the feet stay above.
    let at = |frame: u64| {
        let jitter = [0, 2, -1, 1][frame as usize % 4];
        [
            thing(PERSON, Some(11), (walk(frame, 20, 100) + jitter, 100), (20, 60)),
            thing(PERSON, Some(12), (walk(frame, 60, 20), 165), (20, 60)),
            thing(PERSON, Some(13), (WIDTH as i32 - frame as i32 * 2, 65), (16, 57)),
        ]
    };
    let is_there = |thing: &Thing| thing.left + thing.width > 0 && thing.left < WIDTH as i32;
    let mut expected = Vec::new();
    let mut inside = [false; 3];
    let mut sides: [Option<bool>; 3] = [None; 3];
    let mut crossed = [false; 3];
    let (mut many, mut empty_since, mut absent) = (false, None, false);
    for frame in 0..420_u64 {
        let things = at(frame);
        let visible = things.iter().enumerate().filter(|(_, t)| is_there(t));
        let mut low = true;
        let mut high = false;
        let mut gone = Vec::new();
        for (n, thing) in things.iter().enumerate() {
            let first = thing.top + thing.height - (thing.height + 9) / 10;
            // What of the feet is in the picture.
            let all = overlap(thing, first, (0, 0, WIDTH as i32, HEIGHT as i32));
            let share = match all {
                0 => 0.0,
                all => f64::from(overlap(thing, first, DRIVE)) / f64::from(all),
            };
            low &= share < 0.25;
            high |= share >= 0.5;
            let tell = |kind| (frame, Rule::Presence, kind, "person", thing.track);
            match inside[n] {
                false if share >= 0.5 => {
                    inside[n] = true;
                    expected.push(tell(Kind::Start));
                }
                true if share < 0.25 => {
                    inside[n] = false;
                    gone.push(tell(Kind::End));
                }
                _ => {}
            }
        }
        expected.extend(gone);
        let count = inside.iter().filter(|i| **i).count();
        if (count > 1) != many {
            many = count > 1;
            let kind = if many { Kind::Start } else { Kind::End };
            expected.push((frame, Rule::AtMost, kind, "person", None));
        }
        if low {
            let since = *empty_since.get_or_insert(frame);
            if !absent && (frame - since) * FRAME_MS >= 2000 {
                absent = true;
                expected.push((frame, Rule::Absence, Kind::Start, "person", None));
            }
        } else if high {
            empty_since = None;
            if absent {
                absent = false;
                expected.push((frame, Rule::Absence, Kind::End, "person", None));
            }
        } else {
            empty_since = None;
        }
        for (n, thing) in visible {
            let left = thing.left.max(0);
            let right = (thing.left + thing.width).min(WIDTH as i32);
            let middle = f64::from(left + right) / 2.0;
            let apart = (middle - WIDTH as f64 / 2.0) / HEIGHT as f64;
            if apart.abs() < 0.02 - 1e-9 {
                continue;
            }
            let side = apart > 0.0;
            if sides[n].replace(side).is_some_and(|before| before != side) && !crossed[n] {
                crossed[n] = true;
                expected.push((frame, Rule::Crossing, Kind::Start, "person", thing.track));
            }
        }
        rig.show(&things);
    }
    assert_eq!(crossed, [true; 3]);
    let is = |rule, kind| expected.iter().filter(|e| (e.1, e.2) == (rule, kind)).count();
    assert_eq!(
        (is(Rule::Presence, Kind::Start), is(Rule::Presence, Kind::End)),
        (2, 2),
        "11 and 12, not 13"
    );
    assert_eq!(
        (is(Rule::AtMost, Kind::Start), is(Rule::AtMost, Kind::End)),
        (1, 1)
    );
    assert!(is(Rule::Absence, Kind::Start) > 0 && is(Rule::Absence, Kind::End) > 0);
    let mut told = rig.log();
    let order = |e: &(u64, Rule, Kind, &str, Option<u32>)| (e.0, e.1, e.2, e.4);
    told.sort_by_key(order);
    expected.sort_by_key(order);
    assert_eq!(told, expected);
    let ways: Vec<_> = rig
        .events
        .iter()
        .filter_map(|(_, e)| Some((e.track?, e.direction?)))
        .collect();
    // The line goes down the picture: its left is the picture's right.
    let way = |track| ways.iter().find(|(t, _)| *t == track).unwrap().1;
    assert_eq!(
        [way(11), way(12), way(13)],
        [Direction::Left, Direction::Left, Direction::Right]
    );
}

#[test]
fn where_nothing_is_known_nothing_happens() {
    let mut zone = drive();
    zone.after = Duration::from_millis(100);
    zone.none_for = Some(Duration::from_millis(400));
    zone.classes = vec!["car".into()];
    let mut rig = Rig::zone(zone);
    let car = [thing(CAR, None, (120, 150), (60, 30))];
    for _ in 0..5 {
        rig.show(&car);
    }
    assert_eq!(rig.log(), [(3, Rule::Presence, Kind::Start, "car", None)]);
    assert_eq!(rig.occupied(), [("car".to_owned(), Some(true))]);
    for _ in 0..100 {
        rig.show_nothing_known();
    }
    assert_eq!(rig.log().len(), 1);
    assert_eq!(rig.occupied(), [("car".to_owned(), None)]);
    // Now and then a picture without the car: never long enough in one piece.
    for _ in 0..20 {
        rig.show(&[]);
        rig.show(&[]);
        rig.show_nothing_known();
    }
    assert_eq!(rig.log().len(), 1);
    assert_eq!(rig.occupied(), [("car".to_owned(), None)]);
    for _ in 0..20 {
        rig.show(&[]);
    }
    let begun = rig.frame - 20;
    let expected = [
        (begun + 3, Rule::Presence, Kind::End, "car", None),
        (begun + 10, Rule::Absence, Kind::Start, "car", None),
    ];
    assert_eq!(rig.log()[1..], expected);
}

#[test]
fn what_is_hidden_is_not_told_of_unless_that_is_allowed() {
    let both = [
        thing(PERSON, None, (120, 130), (30, 60)),
        thing(CAR, None, (160, 150), (60, 30)),
    ];
    for (tells_hidden, expected) in [(false, vec!["car"]), (true, vec!["person", "car"])] {
        let mut rig = Rig::new(Watch {
            zones: vec![drive()],
            lines: Vec::new(),
            tells_hidden,
        });
        rig.control.set_looks(looks(true));
        rig.show(&both);
        let classes: Vec<&str> = rig.events.iter().map(|(_, e)| e.class.as_str()).collect();
        assert_eq!(classes, expected);
        let zones: Vec<String> = rig.occupied().into_iter().map(|(class, _)| class).collect();
        assert_eq!(zones, expected);
    }
    // Hidden from now on: what has begun ends, once, and is not told of again.
    let mut rig = Rig::zone(drive());
    rig.show(&both);
    rig.control.set_looks(looks(true));
    for _ in 0..5 {
        rig.show(&both);
    }
    let told: Vec<_> = rig.log().into_iter().map(|e| (e.0, e.2, e.3)).collect();
    assert_eq!(
        told,
        [
            (0, Kind::Start, "person"),
            (0, Kind::Start, "car"),
            (1, Kind::End, "person")
        ]
    );
}

#[test]
fn a_new_configuration_keeps_what_stays_and_ends_what_goes() {
    let mut other = drive();
    other.name = "lawn".into();
    let mut rig = Rig::new(Watch {
        zones: vec![drive(), other.clone()],
        ..Watch::default()
    });
    let car = [thing(CAR, None, (120, 150), (60, 30))];
    rig.show(&car);
    rig.watch.store(Arc::new(Watch {
        zones: vec![other.clone()],
        ..Watch::default()
    }));
    rig.show(&car);
    rig.show(&car);
    // Not watched for a while, and watched again.
    rig.desk.cameras()[0].set_enabled(false);
    rig.show(&[]);
    let unknown = [("person".to_owned(), None), ("car".to_owned(), None)];
    assert_eq!(rig.occupied(), unknown);
    rig.desk.cameras()[0].set_enabled(true);
    rig.show(&[]);
    let told: Vec<_> = rig
        .events
        .iter()
        .map(|(f, e)| (*f, e.kind, e.zone.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            (0, Kind::Start, Some("drive")),
            (0, Kind::Start, Some("lawn")),
            (1, Kind::End, Some("drive")),
            (4, Kind::End, Some("lawn"))
        ]
    );
    assert_eq!(rig.events[1].1.id, rig.events[3].1.id);
}

#[test]
fn the_schema_refuses_what_is_no_event() {
    let mut rig = Rig::zone(drive());
    rig.show(&[thing(CAR, None, (120, 150), (60, 30))]);
    let good = serde_json::to_value(&rig.events[0].1).unwrap();
    let faults = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value = good.clone();
        change(&mut value);
        schema::faults(&schema::of_events(), &value, "event")
    };
    assert_eq!(faults(&|_| {}), [""; 0]);
    let keys: Vec<String> = good.as_object().unwrap().keys().cloned().collect();
    let documented = schema::of_events()["properties"].as_object().unwrap().clone();
    for key in keys {
        assert!(documented.contains_key(&key), "{key} is not documented");
        let missing = faults(&|value| {
            value.as_object_mut().unwrap().remove(&key);
        });
        assert_eq!(missing.len(), 1, "{key}");
        let wrong = faults(&|value| value[&key] = serde_json::json!({}));
        assert!(!wrong.is_empty(), "{key}");
    }
    for (key, value) in [
        ("v", serde_json::json!(2)),
        ("area", serde_json::json!(1.5)),
        ("box", serde_json::json!([0.1, 0.2])),
        ("time", serde_json::json!("yesterday")),
        ("type", serde_json::json!("begin")),
    ] {
        assert!(!faults(&|event| event[key] = value.clone()).is_empty(), "{key}");
    }
}
