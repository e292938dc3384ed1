//! Keys written into a configuration file, which otherwise stays as it was written, comments included.

use std::collections::BTreeMap;
use std::path::PathBuf;

use similar::{ChangeTag, TextDiff};
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, TableLike, Value};

use super::layer::MAX_BYTES;
use super::{Layer, LineLayer, Origin, ZoneLayer};
use crate::events::Watch;
use crate::events::geometry::Point;
use vision::error::{Error, Result};
use vision::file;
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
    /// A whole number.
    Whole(u32),
    /// Texts by their names.
    Named(BTreeMap<String, String>),
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
            Self::Whole(number) => i64::from(*number).into(),
            Self::Named(texts) => Value::InlineTable(texts.iter().collect()),
            Self::Bool(yes) => (*yes).into(),
            Self::Absent => return None,
        })
    }
}

/// A key of a section and what it is to be.
pub type Key = (&'static str, &'static str, KeyValue);

/// What is to change in a file, of one camera.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edit {
    /// Its keys.
    pub keys: Vec<Key>,
    /// All that is watched in its pictures; `None` leaves zones and lines alone.
    pub watch: Option<Watch>,
}

/// A file with an edit, not written yet.
#[derive(Debug, Clone)]
pub struct Edited {
    path: PathBuf,
    before: String,
    after: String,
}

impl Edited {
    /// The lines that go and those that come, each with the section that it stands in, for people. All other lines stay, and
    /// are not said.
    pub fn difference(&self) -> String {
        let diff = TextDiff::from_lines(&self.before, &self.after);
        let (mut text, mut section, mut told) = (String::new(), String::new(), String::new());
        for change in diff.iter_all_changes() {
            let line = change.value().trim_end();
            let sign = match change.tag() {
                ChangeTag::Equal if line.starts_with('[') => {
                    line.clone_into(&mut section);
                    continue;
                }
                // Of several tables of one kind, which.
                ChangeTag::Equal if section.starts_with("[[") && line.starts_with("name") => {
                    section.push(' ');
                    section.push_str(line);
                    continue;
                }
                ChangeTag::Equal => continue,
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
            };
            if line.is_empty() {
                continue;
            }
            if line.starts_with('[') {
                line.clone_into(&mut section);
                told.clone_from(&section);
            }
            if section != told {
                text.push_str(&format!("  {section}\n"));
                told.clone_from(&section);
            }
            text.push_str(&format!("{sign} {line}\n"));
        }
        text
    }

    /// Writes it; gives the file's path.
    ///
    /// # Errors
    /// Fatal, if it can't be written.
    pub fn write(&self) -> Result<PathBuf> {
        write_whole(&self.path, self.after.as_bytes())?;
        Ok(self.path.clone())
    }
}

/// Sets a key, or takes it away; a comment behind its value stays.
fn set(table: &mut dyn TableLike, key: &str, value: Option<Value>) {
    let Some(mut value) = value else {
        table.remove(key);
        return;
    };
    if let Some(Item::Value(before)) = table.get(key) {
        *value.decor_mut() = before.decor().clone();
    }
    match table.get_mut(key) {
        Some(item) => *item = Item::Value(value),
        None => drop(table.insert(key, Item::Value(value))),
    }
}

/// Sets keys of the camera called `camera`; in a file without `[[camera]]` they are the file's own.
fn set_keys(document: &mut DocumentMut, camera: &str, keys: &[Key]) -> Result<()> {
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
        set(table, key, value);
    }
    Ok(())
}

/// A `[[zone]]` or `[[line]]`.
struct Place {
    name: String,
    camera: Option<String>,
    /// All its other keys, always in the same order.
    keys: Vec<(&'static str, Option<Value>)>,
}

/// A number as people write it: without a fraction where it has none.
fn number(value: f64) -> Value {
    const EXACT: f64 = 9e15;
    match value.fract() == 0.0 && value.abs() < EXACT {
        true => (value as i64).into(),
        false => value.into(),
    }
}

fn points(points: &[Point]) -> Option<Value> {
    let pair = |point: &Point| Value::Array(point.iter().map(|share| number(*share)).collect());
    Some(Value::Array(points.iter().map(pair).collect()))
}

fn texts(names: Option<&Vec<String>>) -> Option<Value> {
    names.map(|names| Value::Array(names.iter().collect()))
}

impl From<ZoneLayer> for Place {
    fn from(zone: ZoneLayer) -> Self {
        let inside = zone.inside.map(|inside| inside.as_str().into());
        Self {
            keys: vec![
                ("polygon", points(&zone.polygon)),
                ("classes", texts(zone.classes.as_ref())),
                ("enter", zone.enter.map(number)),
                ("leave", zone.leave.map(number)),
                ("after_ms", zone.after_ms.map(number)),
                ("dwell_s", zone.dwell_s.map(number)),
                ("at_most", zone.at_most.map(|most| i64::from(most).into())),
                ("none_for_s", zone.none_for_s.map(number)),
                ("min_region", zone.min_region.map(number)),
                ("inside", inside),
            ],
            name: zone.name,
            camera: zone.camera,
        }
    }
}

impl From<LineLayer> for Place {
    fn from(line: LineLayer) -> Self {
        let direction = line.direction.map(|direction| direction.as_str().into());
        Self {
            keys: vec![
                ("points", points(&line.points)),
                ("classes", texts(line.classes.as_ref())),
                ("direction", direction),
                ("margin", line.margin.map(number)),
            ],
            name: line.name,
            camera: line.camera,
        }
    }
}

/// Makes the tables of a `kind`, which are `old`, those of `camera` that are `new`. Tables of other cameras stay, and keys that
/// mean the same as before.
fn set_places(
    document: &mut DocumentMut,
    kind: &str,
    camera: &str,
    mut old: Vec<Place>,
    new: Vec<Place>,
) -> Result<()> {
    let has_cameras = document.contains_key("camera");
    let tables = document.remove(kind).map(Item::into_array_of_tables);
    let mut tables = match tables {
        None => ArrayOfTables::new(),
        Some(tables) => {
            tables.map_err(|_| Error::usage(format!("{kind} is no list of tables in the file")))?
        }
    };
    let is_own = |place: &Place| place.camera.as_deref().is_none_or(|of| of == camera);
    for index in (0..old.len()).rev() {
        if is_own(&old[index]) && !new.iter().any(|place| place.name == old[index].name) {
            tables.remove(index);
            old.remove(index);
        }
    }
    for place in new {
        let same = |old: &Place| is_own(old) && old.name == place.name;
        let known = old
            .iter()
            .position(same)
            .and_then(|at| Some((at, tables.get_mut(at)?)));
        match known {
            Some((at, table)) => {
                let before = old[at].keys.iter().map(|(_, value)| value);
                for ((key, value), before) in place.keys.into_iter().zip(before) {
                    let text = |value: &Option<Value>| value.as_ref().map(Value::to_string);
                    if text(&value) != text(before) {
                        set(table, key, value);
                    }
                }
            }
            None => {
                let mut table = Table::new();
                set(&mut table, "name", Some(place.name.into()));
                set(&mut table, "camera", has_cameras.then(|| camera.into()));
                for (key, value) in place.keys {
                    set(&mut table, key, value);
                }
                tables.push(table);
            }
        }
    }
    if !tables.is_empty() {
        document.insert(kind, Item::ArrayOfTables(tables));
    }
    Ok(())
}

/// `text`, which is a valid configuration, with an edit of the camera called `camera`.
///
/// # Errors
/// Usage, if the text is no TOML, has no such camera, or has something else where a section should be.
pub fn with_edit(text: &str, camera: &str, edit: &Edit) -> Result<String> {
    let mut document: DocumentMut = text
        .parse()
        .map_err(|e| Error::usage("the file is no TOML").caused_by(e))?;
    set_keys(&mut document, camera, &edit.keys)?;
    if let Some(watch) = &edit.watch {
        let layer = Layer::parse(text, "file")?;
        // As they are understood: a key that says what the default is means the same as none.
        let zone = |zone: &ZoneLayer| -> Result<Place> {
            let camera = zone.camera.clone();
            Ok(ZoneLayer {
                camera,
                ..(&zone.resolve()?).into()
            }
            .into())
        };
        let line = |line: &LineLayer| -> Result<Place> {
            let camera = line.camera.clone();
            Ok(LineLayer {
                camera,
                ..(&line.resolve()?).into()
            }
            .into())
        };
        let zones = layer.zone.iter().map(zone).collect::<Result<_>>()?;
        let lines = layer.line.iter().map(line).collect::<Result<_>>()?;
        let new = watch.zones.iter().map(|zone| ZoneLayer::from(zone).into());
        set_places(&mut document, "zone", camera, zones, new.collect())?;
        let new = watch.lines.iter().map(|line| LineLayer::from(line).into());
        set_places(&mut document, "line", camera, lines, new.collect())?;
    }
    Ok(document.to_string())
}

impl Origin {
    /// The configuration file with an edit of a camera, after it was seen that a start would take it.
    ///
    /// # Errors
    /// Usage, if there is no file, it can't be read, or a start would refuse what it would become.
    pub fn edit(&self, camera: &str, edit: &Edit) -> Result<Edited> {
        let path = self.file().ok_or_else(|| {
            Error::usage("segd was started without a configuration file")
                .hint("start it with --config FILE to keep what is changed here")
        })?;
        // What is no file can't be written to again.
        let before = file::check(&path)
            .and_then(|()| file::read_text(&path, MAX_BYTES))
            .map_err(|e| Error::usage(format!("{}: can't be read", path.display())).caused_by(e))?;
        let after = with_edit(&before, camera, edit)?;
        self.resolve(Layer::parse(&after, &path.display().to_string())?)?;
        Ok(Edited { path, before, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layers, Settings};

    fn keys() -> Edit {
        let keys = vec![
            ("overlay", "alpha", KeyValue::Number(0.25)),
            ("overlay", "classes", KeyValue::Absent),
            ("overlay", "visualize", KeyValue::Text("contour".into())),
            ("privacy", "blur", KeyValue::Texts(vec!["person".into()])),
        ];
        Edit { keys, watch: None }
    }

    #[test]
    fn all_else_stays_as_it_was_written() {
        let before = "# Mine.\n[overlay]\nalpha = 0.5   # half\nclasses = [\"cat\"]\n\n[capture]\ninput = \"test://\" # a\n";
        let after = with_edit(before, "segd", &keys()).unwrap();
        assert_eq!(
            after,
            "# Mine.\n[overlay]\nalpha = 0.25   # half\nvisualize = \"contour\"\n\n[capture]\ninput = \"test://\" # a\n\n\
             [privacy]\nblur = [\"person\"]\n"
        );
        assert_eq!(
            with_edit(&after, "segd", &keys()).unwrap(),
            after,
            "once more changes nothing"
        );
    }

    #[test]
    fn of_several_cameras_one_is_changed() {
        let before = "overlay.alpha = 0.1\n[[camera]]\nname = \"a\"\n[[camera]]\nname = \"b\"\noverlay = { alpha = 0.3, classes = [] }\n\
                      [camera.capture]\ninput = \"test://\"\n";
        let a = with_edit(before, "a", &keys()).unwrap();
        assert!(
            a.starts_with("overlay.alpha = 0.1\n[[camera]]\nname = \"a\"\noverlay.alpha = 0.25\n"),
            "{a}"
        );
        assert!(
            a.ends_with("overlay = { alpha = 0.3, classes = [] }\n[camera.capture]\ninput = \"test://\"\n"),
            "{a}"
        );
        let b = Layer::parse(&with_edit(before, "b", &keys()).unwrap(), "b").unwrap();
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
            let error = with_edit(text, "a", &keys()).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }

    const FILE: &str = "capture.input = \"test://\" # a\nstream.outputs = [\"null://\"]\n";

    fn watch(text: &str) -> Watch {
        let layer = Layer::parse(&format!("{FILE}{text}"), "x").unwrap();
        let settings = Settings::resolve(&Layers::of_file(layer)).unwrap();
        settings.cameras[0].watch.clone()
    }

    fn with_watch(before: &str, after: &str) -> String {
        let edit = Edit {
            watch: Some(watch(after)),
            ..Edit::default()
        };
        let text = with_edit(&format!("{FILE}{before}"), "segd", &edit).unwrap();
        text.strip_prefix(FILE).unwrap().to_owned()
    }

    const DRIVE: &str = "[[zone]]\nname = \"drive\"\npolygon = [[0, 0], [1, 0], [1, 0.5]]\n";
    const GATE: &str = "[[line]]\nname = \"gate\"\npoints = [[0, 0.5], [1, 0.5]]\n";

    #[test]
    fn zones_come_change_and_go_and_all_else_stays() {
        assert_eq!(with_watch("", ""), "");
        let both = format!("\n{DRIVE}classes = [\"cat\"]\nafter_ms = 250\n\n{GATE}direction = \"left\"\n");
        assert_eq!(with_watch("", &both), both);
        let before = format!(
            "# The drive.\n{DRIVE}enter = 0.01 # the default\nafter_ms = 100 # short\n\n[overlay]\nalpha = 0.1\n"
        );
        // What means the same stays as it is written.
        assert_eq!(
            with_watch(&before, DRIVE),
            before.replace("after_ms = 100 # short\n", "")
        );
        let changed = with_watch(&before, &format!("{DRIVE}after_ms = 300\n{GATE}"));
        assert_eq!(
            changed,
            before.replace("= 100 # short\n", &format!("= 300 # short\n\n{GATE}")),
            "the comment stays"
        );
        assert_eq!(with_watch(&before, ""), "\n[overlay]\nalpha = 0.1\n");
        // A list of inline tables becomes tables.
        let inline =
            "zone = [{ name = \"a\", polygon = [[0, 0], [1, 0], [1, 1]] }]\n[overlay]\nalpha = 0.1\n";
        let text = with_watch(inline, DRIVE);
        assert!(!text.contains("\"a\""), "{text}");
        assert_eq!(watch(&text), watch(DRIVE), "{text}");
    }

    #[test]
    fn zones_of_other_cameras_stay() {
        let before = format!(
            "[[camera]]\nname = \"a\"\n[[camera]]\nname = \"b\"\n{DRIVE}camera = \"b\"\n[[zone]]\nname = \"old\"\ncamera = \
             \"a\"\npolygon = [[0, 0], [1, 0], [1, 1]]\n"
        );
        let edit = Edit {
            watch: Some(watch(&DRIVE.replace("drive", "new"))),
            ..Edit::default()
        };
        let after = with_edit(&before, "a", &edit).unwrap();
        let zones = Layer::parse(&after, "x").unwrap().zone;
        let names: Vec<_> = zones
            .iter()
            .map(|zone| (&*zone.name, zone.camera.as_deref()))
            .collect();
        assert_eq!(names, [("drive", Some("b")), ("new", Some("a"))], "{after}");
    }

    #[test]
    fn the_difference_is_said_in_lines_with_their_section() {
        let before = format!("{FILE}[overlay]\nalpha = 0.5\nlegend = true\n{DRIVE}");
        let mut edit = keys();
        edit.watch = Some(watch(&(format!("{DRIVE}after_ms = 300\n") + GATE)));
        let edited = Edited {
            path: PathBuf::new(),
            after: with_edit(&before, "segd", &edit).unwrap(),
            before,
        };
        assert_eq!(
            edited.difference(),
            "  [overlay]\n- alpha = 0.5\n+ alpha = 0.25\n+ visualize = \"contour\"\n+ [privacy]\n+ blur = [\"person\"]\n  \
             [[zone]] name = \"drive\"\n+ after_ms = 300\n+ [[line]]\n+ name = \"gate\"\n+ points = [[0, 0.5], [1, 0.5]]\n"
        );
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_what_is_watched(
            corners in proptest::collection::vec((0.0..1.0f64, 0.0..1.0f64), 3..6),
            ends in ((0.0..0.5f64, 0.0..1.0f64), (0.5..1.0f64, 0.0..1.0f64)),
            enter in 0.001..1.0f64, after in 0.0..5000.0f64, count in 0..9u32,
        ) {
            let corners: Vec<Point> = corners.into_iter().map(|(x, y)| [x, y]).collect();
            let zone = ZoneLayer {
                name: "z".into(), polygon: corners, enter: Some(enter), after_ms: Some(after), at_most: Some(count),
                ..ZoneLayer::default()
            };
            let line = LineLayer {
                name: "l".into(), points: vec![ends.0.into(), ends.1.into()], ..LineLayer::default()
            };
            let settings = Settings::resolve(&Layers::of_file(Layer::parse(FILE, "x").unwrap())).unwrap();
            // Most polygons cross themselves.
            if let Ok(wanted) = settings.watch_with("segd", &[zone], &[line]) {
                let edit = Edit { watch: Some(wanted.clone()), ..Edit::default() };
                let text = with_edit(FILE, "segd", &edit).unwrap();
                proptest::prop_assert_eq!(watch(text.strip_prefix(FILE).unwrap()), wanted);
            }
        }
    }
}
