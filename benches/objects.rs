//! Objects from a network's answer to numbers that last: 20 of them at 640x480, for each kind of network. Times are CPU time
//! of the thread for one key; what the network itself takes is not counted.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

use vision::answer::Answer;
use vision::decode::decoder;
use vision::frame::LabelMap;
use vision::tensor::Outputs;
use vision::track::{Before, Tracker};

#[path = "../tests/common/crowd.rs"]
mod crowd;
#[path = "common/thread_time.rs"]
mod thread_time;

use thread_time::ThreadTime;

/// Pictures that follow each other before they begin again.
const STEPS: usize = 8;

fn key(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("objects");
    for kind in &crowd::KINDS {
        let contract = kind.contract();
        let picture = (crowd::SIZE.width, crowd::SIZE.height);
        let mut decoder = decoder(&contract, "crowd", crowd::SIZE, crowd::EVERYWHERE, picture);
        let mut tracker = Tracker::new(contract.output.objects.score);
        let given: Vec<Outputs> = (0..STEPS)
            .map(|step| {
                let mut outputs = Outputs::default();
                kind.give(step, &mut outputs);
                outputs
            })
            .collect();
        let (mut outputs, mut answer) = (Outputs::default(), Answer::empty());
        let (mut map, mut before, mut segments) = (LabelMap::zeros(0, 0), LabelMap::zeros(0, 0), Vec::new());
        let mut step = 0;
        for part in ["decode", "decode and follow"] {
            group.bench_function(format!("{}: {part}", kind.name), |b| {
                b.iter_custom(|iterations| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..iterations {
                        for (index, tensor) in given[step % STEPS].tensors().iter().enumerate() {
                            outputs.write(index, &tensor.name, &tensor.shape, tensor.values.elements());
                        }
                        step += 1;
                        let start = ThreadTime::now();
                        decoder
                            .read(&mut outputs, &mut answer)
                            .expect("the kinds are valid");
                        decoder.decode(&answer, &mut map, &mut segments);
                        if part != "decode" {
                            let at_ns = step as u64 * 100_000_000;
                            tracker.update(&map, &mut segments, Before::Moved(&before), at_ns);
                        }
                        spent += ThreadTime::now() - start;
                        std::mem::swap(&mut map, &mut before);
                    }
                    spent
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = objects;
    config = Criterion::default()
        .with_measurement(ThreadTime)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30);
    targets = key
}
criterion_main!(objects);
