//! Configuration keys from environment variables: `SEGD_SECTION_KEY`, for example `SEGD_STREAM_BITRATE_KBPS`.

use std::ffi::OsString;

use super::Layer;
use vision::error::{Error, Result};

/// What the names of segd's variables begin with.
const PREFIX: &str = "SEGD_";

/// Sections whose keys can be set.
const SECTIONS: [&str; 12] = [
    "capture", "model", "masks", "overlay", "privacy", "stream", "record", "clips", "access", "health",
    "events", "mqtt",
];

/// Short names of some keys.
const SHORT: [(&str, &str); 2] = [("camera", "capture_camera"), ("input", "capture_input")];

/// The keys that `variables` (names and values) set. Values are written as in the file, texts also without
/// quotes, and lists of texts also with commas between them. A variable that is empty counts as not set; an empty text is
/// written as `""`.
///
/// # Errors
/// Usage, naming the variable: an unknown key with the nearest valid one, a value of another type, or one that is not
/// UTF-8.
pub fn from_environment<T: Into<OsString>>(variables: impl IntoIterator<Item = (T, T)>) -> Result<Layer> {
    let mut layer = Layer::default();
    let mut set: Vec<(String, OsString)> = variables
        .into_iter()
        // A name that is no text is not one of ours.
        .filter_map(|(name, value)| Some((name.into().into_string().ok()?, value.into())))
        .filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty())
        .collect();
    set.sort();
    for (name, value) in &set {
        let path = name[PREFIX.len()..].to_ascii_lowercase();
        let path = SHORT
            .iter()
            .find(|(short, _)| *short == path)
            .map_or(path.as_str(), |(_, long)| long);
        let Some((section, key)) = path.split_once('_').filter(|(s, _)| SECTIONS.contains(s)) else {
            continue;
        };
        if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') || key.is_empty() {
            return Err(Error::usage(format!(
                "environment variable {name:?} is no configuration key"
            )));
        }
        let value = value.to_str().ok_or_else(|| {
            Error::usage(format!(
                "environment variable {name}: its value is not UTF-8 text"
            ))
        })?;
        layer = one(name, section, key, value)?.with_defaults(&layer);
    }
    Ok(layer)
}

/// The configuration that one variable makes: its value as it stands, as a text, or as a list of texts.
fn one(name: &str, section: &str, key: &str, value: &str) -> Result<Layer> {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let list: Vec<String> = value.split(',').map(|item| quoted(item.trim())).collect();
    let forms = [value.to_owned(), quoted(value), format!("[{}]", list.join(", "))];
    let mut first = None;
    for form in forms {
        match Layer::parse(&format!("[{section}]\n{key} = {form}\n"), name) {
            // More than one key: the value broke out of its line.
            Ok(_) if form == value && value.contains('\n') => {}
            Ok(layer) => return Ok(layer),
            // The text as it is tells most, unless it is not a value at all.
            Err(error) => {
                let is_value = toml::from_str::<toml::Table>(&format!("v = {form}")).is_ok();
                if first.is_none() && is_value {
                    first = Some(error);
                }
            }
        }
    }
    let why = first.map_or_else(
        || format!("{value:?} is not a value"),
        |error| {
            let text = error.to_string();
            // The line is one that we made.
            text.split_once(": ")
                .map_or(text.clone(), |(_, why)| why.to_owned())
        },
    );
    Err(Error::usage(format!("environment variable {name}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Inputs;

    fn from(pairs: &[(&str, &str)]) -> Result<Layer> {
        from_environment(pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())))
    }

    #[test]
    fn values_of_every_type() {
        let layer = from(&[
            ("SEGD_CAPTURE_FPS", "15"),
            ("SEGD_MODEL_NAME", "123"),
            ("SEGD_CAPTURE_LOOP", "true"),
            ("SEGD_OVERLAY_CLASSES", "person, car"),
            ("SEGD_STREAM_OUTPUTS", "[\"a.mkv\", \"b.mkv\"]"),
            ("SEGD_PRIVACY_BLUR", "person"),
            ("SEGD_INPUT", "gst:videotestsrc ! appsink caps=\"video/x-raw\""),
            ("SEGD_LOG", "info"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        let sections = layer.sections;
        assert_eq!(sections.capture.fps, Some(15.0));
        assert_eq!(sections.model.name.as_deref(), Some("123"));
        assert_eq!(sections.capture.looped, Some(true));
        assert_eq!(sections.overlay.classes.unwrap(), ["person", "car"]);
        assert_eq!(sections.stream.outputs.unwrap(), ["a.mkv", "b.mkv"]);
        assert_eq!(sections.privacy.blur.unwrap(), ["person"]);
        let Some(Inputs(inputs)) = sections.capture.input else {
            panic!("no input");
        };
        assert_eq!(inputs, ["gst:videotestsrc ! appsink caps=\"video/x-raw\""]);
    }

    #[test]
    fn an_input_with_a_comma_is_one_source_and_a_list_is_a_list() {
        let inputs = |value: &str| from(&[("SEGD_INPUT", value)]).unwrap().sections.capture.input;
        assert_eq!(inputs("a,b.mp4"), Some(Inputs(vec!["a,b.mp4".into()])));
        let two = Inputs(vec!["a.mp4".into(), "b.mp4".into()]);
        assert_eq!(inputs("[\"a.mp4\", \"b.mp4\"]"), Some(two));
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        let layer = from(&[
            ("SEGD_STREAM_BITRATE_KBPS", ""),
            ("SEGD_OVERLAY_CLASSES", ""),
            ("SEGD_HEALTH_LISTEN", ""),
            ("SEGD_CAPTURE_NONSENSE", ""),
        ]);
        assert_eq!(layer.unwrap(), Layer::default());
        let layer = from(&[("SEGD_HEALTH_LISTEN", "\"\"")]).unwrap();
        assert_eq!(layer.health.listen.as_deref(), Some(""));
    }

    #[test]
    fn wrong_ones_are_refused_by_name() {
        for (name, value, part) in [
            ("SEGD_CAPTURE_FPS", "fast", "SEGD_CAPTURE_FPS"),
            ("SEGD_CAPTURE_WIDHT", "640", "did you mean `width`?"),
            ("SEGD_OVERLAY_ALPHA", "\n[model]\nname = 3", "SEGD_OVERLAY_ALPHA"),
            ("SEGD_CAPTURE_X\nY", "1", "is no configuration key"),
        ] {
            let error = from(&[(name, value)]).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn a_value_that_is_no_text_is_refused_by_its_name() {
        use std::os::unix::ffi::OsStringExt;
        let bytes = OsString::from_vec(vec![b'a', 0xff]);
        let error = from_environment([(OsString::from("SEGD_INPUT"), bytes.clone())]).unwrap_err();
        assert!(error.to_string().contains("SEGD_INPUT"), "{error}");
        for other in ["LANG", "SEGD_MODELS"] {
            assert!(from_environment([(OsString::from(other), bytes.clone())]).is_ok());
        }
    }

    #[test]
    fn a_value_stays_one_value() {
        let layer = from(&[("SEGD_MODEL_NAME", "\"a\"\nsize = 3")]).unwrap();
        assert_eq!(layer.sections.model.size, None);
    }
}
