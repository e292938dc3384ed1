//! Settings: typed and checked. There is one way to them, [`Settings::resolve`].

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::cameras::{NamedSections, named_sections};
use super::{Drawing, Hiding, Layers, WebRtcSettings, check_range, parse_listen, resolve, zones};
use crate::capture::{CaptureOptions, SourceSpec};
use crate::choose::ChoiceOptions;
use crate::clock::RealClock;
use crate::events::Watch;
use crate::events::file::FileOptions;
use crate::events::history::HistoryOptions;
use crate::events::mqtt::MqttOptions;
use crate::events::snapshots::SnapshotOptions;
use crate::events::webhook::WebhookOptions;
use crate::output::access::RtspAccess;
use crate::output::{OutputSpec, StreamOptions, check_files};
use crate::pipeline::PipelineOptions;
use vision::error::{Error, Result};

/// What a run needs to know, checked: what is in here starts, unless the machine lacks what it names.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cameras, at least one; each has another name.
    pub cameras: Vec<CameraSettings>,
    /// Who may watch.
    pub access: RtspAccess,
    /// The HTTP server, and what counts as unwell.
    pub health: HealthSettings,
    /// Where events go.
    pub events: EventSettings,
}

/// What one pipeline is made from. Each stage gets its own part.
#[derive(Debug, Clone)]
pub struct CameraSettings {
    /// In the log and in the metrics.
    pub name: String,
    /// Where frames come from.
    pub source: SourceSpec,
    /// How the source is read.
    pub capture: CaptureOptions,
    /// Whether a source that is not there at the start is waited for.
    pub waits_for_source: bool,
    /// What segments, and where it runs.
    pub model: ChoiceOptions,
    /// The least time between two inferences.
    pub infer_interval: Duration,
    /// How frames go through, and which are segmented.
    pub pipeline: PipelineOptions,
    /// How masks are drawn.
    pub drawing: Drawing,
    /// What is hidden.
    pub hiding: Hiding,
    /// How the video is encoded, and who may watch it.
    pub stream: StreamOptions,
    /// Where it goes.
    pub outputs: Vec<OutputSpec>,
    /// What is watched in its pictures.
    pub watch: Watch,
}

/// Where events go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventSettings {
    /// To standard output.
    pub stdout: bool,
    /// Into a file.
    pub file: Option<FileOptions>,
    /// Into a file that can be searched.
    pub history: Option<HistoryOptions>,
    /// Where pictures of events go.
    pub snapshots: Option<SnapshotOptions>,
    /// To a program over HTTP.
    pub webhook: Option<WebhookOptions>,
    /// To a broker.
    pub mqtt: Option<MqttOptions>,
}

impl EventSettings {
    /// The files that events are written to, each with its key.
    fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let file = self
            .file
            .as_ref()
            .map(|file| ("events.file", file.path.as_path()));
        let history = self.history.as_ref();
        let history = history.map(|history| ("events.history", history.path.as_path()));
        file.into_iter().chain(history)
    }
}

/// The HTTP server, and what counts as unwell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSettings {
    /// `ADDRESS:PORT` where it listens, which has been checked; an empty text for none. [`DEFAULT_LISTEN`](super::DEFAULT_LISTEN) if
    /// nothing is said, and then a port that is in use is no error.
    pub listen: Option<String>,
    /// How WebRTC is served.
    pub webrtc: WebRtcSettings,
    /// A mask that is older counts as frozen.
    pub max_mask_age: Duration,
}

impl Settings {
    /// What the layers come to.
    ///
    /// # Errors
    /// Usage, naming the key, what was found and what was expected, and the camera where there are several.
    pub fn resolve(layers: &Layers) -> Result<Self> {
        let common = layers.arguments.over(&layers.environment.over(&layers.file));
        let access = resolve::access(&common.access)?;
        let health = HealthSettings::resolve(&common.health, &access)?;
        let named = named_sections(layers)?;
        let mut cameras = Vec::with_capacity(named.len());
        for one in &named {
            let shared = resolve::Shared {
                run: &common.run,
                access: &access,
                max_bitrate_kbps: resolve::max_bitrate_kbps(&common.access)?,
                cameras: named.len(),
                arguments_say_how_often: layers.arguments.sections.masks.says_how_often(),
            };
            let resolved = CameraSettings::resolve(one, &shared).map_err(|e| match named.len() {
                1 => e,
                _ => e.in_camera(&one.name),
            });
            cameras.push(resolved?);
        }
        // An output must destroy no source, of whichever camera, and no other output.
        let sources = cameras.iter().flat_map(|camera| camera.source.files());
        let outputs = cameras.iter().flat_map(|camera| &camera.outputs);
        let events = resolve::events(&common.events, &common.mqtt)?;
        check_files(sources, outputs, events.files())?;
        let tells_hidden = common.events.hidden.unwrap_or(false);
        zones::assign(&common.zone, &common.line, tells_hidden, &mut cameras)?;
        Ok(Self {
            cameras,
            access,
            health,
            events,
        })
    }

    /// The only camera.
    ///
    /// # Errors
    /// Usage if there are several.
    pub fn only_camera(&self) -> Result<&CameraSettings> {
        match self.cameras.as_slice() {
            [camera] => Ok(camera),
            _ => Err(vision::error::Error::usage(
                "one camera is needed, the configuration has several",
            )),
        }
    }
}

impl CameraSettings {
    fn resolve(named: &NamedSections, shared: &resolve::Shared<'_>) -> Result<Self> {
        let NamedSections {
            name,
            sections,
            outputs,
        } = named;
        let source = resolve::source(&sections.capture)?;
        let capture = resolve::capture(&sections.capture, shared.run)?;
        // Making an opener opens nothing: it says whether this build has what the source needs.
        source.opener(&capture, RealClock::shared())?;
        let drawing = resolve::drawing(&sections.overlay)?;
        let hiding = resolve::hiding(&sections.privacy)?;
        let schedule = resolve::schedule(&sections.masks, hiding.is_on())?;
        let pipeline = resolve::pipeline(&resolve::PipelineParts {
            source: &source,
            capture: &capture,
            stall_timeout_ms: sections.capture.stall_timeout_ms,
            schedule,
            mode: drawing.options.mode,
            shared,
        })?;
        let stream = resolve::stream(sections, shared)?;
        let outputs = outputs
            .iter()
            .map(|output| resolve::output(output, &stream))
            .collect::<Result<_>>()?;
        let model = resolve::model(&sections.model, shared.run)?;
        Ok(Self {
            name: name.clone(),
            source,
            capture,
            waits_for_source: !shared.run.no_wait.unwrap_or(false),
            model: resolve::within_share(model, &sections.model, &schedule, shared.cameras),
            infer_interval: resolve::infer_interval(&sections.model)?,
            pipeline,
            drawing,
            hiding,
            stream,
            outputs,
            watch: Watch::default(),
        })
    }
}

impl HealthSettings {
    fn resolve(section: &super::HealthSection, access: &RtspAccess) -> Result<Self> {
        let max_mask_age_ms = section.max_mask_age_ms.unwrap_or(3_000);
        check_range(
            "health.max_mask_age_ms",
            max_mask_age_ms as f64,
            1.0..=3_600_000.0,
        )?;
        if let Some(listen) = section.listen.as_deref().filter(|listen| !listen.is_empty()) {
            parse_listen(listen, access)?;
        }
        Ok(Self {
            listen: section.listen.clone(),
            webrtc: WebRtcSettings {
                port: section.webrtc_port,
                address: section.webrtc_address.as_deref().map(ip_address).transpose()?,
            },
            max_mask_age: Duration::from_millis(max_mask_age_ms),
        })
    }
}

/// An address that browsers can send to.
fn ip_address(text: &str) -> Result<IpAddr> {
    let address: Option<IpAddr> = text.parse().ok();
    address.filter(|address| !address.is_unspecified() && !address.is_multicast()).ok_or_else(|| {
        Error::usage(format!(
            "health.webrtc_address = {text:?}, expected the IP address that browsers reach, such as 192.0.2.7"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Inputs, Layer};
    use vision::propagate::Smoothing;

    fn resolved(text: &str) -> Result<Settings> {
        Settings::resolve(&Layers::of_file(Layer::parse(text, "segd.toml")?))
    }

    fn only(text: &str) -> CameraSettings {
        let text = format!("capture.input = \"test://\"\nstream.outputs = [\"null://\"]\n{text}");
        resolved(&text).unwrap().cameras.remove(0)
    }

    #[test]
    fn the_command_line_lies_over_the_environment_over_the_file() {
        let layer = |text: &str| Layer::parse(text, "layer").unwrap();
        let mut layers = Layers {
            file: layer("capture = { camera = \"/dev/video7\", width = 320, height = 240, fps = 5 }"),
            environment: layer("capture = { input = \"test://\", width = 640 }"),
            arguments: layer("capture.height = 480"),
        };
        let settings = Settings::resolve(&layers).unwrap();
        let camera = settings.only_camera().unwrap();
        assert!(matches!(camera.source, SourceSpec::Test(_)));
        let capture = &camera.capture;
        assert_eq!((capture.width, capture.height, capture.fps), (640, 480, 5.0));
        // A source on the command line replaces whichever kind lies below.
        layers.arguments.sections.capture.input = Some(Inputs(vec!["a.mkv".into()]));
        let settings = Settings::resolve(&layers).unwrap();
        assert!(matches!(settings.cameras[0].source, SourceSpec::File(_)));
        layers.file.camera = vec![crate::config::CameraLayer::default()];
        let error = Settings::resolve(&layers).unwrap_err();
        assert!(error.to_string().contains("--camera and --input"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_refused_by_their_key() {
        for (key, value) in [
            ("capture.width", "3"),
            ("capture.height", "99999"),
            ("capture.fps", "0"),
            ("capture.stall_timeout_ms", "99999999999"),
            ("model.size", "1"),
            ("model.threads", "0"),
            ("model.max_inferences_per_second", "0.0"),
            ("masks.every", "0"),
            ("masks.cpu_budget", "0.0"),
            ("masks.max_mask_age_ms", "0.0"),
            ("masks.smooth", "1.0"),
            ("masks.wait_ms", "-1.0"),
            ("overlay.alpha", "nan"),
            ("privacy.margin", "2"),
            ("privacy.max_mask_age_ms", "0"),
            ("stream.keyframe_interval_s", "0"),
            ("stream.bitrate_kbps", "1"),
            ("access.max_clients", "0"),
            ("access.max_bitrate_kbps", "0"),
            ("health.max_mask_age_ms", "0"),
            ("model.backend", "\"tensorflow\""),
            ("model.device", "\"npu\""),
            ("model.precision", "\"int4\""),
            ("health.listen", "\"8555\""),
            ("health.webrtc_address", "\"camera.example\""),
        ] {
            let text =
                format!("capture.input = \"test://\"\nstream.outputs = [\"null://\"]\n{key} = {value}\n");
            let error = resolved(&text).unwrap_err();
            let name = key.split_once('.').map_or(key, |(_, name)| name);
            assert!(error.to_string().contains(name), "{key}: {error}");
            assert_eq!(error.exit_code(), 2, "{key}");
        }
    }

    #[test]
    fn an_error_names_the_camera_where_there_are_several() {
        let text = "[[camera]]\nname = \"a\"\ncapture.input = \"test://\"\n[[camera]]\nname = \"b\"\n\
                    capture.input = \"test://\"\noverlay.alpha = 3\n";
        let error = resolved(text).unwrap_err().to_string();
        assert!(error.starts_with("camera b: overlay.alpha = 3"), "{error}");
    }

    #[test]
    fn without_motion_every_frame_is_segmented_that_there_is_time_for() {
        let schedule = only("masks.propagate = false").pipeline.schedule;
        assert_eq!((schedule.every, schedule.smooth), (Some(1), Smoothing::OFF));
    }

    #[test]
    fn what_is_hidden_is_looked_for_in_every_frame_unless_it_is_said_how_often() {
        let every = |text: &str| only(text).pipeline.schedule.every;
        assert_eq!(every(""), None);
        assert_eq!(every("privacy.blur = [\"person\"]"), Some(1));
        assert_eq!(every("privacy.blur = []"), None);
        assert_eq!(every("privacy.blur = [\"person\"]\nmasks.smooth = 0.2"), Some(1));
        assert_eq!(every("privacy.blur = [\"person\"]\nmasks.cpu_budget = 0.5"), None);
    }

    #[cfg(feature = "gstreamer")]
    #[test]
    fn what_an_output_needs_is_checked_before_it_is_opened() {
        for (text, part) in [
            (
                "stream.outputs = [\"rtsp://0.0.0.0:8554/a\"]",
                "there are no users",
            ),
            (
                "stream.outputs = [\"rtsps://127.0.0.1:8554/a\"]",
                "access.certificate",
            ),
            ("stream.outputs = [\"a.avi\"]", "a.avi"),
            ("access.key = \"a.pem\"", "without the other"),
        ] {
            let error = resolved(&format!("capture.input = \"test://\"\n{text}")).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
