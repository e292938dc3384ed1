//! Pipelines from settings.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;

use super::check::check_outputs;
use crate::capture::{FrameSource, SourceOpener};
use crate::choose::{Choice, Chooser};
use crate::clock::RealClock;
use crate::config::{CameraSettings, Settings};
use crate::metrics::Metrics;
use crate::output::{OutputOpener, OutputSpec};
#[cfg(feature = "gstreamer")]
use crate::output::{browser::BrowserOpener, clips::ClipsOpener};
use crate::pipeline::control::Control;
use crate::pipeline::{Parts, PipelineOptions};
use crate::scenes::file::ScenesOpener;
use crate::supervise::OnTransient;
use vision::error::{Error, Result};
use vision::overlay::Visualize;
use vision::segment::Engine;

/// A pipeline that is put together and not started.
pub struct Built {
    /// What it is made of.
    pub parts: Parts,
    /// How it runs.
    pub options: PipelineOptions,
    /// The model and the backend that were chosen.
    pub choice: Choice,
}

/// Puts the pipelines of all cameras together. No source and no output is opened yet.
///
/// # Errors
/// As [`build_camera`], with the camera's name where there are several.
pub fn build(settings: &Settings, chooser: &Chooser) -> Result<Vec<Built>> {
    let cameras = &settings.cameras;
    let one = |camera: &CameraSettings| {
        build_camera(camera, chooser, Metrics::shared()).map_err(|e| match cameras.len() {
            1 => e,
            _ => e.in_camera(&camera.name),
        })
    };
    cameras.iter().map(one).collect()
}

/// Puts the pipeline of one camera together.
///
/// # Errors
/// Usage for an output that can't be made, or a model, file or class that doesn't exist; fatal for a model that can't be
/// run.
pub fn build_camera(settings: &CameraSettings, chooser: &Chooser, metrics: Arc<Metrics>) -> Result<Built> {
    check_outputs(settings)?;
    let clock = RealClock::shared();
    let mut source = settings.source.opener(&settings.capture, clock.clone())?;
    if matches!(settings.pipeline.on_source_error, OnTransient::Retry(_)) {
        source = Box::new(FirstOpen::new(source, settings.waits_for_source));
    }
    let model = settings.model.find()?;
    // Classes that don't exist are told before a backend is tried.
    let looks = settings.looks(&model.contract, 0)?;
    if looks.overlay.mode == Visualize::Instances && !model.contract.output.tells_objects() {
        warn!(
            "model {} gives classes alone: there are no instances to draw; --regions makes objects of connected regions",
            model.contract.name
        );
    }
    let choice = chooser.choose_for(&settings.model, model)?;
    let control = Control::new(looks, settings.infer_interval);
    control.set_schedule(settings.pipeline.schedule);
    let mut outputs: Vec<Box<dyn OutputOpener>> = Vec::new();
    for output in &settings.outputs {
        match output {
            OutputSpec::Scenes { path, rle } => outputs.push(Box::new(ScenesOpener {
                path: path.clone(),
                rle: *rle,
                camera: settings.name.clone(),
                control: control.clone(),
                clock: clock.clone(),
            })),
            #[cfg(feature = "gstreamer")]
            OutputSpec::Clips(folder) => outputs.push(Box::new(ClipsOpener::new(
                folder.clone(),
                &settings.stream,
                control.clips.clone(),
            ))),
            _ => outputs.extend(output.opener(&settings.stream)?),
        }
    }
    #[cfg(feature = "gstreamer")]
    if settings.pipeline.live {
        outputs.push(Box::new(BrowserOpener::new(
            control.video.clone(),
            &settings.stream,
        )));
    }
    Ok(Built {
        parts: Parts {
            source,
            outputs,
            engine: engine(&choice, metrics.clone()),
            control,
            clock,
            metrics,
        },
        options: settings.pipeline.clone(),
        choice,
    })
}

/// Segments with what was chosen.
pub(super) fn engine(choice: &Choice, metrics: Arc<Metrics>) -> Engine {
    Engine::new(
        choice.model.clone(),
        choice.backend.clone(),
        choice.longest,
        metrics,
    )
    .with_fallbacks(choice.fallbacks.clone())
}

/// A live source whose first opening differs from the later ones: one that was never there may be a mistake in its name, so
/// that it is waited for is said, and `--no-wait` ends the run.
struct FirstOpen {
    source: Box<dyn SourceOpener>,
    waits: bool,
    has_tried: AtomicBool,
}

impl FirstOpen {
    fn new(source: Box<dyn SourceOpener>, waits: bool) -> Self {
        Self {
            source,
            waits,
            has_tried: AtomicBool::new(false),
        }
    }
}

impl SourceOpener for FirstOpen {
    fn name(&self) -> String {
        self.source.name()
    }

    fn open(&self) -> Result<Box<dyn FrameSource>> {
        let opened = self.source.open();
        let is_first = !self.has_tried.swap(true, Ordering::Relaxed);
        match opened {
            Err(error) if is_first && error.is_transient() => {
                let name = self.name();
                if self.waits {
                    warn!(
                        "{name} is not there: waiting for it; Ctrl-C ends (with --no-wait segd ends by itself)"
                    );
                    return Err(error);
                }
                Err(Error::fatal(format!(
                    "{name} is not there, and --no-wait says not to wait for it"
                ))
                .caused_by(error))
            }
            opened => opened,
        }
    }

    fn advance(&self) -> bool {
        self.source.advance()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source that is never there.
    struct Away;

    impl SourceOpener for Away {
        fn name(&self) -> String {
            "away".into()
        }

        fn open(&self) -> Result<Box<dyn FrameSource>> {
            Err(Error::transient("no such camera"))
        }
    }

    #[test]
    fn only_the_first_opening_ends_a_run_that_does_not_wait() {
        let severities = |waits| {
            let source = FirstOpen::new(Box::new(Away), waits);
            [(); 2].map(|()| source.open().err().map(|e| (e.is_transient(), e.exit_code())))
        };
        assert_eq!(severities(true), [Some((true, 1)); 2]);
        assert_eq!(severities(false), [Some((false, 1)), Some((true, 1))]);
    }
}
