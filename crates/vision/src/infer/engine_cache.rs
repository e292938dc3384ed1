//! Where TensorRT's engines are kept from one start to the next, and what an engine depends on.
//!
//! Building an engine takes minutes on a board. An engine is good for one network, one TensorRT, one GPU, one precision
//! and one input size. ONNX Runtime's own file names distinguish most of that, but not all, and an engine that doesn't
//! fit fails late or gives wrong answers. So each combination has a folder of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tracing::warn;

use super::InputSize;

/// Engines and timings are kept in a folder of this name below the cache folder.
const FOLDER: &str = "tensorrt";

/// Everything that an engine depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EngineKey<'a> {
    /// Lower-case hex sha256 of the network's file.
    pub model_sha256: &'a str,
    /// Version of ONNX Runtime, which cuts the network into the parts that engines are made of.
    pub runtime: &'a str,
    /// Version of TensorRT's library; empty if it can't be told.
    pub tensorrt: &'a str,
    /// The GPU's or board's name; empty if it can't be told.
    pub gpu: &'a str,
    /// Precision of the engine's arithmetic.
    pub precision: &'a str,
    /// The network's input.
    pub size: InputSize,
}

impl EngineKey<'_> {
    /// A folder's name: readable in its first part, and different for every other key by the digest at its end.
    pub fn folder(&self) -> String {
        let mut hash = Sha256::new();
        // Lengths keep "ab" + "c" and "a" + "bc" apart.
        for part in [
            self.model_sha256,
            self.runtime,
            self.tensorrt,
            self.gpu,
            self.precision,
        ] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update((self.size.width as u64).to_le_bytes());
        hash.update((self.size.height as u64).to_le_bytes());
        let digest: String = hash.finalize()[..8].iter().map(|b| format!("{b:02x}")).collect();
        let plain = |text: &str, longest: usize| -> String {
            let safe = |c: char| {
                if c.is_ascii_alphanumeric() || c == '.' {
                    c
                } else {
                    '_'
                }
            };
            text.chars().take(longest).map(safe).collect()
        };
        format!(
            "{}-{}-{}x{}-{}-{digest}",
            plain(self.model_sha256, 12),
            plain(self.precision, 8),
            self.size.width,
            self.size.height,
            plain(self.gpu, 32),
        )
    }
}

/// The folder for engines under the cache that the environment names: systemd's `$CACHE_DIRECTORY`, else the user's
/// (<https://specifications.freedesktop.org/basedir-spec/latest/>). `None` if neither is set.
fn root(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let of_service = || {
        // Several folders are separated by colons; the first is the service's own.
        let list = variable("CACHE_DIRECTORY")?;
        std::env::split_paths(&list).next().and_then(absolute)
    };
    let of_user = || {
        let base = variable("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .and_then(absolute)
            .or_else(|| absolute(PathBuf::from(variable("HOME")?).join(".cache")))?;
        Some(base.join("segd"))
    };
    Some(of_service().or_else(of_user)?.join(FOLDER))
}

/// The folder of an engine, created if needed. `None`, with a warning, if it can't be created.
pub(super) fn folder(key: &EngineKey<'_>) -> Option<PathBuf> {
    let root = root(&|name| std::env::var_os(name).filter(|v| !v.is_empty()));
    let Some(folder) = root.map(|root| root.join(key.folder())) else {
        warn!(
            "neither $CACHE_DIRECTORY nor $HOME names a folder: TensorRT's engines are built anew at every start"
        );
        return None;
    };
    match make(&folder) {
        Ok(()) => Some(folder),
        Err(why) => {
            warn!(
                "{}: can't be made, TensorRT's engines are built anew at every start: {why}",
                folder.display()
            );
            None
        }
    }
}

/// Makes a folder that nobody else may write to: what is in it runs on the GPU.
fn make(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// TensorRT's version by the name of its library, as in `libnvinfer.so.10.3.0`: the highest of these names.
fn tensorrt_version<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let numbers = |name: &'a str| -> Option<Vec<u32>> {
        let version = name.strip_prefix("libnvinfer.so.")?;
        version.split('.').map(|part| part.parse().ok()).collect()
    };
    let highest = names.filter_map(numbers).max()?;
    let texts: Vec<String> = highest.iter().map(u32::to_string).collect();
    Some(texts.join("."))
}

/// The version of the TensorRT that the loader finds.
pub fn installed_tensorrt() -> Option<String> {
    let search = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let system = [
        format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH),
        "/usr/lib".into(),
        "/usr/local/lib".into(),
    ];
    // An empty one would be the working directory.
    let named = std::env::split_paths(&search).filter(|folder| !folder.as_os_str().is_empty());
    let folders = named.chain(system.iter().map(PathBuf::from));
    folders.into_iter().find_map(|folder| {
        let entries = std::fs::read_dir(folder).ok()?;
        let names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        tensorrt_version(names.iter().map(String::as_str))
    })
}

/// The model in `/proc/driver/nvidia/gpus/*/information`.
fn gpu_model(information: &str) -> Option<&str> {
    let line = information.lines().find_map(|line| line.strip_prefix("Model:"))?;
    Some(line.trim()).filter(|model| !model.is_empty())
}

/// The GPU's name, or the board's where the GPU is part of it; `None` on other machines.
pub fn gpu_name() -> Option<String> {
    let of_card = || {
        let cards = std::fs::read_dir("/proc/driver/nvidia/gpus").ok()?;
        let mut models: Vec<String> = cards
            .filter_map(|card| std::fs::read_to_string(card.ok()?.path().join("information")).ok())
            .filter_map(|text| gpu_model(&text).map(str::to_owned))
            .collect();
        models.sort();
        (!models.is_empty()).then(|| models.join(", "))
    };
    let of_board = || {
        let text = std::fs::read("/proc/device-tree/model").ok()?;
        let text = String::from_utf8_lossy(&text);
        let name = text.trim_end_matches('\0').trim();
        (name.contains("NVIDIA") || name.contains("Jetson")).then(|| name.to_owned())
    };
    of_card().or_else(of_board)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: EngineKey<'_> = EngineKey {
        model_sha256: "17d3651b31ce5037e437842085f039c5fc10aafa6dda7ca21aa8aecc9bdb1e24",
        runtime: "1.20.0",
        tensorrt: "10.3.0",
        gpu: "NVIDIA Jetson AGX Orin Developer Kit",
        precision: "fp16",
        size: InputSize {
            width: 384,
            height: 288,
        },
    };

    #[test]
    fn a_folder_can_be_read_and_is_always_the_same() {
        let name = KEY.folder();
        assert!(
            name.starts_with("17d3651b31ce-fp16-384x288-NVIDIA_Jetson_AGX_Orin_Developer-"),
            "{name}"
        );
        assert_eq!(name, KEY.folder());
    }

    #[test]
    fn whatever_makes_another_engine_makes_another_folder() {
        let size = |width, height| InputSize { width, height };
        let others = [
            EngineKey {
                model_sha256: "17d3651b31ce5037e437842085f039c5fc10aafa6dda7ca21aa8aecc9bdb1e25",
                ..KEY
            },
            EngineKey {
                runtime: "1.20.1",
                ..KEY
            },
            EngineKey {
                tensorrt: "10.3.1",
                ..KEY
            },
            EngineKey { tensorrt: "", ..KEY },
            EngineKey {
                gpu: "NVIDIA Jetson AGX Orin Developer_Kit",
                ..KEY
            },
            EngineKey {
                precision: "fp32",
                ..KEY
            },
            EngineKey {
                size: size(288, 384),
                ..KEY
            },
            EngineKey {
                size: size(384, 289),
                ..KEY
            },
            EngineKey {
                runtime: "1.20.010",
                tensorrt: ".3.0",
                ..KEY
            },
        ];
        let mut names: Vec<String> = others.iter().map(EngineKey::folder).collect();
        names.push(KEY.folder());
        names.sort();
        names.dedup();
        assert_eq!(names.len(), others.len() + 1);
    }

    #[test]
    fn a_folder_is_one_name_whatever_the_gpu_is_called() {
        for gpu in ["../../etc", "a/b\0c", "\u{1F600} Ti", &"x".repeat(500)] {
            let name = EngineKey { gpu, ..KEY }.folder();
            assert!(name.len() < 120, "{name}");
            assert!(!name.contains(['/', '\0']) && name.is_ascii(), "{name}");
        }
    }

    #[test]
    fn the_service_s_cache_goes_before_the_user_s() {
        let root_of = |set: &[(&str, &str)]| {
            root(&|name| {
                let found = set.iter().find(|(n, _)| *n == name)?;
                Some(found.1.into())
            })
        };
        let all = [
            ("CACHE_DIRECTORY", "/var/cache/segd:/var/cache/other"),
            ("XDG_CACHE_HOME", "/home/ann/c"),
            ("HOME", "/home/ann"),
        ];
        assert_eq!(root_of(&all), Some("/var/cache/segd/tensorrt".into()));
        assert_eq!(root_of(&all[1..]), Some("/home/ann/c/segd/tensorrt".into()));
        assert_eq!(root_of(&all[2..]), Some("/home/ann/.cache/segd/tensorrt".into()));
        // The specification has relative paths ignored.
        let relative = [("XDG_CACHE_HOME", "c"), ("HOME", "/home/ann")];
        assert_eq!(root_of(&relative), Some("/home/ann/.cache/segd/tensorrt".into()));
        assert_eq!(root_of(&[]), None);
    }

    #[test]
    fn versions_and_names_as_they_stand_on_machines() {
        let jetpack = [
            "libnvinfer.so",
            "libnvinfer.so.10",
            "libnvinfer.so.10.3.0",
            "libc.so.6",
        ];
        assert_eq!(tensorrt_version(jetpack.into_iter()).as_deref(), Some("10.3.0"));
        let plugin = ["libnvinfer_plugin.so.8.6.2", "libnvinfer.so.8.6.2"];
        assert_eq!(tensorrt_version(plugin.into_iter()).as_deref(), Some("8.6.2"));
        assert_eq!(tensorrt_version(["libc.so.6"].into_iter()), None);
        let card = "Model: \t\t NVIDIA RTX A2000 12GB\nIRQ:   \t\t 137\nGPU UUID: \t GPU-0\n";
        assert_eq!(gpu_model(card), Some("NVIDIA RTX A2000 12GB"));
        assert_eq!(gpu_model("Model:\n"), None);
    }

    #[test]
    fn a_new_folder_is_closed_to_others() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        make(&folder).unwrap();
        make(&folder).unwrap();
        let mode = std::fs::metadata(&folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
