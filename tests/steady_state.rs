//! In the steady state no stage allocates: counted over whole runs of the pipeline, and over decoders and tracker alone.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_channel::bounded;
use segd::capture::{CaptureOptions, Pace, parse_uri};
use segd::clock::RealClock;
use segd::metrics::Metrics;
use segd::output::{StreamOptions, parse_output};
use segd::pipeline::control::{Control, Looks};
use segd::pipeline::{MaskPolicy, Parts, PipelineOptions, run};
use segd::schedule::ScheduleOptions;
use segd::supervise::OnTransient;
use vision::answer::Answer;
use vision::decode::decoder;
use vision::frame::LabelMap;
use vision::infer::{InputSize, Outputs, TensorData};
use vision::overlay::{OverlayOptions, Visualize};
use vision::scene::ModelInfo;
use vision::tensor::Elements;
use vision::track::{Before, Tracker};

#[path = "common/crowd.rs"]
mod crowd;
#[path = "common/made.rs"]
mod made;

use made::{Gives, Run};

/// Counts what the system's allocator is asked for.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Those of [`LARGE`] bytes or more.
static LARGE_ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Pictures, masks, logits and motion fields are larger than this; handles are smaller.
const LARGE: usize = 512;

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Relaxed);
    LARGE_ALLOCATIONS.fetch_add(u64::from(bytes >= LARGE), Relaxed);
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps GlobalAlloc's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the process allocates can be counted for one test at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Logits from one pixel of each cell, in a buffer that is kept.
fn cells(size: InputSize) -> Run {
    Box::new(move |input, output| {
        let TensorData::F32(pixels) = input else {
            panic!("the contract says f32")
        };
        let (width, height) = (size.width / 8, size.height / 8);
        if !matches!(output, Answer::Logits { .. }) {
            *output = Answer::Logits {
                classes: 2,
                height,
                width,
                values: vec![0.0; 2 * width * height],
            };
        }
        if let Answer::Logits { values, .. } = output {
            for cell in 0..width * height {
                let at = cell / width * 8 * size.width + cell % width * 8;
                values[cell] = 100.0;
                values[width * height + cell] = pixels[at];
            }
        }
        Ok(())
    })
}

/// Six objects that move to and fro, as candidates of [`Gives::Objects`], two for each of them.
fn objects(size: InputSize) -> Run {
    let mut step = 0_u32;
    let (width, height) = (size.width / 4, size.height / 4);
    let prototypes = vec![1.0; width * height];
    let mut given = Outputs::default();
    Box::new(move |_, output| {
        step += 1;
        let sway = (f64::from(step) * 0.1).sin() as f32 * 8.0;
        let mut candidates = [0.0; 12 * 6];
        for (number, row) in candidates.chunks_exact_mut(6).enumerate() {
            let (column, line) = ((number / 2 % 3) as f32, (number / 6) as f32);
            let score = 0.9 - 0.1 * (number % 2) as f32;
            row.copy_from_slice(&[
                25.0 + 35.0 * column + sway,
                25.0 + 40.0 * line,
                20.0,
                24.0,
                score,
                3.0,
            ]);
        }
        given.write(0, "boxes", &[1, 12, 6], Elements::F32(&candidates));
        given.write(1, "masks", &[1, 1, height, width], Elements::F32(&prototypes));
        match output {
            Answer::Objects(mine) => std::mem::swap(mine, &mut given),
            other => *other = Answer::Objects(std::mem::take(&mut given)),
        }
        Ok(())
    })
}

/// Allocations of a run of so many frames: all, and the large ones.
fn allocations(frames: u64, masks: MaskPolicy, schedule: ScheduleOptions, gives: Gives) -> [u64; 2] {
    let model = made::model(128, 96, "bright", gives);
    let (network, mode): (fn(InputSize) -> Run, Visualize) = match gives {
        Gives::Objects => (objects, Visualize::Instances),
        _ => (cells, Visualize::Overlay),
    };
    let (clock, metrics) = (RealClock::shared(), Metrics::shared());
    let capture = CaptureOptions {
        width: 320,
        height: 240,
        pace: Pace::AsFastAsPossible,
        ..CaptureOptions::default()
    };
    let source = parse_uri("test://")
        .unwrap()
        .opener(&capture, clock.clone())
        .unwrap();
    let sink = parse_output("null://")
        .unwrap()
        .opener(&StreamOptions::default())
        .unwrap()
        .expect("it takes pictures");
    let looks = Looks {
        model: ModelInfo::of(&model.contract, 0),
        overlay: OverlayOptions {
            mode,
            ..OverlayOptions::default()
        },
        colors: Default::default(),
        privacy: None,
    };
    let parts = Parts {
        source,
        outputs: vec![sink],
        engine: made::engine(&model, &metrics, network),
        control: Control::new(looks, Duration::ZERO),
        clock,
        metrics,
    };
    let options = PipelineOptions {
        masks,
        schedule,
        live: false,
        on_source_error: OnTransient::GiveUp,
        read_timeout: Duration::from_millis(100),
        stall_timeout: Duration::from_secs(5),
        stamp: false,
        max_frames: Some(frames),
        lost_picture: None,
    };
    let (_stop, asked_to_stop) = bounded(1);
    let counts = || [&ALLOCATIONS, &LARGE_ALLOCATIONS].map(|count| count.load(Relaxed));
    let before = counts();
    run(parts, options, &asked_to_stop).unwrap();
    let after = counts();
    [after[0] - before[0], after[1] - before[1]]
}

#[test]
fn objects_are_decoded_and_followed_without_allocating() {
    let _turn = TURN.lock();
    for kind in &crowd::KINDS {
        let contract = kind.contract();
        let picture = (crowd::SIZE.width, crowd::SIZE.height);
        let mut decoder = decoder(&contract, "crowd", crowd::SIZE, crowd::EVERYWHERE, picture);
        let mut tracker = Tracker::new(contract.output.objects.score);
        let given: Vec<Outputs> = (0..8)
            .map(|step| {
                let mut outputs = Outputs::default();
                kind.give(step, &mut outputs);
                outputs
            })
            .collect();
        let mut outputs = Outputs::default();
        let mut answer = Answer::empty();
        let (mut map, mut before, mut segments) = (LabelMap::zeros(0, 0), LabelMap::zeros(0, 0), Vec::new());
        let (mut most, mut numbers) = (0, 0);
        // From the second round on there is nothing new.
        for step in 0..20 {
            for (index, tensor) in given[step % given.len()].tensors().iter().enumerate() {
                outputs.write(index, &tensor.name, &tensor.shape, tensor.values.elements());
            }
            let counted = ALLOCATIONS.load(Relaxed);
            decoder.read(&mut outputs, &mut answer).unwrap();
            decoder.decode(&answer, &mut map, &mut segments);
            let at_ns = step as u64 * 100_000_000;
            tracker.update(&map, &mut segments, Before::Moved(&before), at_ns);
            if step >= 12 {
                most = most.max(ALLOCATIONS.load(Relaxed) - counted);
            }
            std::mem::swap(&mut map, &mut before);
            numbers = segments.iter().filter_map(|s| s.track).max().unwrap_or(0);
        }
        assert_eq!(tracker.len(), crowd::OBJECTS, "{}", kind.name);
        assert_eq!(numbers as usize, crowd::OBJECTS, "{}: numbers last", kind.name);
        assert_eq!(most, 0, "{}: allocations for a key", kind.name);
    }
}

#[test]
fn frames_cost_no_buffer() {
    let _turn = TURN.lock();
    let every = ScheduleOptions {
        every: Some(3),
        ..ScheduleOptions::default()
    };
    for (masks, gives) in [
        (MaskPolicy::Newest, Gives::Logits),
        (MaskPolicy::Lockstep, Gives::Logits),
        (MaskPolicy::Newest, Gives::Objects),
    ] {
        // The first run also pays for what is made once in a process.
        allocations(50, masks, every, gives);
        let (short, long) = (
            allocations(200, masks, every, gives),
            allocations(1200, masks, every, gives),
        );
        let [more, large] = [0, 1].map(|kind| long[kind].saturating_sub(short[kind]));
        println!(
            "{masks:?}, {gives:?}: {more} allocations for 1000 frames more, {large} of them of {LARGE} bytes or more"
        );
        assert!(
            large <= 10,
            "{large} buffers for 1000 frames more ({masks:?}, {gives:?})"
        );
        // A frame's shared handle is one; where threads wait for each other, the channels make small ones.
        assert!(
            more <= 4000,
            "{more} allocations for 1000 frames more ({masks:?}, {gives:?})"
        );
    }
}
