//! Finding and loading ONNX Runtime's library, once for the process.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

use crate::error::{Error, Result};

/// The variable that names the library.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// The library that is loaded.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub environment: Environment,
    pub path: PathBuf,
    pub version: String,
}

/// ONNX Runtime allows one library and one environment in a process.
static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

/// Loads the library at `explicit`, or at `$ORT_DYLIB_PATH`, or the first that loads of: beside the binary,
/// `../lib/segd` from there, the system's. Nothing in the working directory is trusted: others may write there, and a
/// library's code runs as it is loaded.
///
/// # Errors
/// Usage if a library that was named can't be loaded, or another one is loaded already; fatal if none is found.
pub(super) fn load(explicit: Option<&Path>) -> Result<Loaded> {
    let named = explicit
        .map(|path| (path.to_path_buf(), "--ort-library"))
        .or_else(|| {
            let value = std::env::var_os(LIBRARY_VARIABLE).filter(|v| !v.is_empty())?;
            Some((PathBuf::from(value), LIBRARY_VARIABLE))
        });
    let mut slot = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = slot.as_ref() {
        return match named {
            Some((path, by)) if canonical(&path) != canonical(&loaded.path) => Err(Error::usage(format!(
                "{by} = {}, but {} is loaded, and a process can load only one",
                path.display(),
                loaded.path.display()
            ))),
            _ => Ok(loaded.clone()),
        };
    }
    let loaded = match named {
        Some((path, by)) => load_from(&path).map_err(|why| {
            Error::usage(format!("{by} = {}: {why}", path.display()))
                .hint("name the file libonnxruntime.so of ONNX Runtime 1.17 or later for this processor")
        })?,
        None => search()?,
    };
    *slot = Some(loaded.clone());
    Ok(loaded)
}

fn search() -> Result<Loaded> {
    let mut failures = Vec::new();
    let folders = folders();
    let system = ["libonnxruntime.so", "libonnxruntime.so.1"].map(PathBuf::from);
    for path in folders.iter().filter_map(|f| library_in(f)).chain(system) {
        match load_from(&path) {
            Ok(loaded) => return Ok(loaded),
            // That the system has none is not worth a word.
            Err(_) if path.is_relative() => {}
            Err(why) => failures.push(format!("{}: {why}", path.display())),
        }
    }
    let searched: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
    let failed = if failures.is_empty() {
        String::new()
    } else {
        format!(" ({})", failures.join("; "))
    };
    Err(Error::fatal(format!(
        "ONNX Runtime's library was not found in {} or the system's folders{failed}",
        searched.join(", ")
    ))
    .hint(format!(
        "`make run` fetches and names it; or set {LIBRARY_VARIABLE} to libonnxruntime.so; or use --backend tract"
    )))
}

/// Where the library may lie, absolute.
fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Ok(exe) = std::env::current_exe()
        && let Some(bin) = exe.parent()
    {
        folders.push(bin.to_path_buf());
        if let Some(prefix) = bin.parent() {
            folders.push(prefix.join("lib/segd"));
        }
    }
    folders
}

/// `libonnxruntime.so` in the folder, or the newest `libonnxruntime.so.X.Y.Z`.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join("libonnxruntime.so");
    if plain.is_file() {
        return Some(plain);
    }
    std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter_map(|path| Some((version_of(&path)?, path)))
        .max()
        .map(|(_, path)| path)
}

/// The version in a name like `libonnxruntime.so.1.32.0`.
fn version_of(path: &Path) -> Option<Vec<u32>> {
    let name = path.file_name()?.to_str()?;
    let version = name.strip_prefix("libonnxruntime.so.")?;
    version.split('.').map(|part| part.parse().ok()).collect()
}

fn load_from(path: &Path) -> Result<Loaded, String> {
    if path.is_dir() {
        return Err("is a folder".into());
    }
    // A relative path with a folder is relative to the working directory; a bare name is left to the loader.
    let absolute = if path.components().count() > 1 {
        std::path::absolute(path).map_err(|e| e.to_string())?
    } else {
        path.to_path_buf()
    };
    let one_line = |e: &dyn std::fmt::Display| e.to_string().replace('\n', " ");
    let environment = ort::init_from(&absolute)
        .map_err(|e| one_line(&e))?
        .with_name("segd")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build()
        .map_err(|e| one_line(&e))?;
    environment.set_log_level(LogLevel::Warning);
    Ok(Loaded {
        environment,
        version: version(&absolute),
        path: absolute,
    })
}

/// The version that the file's name ends with, or else the commit that the library was built from.
fn version(path: &Path) -> String {
    if let Some(numbers) = version_of(&canonical(path)) {
        let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
        return numbers.join(".");
    }
    let commit = ort::info().split("git-commit-id=").nth(1);
    commit
        .and_then(|rest| rest.split(',').next())
        .map_or_else(|| "unknown".to_owned(), |id| format!("commit {id}"))
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

/// Whether it warns of sizes that the network decides while it runs, such as how many objects there are. Nothing is wrong
/// then, and Mask R-CNN would say it a hundred times a picture.
fn is_of_each_picture(message: &str) -> bool {
    message.starts_with("Expected shape from model of ")
}

/// ONNX Runtime's messages go where ours go.
fn log(level: LogLevel, _category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Verbose => tracing::trace!(target: "onnxruntime", location, "{message}"),
        LogLevel::Info => tracing::debug!(target: "onnxruntime", location, "{message}"),
        LogLevel::Warning if is_of_each_picture(message) => {
            tracing::debug!(target: "onnxruntime", location, "{message}")
        }
        LogLevel::Warning => tracing::warn!(target: "onnxruntime", location, "{message}"),
        LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "onnxruntime", location, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_a_network_decides_are_no_warning() {
        assert!(is_of_each_picture(
            "Expected shape from model of {1,256,256} does not match actual shape of {2,256,256} for output res_append.3"
        ));
        assert!(!is_of_each_picture("Failed to load a library"));
    }

    #[test]
    fn the_newest_library_of_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(library_in(folder.path()), None);
        for name in [
            "libonnxruntime.so.1.9.0",
            "libonnxruntime.so.1.32.0",
            "libonnxruntime_providers_shared.so",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let newest = folder.path().join("libonnxruntime.so.1.32.0");
        assert_eq!(library_in(folder.path()), Some(newest.clone()));
        assert_eq!(version_of(&newest), Some(vec![1, 32, 0]));
        let plain = folder.path().join("libonnxruntime.so");
        std::fs::write(&plain, "").unwrap();
        assert_eq!(library_in(folder.path()), Some(plain));
    }

    #[test]
    fn what_is_no_library_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libonnxruntime.so");
        std::fs::write(&path, "not a library").unwrap();
        assert!(load_from(&path).is_err());
        assert_eq!(load_from(folder.path()).unwrap_err(), "is a folder");
    }
}
