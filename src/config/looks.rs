//! The second step: what can only be checked against a model's contract.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::CameraSettings;
use crate::events::Watch;
use crate::pipeline::control::{Looks, Privacy};
use vision::error::{Error, Result};
use vision::model::contract::{Class, Contract};
use vision::overlay::OverlayOptions;
use vision::redact::{How, RedactOptions};
use vision::scene::ModelInfo;

/// How masks are drawn, before the classes of the model are known.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawing {
    /// All but the classes.
    pub(super) options: OverlayOptions,
    /// Names of the classes to draw; all but the background if absent.
    pub(super) classes: Option<Vec<String>>,
    /// Names of classes that are drawn in another colour than their model's.
    pub(super) colors: Vec<(String, [u8; 3])>,
}

impl Drawing {
    /// The options for a model's classes.
    ///
    /// # Errors
    /// Usage for a class that the model doesn't have.
    pub fn options(&self, contract: &Contract) -> Result<OverlayOptions> {
        self.options_of(&contract.classes, &contract.name)
    }

    fn options_of(&self, classes: &[Class], model: &str) -> Result<OverlayOptions> {
        let mut options = self.options.clone();
        if let Some(names) = &self.classes {
            let labels = names.iter().map(|name| class_label(name, classes, model));
            options.shown = Some(labels.collect::<Result<_>>()?);
        }
        Ok(options)
    }
}

impl Drawing {
    fn colors_of(&self, classes: &[Class], model: &str) -> Result<BTreeMap<u8, [u8; 3]>> {
        let label = |(name, color): &(String, [u8; 3])| {
            let label = class_label(name, classes, model).map_err(|e| e.within("overlay.colors"))?;
            Ok((label, *color))
        };
        self.colors.iter().map(label).collect()
    }
}

/// What is hidden, before the classes of the model are known.
#[derive(Debug, Clone, PartialEq)]
pub struct Hiding {
    /// Names of classes and how each is hidden; of a name that stands there twice the last one counts.
    pub(super) classes: Vec<(How, String)>,
    /// As a share of the picture's height, 0 to 1.
    pub(super) margin: f32,
    /// With an older mask the whole picture is hidden.
    pub(super) max_mask_age: Duration,
}

impl Hiding {
    /// Whether anything is.
    pub fn is_on(&self) -> bool {
        !self.classes.is_empty()
    }

    /// The options for a model's classes; `None` if nothing is hidden.
    ///
    /// # Errors
    /// Usage for a class that the model doesn't have.
    pub fn options(&self, contract: &Contract) -> Result<Option<Privacy>> {
        self.options_of(&contract.classes, &contract.name)
    }

    fn options_of(&self, classes: &[Class], model: &str) -> Result<Option<Privacy>> {
        let mut how = vec![None; classes.len()];
        for (this, name) in &self.classes {
            how[usize::from(class_label(name, classes, model)?)] = Some(*this);
        }
        Ok(self.is_on().then_some(Privacy {
            redact: RedactOptions {
                how,
                margin: self.margin,
            },
            max_mask_age: self.max_mask_age,
        }))
    }
}

impl CameraSettings {
    /// How a model's masks are shown, and what is hidden. `generation` counts the models that the pipeline has run.
    ///
    /// # Errors
    /// Usage for a class that the model doesn't have, with the classes that it has, or that a zone or line looks for and
    /// the pictures hide.
    pub fn looks(&self, contract: &Contract, generation: u64) -> Result<Looks> {
        let privacy = self.hiding.options(contract)?;
        check_watched(&self.watch, &contract.classes, &contract.name, privacy.as_ref())?;
        Ok(Looks {
            model: ModelInfo::of(contract, generation),
            overlay: self.drawing.options(contract)?,
            colors: self.drawing.colors_of(&contract.classes, &contract.name)?,
            privacy,
        })
    }

    /// The same for the model that runs.
    ///
    /// # Errors
    /// As [`looks`](Self::looks).
    pub fn looks_of(&self, model: &Arc<ModelInfo>) -> Result<Looks> {
        let privacy = self.hiding.options_of(&model.classes, &model.name)?;
        check_watched(&self.watch, &model.classes, &model.name, privacy.as_ref())?;
        Ok(Looks {
            overlay: self.drawing.options_of(&model.classes, &model.name)?,
            colors: self.drawing.colors_of(&model.classes, &model.name)?,
            privacy,
            model: model.clone(),
        })
    }
}

/// Refuses zones and lines that look for a class that a model doesn't have, or that the pictures hide.
///
/// # Errors
/// Usage, naming zone or line, and the class.
pub fn check_watched(watch: &Watch, classes: &[Class], model: &str, privacy: Option<&Privacy>) -> Result<()> {
    let is_hidden = |label: u8| {
        let how = privacy.and_then(|privacy| privacy.redact.how.get(usize::from(label)));
        how.is_some_and(Option::is_some)
    };
    for (part, names) in watch.named_classes() {
        for name in names {
            let label = class_label(name, classes, model).map_err(|e| e.within(&part))?;
            if is_hidden(label) && !watch.tells_hidden {
                return Err(Error::usage(format!(
                    "{part}: classes: {name:?} is hidden by [privacy], and nothing is told of it"
                ))
                .hint("leave it out, or set events.hidden = true"));
            }
        }
    }
    Ok(())
}

/// The label of the class `name` of `model`.
///
/// # Errors
/// Usage, with the model's classes, and the one that was probably meant.
pub fn class_label(name: &str, classes: &[Class], model: &str) -> Result<u8> {
    let name = name.trim();
    let found = classes
        .iter()
        .position(|class| class.name.eq_ignore_ascii_case(name));
    let label = found.and_then(|index| u8::try_from(index).ok());
    label.ok_or_else(|| unknown_class(name, classes, model))
}

fn unknown_class(name: &str, classes: &[Class], model: &str) -> Error {
    let names: Vec<&str> = classes.iter().map(|c| c.name.as_str()).collect();
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
        "classes: model {model} has no class {name:?}; it has {}",
        names.join(", ")
    ));
    match nearest {
        Some((_, known)) => error.hint(format!("did you mean {known:?}?")),
        None => error,
    }
}
