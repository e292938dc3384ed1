//! Configuration: a TOML file whose keys are those of [`FileConfig`], environment variables over it, command-line
//! options over those. Unknown keys are refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use crate::capture::{CameraFormat, ControlValue};
use crate::stream::Codec;
use vision::error::{Error, Result};
use vision::overlay::Visualize;

mod cameras;
mod environment;

pub use cameras::CameraConfig;
pub use environment::from_environment;

/// The configuration file, every key optional. docs/configuration.md lists them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FileConfig {
    /// `[capture]`
    pub capture: CaptureFile,
    /// `[model]`
    pub model: ModelFile,
    /// `[masks]`
    pub masks: MasksFile,
    /// `[overlay]`
    pub overlay: OverlayFile,
    /// `[privacy]`
    pub privacy: PrivacyFile,
    /// `[stream]`
    pub stream: StreamFile,
    /// `[access]`
    pub access: AccessFile,
    /// `[health]`
    pub health: HealthFile,
    /// `[[camera]]`, any number: each its own pipeline, with the sections above as its defaults.
    pub camera: Vec<CameraFile>,
}

/// A section whose keys are all optional, and can be laid over those of another.
macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: Option<$type>,)*
        }

        impl $name {
            /// These keys, and for those that aren't set the ones of `below`.
            #[must_use]
            pub fn over(&self, below: &Self) -> Self {
                Self {
                    $($field: self.$field.clone().or_else(|| below.$field.clone()),)*
                }
            }
        }
    };
}

section! {
    /// `[capture]`: where frames come from.
    CaptureFile {
        /// Camera: a device (`/dev/video0`, `/dev/v4l/by-id/...`) or `usb:VENDOR:PRODUCT[:SERIAL]`.
        camera: String,
        /// File, folder, `rtsp://`, `test://` or `gst:` line, in place of a camera.
        input: String,
        /// Wanted width in pixels (cameras).
        width: u32,
        /// Wanted height in pixels (cameras).
        height: u32,
        /// Wanted frames per second (cameras).
        fps: f64,
        /// Start files again at their end.
        #[serde(rename = "loop")]
        looped: bool,
        /// A camera or network stream that gives no frame for so many milliseconds is opened again.
        stall_timeout_ms: u64,
        /// Only modes of this format (cameras): `yu12`, `nv12`, `yuyv` or `mjpg`.
        pixel_format: CameraFormat,
        /// Controls of the camera, by the names that `segd probe` lists.
        controls: BTreeMap<String, ControlValue>,
        /// SHA-256 fingerprint of the certificate that an `rtsps://` source has to show.
        tls_fingerprint: String,
        /// PEM file of the certificates that are trusted to sign an `rtsps://` source's.
        tls_ca: PathBuf,
    }
}

/// A number, or `"auto"`: one that suits the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "NumberOrName")]
pub enum NumberOrAuto {
    /// What suits the machine.
    Auto,
    /// This.
    Number(usize),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrName {
    Number(usize),
    Name(String),
}

impl TryFrom<NumberOrName> for NumberOrAuto {
    type Error = String;

    fn try_from(value: NumberOrName) -> Result<Self, String> {
        match value {
            NumberOrName::Number(number) => Ok(Self::Number(number)),
            NumberOrName::Name(name) => name.parse(),
        }
    }
}

impl FromStr for NumberOrAuto {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text
                .parse()
                .map(Self::Number)
                .map_err(|_| format!("found {text:?}, expected a number or \"auto\"")),
        }
    }
}

section! {
    /// `[model]`: what segments.
    ModelFile {
        /// Name or folder.
        name: String,
        /// `auto`, `tract` or `ort`.
        backend: String,
        /// `auto`, `cpu`, `cuda` or `tensorrt`.
        device: String,
        /// `fp32`, `fp16` or `int8`.
        precision: String,
        /// Longer side of the network's input in pixels, or `"auto"`.
        size: NumberOrAuto,
        /// Threads of one inference on the CPU, or `"auto"`.
        threads: NumberOrAuto,
        /// At most so many inferences a second.
        max_inferences_per_second: f64,
    }
}

section! {
    /// `[masks]`: how often masks are made, and what happens between.
    MasksFile {
        /// Cores that segd may use in all.
        cpu_budget: f64,
        /// Age in milliseconds that masks should not exceed, and from which they are not shown.
        max_mask_age_ms: f64,
        /// Segment every n-th frame.
        every: u32,
        /// How many milliseconds a frame may wait for its own mask.
        wait_ms: f64,
        /// Move masks with the picture.
        propagate: bool,
        /// Weight of the mask before, 0 to 0.95.
        smooth: f64,
    }
}

section! {
    /// `[overlay]`: how masks are drawn.
    OverlayFile {
        /// `overlay`, `mask`, `labels`, `contour` or `side-by-side`.
        visualize: Visualize,
        /// Opacity of the colours, 0 to 1.
        alpha: f32,
        /// Classes to draw; all but the background if absent.
        classes: Vec<String>,
        /// Draw the names of the classes in the picture.
        legend: bool,
    }
}

section! {
    /// `[privacy]`: what no outgoing picture shows.
    PrivacyFile {
        /// Classes of which only coarse colours are left, running into each other.
        blur: Vec<String>,
        /// Classes that become coarse squares of one colour.
        pixelate: Vec<String>,
        /// Classes that become grey.
        fill: Vec<String>,
        /// Hidden around each class, as a share of the picture's height.
        margin: f32,
        /// With a mask older than this, in milliseconds, the whole picture is hidden.
        max_mask_age_ms: u64,
    }
}

section! {
    /// `[stream]`: where annotated video goes.
    StreamFile {
        /// `rtsp://` and `rtsps://` addresses, `.mp4`/`.mkv` files, folders.
        outputs: Vec<String>,
        /// `h264` or `h265`.
        codec: Codec,
        /// Video bitrate in kbit/s.
        bitrate_kbps: u32,
        /// Seconds between keyframes at most.
        keyframe_interval_s: f64,
        /// Encoder element; chosen if absent.
        encoder: String,
    }
}

section! {
    /// `[access]`: who may watch.
    AccessFile {
        /// `NAME:REALM:HA1` as `segd hash-password` prints it.
        users: Vec<String>,
        /// Serve addresses other than loopback without users.
        insecure: bool,
        /// Certificate chain (PEM) for `rtsps://`.
        certificate: PathBuf,
        /// The certificate's private key (PEM).
        key: PathBuf,
        /// Clients that may watch at a time, on each address.
        max_clients: u32,
        /// No stream is encoded with more than so many kbit/s: what one client can draw at most.
        max_bitrate_kbps: u32,
    }
}

section! {
    /// `[health]`: the HTTP server, and what counts as unwell.
    HealthFile {
        /// `ADDRESS:PORT`; an empty text for none.
        listen: String,
        /// A mask older than so many milliseconds counts as frozen.
        max_mask_age_ms: u64,
    }
}

/// `[[camera]]`: one of several cameras. Its sections lie over the file's own.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CameraFile {
    /// Its name: in the log, in the metrics, and in place of `{name}` in outputs.
    pub name: String,
    /// `[camera.capture]`
    pub capture: CaptureFile,
    /// `[camera.model]`
    pub model: ModelFile,
    /// `[camera.masks]`
    pub masks: MasksFile,
    /// `[camera.overlay]`
    pub overlay: OverlayFile,
    /// `[camera.privacy]`
    pub privacy: PrivacyFile,
    /// `[camera.stream]`
    pub stream: StreamFile,
}

impl FileConfig {
    /// These keys, and for those that aren't set the ones of `below`. A source of either kind replaces both.
    #[must_use]
    pub fn over(&self, below: &Self) -> Self {
        Self {
            capture: self.capture.over_source(&below.capture),
            model: self.model.over(&below.model),
            masks: self.masks.over(&below.masks),
            overlay: self.overlay.over(&below.overlay),
            privacy: self.privacy.over(&below.privacy),
            stream: self.stream.over(&below.stream),
            access: self.access.over(&below.access),
            health: self.health.over(&below.health),
            camera: if self.camera.is_empty() {
                below.camera.clone()
            } else {
                self.camera.clone()
            },
        }
    }

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

impl CaptureFile {
    /// As [`over`](Self::over); a camera or input here leaves none of the two from below.
    #[must_use]
    pub fn over_source(&self, below: &Self) -> Self {
        let mut merged = self.over(below);
        if self.camera.is_some() || self.input.is_some() {
            merged.camera.clone_from(&self.camera);
            merged.input.clone_from(&self.input);
        }
        merged
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
        fn any_text_is_read_or_refused_in_one_line(text in "(\\[(capture|model|masks|overlay|stream|access|privacy)\\]\n)?.{0,40}(\n.{0,40}){0,3}") {
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
    fn a_layer_replaces_the_source_of_either_kind() {
        let below = FileConfig::parse("[capture]\ncamera = \"/dev/video0\"\nfps = 15\n", "below").unwrap();
        let above = FileConfig::parse("[capture]\ninput = \"test://\"\n", "above").unwrap();
        let merged = above.over(&below);
        assert_eq!(merged.capture.camera, None);
        assert_eq!(merged.capture.input.as_deref(), Some("test://"));
        assert_eq!(merged.capture.fps, Some(15.0));
    }

    #[test]
    fn size_and_threads_are_numbers_or_what_suits_the_machine() {
        let side = |text: &str| toml::from_str::<ModelFile>(text).map(|model| model.size);
        assert_eq!(side("size = 384").unwrap(), Some(NumberOrAuto::Number(384)));
        assert_eq!(side("size = \"auto\"").unwrap(), Some(NumberOrAuto::Auto));
        let threads = |text: &str| toml::from_str::<ModelFile>(text).unwrap().threads;
        assert_eq!(threads("threads = 2"), Some(NumberOrAuto::Number(2)));
        assert_eq!(threads("threads = \"auto\""), Some(NumberOrAuto::Auto));
        assert_eq!("512".parse(), Ok(NumberOrAuto::Number(512)));
        for wrong in ["size = \"large\"", "size = -1", "size = true"] {
            assert!(side(wrong).is_err(), "{wrong}");
        }
        let said = side("size = \"large\"").unwrap_err().to_string();
        assert!(
            said.contains("found \"large\", expected a number or \"auto\""),
            "{said}"
        );
    }

    #[test]
    fn the_installed_configuration_is_valid_with_and_without_its_comments() {
        let text = include_str!("../systemd/segd.toml");
        assert_eq!(
            FileConfig::parse(text, "segd.toml").unwrap(),
            FileConfig::default()
        );
        // Keys are commented with "#", explanations with "# ".
        let keys: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => key.to_owned() + "\n",
                _ => line.to_owned() + "\n",
            })
            .collect();
        let all = FileConfig::parse(&keys, "segd.toml").unwrap();
        assert!(all.capture.input.is_some() && all.model.size.is_some() && all.stream.encoder.is_some());
        assert_eq!(all.camera.len(), 2);
        // Each key that exists is shown.
        for section in [
            format!("{:?}", all.capture),
            format!("{:?}", all.model),
            format!("{:?}", all.masks),
            format!("{:?}", all.overlay),
            format!("{:?}", all.privacy),
            format!("{:?}", all.stream),
            format!("{:?}", all.access),
            format!("{:?}", all.health),
        ] {
            assert!(!section.contains(": None"), "a key is missing: {section}");
        }
    }
}
