//! Configuration: a TOML file whose keys are those of [`FileConfig`], command-line options over it, and the
//! validated [`Config`] that the program runs with. Unknown keys are refused.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::capture::Pace;
use crate::error::{Error, Result};
use crate::overlay::Visualize;

/// The configuration file, every key optional. docs/configuration.md lists them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FileConfig {
    /// `[capture]`
    pub capture: CaptureFile,
    /// `[model]`
    pub model: ModelFile,
    /// `[overlay]`
    pub overlay: OverlayFile,
    /// `[stream]`
    pub stream: StreamFile,
}

/// `[capture]`: where frames come from.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptureFile {
    /// Camera device, for example `/dev/video0`.
    pub camera: Option<String>,
    /// File, folder, `rtsp://`, `test://` or `gst:` line, in place of a camera.
    pub input: Option<String>,
    /// Wanted width in pixels (cameras).
    pub width: Option<u32>,
    /// Wanted height in pixels (cameras).
    pub height: Option<u32>,
    /// Wanted frames per second (cameras).
    pub fps: Option<f64>,
    /// Start files again at their end.
    #[serde(rename = "loop")]
    pub looped: Option<bool>,
    /// A camera or network stream that gives no frame for so many milliseconds is opened again.
    pub stall_timeout_ms: Option<u64>,
}

/// `[model]`: what segments.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelFile {
    /// Name or folder.
    pub name: Option<String>,
    /// `auto`, `tract` or `ort`.
    pub backend: Option<String>,
    /// `cpu`, `cuda` or `tensorrt`.
    pub device: Option<String>,
    /// `fp32`, `fp16` or `int8`.
    pub precision: Option<String>,
    /// Longer side of the network's input in pixels.
    pub size: Option<usize>,
    /// At most so many inferences a second.
    pub max_inferences_per_second: Option<f64>,
}

/// `[overlay]`: how masks are drawn.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OverlayFile {
    /// `overlay`, `mask`, `labels`, `contour` or `side-by-side`.
    pub visualize: Option<Visualize>,
    /// Opacity of the colours, 0 to 1.
    pub alpha: Option<f32>,
    /// Classes to draw; all but the background if absent.
    pub classes: Option<Vec<String>>,
    /// Draw the names of the classes in the picture.
    pub legend: Option<bool>,
}

/// `[stream]`: where annotated video goes.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamFile {
    /// `rtsp://` addresses, `.mp4`/`.mkv` files, folders.
    pub outputs: Option<Vec<String>>,
    /// Video bitrate in kbit/s.
    pub bitrate_kbps: Option<u32>,
    /// H.264 encoder element; chosen if absent.
    pub encoder: Option<String>,
}

impl FileConfig {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// Usage, naming the file, the key, and for an unknown key the nearest valid one.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::usage(format!("config {}: can't be read", path.display())).caused_by(e))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses a configuration; `origin` names it in errors.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| {
            let start = e.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(start).filter(|&b| b == b'\n').count();
            let message = e.message().trim().replace('\n', " ");
            let error = Error::usage(format!("config {origin}, line {line}: {message}"));
            match nearest_key(&message) {
                Some(key) => error.hint(format!("did you mean `{key}`?")),
                None => error,
            }
        })
    }
}

/// For serde's "unknown field `x`, expected one of `a`, `b`": the listed key nearest to `x`.
fn nearest_key(message: &str) -> Option<String> {
    let mut quoted = message
        .strip_prefix("unknown field ")?
        .split('`')
        .skip(1)
        .step_by(2);
    let unknown = quoted.next()?;
    quoted
        .map(|key| (strsim::damerau_levenshtein(unknown, key), key))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, key)| key.to_owned())
}

/// How a run gets and gives its frames: validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Camera device, address or path of the source.
    pub source: String,
    /// Whether `source` names a camera device.
    pub is_camera: bool,
    /// Wanted size and rate of a camera.
    pub wanted: WantedMode,
    /// Pace of recordings.
    pub pace: Pace,
    /// Start files again at their end.
    pub looped: bool,
    /// Silence after which a live source is opened again.
    pub stall_timeout: Duration,
    /// Each frame with its own mask.
    pub lockstep: bool,
    /// At least this long between the starts of two inferences.
    pub infer_interval: Duration,
    /// Outputs.
    pub outputs: Vec<String>,
    /// Video bitrate in kbit/s; by size and rate if `None`.
    pub bitrate_kbps: Option<u32>,
    /// Encoder element; chosen if `None`.
    pub encoder: Option<String>,
}

/// The camera mode asked for; the nearest that exists is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WantedMode {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Frames per second.
    pub fps: f64,
}

impl Default for WantedMode {
    fn default() -> Self {
        Self {
            width: 640,
            height: 480,
            fps: 30.0,
        }
    }
}

/// Refuses a number that is not finite or out of `range`.
///
/// # Errors
/// Usage, naming the key.
pub fn check_range(key: &str, value: f64, range: std::ops::RangeInclusive<f64>) -> Result<f64> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Error::usage(format!(
        "{key} = {value}, expected {} to {}",
        range.start(),
        range.end()
    )))
}

/// The configuration files that are read when none is named, the first that exists.
pub fn default_config_path() -> Option<PathBuf> {
    [PathBuf::from("/etc/segd/segd.toml")]
        .into_iter()
        .find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_are_read() {
        let text = r#"
            [capture]
            camera = "/dev/video0"
            width = 1280
            height = 720
            fps = 30
            loop = true
            stall_timeout_ms = 2000
            [model]
            name = "voc21"
            backend = "ort"
            size = 512
            [overlay]
            visualize = "side-by-side"
            alpha = 0.4
            classes = ["person", "car"]
            legend = true
            [stream]
            outputs = ["rtsp://127.0.0.1:8554/segd", "out.mkv"]
            bitrate_kbps = 3000
        "#;
        let config = FileConfig::parse(text, "segd.toml").unwrap();
        assert_eq!(config.capture.fps, Some(30.0));
        assert_eq!(config.capture.looped, Some(true));
        assert_eq!(config.overlay.visualize, Some(Visualize::SideBySide));
        assert_eq!(config.stream.outputs.unwrap().len(), 2);
        assert_eq!(FileConfig::parse("", "empty").unwrap(), FileConfig::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_line_and_nearest_key() {
        let error = FileConfig::parse("[overlay]\nalpah = 0.4\n", "segd.toml").unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("config segd.toml, line 2: unknown field `alpah`"),
            "{text}"
        );
        assert!(text.ends_with("did you mean `alpha`?"), "{text}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn wrong_types_are_refused() {
        for text in [
            "[capture]\nwidth = \"wide\"",
            "[capture]\nwidth = -1",
            "[overlay]\nvisualize = \"glow\"",
            "[[[",
        ] {
            let error = FileConfig::parse(text, "segd.toml").unwrap_err();
            assert!(
                error.to_string().starts_with("config segd.toml, line "),
                "{error}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused_in_one_line(text in "(\\[(capture|model|overlay|stream)\\]\n)?.{0,40}(\n.{0,40}){0,3}") {
            if let Err(error) = FileConfig::parse(&text, "segd.toml") {
                proptest::prop_assert_eq!(error.exit_code(), 2);
                proptest::prop_assert!(!error.to_string().contains('\n'), "{}", error);
            }
        }
    }

    #[test]
    fn ranges() {
        assert!(check_range("alpha", f64::NAN, 0.0..=1.0).is_err());
        assert!(
            check_range("alpha", 1.5, 0.0..=1.0)
                .unwrap_err()
                .to_string()
                .contains("alpha = 1.5")
        );
        assert!(check_range("alpha", 0.5, 0.0..=1.0).is_ok());
    }

    #[test]
    fn the_installed_configuration_is_valid_with_and_without_its_comments() {
        let text = include_str!("../systemd/segd.toml");
        assert_eq!(
            FileConfig::parse(text, "segd.toml").unwrap(),
            FileConfig::default()
        );
        let keys: String = text
            .lines()
            .skip(2)
            .map(|line| line.strip_prefix('#').unwrap_or(line).to_owned() + "\n")
            .collect();
        let all = FileConfig::parse(&keys, "segd.toml").unwrap();
        assert!(all.capture.input.is_some() && all.model.size.is_some() && all.stream.encoder.is_some());
    }
}
