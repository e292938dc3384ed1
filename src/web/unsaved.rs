//! What runs now, set against the configuration file: what differs, and the keys that would say so there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::app::Changer;
use crate::config::edit::{Edit, Key, KeyValue};
use crate::config::{MasksSection, Origin};
use crate::events::Watch;
use crate::events::desk::CameraState;
use crate::health::{Health, Watched};
use crate::pipeline::control::Looks;
use crate::schedule::ScheduleOptions;
use vision::error::Error;
use vision::overlay::Behind;
use vision::redact::How;

/// The name of a way of hiding, as the configuration has it.
pub(super) fn name_of(how: How) -> &'static str {
    match how {
        How::Blur => "blur",
        How::Pixelate => "pixelate",
        How::Fill => "fill",
    }
}

pub(super) const WAYS: [How; 3] = [How::Blur, How::Pixelate, How::Fill];

/// The keys of `[masks]` that make this schedule; those that say what the default is are left out.
pub(super) fn masks(schedule: &ScheduleOptions) -> MasksSection {
    let default = ScheduleOptions::default();
    let ms = |time: Duration| time.as_nanos() as f64 / 1e6;
    let ages = |options: &ScheduleOptions| (options.max_mask_age, options.hide_after);
    MasksSection {
        cpu_budget: schedule.cpu_budget,
        max_mask_age_ms: (ages(schedule) != ages(&default)).then(|| ms(schedule.max_mask_age)),
        every: schedule.every,
        wait_ms: (schedule.wait != default.wait).then(|| ms(schedule.wait)),
        propagate: (schedule.propagate != default.propagate).then_some(schedule.propagate),
        smooth: (schedule.smooth.strength != default.smooth.strength)
            .then(|| rounded(schedule.smooth.strength)),
    }
}

/// A number that was kept in fewer bits, as it was written.
pub(super) fn rounded(number: f32) -> f64 {
    (f64::from(number) * 1000.0).round() / 1000.0
}

/// `#rrggbb`
pub(super) fn color_text([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// What stands behind the classes, as it is written; a picture, whose file is not known any more, as `picture`.
pub(super) fn background(looks: &Looks) -> Option<String> {
    Some(match looks.overlay.behind.as_ref()? {
        Behind::Blur => "blur".to_owned(),
        Behind::Color(color) => color_text(*color),
        Behind::Picture(_) => "picture".to_owned(),
    })
}

/// The keys of the configuration that make masks look like this, and be made like this.
pub(super) fn keys(looks: &Looks, schedule: Option<&ScheduleOptions>) -> Vec<Key> {
    let names = |labels: &mut dyn Iterator<Item = usize>| -> Vec<String> {
        labels
            .filter_map(|label| looks.model.classes.get(label))
            .map(|class| class.name.clone())
            .collect()
    };
    let shown = looks.overlay.shown.as_ref();
    let colors = looks.colors.iter().filter_map(|(label, color)| {
        let class = looks.model.classes.get(usize::from(*label))?;
        Some((class.name.clone(), color_text(*color)))
    });
    let colors: BTreeMap<String, String> = colors.collect();
    let colors = match colors.is_empty() {
        true => KeyValue::Absent,
        false => KeyValue::Named(colors),
    };
    let mut keys: Vec<Key> = vec![
        (
            "overlay",
            "visualize",
            KeyValue::Text(looks.overlay.mode.as_str().into()),
        ),
        ("overlay", "alpha", KeyValue::Number(rounded(looks.overlay.alpha))),
        ("overlay", "legend", KeyValue::Bool(looks.overlay.legend)),
        (
            "overlay",
            "classes",
            shown.map_or(KeyValue::Absent, |shown| {
                KeyValue::Texts(names(&mut shown.iter().map(|label| usize::from(*label))))
            }),
        ),
    ];
    keys.push(("overlay", "colors", colors));
    let behind = background(looks).map_or(KeyValue::Absent, KeyValue::Text);
    keys.push(("overlay", "background", behind));
    if let Some(schedule) = schedule {
        let masks = masks(schedule);
        let number = |value: Option<f64>| value.map_or(KeyValue::Absent, KeyValue::Number);
        keys.push(("masks", "smooth", number(masks.smooth)));
        keys.push(("masks", "max_mask_age_ms", number(masks.max_mask_age_ms)));
        keys.push(("masks", "cpu_budget", number(masks.cpu_budget)));
        keys.push((
            "masks",
            "every",
            masks.every.map_or(KeyValue::Absent, KeyValue::Whole),
        ));
    }
    for way in WAYS {
        let hidden = looks.privacy.iter().flat_map(|privacy| {
            let how = privacy.redact.how.iter().enumerate();
            how.filter(move |(_, how)| **how == Some(way))
                .map(|(label, _)| label)
        });
        let hidden = names(&mut { hidden });
        let value = if hidden.is_empty() {
            KeyValue::Absent
        } else {
            KeyValue::Texts(hidden)
        };
        keys.push(("privacy", name_of(way), value));
    }
    keys
}

/// What runs now of what a file can hold.
#[derive(Clone)]
pub(super) struct Now {
    pub(super) camera: String,
    pub(super) looks: Arc<Looks>,
    pub(super) schedule: Option<ScheduleOptions>,
    /// The model that runs in place of the configuration's.
    chosen: Option<String>,
    /// `None` where nothing is ever watched.
    watch: Option<Arc<Watch>>,
}

impl Now {
    /// What runs for a camera.
    pub(super) fn of(camera: &Watched, health: &Health, changer: Option<&dyn Changer>) -> Self {
        Self {
            camera: camera.name.clone(),
            looks: camera.control.looks(),
            schedule: camera.control.schedule(),
            chosen: changer.and_then(|changer| changer.models(&camera.name).chosen),
            watch: state_of(&camera.name, health).map(|state| state.watch()),
        }
    }

    /// What of it differs from the configuration.
    fn unsaved(&self, origin: &Origin) -> Result<Edit, Error> {
        let settings = origin.settings()?;
        let Some(camera) = settings.camera(&self.camera) else {
            return Ok(Edit::default());
        };
        // Where the pipeline is on its own nobody can change the schedule.
        let schedule = self.schedule.as_ref().map(|_| &camera.pipeline.schedule);
        let chosen = self.chosen.as_ref().filter(|name| **name != camera.model.model);
        let looks = match chosen {
            None => camera.looks_of(&self.looks.model)?,
            // The file's classes are those of its own model.
            Some(_) => camera.looks(&camera.model.find()?.contract, 0)?,
        };
        let file = keys(&looks, schedule);
        let model = chosen.map(|name| ("model", "name", KeyValue::Text(name.clone())));
        let differ = keys(&self.looks, self.schedule.as_ref()).into_iter().zip(file);
        let watch = self
            .watch
            .as_deref()
            .filter(|now| !places(now, &camera.watch).is_empty());
        Ok(Edit {
            keys: model
                .into_iter()
                .chain(differ.filter(|(now, file)| now != file).map(|(now, _)| now))
                .collect(),
            watch: watch.cloned(),
        })
    }

    /// Writes what of it differs into the file; gives the file's path.
    ///
    /// # Errors
    /// What is wrong with the file now, or why it can't be written.
    pub(super) fn save(&self, origin: &Origin) -> Result<PathBuf, Error> {
        let edit = self.unsaved(origin)?;
        origin.edit(&self.camera, &edit)?.write()
    }

    /// What of it differs, in words and as lines of the file. It reads the file.
    ///
    /// # Errors
    /// What is wrong with the file now.
    pub(super) fn difference(&self, origin: &Origin) -> Result<Value, Error> {
        let edit = self.unsaved(origin)?;
        let mut names: Vec<String> = edit
            .keys
            .iter()
            .map(|(section, key, _)| format!("{section}.{key}"))
            .collect();
        if let (Some(now), Some(file)) = (&edit.watch, origin.settings()?.camera(&self.camera)) {
            names.extend(places(now, &file.watch));
        }
        let text = match names.is_empty() {
            true => String::new(),
            false => origin.edit(&self.camera, &edit)?.difference(),
        };
        Ok(json!({ "unsaved": names, "difference": text, "mistake": null }))
    }
}

/// What is known of a camera's zones.
pub(super) fn state_of(camera: &str, health: &Health) -> Option<Arc<CameraState>> {
    let cameras = health.events()?.cameras();
    cameras.iter().find(|state| state.name == camera).cloned()
}

/// The zones and lines that are not the same in both.
fn places(one: &Watch, other: &Watch) -> Vec<String> {
    let zones = one.zones.iter().chain(&other.zones);
    let zones = zones.filter(|zone| !(one.zones.contains(zone) && other.zones.contains(zone)));
    let lines = one.lines.iter().chain(&other.lines);
    let lines = lines.filter(|line| !(one.lines.contains(line) && other.lines.contains(line)));
    let zones = zones.map(|zone| format!("zone {}", zone.name));
    let names: BTreeSet<String> = zones
        .chain(lines.map(|line| format!("line {}", line.name)))
        .collect();
    names.into_iter().collect()
}

/// With what differs from the file, if there is one.
pub(super) fn with_difference(mut value: Value, now: &Now, origin: Option<&Origin>) -> Value {
    let difference = match origin.map(|origin| now.difference(origin)) {
        None => json!({ "unsaved": null, "difference": "", "mistake": null }),
        Some(Ok(difference)) => difference,
        Some(Err(mistake)) => json!({ "unsaved": null, "difference": "", "mistake": mistake.to_string() }),
    };
    if let (Value::Object(value), Value::Object(difference)) = (&mut value, difference) {
        value.extend(difference);
    }
    value
}
