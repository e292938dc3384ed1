//! One set of sections for each camera: its own over the common ones, the command line over both.

use std::collections::{BTreeMap, BTreeSet};

use super::{CameraLayer, Layer, Layers, Sections};
use crate::output::DEFAULT_OUTPUT;
use vision::error::{Error, Result};

/// The name of the only camera where none is given.
const ONLY: &str = "segd";

/// One camera's keys, before their values are looked at.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NamedSections {
    /// In the log and in the metrics.
    pub name: String,
    /// All layers of it.
    pub sections: Sections,
    /// Where it goes, at least the default.
    pub outputs: Vec<String>,
}

/// The cameras: those of `[[camera]]`, or one made of the common sections.
///
/// # Errors
/// Usage: a camera without a name, two of one name, two that share a source or an output, or a source or output on the
/// command line for several.
pub(super) fn named_sections(layers: &Layers) -> Result<Vec<NamedSections>> {
    let common = layers.environment.over(&layers.file);
    let arguments = &layers.arguments.sections;
    if common.camera.is_empty() {
        let sections = arguments.over(&common.sections);
        let outputs = sections.stream.outputs.clone();
        return Ok(vec![NamedSections {
            name: ONLY.into(),
            outputs: outputs.unwrap_or_else(|| vec![DEFAULT_OUTPUT.to_owned()]),
            sections,
        }]);
    }
    check_common(&common, arguments)?;
    let mut names = BTreeSet::new();
    let mut used = BTreeMap::new();
    let mut cameras = Vec::new();
    for camera in &common.camera {
        let name = checked_name(camera)?;
        if !names.insert(name) {
            return Err(Error::usage(format!("two [[camera]] of the name {name:?}")));
        }
        let sections = arguments.over(&camera.sections.with_defaults(&common.sections));
        let outputs: Vec<String> = match &sections.stream.outputs {
            Some(outputs) => outputs.iter().map(|o| o.replace("{name}", name)).collect(),
            None => vec![DEFAULT_OUTPUT.replace("/segd", &format!("/{name}"))],
        };
        let source = match (&sections.capture.camera, &sections.capture.input) {
            (Some(source), None) => Some(("camera", source.clone())),
            // One file or address may be read twice.
            (None, Some(_)) => None,
            _ => {
                return Err(Error::usage(format!(
                    "camera {name}: [camera.capture] must name a camera or an input, and only one"
                )));
            }
        };
        let outputs_used = outputs.iter().map(|o| ("output", o.clone()));
        for (kind, text) in source.into_iter().chain(outputs_used) {
            if let Some(other) = used.insert((kind, text.clone()), name) {
                let error = Error::usage(format!("cameras {other} and {name} have the same {kind} {text}"));
                return Err(match kind {
                    "output" => {
                        error.hint("write {name} in stream.outputs, as in rtsp://127.0.0.1:8554/{name}")
                    }
                    _ => error,
                });
            }
        }
        cameras.push(NamedSections {
            name: name.to_owned(),
            sections,
            outputs,
        });
    }
    Ok(cameras)
}

/// Refuses what can't be meant for all of several cameras.
fn check_common(common: &Layer, arguments: &Sections) -> Result<()> {
    let has_source = arguments.capture.camera.is_some() || arguments.capture.input.is_some();
    let named = match (has_source, &arguments.stream.outputs) {
        (true, _) => Some("--camera and --input"),
        (false, Some(_)) => Some("--output"),
        (false, None) => None,
    };
    if let Some(named) = named {
        return Err(Error::usage(format!(
            "{named} can't be used with the {} [[camera]] of the configuration",
            common.camera.len()
        ))
        .hint("use another configuration, such as --config /dev/null"));
    }
    let capture = &common.sections.capture;
    if capture.camera.is_some() || capture.input.is_some() {
        return Err(Error::usage(
            "a source for all cameras: capture.camera or capture.input beside [[camera]]",
        )
        .hint("name each source in its [camera.capture]"));
    }
    Ok(())
}

fn checked_name(camera: &CameraLayer) -> Result<&str> {
    let name = camera.name.as_str();
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(Error::usage(format!(
            "[[camera]] name = {name:?}, expected letters, digits, - and _"
        )));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NumberOrAuto;

    fn cameras(text: &str) -> Result<Vec<NamedSections>> {
        named_sections(&Layers::of_file(Layer::parse(text, "segd.toml")?))
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
        let sections = |n: usize| &all[n].sections;
        assert_eq!(sections(0).capture.fps, Some(5.0));
        assert_eq!(sections(1).capture.fps, Some(15.0));
        assert_eq!(
            (sections(0).model.size, sections(1).model.size),
            (Some(NumberOrAuto::Number(384)), Some(NumberOrAuto::Number(513)))
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
    fn a_cameras_own_keys_lie_between_environment_and_command_line() {
        let layer = |text: &str| Layer::parse(text, "layer").unwrap();
        let layers = Layers {
            file: layer(
                "masks.every = 9\n[[camera]]\nname = \"a\"\ncapture = { input = \"x\", fps = 1 }\nmasks.smooth = 0.1",
            ),
            environment: layer("capture = { fps = 2, width = 64 }"),
            arguments: layer("capture.width = 128\nmasks.cpu_budget = 0.5"),
        };
        let all = named_sections(&layers).unwrap();
        let sections = &all[0].sections;
        assert_eq!(
            (sections.capture.fps, sections.capture.width),
            (Some(1.0), Some(128))
        );
        let masks = &sections.masks;
        assert_eq!(
            (masks.every, masks.cpu_budget, masks.smooth),
            (None, Some(0.5), Some(0.1))
        );
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
