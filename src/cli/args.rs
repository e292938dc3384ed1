//! Arguments that several subcommands share: the model and where it runs, and how masks are drawn.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::choose::{BackendName, ChoiceOptions, DeviceName, InputLength, Threads};
use crate::config::{ModelFile, NumberOrAuto, OverlayFile, check_range};
use vision::error::{Error, Result};
use vision::model::contract::{Contract, MAX_SIDE, Precision};
use vision::overlay::{OverlayOptions, Visualize};

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
    /// Where it runs; an accelerator that can't be had is an error, but for auto [default: cpu]
    #[arg(long, value_enum)]
    pub device: Option<DeviceName>,
    /// Precision of the network's arithmetic; the one that suits backend and processor if not given
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// Longer side of the network's input in pixels: smaller is faster, larger sees more; auto: the model's, or as much less
    /// as it needs to keep up here [default: the model's]
    #[arg(long, value_name = "PIXELS|auto")]
    pub size: Option<NumberOrAuto>,
    /// Threads of one inference on the CPU; auto: as few as it needs to be done within a frame's time here [default: auto for
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
    /// The arguments over the configuration file.
    ///
    /// # Errors
    /// Usage, naming the key.
    pub fn over(&self, file: &ModelFile) -> Result<ChoiceOptions> {
        let mut options = ChoiceOptions::default();
        if let Some(model) = self.model.as_ref().or(file.name.as_ref()) {
            options.model.clone_from(model);
        }
        let from_file = |key: &str, text: &Option<String>| text.clone().map(|t| (format!("model.{key}"), t));
        options.backend = pick(self.backend, from_file("backend", &file.backend))?.unwrap_or_default();
        let device = pick(self.device, from_file("device", &file.device))?.unwrap_or_default();
        options.device = device.first();
        options.accelerate = device == DeviceName::Auto;
        options.precision = pick(self.precision, from_file("precision", &file.precision))?;
        options.length = match self.size.or(file.size) {
            None => InputLength::Contract,
            Some(NumberOrAuto::Auto) => InputLength::auto(),
            Some(NumberOrAuto::Number(pixels)) => {
                check_range("size", pixels as f64, 16.0..=MAX_SIDE as f64)?;
                InputLength::Pixels(pixels)
            }
        };
        options.threads = match self.threads.or(file.threads) {
            None => Threads::default(),
            Some(NumberOrAuto::Auto) => Threads::auto(1),
            Some(NumberOrAuto::Number(threads)) => {
                check_range("threads", threads as f64, 1.0..=256.0)?;
                Threads::Count(threads)
            }
        };
        options.ort_library.clone_from(&self.ort_library);
        options.selftest = !self.no_selftest;
        Ok(options)
    }

    /// The arguments alone.
    ///
    /// # Errors
    /// Usage, naming the key.
    pub fn options(&self) -> Result<ChoiceOptions> {
        self.over(&ModelFile::default())
    }
}

/// The argument, or else the file's text as one of the values.
fn pick<T: ValueEnum>(argument: Option<T>, file: Option<(String, String)>) -> Result<Option<T>> {
    match (argument, file) {
        (Some(value), _) => Ok(Some(value)),
        (None, None) => Ok(None),
        (None, Some((key, text))) => T::from_str(&text, false).map(Some).map_err(|_| {
            let values = T::value_variants().iter().filter_map(|v| v.to_possible_value());
            let names: Vec<String> = values.map(|v| v.get_name().to_owned()).collect();
            Error::usage(format!("{key} = {text:?}, expected one of {}", names.join(", ")))
        }),
    }
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
    /// Name the classes that are drawn in the picture's corner [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub legend: Option<bool>,
}

/// How masks are drawn, before the classes of the model are known.
#[derive(Debug, Clone)]
pub struct Drawing {
    options: OverlayOptions,
    classes: Option<Vec<String>>,
}

impl VisualizeArgs {
    /// The arguments over the configuration file.
    ///
    /// # Errors
    /// Usage, naming the key.
    pub fn over(&self, file: &OverlayFile) -> Result<Drawing> {
        let mut options = OverlayOptions::default();
        if let Some(mode) = self.visualize.or(file.visualize) {
            options.mode = mode;
        }
        if let Some(alpha) = self.alpha.or(file.alpha) {
            check_range("alpha", f64::from(alpha), 0.0..=1.0)?;
            options.alpha = alpha;
        }
        if let Some(legend) = self.legend.or(file.legend) {
            options.legend = legend;
        }
        Ok(Drawing {
            options,
            classes: self.classes.clone().or_else(|| file.classes.clone()),
        })
    }
}

impl Drawing {
    /// The options for a model's classes.
    ///
    /// # Errors
    /// Usage for a class that the model doesn't have.
    pub fn options(&self, contract: &Contract) -> Result<OverlayOptions> {
        let mut options = self.options.clone();
        if let Some(names) = &self.classes {
            let labels = names.iter().map(|name| class_label(name, contract));
            options.shown = Some(labels.collect::<Result<_>>()?);
        }
        Ok(options)
    }
}

/// The label of the class `name`.
///
/// # Errors
/// Usage, with the classes that there are, and the one that was probably meant.
pub fn class_label(name: &str, contract: &Contract) -> Result<u8> {
    let name = name.trim();
    contract
        .class_index(name)
        .ok_or_else(|| unknown_class(name, contract))
}

fn unknown_class(name: &str, contract: &Contract) -> Error {
    let names: Vec<&str> = contract.classes.iter().map(|c| c.name.as_str()).collect();
    let nearest = names
        .iter()
        .map(|known| {
            (
                strsim::damerau_levenshtein(&known.to_lowercase(), &name.to_lowercase()),
                *known,
            )
        })
        .min()
        .filter(|(distance, _)| *distance <= 3);
    let error = Error::usage(format!(
        "classes: model {} has no class {name:?}; it has {}",
        contract.name,
        names.join(", ")
    ));
    match nearest {
        Some((_, known)) => error.hint(format!("did you mean {known:?}?")),
        None => error,
    }
}
