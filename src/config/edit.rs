//! Keys written into a configuration file, which otherwise stays as it was written, comments included.

use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value};

use super::{Layer, Origin};
use vision::error::{Error, Result};
use vision::picture::write_whole;

/// What a key is set to.
#[derive(Debug, Clone, PartialEq)]
pub enum KeyValue {
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A number.
    Number(f64),
    /// Yes or no.
    Bool(bool),
    /// The default: the key is not there.
    Absent,
}

impl KeyValue {
    fn to_toml(&self) -> Option<Value> {
        Some(match self {
            Self::Text(text) => text.into(),
            Self::Texts(texts) => Value::Array(texts.iter().collect::<Array>()),
            Self::Number(number) => (*number).into(),
            Self::Bool(yes) => (*yes).into(),
            Self::Absent => return None,
        })
    }
}

/// A key of a section and what it is to be.
pub type Key = (&'static str, &'static str, KeyValue);

/// `text` with these keys of the camera called `camera`; in a file without `[[camera]]` they are the file's own.
///
/// # Errors
/// Usage, if the text is no TOML, has no such camera, or has something else where a section should be.
pub fn with_keys(text: &str, camera: &str, keys: &[Key]) -> Result<String> {
    let mut document: DocumentMut = text
        .parse()
        .map_err(|e| Error::usage("the file is no TOML").caused_by(e))?;
    let has_cameras = document.contains_key("camera");
    let target: &mut dyn TableLike = if has_cameras {
        let tables = document["camera"].as_array_of_tables_mut();
        let found = tables.and_then(|tables| {
            tables
                .iter_mut()
                .find(|table| table.get("name").and_then(Item::as_str) == Some(camera))
        });
        found.ok_or_else(|| Error::usage(format!("the file has no [[camera]] with name = {camera:?}")))?
    } else {
        document.as_table_mut()
    };
    for (section, key, value) in keys {
        let value = value.to_toml();
        if value.is_none() && !target.contains_key(section) {
            continue;
        }
        let item = target.entry(section).or_insert_with(|| {
            let mut table = Table::new();
            // Under [[camera]] as `overlay.alpha = ...`, otherwise under [overlay].
            table.set_dotted(has_cameras);
            Item::Table(table)
        });
        let table = item
            .as_table_like_mut()
            .ok_or_else(|| Error::usage(format!("{section} is no section in the file")))?;
        match value {
            None => drop(table.remove(key)),
            Some(mut value) => {
                // A comment behind the value stays.
                if let Some(Item::Value(before)) = table.get(key) {
                    *value.decor_mut() = before.decor().clone();
                }
                match table.get_mut(key) {
                    Some(item) => *item = Item::Value(value),
                    None => drop(table.insert(key, Item::Value(value))),
                }
            }
        }
    }
    Ok(document.to_string())
}

impl Origin {
    /// Writes keys of a camera into the configuration file, after it was seen that a start would take it; gives its path.
    ///
    /// # Errors
    /// Usage, if there is no file or a start would refuse what it would become; fatal, if it can't be written.
    pub fn save(&self, camera: &str, keys: &[Key]) -> Result<PathBuf> {
        let path = self.file().ok_or_else(|| {
            Error::usage("segd was started without a configuration file")
                .hint("start it with --config FILE to keep what is changed here")
        })?;
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|e| Error::usage(format!("{}: can't be read", path.display())).caused_by(e))
        };
        let text = with_keys(&read(&path)?, camera, keys)?;
        self.resolve(Layer::parse(&text, &path.display().to_string())?)?;
        write_whole(&path, text.as_bytes())?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> [Key; 4] {
        [
            ("overlay", "alpha", KeyValue::Number(0.25)),
            ("overlay", "classes", KeyValue::Absent),
            ("overlay", "visualize", KeyValue::Text("contour".into())),
            ("privacy", "blur", KeyValue::Texts(vec!["person".into()])),
        ]
    }

    #[test]
    fn all_else_stays_as_it_was_written() {
        let before = "# Mine.\n[overlay]\nalpha = 0.5   # half\nclasses = [\"cat\"]\n\n[capture]\ninput = \"test://\" # a\n";
        let after = with_keys(before, "segd", &keys()).unwrap();
        assert_eq!(
            after,
            "# Mine.\n[overlay]\nalpha = 0.25   # half\nvisualize = \"contour\"\n\n[capture]\ninput = \"test://\" # a\n\n\
             [privacy]\nblur = [\"person\"]\n"
        );
        assert_eq!(
            with_keys(&after, "segd", &keys()).unwrap(),
            after,
            "once more changes nothing"
        );
    }

    #[test]
    fn of_several_cameras_one_is_changed() {
        let before = "overlay.alpha = 0.1\n[[camera]]\nname = \"a\"\n[[camera]]\nname = \"b\"\noverlay = { alpha = 0.3, classes = [] }\n\
                      [camera.capture]\ninput = \"test://\"\n";
        let a = with_keys(before, "a", &keys()).unwrap();
        assert!(
            a.starts_with("overlay.alpha = 0.1\n[[camera]]\nname = \"a\"\noverlay.alpha = 0.25\n"),
            "{a}"
        );
        assert!(
            a.ends_with("overlay = { alpha = 0.3, classes = [] }\n[camera.capture]\ninput = \"test://\"\n"),
            "{a}"
        );
        let b = Layer::parse(&with_keys(before, "b", &keys()).unwrap(), "b").unwrap();
        assert_eq!(b.camera[1].sections.overlay.alpha, Some(0.25));
        assert_eq!(b.camera[1].sections.overlay.classes, None);
        assert_eq!(b.camera[1].sections.privacy.blur, Some(vec!["person".into()]));
        assert_eq!(b.camera[0].sections.overlay.alpha, None);
    }

    #[test]
    fn what_can_t_be_changed_is_said() {
        for (text, part) in [
            ("[[camera]]\nname = \"b\"\n", "no [[camera]] with name = \"a\""),
            ("camera = [{ name = \"a\" }]\n", "no [[camera]]"),
            ("overlay = 3\n", "overlay is no section"),
            ("overlay = \n", "no TOML"),
        ] {
            let error = with_keys(text, "a", &keys()).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
