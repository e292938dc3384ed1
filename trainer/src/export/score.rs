//! Scores a model's folder as segd runs it: its files, its backends, its stages.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use segd::dataset::Sample;
use segd::frame::Mask;
use segd::infer::Backend;
use segd::infer::ort::{OrtBackend, OrtOptions};
use segd::infer::tract::TractBackend;
use segd::metrics::Metrics;
use segd::model::Model;
use segd::model::contract::Precision;
use segd::picture::image_ref;
use segd::score::ConfusionMatrix;
use segd::segment::Engine;

/// The backend called `name`, for files of one precision.
///
/// # Errors
/// ONNX Runtime's library is not found, or there is no such backend.
pub fn backend(name: &str, precision: Precision) -> Result<Arc<dyn Backend>> {
    Ok(match name {
        "tract" => Arc::new(TractBackend {
            precision: Some(precision),
        }),
        "ort" => Arc::new(OrtBackend::load(OrtOptions {
            precision: Some(precision),
            threads: 2,
            ..Default::default()
        })?),
        _ => anyhow::bail!("there is no backend called {name}, expected tract or ort"),
    })
}

/// Scores the model in `folder` on `samples`, calling `each` with every picture's number and predicted labels.
///
/// # Errors
/// The model or a picture can't be read, or the network can't run.
pub fn score(
    folder: &Path,
    backend: Arc<dyn Backend>,
    samples: &[Sample],
    mut each: impl FnMut(usize, &[u8]),
) -> Result<ConfusionMatrix> {
    let model = Model::open(folder)?;
    let mut matrix = ConfusionMatrix::new(model.contract.classes.len());
    let mut engine = Engine::new(Arc::new(model), backend, None, Arc::new(Metrics::default()));
    for (index, sample) in samples.iter().enumerate() {
        let (image, truth) = sample.load()?;
        let mut mask = Mask::zeros(truth.width, truth.height);
        engine
            .segment(&image_ref(&image)?, &mut mask)
            .with_context(|| sample.image.display().to_string())?;
        matrix.add(&truth.data, &mask.labels);
        each(index, &mask.labels);
    }
    Ok(matrix)
}
