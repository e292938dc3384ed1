//! Objects through the whole pipeline: numbers that last from key to key and between keys, and doubtful ones where they must
//! be hidden.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::bounded;
use segd::capture::{CaptureOptions, Pace, parse_uri};
use segd::clock::RealClock;
use segd::metrics::Metrics;
use segd::observe::{Observer, Seen};
use segd::output::{StreamOptions, parse_output};
use segd::pipeline::control::{Control, Looks, Privacy};
use segd::pipeline::{MaskPolicy, Parts, PipelineOptions, run};
use segd::schedule::ScheduleOptions;
use segd::supervise::OnTransient;
use vision::answer::Answer;
use vision::infer::{InputSize, Outputs};
use vision::overlay::{OverlayOptions, Visualize};
use vision::redact::{How, RedactOptions};
use vision::rle::Rle;
use vision::scene::{ModelInfo, Scene};
use vision::score::tracks::{TrackScores, Tracked};
use vision::tensor::Elements;

#[path = "common/made.rs"]
mod made;

use made::{Gives, Run};

/// Keeps every scene.
struct Keeper(Arc<Mutex<Vec<Arc<Scene>>>>);

impl Observer for Keeper {
    fn name(&self) -> &'static str {
        "keeper"
    }

    fn seen(&mut self, seen: &Seen) {
        if let Seen::Scene(scene) = seen {
            self.0.lock().unwrap().push(scene.clone());
        }
    }
}

/// Two objects that go to the right, the second one missing in each third answer, and one too unsure to be an object.
fn two_and_a_half(size: InputSize) -> Run {
    let mut step = 0_u32;
    let (width, height) = (size.width / 4, size.height / 4);
    let prototypes = vec![1.0; width * height];
    let mut given = Outputs::default();
    Box::new(move |_, output| {
        step += 1;
        let x = 20.0 + (step % 50) as f32;
        let sure = if step.is_multiple_of(3) && step > 3 {
            0.1
        } else {
            0.8
        };
        let candidates = [
            [x, 20.0, 16.0, 16.0, 0.9, 3.0],
            [x, 70.0, 16.0, 16.0, sure, 3.0],
            [110.0, 48.0, 16.0, 16.0, 0.3, 3.0],
        ];
        given.write(0, "boxes", &[1, 3, 6], Elements::F32(candidates.as_flattened()));
        given.write(1, "masks", &[1, 1, height, width], Elements::F32(&prototypes));
        match output {
            Answer::Objects(mine) => std::mem::swap(mine, &mut given),
            other => *other = Answer::Objects(std::mem::take(&mut given)),
        }
        Ok(())
    })
}

/// The scenes of 45 frames.
fn scenes(masks: MaskPolicy, hides: bool) -> Vec<Arc<Scene>> {
    let model = made::model(128, 96, "cup", Gives::Objects);
    let (clock, metrics) = (RealClock::shared(), Metrics::shared());
    let capture = CaptureOptions {
        width: 320,
        height: 240,
        pace: Pace::AsFastAsPossible,
        ..CaptureOptions::default()
    };
    let looks = Looks {
        model: ModelInfo::of(&model.contract, 0),
        overlay: OverlayOptions {
            mode: Visualize::Instances,
            ..OverlayOptions::default()
        },
        colors: Default::default(),
        privacy: hides.then(|| Privacy {
            redact: RedactOptions {
                how: vec![None, Some(How::Fill)],
                margin: 0.0,
            },
            max_mask_age: Duration::from_secs(1),
        }),
    };
    let control = Control::new(looks, Duration::ZERO);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let reader = control.scenes.observe(Box::new(Keeper(kept.clone()))).unwrap();
    let parts = Parts {
        source: parse_uri("test://")
            .unwrap()
            .opener(&capture, clock.clone())
            .unwrap(),
        outputs: vec![
            parse_output("null://")
                .unwrap()
                .opener(&StreamOptions::default())
                .unwrap()
                .expect("an output for pictures"),
        ],
        engine: made::engine(&model, &metrics, two_and_a_half),
        control,
        clock,
        metrics,
    };
    let options = PipelineOptions {
        masks,
        schedule: ScheduleOptions {
            every: Some(3),
            ..ScheduleOptions::default()
        },
        live: false,
        on_source_error: OnTransient::GiveUp,
        read_timeout: Duration::from_millis(100),
        stall_timeout: Duration::from_secs(5),
        stamp: false,
        max_frames: Some(45),
        lost_picture: None,
    };
    let (_stop, asked_to_stop) = bounded(1);
    run(parts, options, &asked_to_stop).unwrap();
    drop(reader);
    let scenes = std::mem::take(&mut *kept.lock().unwrap());
    assert!(!scenes.is_empty());
    scenes
}

#[test]
fn numbers_stay_from_key_to_key_and_between_keys() {
    for masks in [MaskPolicy::Lockstep, MaskPolicy::Newest] {
        for scene in scenes(masks, false) {
            let objects = scene
                .segments
                .iter()
                .zip(scene.extents())
                .filter(|(s, _)| s.instance.is_some());
            for (segment, extent) in objects {
                // The upper one is 1, the lower one 2, whether or not it was away in between.
                let upper = extent.bbox.y < 120;
                assert_eq!(
                    segment.track,
                    Some(if upper { 1 } else { 2 }),
                    "{masks:?} {segment:?} {extent:?}"
                );
            }
            assert!(scene.segments.iter().all(|segment| !segment.doubtful));
        }
    }
}

#[test]
fn numbers_are_worth_all_that_they_can_be() {
    let mut scores = TrackScores::new();
    for (scene, step) in scenes(MaskPolicy::Lockstep, false).iter().zip(1_u32..) {
        let (width, height) = (scene.map.width, scene.map.height);
        // Input pixels are 2.5 of the picture's.
        let truth = [(1, 20.0), (2, 70.0)].map(|(number, y)| {
            let x = 20.0 + f64::from(step % 50);
            let inside = |at: usize, middle: f64| ((at as f64 + 0.5) / 2.5 - middle).abs() < 8.0;
            let mask = Rle::new(width, height, |column, row| inside(column, x) && inside(row, y));
            Tracked { number, mask }
        });
        // What the network does not give in this picture is not there.
        let gives = if step.is_multiple_of(3) && step > 3 { 1 } else { 2 };
        let found: Vec<Tracked> = scene
            .segments
            .iter()
            .zip(0..=u8::MAX)
            .filter_map(|(segment, label)| Some((segment.track?, Rle::of(&scene.map, label))))
            .map(|(number, mask)| Tracked { number, mask })
            .collect();
        scores.add(&truth[..gives], &found);
    }
    let figures = scores.figures();
    assert_eq!(
        (figures.idf1, figures.mota, figures.switches),
        (1.0, 1.0, 0),
        "{figures:?}"
    );
    assert!(figures.hota > 0.9 && figures.localization > 0.95, "{figures:?}");
}

#[test]
fn what_is_doubtful_is_there_where_its_class_is_hidden() {
    for scene in scenes(MaskPolicy::Lockstep, true) {
        let doubtful = scene
            .segments
            .iter()
            .zip(scene.extents())
            .find(|(s, _)| s.doubtful);
        let (segment, extent) = doubtful.expect("the third candidate");
        assert_eq!((segment.class, segment.track), (1, None));
        assert!(extent.area > 400 && extent.bbox.x > 200, "{extent:?}");
    }
}
