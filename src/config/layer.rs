//! One layer of settings, and the layers that a run is made of.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::sections::{
    AccessSection, CaptureSection, ClipsSection, EventsSection, HealthSection, MasksSection, ModelSection,
    MqttSection, OverlaySection, PrivacySection, RecordSection, RunSection, StreamSection,
};
use super::{EventSettings, LineLayer, Settings, ZoneLayer, from_environment, resolve};
use vision::error::{Error, Result};
use vision::file;

/// Largest configuration file in bytes.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// The one list of the sections that belong to a camera: they stand in the file's root, for all cameras, and in each
/// `[[camera]]`.
macro_rules! camera_sections {
    ($($(#[$meta:meta])* $section:ident: $type:ident,)*) => {
        /// The sections of one camera.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Sections {
            $($(#[$meta])* pub $section: $type,)*
        }

        impl Sections {
            /// The same keys as a layer over another.
            #[must_use]
            pub fn over(&self, below: &Self) -> Self {
                Self { $($section: self.$section.over(&below.$section),)* }
            }

            /// These keys, and for those that aren't set the ones of all cameras.
            #[must_use]
            pub fn with_defaults(&self, defaults: &Self) -> Self {
                Self { $($section: self.$section.with_defaults(&defaults.$section),)* }
            }
        }

        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct RootKeys {
            $($section: $type,)*
            access: AccessSection,
            health: HealthSection,
            events: EventsSection,
            mqtt: MqttSection,
            camera: Vec<CameraLayer>,
            zone: Vec<ZoneLayer>,
            line: Vec<LineLayer>,
        }

        impl From<RootKeys> for Layer {
            fn from(root: RootKeys) -> Self {
                Self {
                    sections: Sections { $($section: root.$section,)* },
                    access: root.access,
                    health: root.health,
                    events: root.events,
                    mqtt: root.mqtt,
                    camera: root.camera,
                    zone: root.zone,
                    line: root.line,
                    run: RunSection::default(),
                }
            }
        }

        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct CameraKeys {
            name: String,
            $($section: $type,)*
        }

        impl From<CameraKeys> for CameraLayer {
            fn from(keys: CameraKeys) -> Self {
                Self {
                    name: keys.name,
                    sections: Sections { $($section: keys.$section,)* },
                }
            }
        }
    };
}

camera_sections! {
    /// `[capture]`
    capture: CaptureSection,
    /// `[model]`
    model: ModelSection,
    /// `[masks]`
    masks: MasksSection,
    /// `[overlay]`
    overlay: OverlaySection,
    /// `[privacy]`
    privacy: PrivacySection,
    /// `[stream]`
    stream: StreamSection,
    /// `[record]`
    record: RecordSection,
    /// `[clips]`
    clips: ClipsSection,
}

/// One layer of settings, every key optional: the file, the environment, or the command line. docs/configuration.md lists
/// the keys.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(from = "RootKeys")]
pub struct Layer {
    /// The sections of the one camera, or what all of `[[camera]]` have in common.
    pub sections: Sections,
    /// `[access]`
    pub access: AccessSection,
    /// `[health]`
    pub health: HealthSection,
    /// `[events]`
    pub events: EventsSection,
    /// `[mqtt]`
    pub mqtt: MqttSection,
    /// `[[camera]]`, any number: each its own pipeline, with the sections above as its defaults.
    pub camera: Vec<CameraLayer>,
    /// `[[zone]]`, any number.
    pub zone: Vec<ZoneLayer>,
    /// `[[line]]`, any number.
    pub line: Vec<LineLayer>,
    /// Of the command line alone.
    pub run: RunSection,
}

/// `[[camera]]`: one of several cameras. Its sections lie over the file's own.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(from = "CameraKeys")]
pub struct CameraLayer {
    /// Its name: in the log, in the metrics, and in place of `{name}` in outputs.
    pub name: String,
    /// `[camera.capture]` and so on.
    pub sections: Sections,
}

impl Layer {
    /// These keys, and for those that aren't set the ones of the layer below.
    #[must_use]
    pub fn over(&self, below: &Self) -> Self {
        Self {
            sections: self.sections.over(&below.sections),
            access: self.access.over(&below.access),
            health: self.health.over(&below.health),
            events: self.events.over(&below.events),
            mqtt: self.mqtt.over(&below.mqtt),
            camera: first_of(&self.camera, &below.camera),
            zone: first_of(&self.zone, &below.zone),
            line: first_of(&self.line, &below.line),
            run: self.run.over(&below.run),
        }
    }

    /// These keys and those of another part of the same layer.
    #[must_use]
    pub fn with_defaults(&self, other: &Self) -> Self {
        Self {
            sections: self.sections.with_defaults(&other.sections),
            access: self.access.with_defaults(&other.access),
            health: self.health.with_defaults(&other.health),
            events: self.events.with_defaults(&other.events),
            mqtt: self.mqtt.with_defaults(&other.mqtt),
            camera: self.camera.iter().chain(&other.camera).cloned().collect(),
            zone: self.zone.iter().chain(&other.zone).cloned().collect(),
            line: self.line.iter().chain(&other.line).cloned().collect(),
            run: self.run.with_defaults(&other.run),
        }
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// Usage, naming the file, the key, and for an unknown key the nearest valid one.
    pub fn read(path: &Path) -> Result<Self> {
        let text = file::read_text(path, MAX_BYTES)
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

/// A list, or the one below where nothing is in it.
fn first_of<T: Clone>(above: &[T], below: &[T]) -> Vec<T> {
    if above.is_empty() { below } else { above }.to_vec()
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

/// The layers of a run, over the defaults that each stage has for itself: the file, the environment over it, the command
/// line over both. For one of several cameras its own `[[camera]]` lies below the command line and over all else.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Layers {
    /// The configuration file.
    pub file: Layer,
    /// Environment variables.
    pub environment: Layer,
    /// The command line.
    pub arguments: Layer,
}

impl Layers {
    /// A configuration file alone.
    pub fn of_file(file: Layer) -> Self {
        Self {
            file,
            ..Self::default()
        }
    }
}

/// Where a run's settings come from; they can be read again and again.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The configuration file that was named.
    pub config: Option<PathBuf>,
    /// The command line.
    pub arguments: Layer,
}

impl Origin {
    /// The configuration file that would be read now: the one that was named, or the default one if it exists.
    pub fn file(&self) -> Option<PathBuf> {
        let default = PathBuf::from("/etc/segd/segd.toml");
        self.config
            .clone()
            .or_else(|| default.is_file().then_some(default))
    }

    /// Reads file and environment as they are now, and resolves all layers.
    ///
    /// # Errors
    /// Usage, naming file or variable, the key, what was found and what was expected.
    pub fn settings(&self) -> Result<Settings> {
        let file = match self.file() {
            Some(path) => Layer::read(&path)?,
            None => Layer::default(),
        };
        self.resolve(file)
    }

    /// Where events go, whatever the cameras are.
    ///
    /// # Errors
    /// Usage, naming file or variable, the key, what was found and what was expected.
    pub fn events(&self) -> Result<EventSettings> {
        let file = self.file().map(|path| Layer::read(&path)).transpose()?;
        let all = from_environment(std::env::vars_os())?.over(&file.unwrap_or_default());
        resolve::events(&all.events, &all.mqtt)
    }

    /// Resolves all layers, with this one in place of the file.
    ///
    /// # Errors
    /// As [`settings`](Self::settings).
    pub fn resolve(&self, file: Layer) -> Result<Settings> {
        Settings::resolve(&Layers {
            file,
            environment: from_environment(std::env::vars_os())?,
            arguments: self.arguments.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Inputs;
    use vision::overlay::Visualize;

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
        let layer = Layer::parse(text, "segd.toml").unwrap();
        let sections = &layer.sections;
        assert_eq!(sections.capture.fps, Some(30.0));
        assert_eq!(sections.capture.looped, Some(true));
        assert_eq!(sections.overlay.visualize, Some(Visualize::SideBySide));
        assert_eq!(sections.stream.outputs.as_ref().unwrap().len(), 2);
        assert_eq!(Layer::parse("", "empty").unwrap(), Layer::default());
    }

    #[test]
    fn an_input_is_one_source_or_a_list_of_recordings() {
        let input = |text: &str| Layer::parse(text, "x").map(|layer| layer.sections.capture.input);
        let list = |names: &[&str]| Some(Inputs(names.iter().map(|n| n.to_string()).collect()));
        assert_eq!(input("capture.input = \"a.mp4\"").unwrap(), list(&["a.mp4"]));
        assert_eq!(
            input("capture.input = [\"a.mp4\", \"b.mkv\"]").unwrap(),
            list(&["a.mp4", "b.mkv"])
        );
        assert!(input("capture.input = 3").is_err());
    }

    #[test]
    fn an_unknown_key_is_refused_with_line_and_nearest_key() {
        let error = Layer::parse("[overlay]\nalpah = 0.4\n", "segd.toml").unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("config segd.toml, line 2: unknown field `alpah`"),
            "{text}"
        );
        assert!(text.ends_with("did you mean `alpha`?"), "{text}");
        assert_eq!(error.exit_code(), 2);
        // What only the command line can say is no key.
        assert!(Layer::parse("[run]\nframes = 3\n", "segd.toml").is_err());
        assert!(Layer::parse("[[camera]]\nname = \"a\"\n[camera.access]\n", "segd.toml").is_err());
    }

    #[test]
    fn wrong_types_are_refused() {
        for text in [
            "[capture]\nwidth = \"wide\"",
            "[capture]\nwidth = -1",
            "[overlay]\nvisualize = \"glow\"",
            "[[[",
        ] {
            let error = Layer::parse(text, "segd.toml").unwrap_err();
            assert!(
                error.to_string().starts_with("config segd.toml, line "),
                "{error}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused_in_one_line(text in "(\\[(capture|model|masks|overlay|stream|access|privacy)\\]\n)?.{0,40}(\n.{0,40}){0,3}") {
            if let Err(error) = Layer::parse(&text, "segd.toml") {
                proptest::prop_assert_eq!(error.exit_code(), 2);
                proptest::prop_assert!(!error.to_string().contains('\n'), "{}", error);
            }
        }
    }

    #[test]
    fn a_layer_replaces_the_source_of_either_kind() {
        let below = Layer::parse("[capture]\ncamera = \"/dev/video0\"\nfps = 15\n", "below").unwrap();
        let above = Layer::parse("[capture]\ninput = \"test://\"\n", "above").unwrap();
        let merged = above.over(&below).sections.capture;
        assert_eq!(merged.camera, None);
        assert_eq!(merged.input, Some(Inputs(vec!["test://".into()])));
        assert_eq!(merged.fps, Some(15.0));
    }

    #[test]
    fn the_installed_configuration_is_valid_with_and_without_its_comments() {
        let text = include_str!("../../systemd/segd.toml");
        assert_eq!(Layer::parse(text, "segd.toml").unwrap(), Layer::default());
        // Keys are commented with "#", explanations with "# ".
        let keys: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => key.to_owned() + "\n",
                _ => line.to_owned() + "\n",
            })
            .collect();
        let all = Layer::parse(&keys, "segd.toml").unwrap();
        let sections = &all.sections;
        assert!(sections.capture.input.is_some() && sections.model.size.is_some());
        assert!(sections.stream.encoder.is_some());
        assert_eq!((all.camera.len(), all.zone.len(), all.line.len()), (2, 1, 1));
        // Each key that exists is shown.
        for section in [
            format!("{sections:?}"),
            format!("{:?}", all.access),
            format!("{:?}", all.health),
            format!("{:?} {:?}", all.events, all.mqtt),
            format!("{:?} {:?}", all.zone, all.line),
        ] {
            assert!(!section.contains(": None"), "a key is missing: {section}");
        }
    }
}
