//! Configuration keys from environment variables: `SEGD_SECTION_KEY`, for example `SEGD_STREAM_BITRATE_KBPS`.

use super::FileConfig;
use vision::error::{Error, Result};

/// Sections whose keys can be set.
const SECTIONS: [&str; 8] = [
    "capture", "model", "masks", "overlay", "privacy", "stream", "access", "health",
];

/// Short names of some keys.
const SHORT: [(&str, &str); 2] = [("camera", "capture_camera"), ("input", "capture_input")];

/// The keys that `variables` (names and values) set. Values are written as in the file, texts also without
/// quotes, and lists of texts also with commas between them.
///
/// # Errors
/// Usage, naming the variable: an unknown key with the nearest valid one, or a value of another type.
pub fn from_environment(variables: impl IntoIterator<Item = (String, String)>) -> Result<FileConfig> {
    let mut config = FileConfig::default();
    let mut variables: Vec<(String, String)> = variables
        .into_iter()
        .filter(|(name, _)| name.starts_with("SEGD_"))
        .collect();
    variables.sort();
    for (name, value) in &variables {
        let path = name["SEGD_".len()..].to_ascii_lowercase();
        let path = SHORT
            .iter()
            .find(|(short, _)| *short == path)
            .map_or(path.as_str(), |(_, long)| long);
        let Some((section, key)) = path.split_once('_').filter(|(s, _)| SECTIONS.contains(s)) else {
            continue;
        };
        if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') || key.is_empty() {
            return Err(Error::usage(format!("{name} is no key of the configuration")));
        }
        config = one(name, section, key, value)?.over(&config);
    }
    Ok(config)
}

/// The configuration that one variable makes: its value as it stands, as a text, or as a list of texts.
fn one(name: &str, section: &str, key: &str, value: &str) -> Result<FileConfig> {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let list: Vec<String> = value.split(',').map(|item| quoted(item.trim())).collect();
    let forms = [value.to_owned(), quoted(value), format!("[{}]", list.join(", "))];
    let mut first = None;
    for form in forms {
        match FileConfig::parse(&format!("[{section}]\n{key} = {form}\n"), name) {
            // More than one key: the value broke out of its line.
            Ok(_) if form == value && value.contains('\n') => {}
            Ok(config) => return Ok(config),
            // What stands there as it is tells most, unless it is no value at all.
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

    fn from(pairs: &[(&str, &str)]) -> Result<FileConfig> {
        from_environment(pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())))
    }

    #[test]
    fn values_of_every_type() {
        let config = from(&[
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
        assert_eq!(config.capture.fps, Some(15.0));
        assert_eq!(config.model.name.as_deref(), Some("123"));
        assert_eq!(config.capture.looped, Some(true));
        assert_eq!(config.overlay.classes.unwrap(), ["person", "car"]);
        assert_eq!(config.stream.outputs.unwrap(), ["a.mkv", "b.mkv"]);
        assert_eq!(config.privacy.blur.unwrap(), ["person"]);
        assert!(config.capture.input.unwrap().ends_with("caps=\"video/x-raw\""));
    }

    #[test]
    fn wrong_ones_are_refused_by_name() {
        for (name, value, part) in [
            ("SEGD_CAPTURE_FPS", "fast", "SEGD_CAPTURE_FPS"),
            ("SEGD_CAPTURE_WIDHT", "640", "did you mean `width`?"),
            ("SEGD_OVERLAY_ALPHA", "\n[model]\nname = 3", "SEGD_OVERLAY_ALPHA"),
            ("SEGD_CAPTURE_X\nY", "1", "no key"),
        ] {
            let error = from(&[(name, value)]).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn a_value_stays_one_value() {
        let config = from(&[("SEGD_MODEL_NAME", "\"a\"\nsize = 3")]).unwrap();
        assert_eq!(config.model.size, None);
    }
}
