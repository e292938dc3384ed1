//! What a changed configuration means for what runs.

use super::{CameraSettings, Settings};

/// What has changed for one camera.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CameraDiff {
    /// Another model is asked for, or another way to run it: it can be swapped in.
    pub model: bool,
    /// The outputs are others, or encoded in another way.
    pub outputs: bool,
    /// What is only read at the start, in words for a log.
    pub restart: Vec<String>,
}

/// What has changed between two settings. What is in neither list of a restart can be applied to what runs: who may watch,
/// how masks are drawn and made, what is hidden, how often the network may run, and the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// The cameras that are in both, by name.
    pub cameras: Vec<(String, CameraDiff)>,
    /// Cameras that are no longer there: they go on until the next start.
    pub gone: Vec<String>,
    /// Cameras that are new: they begin at the next start.
    pub added: Vec<String>,
    /// What else is only read at the start, in words for a log.
    pub restart: Vec<String>,
}

impl Settings {
    /// What `new` changes, and what of it needs a restart.
    pub fn diff(old: &Self, new: &Self) -> Diff {
        let mut diff = Diff::default();
        for camera in &old.cameras {
            match new.camera(&camera.name) {
                Some(now) => diff
                    .cameras
                    .push((camera.name.clone(), CameraSettings::diff(camera, now))),
                None => diff.gone.push(camera.name.clone()),
            }
        }
        let added = new.cameras.iter().filter(|c| old.camera(&c.name).is_none());
        diff.added = added.map(|c| c.name.clone()).collect();
        let health = |settings: &Self| {
            (
                settings.health.listen.clone(),
                settings.health.webrtc.clone(),
                settings.health.max_mask_age,
            )
        };
        if health(old) != health(new) {
            diff.restart.push("[health]".into());
        }
        let most = |settings: &Self| settings.cameras.first().map(|c| c.stream.max_bitrate_kbps);
        if most(old) != most(new) {
            diff.restart.push("access.max_bitrate_kbps".into());
        }
        diff
    }

    /// The camera called `name`.
    pub fn camera(&self, name: &str) -> Option<&CameraSettings> {
        self.cameras.iter().find(|camera| camera.name == name)
    }
}

impl CameraSettings {
    fn diff(old: &Self, new: &Self) -> CameraDiff {
        let mut restart = Vec::new();
        let mut differ = |name: &str, differs: bool| {
            if differs {
                restart.push(format!("{}: {name}", new.name));
            }
        };
        let capture = |camera: &Self| {
            (
                camera.source.clone(),
                camera.capture.clone(),
                camera.pipeline.stall_timeout,
            )
        };
        differ("[capture]", capture(old) != capture(new));
        let stream = |camera: &Self| {
            let stream = &camera.stream;
            (
                camera.outputs.clone(),
                stream.codec,
                stream.bitrate_kbps,
                stream.keyframe_interval_s,
                stream.encoder.clone(),
            )
        };
        let outputs = stream(old) != stream(new);
        differ("[stream]", outputs);
        let (record, clips) = (old.stream.record, old.stream.clips);
        differ("[record]", record != new.stream.record);
        differ("[clips]", clips != new.stream.clips);
        CameraDiff {
            outputs,
            model: !old.model.asks_the_same(&new.model),
            restart,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layer, Layers};

    fn settings(text: &str) -> Settings {
        let text = match text.contains("[[camera]]") {
            true => format!("stream.outputs = [\"{{name}}/\"]\n{text}"),
            false => format!("capture.input = \"test://\"\nstream.outputs = [\"null://\"]\n{text}"),
        };
        Settings::resolve(&Layers::of_file(Layer::parse(&text, "segd.toml").unwrap())).unwrap()
    }

    fn restarts(old: &str, new: &str) -> Vec<String> {
        let diff = Settings::diff(&settings(old), &settings(new));
        let cameras = diff.cameras.into_iter().flat_map(|(_, diff)| diff.restart);
        cameras.chain(diff.restart).collect()
    }

    #[test]
    fn what_can_be_applied_needs_no_restart() {
        for new in [
            "",
            "overlay.alpha = 0.2",
            "overlay = { classes = [\"person\"], visualize = \"mask\" }",
            "model.max_inferences_per_second = 3",
            "masks = { smooth = 0.1, every = 3, propagate = false }",
            "privacy.blur = [\"person\"]",
            "model.size = 96",
            "access.max_clients = 3",
            "access.insecure = true",
            "events.file = \"a.jsonl\"",
            "mqtt.url = \"mqtt://192.0.2.9\"",
            "zone = [{ name = \"z\", polygon = [[0, 0], [1, 0], [1, 1]] }]",
        ] {
            assert_eq!(restarts("", new), [""; 0], "{new}");
        }
        assert_eq!(
            restarts("privacy.blur = [\"person\"]", "privacy.fill = [\"cat\"]"),
            [""; 0]
        );
    }

    #[test]
    fn what_is_read_at_the_start_is_named() {
        for (new, expected) in [
            ("capture.width = 320", "segd: [capture]"),
            ("capture.stall_timeout_ms = 900", "segd: [capture]"),
            ("stream.bitrate_kbps = 900", "segd: [stream]"),
            ("record.keep_hours = 900", "segd: [record]"),
            ("clips.before_s = 9", "segd: [clips]"),
            ("access.max_bitrate_kbps = 900", "access.max_bitrate_kbps"),
            ("health.max_mask_age_ms = 900", "[health]"),
        ] {
            assert_eq!(restarts("", new), [expected], "{new}");
        }
    }

    #[test]
    fn a_model_is_another_one_when_it_is_asked_for_in_another_way() {
        let model = |old: &str, new: &str| {
            let diff = Settings::diff(&settings(old), &settings(new));
            diff.cameras[0].1.model
        };
        assert!(!model("", "overlay.alpha = 0.2"));
        assert!(!model("", "model.max_inferences_per_second = 3"));
        assert!(!model("", "masks.cpu_budget = 1.5"));
        assert!(model("", "model.name = \"other\""));
        assert!(model("", "model.threads = 2"));
        assert!(model("model.size = 64", "model.size = \"auto\""));
        // Another camera changes this one's share of the cores, and not its model.
        let camera = |name: &str| format!("[[camera]]\nname = \"{name}\"\ncapture.input = \"test://\"\n");
        let diff = Settings::diff(&settings(&camera("a")), &settings(&(camera("a") + &camera("b"))));
        assert!(!diff.cameras[0].1.model);
        assert_eq!((diff.added, diff.gone), (vec!["b".to_owned()], vec![]));
    }
}
