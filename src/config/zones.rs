//! `[[zone]]` and `[[line]]`: what is watched in the pictures, and in those of which camera.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CameraSettings, Settings, check_range};
use crate::events::gate::Direction;
use crate::events::geometry::{Line, Point, Polygon};
use crate::events::measure::Inside;
use crate::events::{LineRule, Watch, Zone};
use vision::error::{Error, Result};

/// `[[zone]]`: a part of the picture.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ZoneLayer {
    /// Its name: in events, topics and metrics.
    pub name: String,
    /// The camera's name; needed where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub camera: Option<String>,
    /// Its corners, as shares of the picture's width and height.
    pub polygon: Vec<Point>,
    /// The classes that are looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
    /// The share of the zone from which on a class is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enter: Option<f64>,
    /// The share below which it is not any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leave: Option<f64>,
    /// How many milliseconds every picture must show it before it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<f64>,
    /// What stays for so many seconds is told of once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dwell_s: Option<f64>,
    /// More regions, or tracks, than this are told of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<u32>,
    /// A class that is not there for so many seconds is told of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub none_for_s: Option<f64>,
    /// A region has at least this share of the picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_region: Option<f64>,
    /// `footing`, `centroid` or `overlap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside: Option<Inside>,
}

/// `[[line]]`: a line that tracks cross.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LineLayer {
    /// Its name: in events, topics and metrics.
    pub name: String,
    /// The camera's name; needed where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub camera: Option<String>,
    /// Its two ends, as shares of the picture's width and height.
    pub points: Vec<Point>,
    /// The classes whose tracks count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
    /// The only way that counts, `left` or `right`, as seen from the first point to the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// A track is on a side once it is this far from the line, as a share of the picture's height.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
}

/// A day: the longest time that a rule may ask for, in seconds.
const DAY_S: f64 = 86_400.0;
/// What a zone's `enter` and `min_region`, and a line's `margin`, are if nothing is said.
const ENTER: f64 = 0.01;
const MIN_REGION: f64 = 0.001;
const MARGIN: f64 = 0.01;

/// A value that is not the default.
fn unless<T: PartialEq>(value: T, default: &T) -> Option<T> {
    (value != *default).then_some(value)
}

fn unless_empty(names: &[String]) -> Option<Vec<String>> {
    (!names.is_empty()).then(|| names.to_vec())
}

/// The keys that make this zone, of whichever camera; those that say what the default is are left out.
impl From<&Zone> for ZoneLayer {
    fn from(zone: &Zone) -> Self {
        let seconds = |time: Duration| time.as_nanos() as f64 / 1e9;
        Self {
            name: zone.name.clone(),
            camera: None,
            polygon: zone.polygon.points().to_vec(),
            classes: unless_empty(&zone.classes),
            enter: unless(zone.enter, &ENTER),
            leave: unless(zone.leave, &(zone.enter / 2.0)),
            after_ms: unless(zone.after.as_nanos() as f64 / 1e6, &0.0),
            dwell_s: zone.dwell.map(seconds),
            at_most: zone.at_most,
            none_for_s: zone.none_for.map(seconds),
            min_region: unless(zone.min_region, &MIN_REGION),
            inside: unless(zone.inside, &Inside::default()),
        }
    }
}

/// The keys that make this line, of whichever camera; those that say what the default is are left out.
impl From<&LineRule> for LineLayer {
    fn from(line: &LineRule) -> Self {
        Self {
            name: line.name.clone(),
            camera: None,
            points: vec![line.line.from, line.line.to],
            classes: unless_empty(&line.classes),
            direction: line.direction,
            margin: unless(line.margin, &MARGIN),
        }
    }
}

impl ZoneLayer {
    /// The zone, checked.
    pub(super) fn resolve(&self) -> Result<Zone> {
        let share = |key: &str, value: Option<f64>, default: f64| {
            value.map_or(Ok(default), |value| check_range(key, value, 0.0..=1.0))
        };
        let seconds = |key: &str, value: Option<f64>| -> Result<Option<Duration>> {
            let checked = value.map(|value| check_range(key, value, 0.0..=DAY_S));
            Ok(checked.transpose()?.map(Duration::from_secs_f64))
        };
        let polygon =
            Polygon::new(self.polygon.clone()).map_err(|why| Error::usage(format!("polygon: {why}")))?;
        let enter = share("enter", self.enter, ENTER)?;
        if enter == 0.0 {
            return Err(Error::usage(
                "enter = 0, expected more: nothing at all would be enough",
            ));
        }
        let leave = share("leave", self.leave, enter / 2.0)?;
        if leave > enter {
            return Err(Error::usage(format!(
                "leave = {leave}, expected at most enter = {enter}"
            )));
        }
        let after_ms = check_range("after_ms", self.after_ms.unwrap_or(0.0), 0.0..=DAY_S * 1e3)?;
        Ok(Zone {
            name: self.name.clone(),
            polygon,
            classes: trimmed(self.classes.as_deref())?,
            enter,
            leave,
            after: Duration::from_secs_f64(after_ms / 1e3),
            dwell: seconds("dwell_s", self.dwell_s)?,
            at_most: self.at_most,
            none_for: seconds("none_for_s", self.none_for_s)?,
            min_region: share("min_region", self.min_region, MIN_REGION)?,
            inside: self.inside.unwrap_or_default(),
        })
    }
}

impl LineLayer {
    /// The line, checked.
    pub(super) fn resolve(&self) -> Result<LineRule> {
        let line = Line::new(&self.points).map_err(|why| Error::usage(format!("points: {why}")))?;
        Ok(LineRule {
            name: self.name.clone(),
            line,
            classes: trimmed(self.classes.as_deref())?,
            direction: self.direction,
            margin: check_range("margin", self.margin.unwrap_or(MARGIN), 0.0..=0.5)?,
        })
    }
}

/// The names without spaces around them; none if nothing is said.
fn trimmed(names: Option<&[String]>) -> Result<Vec<String>> {
    match names {
        None => Ok(Vec::new()),
        Some([]) => {
            Err(Error::usage("classes = [], expected at least one").hint("leave it out for all of them"))
        }
        Some(names) => Ok(names.iter().map(|name| name.trim().to_owned()).collect()),
    }
}

/// Gives each camera its zones and lines.
///
/// # Errors
/// Usage, naming zone or line and key: two of one name, a camera that there is not, or a value that is none.
pub(super) fn assign(
    zones: &[ZoneLayer],
    lines: &[LineLayer],
    tells_hidden: bool,
    cameras: &mut [CameraSettings],
) -> Result<()> {
    let mut names = BTreeSet::new();
    for camera in cameras.iter_mut() {
        camera.watch = Watch {
            tells_hidden,
            ..Watch::default()
        };
    }
    for zone in zones {
        let within = |e: Error| e.within(&format!("zone {}", zone.name));
        check_name("[[zone]]", &zone.name, &mut names)?;
        let at = camera_of(zone.camera.as_deref(), cameras).map_err(within)?;
        cameras[at].watch.zones.push(zone.resolve().map_err(within)?);
    }
    for line in lines {
        let within = |e: Error| e.within(&format!("line {}", line.name));
        check_name("[[line]]", &line.name, &mut names)?;
        let at = camera_of(line.camera.as_deref(), cameras).map_err(within)?;
        cameras[at].watch.lines.push(line.resolve().map_err(within)?);
    }
    Ok(())
}

impl Settings {
    /// What would be watched in the pictures of `camera` with these zones and lines in place of its own; those of the other
    /// cameras stay. What they say of a camera is not looked at.
    ///
    /// # Errors
    /// Usage, as [`resolve`](Self::resolve) has it for `[[zone]]` and `[[line]]`, or if there is no such camera.
    pub fn watch_with(&self, camera: &str, zones: &[ZoneLayer], lines: &[LineLayer]) -> Result<Watch> {
        let mut cameras = self.cameras.clone();
        let at = camera_of(Some(camera), &cameras)?;
        let of = |name: &str| Some(name.to_owned());
        let (mut all_zones, mut all_lines) = (Vec::new(), Vec::new());
        for other in self.cameras.iter().filter(|other| other.name != camera) {
            all_zones.extend(other.watch.zones.iter().map(|zone| ZoneLayer {
                camera: of(&other.name),
                ..zone.into()
            }));
            all_lines.extend(other.watch.lines.iter().map(|line| LineLayer {
                camera: of(&other.name),
                ..line.into()
            }));
        }
        all_zones.extend(zones.iter().map(|zone| ZoneLayer {
            camera: of(camera),
            ..zone.clone()
        }));
        all_lines.extend(lines.iter().map(|line| LineLayer {
            camera: of(camera),
            ..line.clone()
        }));
        let tells_hidden = self.cameras[at].watch.tells_hidden;
        assign(&all_zones, &all_lines, tells_hidden, &mut cameras)?;
        Ok(std::mem::take(&mut cameras[at].watch))
    }
}

/// A name is part of topics, so it has no slash; and it stands for one zone or line alone.
fn check_name<'a>(table: &str, name: &'a str, names: &mut BTreeSet<&'a str>) -> Result<()> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(Error::usage(format!(
            "{table} name = {name:?}, expected letters, digits, - and _"
        )));
    }
    match names.insert(name) {
        true => Ok(()),
        false => Err(Error::usage(format!(
            "two zones or lines of the name {name:?}, expected another name for each"
        ))),
    }
}

fn camera_of(name: Option<&str>, cameras: &[CameraSettings]) -> Result<usize> {
    let all = || {
        let names: Vec<&str> = cameras.iter().map(|camera| camera.name.as_str()).collect();
        names.join(", ")
    };
    match name {
        Some(name) => cameras
            .iter()
            .position(|camera| camera.name == name)
            .ok_or_else(|| Error::usage(format!("camera = {name:?}, expected one of {}", all()))),
        None if cameras.len() == 1 => Ok(0),
        None => Err(Error::usage(format!(
            "camera is not set, expected one of {}",
            all()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layer, Layers, Settings};

    const SQUARE: &str = "polygon = [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]\n";

    fn resolved(text: &str) -> Result<Settings> {
        let base = "capture.input = \"test://\"\nstream.outputs = [\"null://\"]\n";
        Settings::resolve(&Layers::of_file(Layer::parse(
            &format!("{base}{text}"),
            "segd.toml",
        )?))
    }

    #[test]
    fn a_zone_has_defaults_and_each_camera_its_own() {
        let settings = resolved(&format!("[[zone]]\nname = \"drive\"\n{SQUARE}")).unwrap();
        let watch = &settings.cameras[0].watch;
        let zone = &watch.zones[0];
        assert_eq!(
            (zone.enter, zone.leave, zone.after),
            (0.01, 0.005, Duration::ZERO)
        );
        assert_eq!((zone.dwell, zone.at_most, zone.none_for), (None, None, None));
        assert!(zone.classes.is_empty() && !watch.tells_hidden);
        let text = format!(
            "[[camera]]\nname = \"a\"\ncapture.input = \"test://\"\nstream.outputs = [\"a/\"]\n[[camera]]\nname = \
             \"b\"\ncapture.input = \"test://\"\nstream.outputs = [\"b/\"]\n[[zone]]\nname = \"z\"\ncamera = \"b\"\n{SQUARE}\
             after_ms = 250\n[[line]]\nname = \"l\"\ncamera = \"a\"\npoints = [[0, 0.5], [1, 0.5]]\ndirection = \
             \"left\"\n[events]\nhidden = true\n"
        );
        let layer = Layer::parse(&text, "segd.toml").unwrap();
        let settings = Settings::resolve(&Layers::of_file(layer)).unwrap();
        let [a, b] = settings.cameras.as_slice() else {
            panic!("two cameras");
        };
        assert_eq!(
            (a.watch.zones.len(), a.watch.lines[0].direction),
            (0, Some(Direction::Left))
        );
        assert_eq!(b.watch.zones[0].after, Duration::from_millis(250));
        assert!(b.watch.tells_hidden);
    }

    #[test]
    fn a_zone_s_keys_make_it_again_and_leave_defaults_out() {
        let text = format!(
            "[[zone]]\nname = \"plain\"\n{SQUARE}[[zone]]\nname = \"all\"\n{SQUARE}classes = [\"cat\"]\nenter = 0.2\nleave = \
             0.15\nafter_ms = 250.5\ndwell_s = 1.3\nat_most = 0\nnone_for_s = 0.7\nmin_region = 0.0\ninside = \
             \"overlap\"\n[[line]]\nname = \"gate\"\npoints = [[0, 0.5], [1, 0.5]]\n[[line]]\nname = \"both\"\npoints = \
             [[0, 0], [1, 1]]\nclasses = [\"cat\"]\ndirection = \"right\"\nmargin = 0.05\n"
        );
        let settings = resolved(&text).unwrap();
        let watch = &settings.cameras[0].watch;
        let zones: Vec<ZoneLayer> = watch.zones.iter().map(Into::into).collect();
        let lines: Vec<LineLayer> = watch.lines.iter().map(Into::into).collect();
        let plain = serde_json::json!({ "name": "plain", "polygon": [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]] });
        assert_eq!(serde_json::to_value(&zones[0]).unwrap(), plain);
        assert_eq!((zones[1].after_ms, zones[1].dwell_s), (Some(250.5), Some(1.3)));
        let gate = serde_json::json!({ "name": "gate", "points": [[0.0, 0.5], [1.0, 0.5]] });
        assert_eq!(serde_json::to_value(&lines[0]).unwrap(), gate);
        assert_eq!(settings.watch_with("segd", &zones, &lines).unwrap(), *watch);
    }

    #[test]
    fn one_camera_s_zones_are_replaced_beside_those_of_others() {
        let text = format!(
            "[[camera]]\nname = \"a\"\ncapture.input = \"test://\"\nstream.outputs = [\"a/\"]\n[[camera]]\nname = \
             \"b\"\ncapture.input = \"test://\"\nstream.outputs = [\"b/\"]\n[[zone]]\nname = \"z\"\ncamera = \"b\"\n{SQUARE}\
             [events]\nhidden = true\n"
        );
        let settings = Settings::resolve(&Layers::of_file(Layer::parse(&text, "x").unwrap())).unwrap();
        let of = |name: &str| ZoneLayer {
            name: name.into(),
            polygon: vec![[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]],
            ..ZoneLayer::default()
        };
        let watch = settings.watch_with("a", &[of("y")], &[]).unwrap();
        assert_eq!((watch.zones.len(), watch.tells_hidden), (1, true));
        let said = settings.watch_with("a", &[of("z")], &[]).unwrap_err().to_string();
        assert!(said.contains("two zones or lines of the name \"z\""), "{said}");
        assert_eq!(settings.watch_with("b", &[of("z")], &[]).unwrap().zones.len(), 1);
        assert!(settings.watch_with("c", &[], &[]).is_err());
    }

    #[test]
    fn what_can_not_be_meant_is_refused_by_name_and_key() {
        let zone = |rest: &str| format!("[[zone]]\nname = \"z\"\n{rest}");
        let square = |rest: &str| zone(&format!("{SQUARE}{rest}\n"));
        for (text, parts) in [
            (format!("[[zone]]\n{SQUARE}"), ["[[zone]] name = \"\"", "letters"]),
            (format!("[[zone]]\nname = \"a/b\"\n{SQUARE}"), ["a/b", "letters"]),
            (zone(""), ["zone z: polygon", "0 points"]),
            (
                zone("polygon = [[0, 0], [1, 1], [1, 0], [0, 1]]\n"),
                ["zone z: polygon", "crosses itself"],
            ),
            (
                zone("polygon = [[0, 0], [1, 1.5], [1, 0]]\n"),
                ["zone z: polygon", "point 2 is [1, 1.5]"],
            ),
            (square("enter = 1.5"), ["zone z: enter = 1.5", "0 to 1"]),
            (square("enter = 0"), ["zone z: enter = 0", "expected more"]),
            (square("enter = nan"), ["zone z: enter = NaN", "0 to 1"]),
            (
                square("enter = 0.1\nleave = 0.2"),
                ["zone z: leave = 0.2", "enter = 0.1"],
            ),
            (square("after_ms = -1"), ["zone z: after_ms = -1", "expected 0"]),
            (square("dwell_s = inf"), ["zone z: dwell_s = inf", "expected 0"]),
            (
                square("none_for_s = 90000"),
                ["zone z: none_for_s = 90000", "86400"],
            ),
            (square("min_region = 2"), ["zone z: min_region = 2", "0 to 1"]),
            (square("inside = \"box\""), ["unknown variant `box`", "footing"]),
            (square("classes = []"), ["zone z: classes = []", "at least one"]),
            (square("camera = \"yard\""), ["zone z: camera = \"yard\"", "segd"]),
            (square("sides = 4"), ["unknown field `sides`", "line"]),
            (square("") + &square(""), ["two zones or lines", "\"z\""]),
            (
                square("") + "[[line]]\nname = \"z\"\npoints = [[0, 0], [1, 1]]\n",
                ["two zones or lines", "\"z\""],
            ),
            (
                "[[line]]\nname = \"l\"\npoints = [[0, 0]]\n".into(),
                ["line l: points", "expected 2"],
            ),
            (
                "[[line]]\nname = \"l\"\npoints = [[0, 0], [1, 1]]\nmargin = 0.6\n".into(),
                ["line l: margin = 0.6", "0.5"],
            ),
        ] {
            let error = resolved(&text).unwrap_err();
            for part in parts {
                assert!(error.to_string().contains(part), "{text}: {error}");
            }
            assert_eq!(error.exit_code(), 2);
        }
    }
}
