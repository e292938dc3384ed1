//! Made videos: discs and squares that move, cross and are covered.

use super::*;

const WIDTH: usize = 160;
const HEIGHT: usize = 120;
/// Keys a second.
const RATE: u64 = 5;

/// A thing on its way; those later in a list are in front.
#[derive(Debug, Clone, Copy)]
struct Thing {
    class: u16,
    radius: f32,
    round: bool,
    from: [f32; 2],
    /// Pixels a key.
    step: [f32; 2],
    /// Keys in which the network gives it no mask.
    missed: (usize, usize),
}

impl Thing {
    fn new(class: u16, radius: f32, from: [f32; 2], step: [f32; 2]) -> Self {
        Self {
            class,
            radius,
            round: true,
            from,
            step,
            missed: (0, 0),
        }
    }

    fn covers(&self, key: usize, x: usize, y: usize) -> bool {
        let [dx, dy] = [(x as f32, 0), (y as f32, 1)].map(|(at, axis)| at - self.at(key)[axis]);
        match self.round {
            true => dx.hypot(dy) <= self.radius,
            false => dx.abs().max(dy.abs()) <= self.radius,
        }
    }

    fn at(&self, key: usize) -> [f32; 2] {
        [0, 1].map(|axis| self.from[axis] + key as f32 * self.step[axis])
    }
}

/// A key's map, which thing each segment is, and the segments.
struct Key {
    map: LabelMap,
    things: Vec<usize>,
    segments: Vec<Segment>,
}

/// What a network without faults would say. A wall, if any, hides columns `wall` and is no object.
fn key(things: &[Thing], number: usize, wall: std::ops::Range<usize>) -> Key {
    let mut map = LabelMap::zeros(WIDTH, HEIGHT);
    for (thing, label) in things.iter().zip(1_u8..) {
        if (thing.missed.0..thing.missed.1).contains(&number) {
            continue;
        }
        for (at, pixel) in map.labels.iter_mut().enumerate() {
            if thing.covers(number, at % WIDTH, at / WIDTH) {
                *pixel = label;
            }
        }
    }
    for (at, pixel) in map.labels.iter_mut().enumerate() {
        if wall.contains(&(at % WIDTH)) {
            *pixel = 0;
        }
    }
    // Segments come in an order of their own each time, as scores have it.
    let mut seen: Vec<usize> = (0..things.len())
        .filter(|&n| map.labels.iter().filter(|&&l| usize::from(l) == n + 1).count() >= 12)
        .collect();
    let turn = number % seen.len().max(1);
    seen.rotate_left(turn);
    let mut segments = vec![Segment::of_class(0)];
    for (instance, &n) in (0..).zip(&seen) {
        segments.push(Segment {
            class: things[n].class,
            instance: Some(instance),
            score: 0.9,
            ..Segment::of_class(0)
        });
    }
    for pixel in &mut map.labels {
        let place = seen.iter().position(|&n| n + 1 == usize::from(*pixel));
        *pixel = place.map_or(0, |place| place as u8 + 1);
    }
    Key {
        map,
        things: seen,
        segments,
    }
}

/// The map of the key before where each thing is now, as motion that is found without fault gives it.
fn moved(before: &Key, things: &[Thing], number: usize, seed: u32) -> LabelMap {
    let mut moved = LabelMap::zeros(WIDTH, HEIGHT);
    for (at, pixel) in moved.labels.iter_mut().enumerate() {
        let (x, y) = (at % WIDTH, at / WIDTH);
        // The motion of what is in front; of the wall and the ground none.
        let front = things.iter().rev().find(|thing| thing.covers(number, x, y));
        let [dx, dy] = front.map_or([0.0; 2], |thing| thing.step);
        // Vectors are off by a pixel now and then.
        let off = ((at as u32 / 13).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 30) as f32 - 1.0;
        let from =
            |at: usize, by: f32, side: usize| (at as f32 - by + off).round().clamp(0.0, side as f32 - 1.0);
        let (fx, fy) = (from(x, dx, WIDTH) as usize, from(y, dy, HEIGHT) as usize);
        *pixel = before.map.labels[fy * WIDTH + fx];
    }
    moved
}

/// What a video's tracks were worth.
#[derive(Debug)]
struct Outcome {
    idf1: f64,
    /// How often a thing got another number than it had, and the numbers of each thing in order.
    numbers: Vec<Vec<u32>>,
}

/// Follows the things through `keys` keys; `with_motion` says whether the moved map is known.
fn follow(things: &[Thing], keys: usize, wall: std::ops::Range<usize>, with_motion: bool) -> Outcome {
    let mut tracker = Tracker::new(0.5);
    let mut numbers: Vec<Vec<u32>> = vec![Vec::new(); things.len()];
    let mut together: std::collections::BTreeMap<(usize, u32), u32> = std::collections::BTreeMap::new();
    let (mut visible, mut tracked) = (0, 0);
    let mut before: Option<Key> = None;
    for number in 0..keys {
        let mut now = key(things, number, wall.clone());
        let moved_map = before
            .as_ref()
            .map(|before| moved(before, things, number, number as u32));
        let before_it = match (&moved_map, with_motion) {
            (Some(map), true) => Before::Moved(map),
            _ => Before::Unknown,
        };
        let at_ns = number as u64 * 1_000_000_000 / RATE;
        tracker.update(&now.map, &mut now.segments, before_it, at_ns);
        visible += now.things.len();
        for (&thing, segment) in now.things.iter().zip(&now.segments[1..]) {
            if let Some(track) = segment.track {
                tracked += 1;
                *together.entry((thing, track)).or_default() += 1;
                if numbers[thing].last() != Some(&track) {
                    numbers[thing].push(track);
                }
            }
        }
        before = Some(now);
    }
    // IDF1: things and tracks are paired once for the whole video, as well as can be (Ristani et al. 2016).
    let most = tracker.next_id as usize;
    let mut assignment = Assignment::default();
    let gain = |thing: usize, track: usize| together.get(&(thing, track as u32)).map_or(0.0, |&n| n as f32);
    let paired: f32 = assignment
        .solve(things.len(), most, gain)
        .iter()
        .enumerate()
        .filter_map(|(thing, track)| track.map(|track| gain(thing, track)))
        .sum();
    Outcome {
        idf1: 2.0 * f64::from(paired) / (visible + tracked) as f64,
        numbers,
    }
}

#[test]
fn things_apart_keep_their_numbers() {
    let things = [
        Thing::new(1, 8.0, [20.0, 20.0], [4.0, 0.0]),
        Thing::new(1, 10.0, [140.0, 60.0], [-4.0, 1.0]),
        Thing {
            round: false,
            ..Thing::new(2, 6.0, [30.0, 100.0], [2.0, -0.5])
        },
    ];
    for with_motion in [true, false] {
        let outcome = follow(&things, 30, 0..0, with_motion);
        assert_eq!(outcome.numbers, [[1], [2], [3]].map(Vec::from), "{outcome:?}");
        assert_eq!(outcome.idf1, 1.0);
    }
}

#[test]
fn discs_that_cross_come_out_with_their_numbers() {
    // Both ways, and one that catches up with another.
    let things = [
        Thing::new(1, 9.0, [10.0, 60.0], [4.0, 0.0]),
        Thing::new(1, 9.0, [150.0, 62.0], [-4.0, 0.0]),
        Thing::new(1, 8.0, [10.0, 20.0], [2.0, 0.0]),
        Thing::new(1, 8.0, [40.0, 22.0], [0.5, 0.0]),
        Thing {
            round: false,
            ..Thing::new(2, 8.0, [80.0, 110.0], [0.0, -3.0])
        },
    ];
    let outcome = follow(&things, 36, 0..0, true);
    assert!(outcome.idf1 >= 0.95, "{outcome:?}");
    for numbers in &outcome.numbers {
        assert_eq!(numbers.len(), 1, "{outcome:?}");
    }
}

#[test]
fn what_goes_behind_a_wall_for_a_second_comes_out_with_its_number() {
    // 24 columns of wall and a width of 14: away for about 8 keys, 1.5 s.
    let things = [
        Thing::new(1, 7.0, [20.0, 30.0], [4.0, 0.0]),
        Thing::new(1, 7.0, [30.0, 80.0], [4.5, 0.2]),
        Thing::new(2, 7.0, [130.0, 100.0], [-4.0, 0.0]),
    ];
    let outcome = follow(&things, 34, 68..92, true);
    assert!(outcome.idf1 >= 0.95, "{outcome:?}");
    for numbers in &outcome.numbers {
        assert_eq!(numbers.len(), 1, "{outcome:?}");
    }
}

#[test]
fn what_the_network_misses_for_a_while_keeps_its_number_and_after_two_seconds_gets_another() {
    let thing = |missed| Thing {
        missed,
        ..Thing::new(1, 8.0, [20.0, 60.0], [3.0, 0.0])
    };
    for with_motion in [true, false] {
        let short = follow(&[thing((8, 16))], 30, 0..0, with_motion);
        assert_eq!(short.numbers, [[1]], "{short:?}");
        let long = follow(&[thing((8, 20))], 30, 0..0, with_motion);
        assert_eq!(long.numbers, [[1, 2]], "a number is not given again: {long:?}");
    }
}

#[test]
fn another_thing_does_not_get_the_number_of_one_that_left() {
    // The second comes in where the first went out, within the time that a covered one is waited for.
    let things = [
        Thing::new(1, 8.0, [130.0, 60.0], [4.0, 0.0]),
        Thing::new(1, 8.0, [208.0, 60.0], [-4.0, 0.0]),
    ];
    let outcome = follow(&things, 26, 0..0, true);
    assert_ne!(outcome.numbers[0], outcome.numbers[1], "{outcome:?}");
}

#[test]
fn things_at_random_change_numbers_only_where_they_touch() {
    let mut state = 7_u32;
    let mut next = |low: f32, high: f32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        low + (high - low) * (state >> 8) as f32 / (1 << 24) as f32
    };
    let mut sum = 0.0;
    const VIDEOS: usize = 12;
    for video in 0..VIDEOS {
        let count = 3 + video % 4;
        let things: Vec<Thing> = (0..count)
            .map(|n| Thing {
                round: n % 2 == 0,
                ..Thing::new(
                    1 + (n / 3) as u16,
                    next(6.0, 11.0),
                    [next(20.0, 140.0), next(20.0, 100.0)],
                    [next(-3.0, 3.0), next(-2.0, 2.0)],
                )
            })
            .collect();
        let outcome = follow(&things, 25, 0..0, true);
        sum += outcome.idf1;
        for (n, numbers) in outcome.numbers.iter().enumerate() {
            let touches = things.iter().enumerate().any(|(other, thing)| {
                other != n
                    && (0..25).any(|key| {
                        let [dx, dy] = [0, 1].map(|axis| things[n].at(key)[axis] - thing.at(key)[axis]);
                        // Squares reach furthest at their corners.
                        dx.hypot(dy) < 1.5 * (things[n].radius + thing.radius)
                    })
            });
            assert!(
                numbers.len() <= 1 || touches,
                "video {video}, thing {n}: {outcome:?}"
            );
        }
    }
    let mean = sum / VIDEOS as f64;
    assert!(mean >= 0.95, "IDF1 {mean}");
}

#[test]
fn a_flicker_takes_no_number_and_the_unsure_only_go_on() {
    let things = [Thing::new(1, 8.0, [20.0, 60.0], [3.0, 0.0])];
    let mut tracker = Tracker::new(0.5);
    let show = |tracker: &mut Tracker, number: usize, score: f32| {
        let mut key = key(&things, number, 0..0);
        key.segments.iter_mut().for_each(|s| s.score = score);
        tracker.update(
            &key.map,
            &mut key.segments,
            Before::Unknown,
            number as u64 * 200_000_000,
        );
        key.segments.get(1).and_then(|s| s.track)
    };
    let nothing = LabelMap::zeros(WIDTH, HEIGHT);
    tracker.update(&nothing, &mut [Segment::of_class(0)], Before::Unknown, 0);
    assert_eq!(show(&mut tracker, 1, 0.55), None, "too unsure to begin with");
    assert_eq!(show(&mut tracker, 2, 0.9), None, "seen once");
    tracker.update(
        &nothing,
        &mut [Segment::of_class(0)],
        Before::Unknown,
        600_000_000,
    );
    assert!(tracker.is_empty());
    assert_eq!(show(&mut tracker, 4, 0.9), None);
    assert_eq!(show(&mut tracker, 5, 0.9), Some(1));
    assert_eq!(
        show(&mut tracker, 6, 0.55),
        Some(1),
        "goes on though it is unsure"
    );
    assert_eq!(tracker.len(), 1);
}

#[test]
fn after_a_cut_everything_is_new() {
    let things = [Thing::new(1, 8.0, [20.0, 60.0], [0.0, 0.0])];
    let mut tracker = Tracker::new(0.5);
    let mut tracks = Vec::new();
    for number in 0..6_u64 {
        let mut key = key(&things, 0, 0..0);
        let before = if number == 3 { Before::Cut } else { Before::Unknown };
        tracker.update(&key.map, &mut key.segments, before, number * 200_000_000);
        tracks.push(key.segments[1].track);
    }
    assert_eq!(tracks, [Some(1), Some(1), Some(1), None, Some(2), Some(2)]);
    tracker.restart(0.5);
    let mut key = key(&things, 0, 0..0);
    tracker.update(&key.map, &mut key.segments, Before::Unknown, 0);
    assert_eq!(key.segments[1].track, Some(3), "no number is given again");
}

#[test]
fn stuff_and_what_is_doubtful_get_no_number() {
    let mut tracker = Tracker::new(0.5);
    let map = LabelMap {
        width: 4,
        height: 1,
        labels: vec![0, 1, 2, 3],
    };
    let mut segments = [Segment::of_class(0); 4];
    segments[2].instance = Some(0);
    segments[3] = Segment {
        doubtful: true,
        ..Segment::of_class(1)
    };
    tracker.update(&map, &mut segments, Before::Unknown, 0);
    let tracks: Vec<Option<u32>> = segments.iter().map(|s| s.track).collect();
    assert_eq!(tracks, [None, None, Some(1), None]);
}
