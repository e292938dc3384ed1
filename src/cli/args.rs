//! Arguments that several subcommands share: the model and where it runs, and how masks are drawn.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::choose::{BackendName, ChoiceOptions, DeviceName};
use crate::config::{self, ModelSection, NumberOrAuto, OverlaySection, RunSection};
use vision::error::Result;
use vision::model::contract::Precision;
use vision::overlay::Visualize;

/// Model and backend.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Name of a model (`segd models` lists them) or folder with a contract.toml [default: voc21]
    #[arg(long, value_name = "NAME|DIR", env = "SEGD_MODEL")]
    pub model: Option<String>,
    /// What runs the network; auto: tract or ONNX Runtime, whichever takes less CPU here [default: auto]
    #[arg(long, value_enum, env = "SEGD_BACKEND", hide_possible_values = false)]
    pub backend: Option<BackendName>,
    /// Where it runs. An accelerator that doesn't work is an error, except with auto [default: cpu]
    #[arg(long, value_enum)]
    pub device: Option<DeviceName>,
    /// Precision of the network's arithmetic; the one that suits backend and processor if not given
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// Connected regions of a class are objects, for networks that give classes alone: they get numbers, boxes and tracks
    #[arg(long)]
    pub regions: bool,
    /// Longer side of the network's input in pixels: smaller is faster, larger sees more; auto: the model's, or smaller if
    /// this machine needs that to keep up [default: the model's]
    #[arg(long, value_name = "PIXELS|auto")]
    pub size: Option<NumberOrAuto>,
    /// Threads of one inference on the CPU; auto: as few as it needs to finish within a frame's time here [default: auto for
    /// video, else 1]
    #[arg(long, value_name = "N|auto")]
    pub threads: Option<NumberOrAuto>,
    /// ONNX Runtime's library [default: $ORT_DYLIB_PATH, or searched for]
    #[arg(long, value_name = "FILE")]
    pub ort_library: Option<PathBuf>,
    /// Trust the backend without testing it
    #[arg(long)]
    pub no_selftest: bool,
}

impl ModelArgs {
    /// The keys that are set.
    pub fn section(&self) -> ModelSection {
        ModelSection {
            name: self.model.clone(),
            backend: self.backend.and_then(name_of),
            device: self.device.and_then(name_of),
            precision: self.precision.and_then(name_of),
            regions: self.regions.then_some(true),
            size: self.size,
            threads: self.threads,
            max_inferences_per_second: None,
        }
    }

    /// The keys that only the command line has.
    pub fn run_section(&self) -> RunSection {
        RunSection {
            ort_library: self.ort_library.clone(),
            no_selftest: self.no_selftest.then_some(true),
            ..RunSection::default()
        }
    }

    /// The arguments alone, for what is no video.
    ///
    /// # Errors
    /// Usage, naming the key.
    pub fn options(&self) -> Result<ChoiceOptions> {
        config::model(&self.section(), &self.run_section())
    }
}

/// A value as the configuration writes it.
fn name_of<T: ValueEnum>(value: T) -> Option<String> {
    value.to_possible_value().map(|v| v.get_name().to_owned())
}

/// How masks are drawn.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Drawing")]
pub struct VisualizeArgs {
    /// What is made of picture and mask [default: overlay]
    #[arg(long, value_enum)]
    pub visualize: Option<Visualize>,
    /// Opacity of the classes' colours, 0 to 1 [default: 0.5]
    #[arg(long, value_name = "0..1")]
    pub alpha: Option<f32>,
    /// Draw only these classes, by name, for example `person,car` [default: all but the background]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub classes: Option<Vec<String>>,
    /// Draw only objects of this score or more, 0 to 1 [default: all that the network's contract takes for objects]
    #[arg(long, value_name = "0..1")]
    pub score: Option<f32>,
    /// Name the classes that are drawn in the picture's corner [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub legend: Option<bool>,
}

impl VisualizeArgs {
    /// The keys that are set.
    pub fn section(&self) -> OverlaySection {
        OverlaySection {
            visualize: self.visualize,
            alpha: self.alpha,
            classes: self.classes.clone(),
            score: self.score,
            legend: self.legend,
            background: None,
            colors: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_written_as_the_configuration_reads_it() {
        for &backend in BackendName::value_variants() {
            for &device in DeviceName::value_variants() {
                for &precision in Precision::value_variants() {
                    let args = ModelArgs {
                        backend: Some(backend),
                        device: Some(device),
                        precision: Some(precision),
                        ..ModelArgs::default()
                    };
                    let options = args.options().unwrap();
                    assert_eq!((options.backend, options.precision), (backend, Some(precision)));
                    assert_eq!(options.device, device.first());
                    assert_eq!(options.accelerate, device == DeviceName::Auto);
                }
            }
        }
    }
}
