//! `[[zone]]` and `[[line]]`: what is watched in the pictures, and in those of which camera.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use super::{CameraSettings, check_range};
use crate::events::gate::Direction;
use crate::events::geometry::{Line, Point, Polygon};
use crate::events::measure::Inside;
use crate::events::{LineRule, Watch, Zone};
use vision::error::{Error, Result};

/// `[[zone]]`: a part of the picture.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ZoneLayer {
    /// Its name: in events, topics and metrics.
    pub name: String,
    /// The camera's name; needed where there are several.
    pub camera: Option<String>,
    /// Its corners, as shares of the picture's width and height.
    pub polygon: Vec<Point>,
    /// The classes that are looked for.
    pub classes: Option<Vec<String>>,
    /// The share of the zone from which on a class is in it.
    pub enter: Option<f64>,
    /// The share below which it is not any more.
    pub leave: Option<f64>,
    /// How many milliseconds every picture must show it before it counts.
    pub after_ms: Option<f64>,
    /// What stays for so many seconds is told of once more.
    pub dwell_s: Option<f64>,
    /// More regions, or tracks, than this are told of.
    pub at_most: Option<u32>,
    /// A class that is not there for so many seconds is told of.
    pub none_for_s: Option<f64>,
    /// A region has at least this share of the picture.
    pub min_region: Option<f64>,
    /// `footing`, `centroid` or `overlap`.
    pub inside: Option<Inside>,
}

/// `[[line]]`: a line that tracks cross.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LineLayer {
    /// Its name: in events, topics and metrics.
    pub name: String,
    /// The camera's name; needed where there are several.
    pub camera: Option<String>,
    /// Its two ends, as shares of the picture's width and height.
    pub points: Vec<Point>,
    /// The classes whose tracks count.
    pub classes: Option<Vec<String>>,
    /// The only way that counts, `left` or `right`, as seen from the first point to the second.
    pub direction: Option<Direction>,
    /// A track is on a side once it is this far from the line, as a share of the picture's height.
    pub margin: Option<f64>,
}

/// A day: the longest time that a rule may ask for, in seconds.
const DAY_S: f64 = 86_400.0;

impl ZoneLayer {
    fn resolve(&self) -> Result<Zone> {
        let share = |key: &str, value: Option<f64>, default: f64| {
            value.map_or(Ok(default), |value| check_range(key, value, 0.0..=1.0))
        };
        let seconds = |key: &str, value: Option<f64>| -> Result<Option<Duration>> {
            let checked = value.map(|value| check_range(key, value, 0.0..=DAY_S));
            Ok(checked.transpose()?.map(Duration::from_secs_f64))
        };
        let polygon =
            Polygon::new(self.polygon.clone()).map_err(|why| Error::usage(format!("polygon: {why}")))?;
        let enter = share("enter", self.enter, 0.01)?;
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
            min_region: share("min_region", self.min_region, 0.001)?,
            inside: self.inside.unwrap_or_default(),
        })
    }
}

impl LineLayer {
    fn resolve(&self) -> Result<LineRule> {
        let line = Line::new(&self.points).map_err(|why| Error::usage(format!("points: {why}")))?;
        Ok(LineRule {
            name: self.name.clone(),
            line,
            classes: trimmed(self.classes.as_deref())?,
            direction: self.direction,
            margin: check_range("margin", self.margin.unwrap_or(0.01), 0.0..=0.5)?,
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
