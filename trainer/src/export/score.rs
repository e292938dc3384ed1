//! Scores a model's folder as segd runs it: its files, its backends, its stages.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use vision::dataset::Sample;
use vision::dataset::objects::ObjectDataset;
use vision::frame::LabelMap;
use vision::infer::Backend;
use vision::infer::ort::{OrtBackend, OrtOptions};
use vision::infer::tract::TractBackend;
use vision::model::Model;
use vision::model::contract::Precision;
use vision::picture::{self, image_ref};
use vision::score::Bootstrap;
use vision::score::objects::ObjectScores;
use vision::segment::Engine;
use vision::timing::{CpuSums, Step, Untimed};

use crate::validate::found_objects;

/// The backend called `name`, for files of one precision.
///
/// # Errors
/// ONNX Runtime's library is not found, or there is no such backend.
pub fn backend(name: &str, precision: Precision) -> Result<Arc<dyn Backend>> {
    Ok(match name {
        "tract" => Arc::new(TractBackend::new(Some(precision))),
        "ort" => Arc::new(OrtBackend::load(OrtOptions {
            precision: Some(precision),
            ..Default::default()
        })?),
        _ => anyhow::bail!("there is no backend called {name}, expected tract or ort"),
    })
}

/// A score, and what it took.
pub struct Measured {
    /// Pixels by true and predicted class, of each picture.
    pub scores: Bootstrap,
    /// CPU time of the network alone, in ms a picture: the median, since the first of each size takes longer.
    pub cpu_ms: f64,
}

/// Scores the model in `folder` on `samples`, calling `each` with every picture's number and predicted labels.
///
/// # Errors
/// The model or a picture can't be read, or the network can't run.
pub fn score(
    folder: &Path,
    backend: Arc<dyn Backend>,
    samples: &[Sample],
    each: impl FnMut(usize, &[u8]),
) -> Result<Bootstrap> {
    Ok(measure(folder, backend, samples, each)?.scores)
}

/// As [`score`], with the CPU time.
///
/// # Errors
/// As [`score`].
pub fn measure(
    folder: &Path,
    backend: Arc<dyn Backend>,
    samples: &[Sample],
    mut each: impl FnMut(usize, &[u8]),
) -> Result<Measured> {
    let model = Model::open(folder)?;
    let mut scores = Bootstrap::new(model.contract.classes.len());
    let times = Arc::new(CpuSums::default());
    let mut engine = Engine::new(Arc::new(model), backend, None, times.clone());
    let infer_ms = || times.cpu_ns(Step::Infer) as f64 / 1e6;
    let (mut each_ms, mut before_ms) = (Vec::with_capacity(samples.len()), infer_ms());
    for (index, sample) in samples.iter().enumerate() {
        let (image, truth) = sample.load()?;
        let mut mask = LabelMap::zeros(truth.width, truth.height);
        engine
            .segment(&image_ref(&image)?, &mut mask)
            .with_context(|| sample.image.display().to_string())?;
        let after_ms = infer_ms();
        each_ms.push(after_ms - before_ms);
        before_ms = after_ms;
        scores.add(&truth.data, &mask.labels);
        each(index, &mask.labels);
    }
    each_ms.sort_by(f64::total_cmp);
    let cpu_ms = each_ms.get(each_ms.len() / 2).copied().unwrap_or_default();
    Ok(Measured { scores, cpu_ms })
}

/// Scores of the objects of each picture.
pub struct ScoredObjects {
    classes: usize,
    pictures: Vec<ObjectScores>,
}

impl ScoredObjects {
    /// The scores of all pictures.
    #[must_use]
    pub fn whole(&self) -> ObjectScores {
        self.of(0..self.pictures.len())
    }

    fn of(&self, pictures: impl IntoIterator<Item = usize>) -> ObjectScores {
        let mut scores = ObjectScores::new(self.classes);
        for picture in pictures {
            scores.merge(&self.pictures[picture]);
        }
        scores
    }

    /// What 95 % of the sets of as many pictures, drawn from these with replacement, have: lowest and highest value of
    /// `of`. The draws are always the same. `None` if there is no value.
    #[must_use]
    pub fn interval(&self, of: impl Fn(&ObjectScores) -> Option<f64>) -> Option<[f64; 2]> {
        const DRAWS: usize = 500;
        let count = self.pictures.len();
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let mut values: Vec<f64> = (0..DRAWS)
            .filter_map(|_| {
                let drawn: Vec<usize> = (0..count).map(|_| rng.random_range(0..count)).collect();
                of(&self.of(drawn))
            })
            .collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values.get((share * values.len() as f64) as usize).copied();
        Some([at(0.025)?, at(0.975)?])
    }
}

/// Scores the objects that the model in `folder` finds, in VOC's classes.
///
/// # Errors
/// As [`score`].
pub fn objects(folder: &Path, backend: Arc<dyn Backend>, data: &ObjectDataset) -> Result<ScoredObjects> {
    let model = Model::open(folder)?;
    let mut engine = Engine::new(Arc::new(model), backend, None, Arc::new(Untimed));
    let (mut map, mut segments) = (LabelMap::zeros(0, 0), Vec::new());
    let classes = data.classes.len();
    let mut pictures = Vec::with_capacity(data.samples.len());
    for sample in &data.samples {
        let (image, truth) = sample.load()?;
        engine
            .segment_objects(&image_ref(&image)?, &mut map, &mut segments)
            .with_context(|| sample.image.display().to_string())?;
        let mut scores = ObjectScores::new(classes);
        scores.add(
            &truth.objects,
            truth.void.as_ref(),
            &found_objects(&map, &segments),
        );
        pictures.push(scores);
    }
    Ok(ScoredObjects { classes, pictures })
}

/// The share of the pixels of `images` to which the model in `folder` gives the labels beside them.
///
/// # Errors
/// As [`score`].
pub fn agreement(folder: &Path, backend: Arc<dyn Backend>, images: &[(PathBuf, Vec<u8>)]) -> Result<f64> {
    let model = Model::open(folder)?;
    let mut engine = Engine::new(Arc::new(model), backend, None, Arc::new(Untimed));
    let mut mask = LabelMap::zeros(0, 0);
    let (mut same, mut pixels) = (0, 0);
    for (path, labels) in images {
        let image = picture::read_rgb(path)?;
        engine
            .segment(&image_ref(&image)?, &mut mask)
            .with_context(|| path.display().to_string())?;
        same += mask.labels.iter().zip(labels).filter(|(a, b)| a == b).count();
        pixels += labels.len();
    }
    Ok(same as f64 / pixels.max(1) as f64)
}
