//! A made network for tests of the pipeline: its model, and a backend that runs a function.

#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;

use segd::metrics::Metrics;
use vision::answer::Answer;
use vision::error::Result;
use vision::infer::{Backend, InputSize, Outputs, RunsOn, Segmenter, TensorData};
use vision::model::{Contract, Model, Origin};
use vision::segment::Engine;
use vision::tensor::Elements;

/// What a made network does with one input.
pub type Run = Box<dyn FnMut(&TensorData, &mut Answer) -> Result<()> + Send>;

/// Runs what `prepare` gives for an input size, on a provider that is called as it says.
pub struct MadeBackend<F>(pub F, pub &'static str);

struct MadeSegmenter {
    size: InputSize,
    run: Run,
    provider: &'static str,
    answer: Answer,
}

impl<F: Fn(InputSize) -> Run + Send + Sync> Backend for MadeBackend<F> {
    fn name(&self) -> &'static str {
        "made"
    }

    fn prepare(&self, _model: &Model, size: InputSize) -> Result<Box<dyn Segmenter>> {
        let run = (self.0)(size);
        Ok(Box::new(MadeSegmenter {
            size,
            run,
            provider: self.1,
            answer: Answer::empty(),
        }))
    }
}

impl Segmenter for MadeSegmenter {
    fn input_size(&self) -> InputSize {
        self.size
    }

    fn runs_on(&self) -> RunsOn {
        RunsOn {
            backend: "made",
            provider: self.provider.into(),
            precision: "fp32".into(),
            version: "1".into(),
            input_size: self.size,
        }
    }

    fn run(&mut self, input: &TensorData, outputs: &mut Outputs) -> Result<()> {
        (self.run)(input, &mut self.answer)?;
        match &self.answer {
            Answer::Logits {
                classes,
                height,
                width,
                values,
            } => outputs.write(
                0,
                "answer",
                &[1, *classes, *height, *width],
                Elements::F32(values),
            ),
            Answer::Labels {
                height,
                width,
                labels,
            } => outputs.write(0, "answer", &[1, *height, *width], Elements::U8(labels)),
            Answer::Objects(given) => {
                for (index, tensor) in given.tensors().iter().enumerate() {
                    outputs.write(index, &tensor.name, &tensor.shape, tensor.values.elements());
                }
            }
        }
        Ok(())
    }
}

/// One label for the whole input.
pub fn flat(size: InputSize, label: u8) -> Answer {
    Answer::Labels {
        height: size.height,
        width: size.width,
        labels: vec![label; size.width * size.height],
    }
}

/// What a made network gives.
#[derive(Debug, Clone, Copy)]
pub enum Gives {
    /// A label for each input pixel.
    Labels,
    /// Scores on a coarser grid.
    Logits,
    /// Candidates `boxes` and prototypes `masks`.
    Objects,
}

/// A model of a background and one class, with an input of this size.
pub fn model(width: usize, height: usize, class: &str, gives: Gives) -> Arc<Model> {
    let output = match gives {
        Gives::Labels => "kind = \"labels\"\ndtype = \"u8\"",
        Gives::Logits => "kind = \"logits\"\nlayout = \"nchw\"\ndtype = \"f32\"\ngrid = \"half-pixel\"",
        Gives::Objects => {
            "kind = \"prototypes\"\nnms = 0.5\ntensors = [{ role = \"detections\", name = \"boxes\" }, \
             { role = \"prototypes\", name = \"masks\" }]"
        }
    };
    let (format, thing) = match gives {
        Gives::Objects => (2, "thing = true"),
        _ => (1, ""),
    };
    let text = format!(
        r#"
        format = {format}
        name = "made"
        [input]
        layout = "nchw"
        dtype = "f32"
        color = "rgb"
        resize = "stretch"
        width = {width}
        height = {height}
        [output]
        {output}
        [[classes]]
        name = "background"
        color = [0, 0, 0]
        background = true
        [[classes]]
        name = "{class}"
        color = [255, 255, 255]
        {thing}
        [[files]]
        path = "made.onnx"
        precision = "fp32"
        backends = ["tract"]
        sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        "#
    );
    Arc::new(Model {
        contract: Contract::parse(&text, "made").unwrap(),
        origin: Origin::Embedded,
    })
}

/// An engine of one made network.
pub fn engine<F>(model: &Arc<Model>, metrics: &Arc<Metrics>, prepare: F) -> Engine
where
    F: Fn(InputSize) -> Run + Send + Sync + 'static,
{
    Engine::new(
        model.clone(),
        Arc::new(MadeBackend(prepare, "CPU")),
        None,
        metrics.clone(),
    )
}
