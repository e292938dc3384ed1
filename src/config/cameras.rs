//! One configuration for each camera: its own sections over the common ones.

use std::collections::{BTreeMap, BTreeSet};

use super::{CaptureFile, FileConfig, MasksFile, ModelFile, OverlayFile, PrivacyFile, StreamFile};
use crate::output::DEFAULT_OUTPUT;
use vision::error::{Error, Result};

/// All that one pipeline is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraConfig {
    /// In the log and in the metrics.
    pub name: String,
    /// Where frames come from.
    pub capture: CaptureFile,
    /// What segments.
    pub model: ModelFile,
    /// How often masks are made.
    pub masks: MasksFile,
    /// How masks are drawn.
    pub overlay: OverlayFile,
    /// What is hidden.
    pub privacy: PrivacyFile,
    /// How the video is encoded.
    pub stream: StreamFile,
    /// Where it goes.
    pub outputs: Vec<String>,
}

impl FileConfig {
    /// The cameras: those of `[[camera]]`, or one made of the common sections.
    ///
    /// # Errors
    /// Usage: a camera without a name, two of one name, or two that share a source or an output.
    pub fn cameras(&self) -> Result<Vec<CameraConfig>> {
        if self.camera.is_empty() {
            let outputs = self.stream.outputs.clone();
            return Ok(vec![CameraConfig {
                name: "segd".into(),
                capture: self.capture.clone(),
                model: self.model.clone(),
                masks: self.masks.clone(),
                overlay: self.overlay.clone(),
                privacy: self.privacy.clone(),
                stream: self.stream.clone(),
                outputs: outputs.unwrap_or_else(|| vec![DEFAULT_OUTPUT.to_owned()]),
            }]);
        }
        if self.capture.camera.is_some() || self.capture.input.is_some() {
            return Err(Error::usage(
                "a source for all cameras: capture.camera or capture.input beside [[camera]]",
            )
            .hint("name each source in its [camera.capture]"));
        }
        let mut names = BTreeSet::new();
        let mut used = BTreeMap::new();
        let mut cameras = Vec::new();
        for camera in &self.camera {
            let name = &camera.name;
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            if name.is_empty() || !name.chars().all(is_name) {
                return Err(Error::usage(format!(
                    "[[camera]] name = {name:?}, expected letters, digits, - and _"
                )));
            }
            if !names.insert(name.clone()) {
                return Err(Error::usage(format!("two [[camera]] of the name {name:?}")));
            }
            let stream = camera.stream.over(&self.stream);
            let outputs: Vec<String> = match &stream.outputs {
                Some(outputs) => outputs.iter().map(|o| o.replace("{name}", name)).collect(),
                None => vec![DEFAULT_OUTPUT.replace("/segd", &format!("/{name}"))],
            };
            let capture = camera.capture.over(&self.capture);
            let source = match (&capture.camera, &capture.input) {
                (Some(source), None) => Some(("camera", source)),
                // One file or address may be read twice.
                (None, Some(_)) => None,
                _ => {
                    return Err(Error::usage(format!(
                        "camera {name}: [camera.capture] must name a camera or an input, and only one"
                    )));
                }
            };
            let outputs_used = outputs.iter().map(|o| ("output", o));
            for (kind, text) in source.into_iter().chain(outputs_used) {
                if let Some(other) = used.insert((kind, text.clone()), name.clone()) {
                    let error =
                        Error::usage(format!("cameras {other} and {name} have the same {kind} {text}"));
                    return Err(match kind {
                        "output" => {
                            error.hint("write {name} in stream.outputs: rtsp://127.0.0.1:8554/{name}")
                        }
                        _ => error,
                    });
                }
            }
            cameras.push(CameraConfig {
                name: name.clone(),
                capture,
                model: camera.model.over(&self.model),
                masks: camera.masks.over(&self.masks),
                overlay: camera.overlay.over(&self.overlay),
                privacy: camera.privacy.over(&self.privacy),
                stream,
                outputs,
            });
        }
        Ok(cameras)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cameras(text: &str) -> Result<Vec<CameraConfig>> {
        FileConfig::parse(text, "segd.toml")?.cameras()
    }

    #[test]
    fn each_camera_has_its_own_sections_over_the_common_ones() {
        let all = cameras(
            r#"
            [capture]
            fps = 15
            [model]
            size = 384
            [stream]
            outputs = ["rtsp://127.0.0.1:8554/{name}", "/var/lib/segd/{name}.mkv"]
            [[camera]]
            name = "door"
            capture = { camera = "/dev/video0", fps = 5 }
            [[camera]]
            name = "yard"
            [camera.capture]
            input = "rtsp://192.0.2.7/main"
            [camera.model]
            size = 513
            "#,
        )
        .unwrap();
        assert_eq!(all[0].capture.fps, Some(5.0));
        assert_eq!(all[1].capture.fps, Some(15.0));
        assert_eq!(
            (all[0].model.size, all[1].model.size),
            (
                Some(crate::config::NumberOrAuto::Number(384)),
                Some(crate::config::NumberOrAuto::Number(513))
            )
        );
        assert_eq!(
            all[1].outputs,
            ["rtsp://127.0.0.1:8554/yard", "/var/lib/segd/yard.mkv"]
        );
        let defaults = cameras("[[camera]]\nname = \"a\"\ncapture.input = \"test://\"").unwrap();
        assert_eq!(defaults[0].outputs, ["rtsp://127.0.0.1:8554/a"]);
        assert_eq!(cameras("").unwrap()[0].outputs, [DEFAULT_OUTPUT]);
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        let two = |a: &str, b: &str| format!("[[camera]]\nname = \"a\"\n{a}\n[[camera]]\nname = \"b\"\n{b}");
        for (text, part) in [
            (
                "[[camera]]\ncapture.input = \"test://\"".to_owned(),
                "name = \"\"",
            ),
            ("[[camera]]\nname = \"a b\"".to_owned(), "a b"),
            ("[[camera]]\nname = \"a\"".to_owned(), "must name a camera"),
            (
                "[capture]\ninput = \"x\"\n[[camera]]\nname = \"a\"".to_owned(),
                "for all cameras",
            ),
            (
                two(
                    "capture.camera = \"/dev/video0\"",
                    "capture.camera = \"/dev/video0\"",
                ),
                "same camera",
            ),
            (
                "[stream]\noutputs = [\"a.mkv\"]\n".to_owned()
                    + &two("capture.input = \"x\"", "capture.input = \"y\""),
                "{name}",
            ),
            (
                two("capture.input = \"x\"", "").replace("\"b\"", "\"a\""),
                "two [[camera]]",
            ),
        ] {
            let error = cameras(&text).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
