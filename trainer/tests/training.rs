//! Training on a small made dataset: it learns, every weight takes part, and a run that goes on from a checkpoint ends
//! where one without a stop does.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use segd_train::data;
use segd_train::graph::Part;
use segd_train::picture::Picture;
use segd_train::recipe::Recipe;
use segd_train::run::Folder;
use segd_train::train::{End, Run, Validation, train};
use segd_train::validate;
use segd_train::weights::Weights;
use tch::Device;
use vision::dataset::{self, Dataset, Format, Sample};

struct Made {
    _folder: tempfile::TempDir,
    samples: Vec<Sample>,
    pictures: Vec<Picture>,
    order: Vec<u32>,
}

fn made(count: usize) -> Made {
    tch::set_num_threads(1);
    let folder = tempfile::tempdir().unwrap();
    common::write_dataset(folder.path(), count);
    let samples = Dataset::open(Format::Voc, folder.path())
        .unwrap()
        .split("train")
        .unwrap();
    let pictures = data::load(&samples, 3, 96, 2, &ProgressBar::hidden()).unwrap();
    assert_eq!(pictures.len(), count);
    let order = (0..count as u32).collect();
    Made {
        _folder: folder,
        samples,
        pictures,
        order,
    }
}

impl Made {
    fn train(
        &self,
        run: &mut Run,
        recipe: &Recipe,
        folder: &Folder,
        stop: &AtomicBool,
    ) -> anyhow::Result<End> {
        train(
            run,
            recipe,
            &self.pictures,
            &self.order,
            &Validation::Classes(self.samples.clone()),
            folder,
            stop,
        )
    }
}

fn run(recipe: &Recipe) -> Run {
    let graph = recipe.graph();
    let weights = Weights::random(&graph, 3, Device::Cpu);
    Run::new(recipe, graph, weights)
}

#[test]
fn a_small_dataset_is_learnt() {
    let made = made(6);
    let mut recipe = common::recipe(240);
    recipe.network.pretrained = false;
    let graph = recipe.graph();
    let weights = Weights::random(&graph, 3, Device::Cpu);
    let mut run = Run::new(&recipe, graph, weights);
    let out = tempfile::tempdir().unwrap();
    let folder = Folder::create(&out.path().join("run")).unwrap();
    let stop = AtomicBool::new(false);
    made.train(&mut run, &recipe, &folder, &stop).unwrap();

    let matrix = validate::score(&run.graph, &run.ema, &recipe, &made.samples, |_, _, _, _| {}).unwrap();
    let iou = matrix.mean_iou().unwrap();
    let log = std::fs::read_to_string(folder.log()).unwrap();
    assert!(iou > 0.5, "mean IoU {iou}: {log}");
    assert_eq!(run.best, iou, "the last step is scored");

    let loss = |line: &str| line.split(',').nth(2).unwrap().parse::<f64>().unwrap();
    let lines: Vec<&str> = log.lines().skip(1).collect();
    assert!(loss(lines[lines.len() - 1]) < 0.6 * loss(lines[0]), "{log}");

    // The best checkpoint holds what was scored.
    let mut best = Weights::random(&run.graph, 0, Device::Cpu);
    best.load(&folder.best(), "ema/").unwrap();
    let again = validate::score(&run.graph, &best, &recipe, &made.samples, |_, _, _, _| {}).unwrap();
    assert_eq!(again, matrix);
}

#[test]
fn every_trainable_weight_gets_a_gradient_and_the_stem_gets_none() {
    let made = made(4);
    let recipe = common::recipe(10);
    let mut run = run(&recipe);
    let before = run.weights.deep_copy();
    let loss = data::loss(&made.pictures, &made.order, &recipe, Device::Cpu);
    for step in 0..3 {
        let batch = data::batch(
            &made.pictures,
            &made.order,
            &data::Donors::default(),
            &recipe,
            step,
        );
        let value = run.train_step(&recipe, &loss, &batch, Device::Cpu);
        assert!(value.is_finite());
    }
    let changed = |name: &str| run.weights.get(name) != before.get(name);
    let trainable = Weights::trainable(&run.graph);
    assert!(trainable.iter().any(|(_, part)| *part == Part::Trunk));
    for (name, _) in &trainable {
        assert!(changed(name), "{name} did not change");
    }
    for (name, _) in before
        .iter()
        .filter(|(name, _)| !trainable.iter().any(|(other, _)| other == name))
    {
        let statistics = name.ends_with(".bn.mean") || name.ends_with(".bn.var");
        let head = name.starts_with("aspp") || name.starts_with("decoder");
        assert_eq!(changed(name), statistics && head, "{name}");
    }
}

#[test]
fn going_on_from_a_checkpoint_equals_not_stopping() {
    let made = made(4);
    let recipe = common::recipe(8);
    let out = tempfile::tempdir().unwrap();
    let loss = data::loss(&made.pictures, &made.order, &recipe, Device::Cpu);
    let steps = |run: &mut Run, until: u64| {
        let losses: Vec<f64> = (run.step..until)
            .map(|step| {
                let batch = data::batch(
                    &made.pictures,
                    &made.order,
                    &data::Donors::default(),
                    &recipe,
                    step,
                );
                run.train_step(&recipe, &loss, &batch, Device::Cpu)
            })
            .collect();
        losses
    };
    let mut whole = run(&recipe);
    let losses = steps(&mut whole, 6);

    let mut first = run(&recipe);
    steps(&mut first, 3);
    first.best = 0.25;
    let path = out.path().join("checkpoint.safetensors");
    first.save(&path).unwrap();

    let mut second = Run::new(
        &recipe,
        recipe.graph(),
        Weights::random(&whole.graph, 99, Device::Cpu),
    );
    second.restore(&path).unwrap();
    assert_eq!((second.step, second.best), (3, 0.25));
    assert_eq!(steps(&mut second, 6), losses[3..]);
    for ((name, expected), (_, found)) in whole.weights.iter().zip(second.weights.iter()) {
        assert_eq!(expected, found, "{name}");
    }
    for ((name, expected), (_, found)) in whole.ema.iter().zip(second.ema.iter()) {
        assert_eq!(expected, found, "running mean of {name}");
    }
}

#[test]
fn a_checkpoint_of_another_network_is_refused() {
    let recipe = common::recipe(8);
    let mut other = recipe.clone();
    other.network.pyramid = Some(24);
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("checkpoint.safetensors");
    run(&recipe).save(&path).unwrap();
    let message = format!("{:#}", run(&other).restore(&path).unwrap_err());
    assert!(
        message.contains("aspp") && message.contains("checkpoint.safetensors"),
        "{message}"
    );
    std::fs::write(&path, "not a checkpoint").unwrap();
    assert!(run(&recipe).restore(&path).is_err());
}

#[test]
fn a_crop_lays_labels_on_what_they_name() {
    let made = made(6);
    let mut recipe = common::recipe(1);
    recipe.augment.label_stride = 1;
    let area = recipe.augment.crop.area();
    for step in 0..8 {
        let batch = data::batch(
            &made.pictures,
            &made.order,
            &data::Donors::default(),
            &recipe,
            step,
        );
        let (mut right, mut all) = (0, 0);
        for (rgb, &label) in batch.rgb.chunks_exact(3).zip(&batch.labels) {
            let color = match rgb.iter().enumerate().max_by_key(|(_, level)| **level).unwrap().0 {
                0 => 1,
                1 => 0,
                _ => 2,
            };
            if label != dataset::IGNORE {
                all += 1;
                right += usize::from(color == label);
            }
        }
        assert!(all > area && right * 100 > all * 96, "{right} of {all}");
    }
    let twice =
        [0, 1].map(|_| data::batch(&made.pictures, &made.order, &data::Donors::default(), &recipe, 3));
    assert_eq!(twice[0].rgb, twice[1].rgb);
    assert_eq!(twice[0].labels, twice[1].labels);
}

/// The log without its times.
fn untimed(folder: &Folder) -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(folder.log()).unwrap();
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            (fields[0].to_owned(), fields[2].to_owned(), fields[3].to_owned())
        })
        .collect()
}

#[test]
fn a_run_that_was_stopped_ends_as_one_that_was_not() {
    let made = made(4);
    let mut recipe = common::recipe(12);
    recipe.validate.every = 3;
    recipe.train.batch = 2;
    recipe.train.accumulate = 2;
    let out = tempfile::tempdir().unwrap();
    let go =
        |run: &mut Run, folder: &Folder, stop: &AtomicBool| made.train(run, &recipe, folder, stop).unwrap();
    let whole_folder = Folder::create(&out.path().join("whole")).unwrap();
    let mut whole = run(&recipe);
    assert_eq!(go(&mut whole, &whole_folder, &AtomicBool::new(false)), End::Done);

    let folder = Folder::create(&out.path().join("parts")).unwrap();
    let stop = AtomicBool::new(false);
    let mut first = run(&recipe);
    let end = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Until a score is in the log.
            while folder.read_log().is_err() {
                std::thread::sleep(Duration::from_millis(5));
            }
            stop.store(true, Ordering::Relaxed);
        });
        go(&mut first, &folder, &stop)
    });
    assert_eq!(end, End::Stopped);
    assert!((3..12).contains(&first.step), "{}", first.step);
    drop(first);
    // What a program that was killed might have left.
    let mut log = std::fs::read_to_string(folder.log()).unwrap();
    log.push_str("40,9.9,9.9,\n");
    std::fs::write(folder.log(), log).unwrap();

    let mut second = Run::new(
        &recipe,
        recipe.graph(),
        Weights::random(&whole.graph, 99, Device::Cpu),
    );
    second.restore(&folder.last()).unwrap();
    assert_eq!(go(&mut second, &folder, &AtomicBool::new(false)), End::Done);
    for (expected, found) in [(&whole.weights, &second.weights), (&whole.ema, &second.ema)] {
        for ((name, expected), (_, found)) in expected.iter().zip(found.iter()) {
            assert_eq!(expected, found, "{name}");
        }
    }
    assert_eq!(whole.best, second.best);
    assert_eq!(untimed(&whole_folder), untimed(&folder));
    let events = std::fs::read_dir(folder.path()).unwrap();
    let events = events.filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains("tfevents")
    });
    assert_eq!(events.count(), 2);
}

#[test]
fn a_run_ends_early_where_scores_stop_rising() {
    let made = made(2);
    let mut recipe = common::recipe(200);
    recipe.validate.every = 1;
    recipe.train.batch = 2;
    (recipe.train.trunk_rate, recipe.train.head_rate) = (1e-12, 1e-12);
    recipe.train.patience = 2;
    let out = tempfile::tempdir().unwrap();
    let folder = Folder::create(out.path()).unwrap();
    let mut run = run(&recipe);
    let stop = AtomicBool::new(false);
    let end = made.train(&mut run, &recipe, &folder, &stop).unwrap();
    assert_eq!((end, run.progress.stale), (End::Early, 2));
    let log = folder.read_log().unwrap();
    let best = log.scores.iter().map(|(_, score)| *score).fold(0.0, f64::max);
    assert!(log.scores[log.scores.len() - 3].1 >= best - 1e-3, "{log:?}");
}

#[test]
fn batches_that_are_accumulated_count_alike() {
    let made = made(4);
    let mut recipe = common::recipe(10);
    recipe.train.batch = 4;
    recipe.train.accumulate = 2;
    let both = data::batch(&made.pictures, &made.order, &data::Donors::default(), &recipe, 0);
    let (pixels, cells) = (both.rgb.len() / 2, both.labels.len() / 2);
    let loss = data::loss(&made.pictures, &made.order, &recipe, Device::Cpu);
    let found = run(&recipe).train_step(&recipe, &loss, &both, Device::Cpu);
    recipe.train.accumulate = 1;
    let halves = [0, 1].map(|half| {
        let batch = data::Batch {
            rgb: both.rgb[half * pixels..][..pixels].to_vec(),
            labels: both.labels[half * cells..][..cells].to_vec(),
            targets: vec![],
            objects: vec![],
        };
        run(&recipe).train_step(&recipe, &loss, &batch, Device::Cpu)
    });
    let expected = (halves[0] + halves[1]) / 2.0;
    assert!((found - expected).abs() < 1e-6, "{found} {halves:?}");
    assert_ne!(halves[0], halves[1]);
}

#[test]
fn labels_that_are_no_class_are_refused_by_file() {
    let made = made(2);
    let result = data::load(&made.samples, 2, 96, 1, &ProgressBar::hidden());
    let message = result.err().unwrap().to_string();
    assert!(
        message.contains("SegmentationClass") && message.contains("2 classes"),
        "{message}"
    );
}
