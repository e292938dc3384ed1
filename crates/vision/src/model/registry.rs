//! Finding models: by folder, or by name in the folders that hold models and inside the binary.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::load::CONTRACT_FILE;
use super::{Model, Origin};
use crate::error::{Error, Result};

/// The model that runs when none is named.
pub const DEFAULT_MODEL: &str = "voc21";

/// The variable with folders that hold models, separated by `:`.
pub const MODELS_VARIABLE: &str = "SEGD_MODELS";

/// The folders that hold models, in the order in which they are searched, and the model inside the binary,
/// which comes last.
#[derive(Debug, Clone)]
pub struct Registry {
    folders: Vec<PathBuf>,
    embedded: bool,
}

/// A model that exists, whether or not its contract can be read.
#[derive(Debug)]
pub struct Found {
    /// The name for `--model`.
    pub name: String,
    /// Where it was found.
    pub origin: Origin,
    /// The model, or what is wrong with its contract.
    pub model: Result<Model>,
}

impl Registry {
    /// `$SEGD_MODELS`, `share/segd/models` beside the binary's folder, `/usr/share/segd/models`, and the model inside the
    /// binary. What lies in the working directory is only taken where it is named: others may write there.
    pub fn from_environment() -> Self {
        let mut folders: Vec<PathBuf> = std::env::var_os(MODELS_VARIABLE)
            .map(|list| {
                std::env::split_paths(&list)
                    .filter(|p| !p.as_os_str().is_empty())
                    .collect()
            })
            .unwrap_or_default();
        if let Ok(exe) = std::env::current_exe()
            && let Some(prefix) = exe.parent().and_then(Path::parent)
        {
            folders.push(prefix.join("share/segd/models"));
        }
        let system = PathBuf::from("/usr/share/segd/models");
        if !folders.contains(&system) {
            folders.push(system);
        }
        Self {
            folders,
            embedded: true,
        }
    }

    /// These folders alone.
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            folders: folders.into_iter().collect(),
            embedded: false,
        }
    }

    /// The model called `name`, or the one in the folder `name`: anything with a `/` is a folder, and a plain name never
    /// is one in the working directory.
    ///
    /// # Errors
    /// Usage if there is no such model, listing those that exist; or if its contract is not valid.
    pub fn find(&self, name: &str) -> Result<Model> {
        if name.contains('/') || name == "." || name == ".." {
            return Model::open(Path::new(name));
        }
        // Plain names only: nothing outside the folders of models.
        if !name.is_empty() {
            for folder in &self.folders {
                let folder = folder.join(name);
                if folder.join(CONTRACT_FILE).is_file() {
                    return Model::open(&folder);
                }
            }
            if self.embedded
                && let Some(model) = Model::embedded()?
                && model.contract.name == name
            {
                return Ok(model);
            }
        }
        Err(self.unknown(name))
    }

    /// All models, by the order of search; a name that was found before is left out.
    pub fn list(&self) -> Vec<Found> {
        let mut seen = HashSet::new();
        let mut all = Vec::new();
        for folder in &self.folders {
            // A folder that doesn't exist holds no models.
            let Ok(entries) = std::fs::read_dir(folder) else {
                continue;
            };
            let mut here: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.join(CONTRACT_FILE).is_file())
                .collect();
            here.sort();
            for path in here {
                let Some(name) = path.file_name().and_then(OsStr::to_str) else {
                    continue;
                };
                if seen.insert(name.to_owned()) {
                    all.push(Found {
                        name: name.to_owned(),
                        model: Model::open(&path),
                        origin: Origin::Folder(path.clone()),
                    });
                }
            }
        }
        if self.embedded {
            match Model::embedded() {
                Ok(None) => {}
                Ok(Some(model)) if !seen.insert(model.contract.name.clone()) => {}
                model => all.push(Found {
                    name: DEFAULT_MODEL.to_owned(),
                    origin: Origin::Embedded,
                    model: model.and_then(|m| m.ok_or_else(|| Error::fatal("no model inside the binary"))),
                }),
            }
        }
        all
    }

    fn unknown(&self, name: &str) -> Error {
        let names: Vec<String> = self.list().into_iter().map(|found| found.name).collect();
        let nearest = names
            .iter()
            .map(|known| (strsim::damerau_levenshtein(known, name), known))
            .filter(|(distance, known)| *distance <= (known.len() / 2).max(1))
            .min();
        let mut message = format!("no model called {name:?}");
        if let Some((_, known)) = nearest {
            message.push_str(&format!(" (did you mean {known:?}?)"));
        }
        message.push_str(&if names.is_empty() {
            "; there are no models".to_owned()
        } else {
            format!("; there are: {}", names.join(", "))
        });
        let searched: Vec<String> = self.folders.iter().map(|f| f.display().to_string()).collect();
        if !name.is_empty() && Path::new(name).join(CONTRACT_FILE).is_file() {
            return Error::usage(message).hint(format!(
                "for the folder {name} of the working directory write ./{name}"
            ));
        }
        Error::usage(message).hint(format!(
            "name one of them or a folder with a contract.toml (searched {})",
            searched.join(", ")
        ))
    }
}
