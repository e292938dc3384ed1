//! `/controls`: what may change while segd runs, with effect from the next picture on; and `/controls/save`, which writes
//! it into the configuration file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::App;
use super::camera::{Asked, find};
use super::off_thread::off_thread;
use crate::config::edit::{Edit, Key, KeyValue};
use crate::config::{Origin, check_range, class_label};
use crate::events::Watch;
use crate::events::desk::CameraState;
use crate::health::{Health, Watched};
use crate::pipeline::control::{Looks, Privacy};
use vision::error::Error;
use vision::overlay::Visualize;
use vision::redact::{How, RedactOptions};

/// How far around a class is hidden that the configuration hides nothing of, as a share of the picture's height.
const MARGIN: f32 = 0.04;
/// And with how old a mask the whole picture is hidden then.
const MAX_MASK_AGE: Duration = Duration::from_millis(500);

/// What is to change; the rest stays.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Change {
    classes: Option<Shown>,
    visualize: Option<Visualize>,
    alpha: Option<f32>,
    legend: Option<bool>,
    /// Classes that are to be hidden from now on, and how.
    hide: BTreeMap<String, How>,
}

/// Classes that are drawn.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected \"all\" or a list of classes")]
enum Shown {
    All(All),
    These(Vec<String>),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum All {
    All,
}

/// The name of a way of hiding, as the configuration has it.
fn name_of(how: How) -> &'static str {
    match how {
        How::Blur => "blur",
        How::Pixelate => "pixelate",
        How::Fill => "fill",
    }
}

const WAYS: [How; 3] = [How::Blur, How::Pixelate, How::Fill];

impl Change {
    /// How masks are shown after the change.
    ///
    /// # Errors
    /// Usage, naming the key: a number out of range, an unknown class, or a class that would be hidden less.
    fn apply(&self, now: &Looks) -> Result<Looks, Error> {
        let mut looks = now.clone();
        let (classes, model) = (&now.model.classes, &now.model.name);
        if let Some(alpha) = self.alpha {
            check_range("overlay.alpha", f64::from(alpha), 0.0..=1.0)?;
            looks.overlay.alpha = alpha;
        }
        if let Some(mode) = self.visualize {
            looks.overlay.mode = mode;
        }
        if let Some(legend) = self.legend {
            looks.overlay.legend = legend;
        }
        match &self.classes {
            None => {}
            Some(Shown::All(All::All)) => looks.overlay.shown = None,
            Some(Shown::These(names)) => {
                let labels = names.iter().map(|name| class_label(name, classes, model));
                looks.overlay.shown = Some(labels.collect::<Result<_, _>>()?);
            }
        }
        for (name, how) in &self.hide {
            let label = usize::from(class_label(name, classes, model)?);
            let privacy = looks.privacy.get_or_insert_with(|| Privacy {
                redact: RedactOptions {
                    how: vec![None; classes.len()],
                    margin: MARGIN,
                },
                max_mask_age: MAX_MASK_AGE,
            });
            let Some(slot) = privacy.redact.how.get_mut(label) else {
                continue;
            };
            if slot.is_some_and(|before| before > *how) {
                let before = slot.map_or("", name_of);
                return Err(Error::usage(format!(
                    "privacy: {name} is hidden by {before}, and {} shows more",
                    name_of(*how)
                ))
                .hint("what is hidden is only shown again by the configuration file and a reload"));
            }
            *slot = Some(*how);
        }
        Ok(looks)
    }
}

/// The keys of the configuration that make masks look like this.
fn keys(looks: &Looks) -> Vec<Key> {
    let names = |labels: &mut dyn Iterator<Item = usize>| -> Vec<String> {
        labels
            .filter_map(|label| looks.model.classes.get(label))
            .map(|class| class.name.clone())
            .collect()
    };
    let shown = looks.overlay.shown.as_ref();
    let alpha = (f64::from(looks.overlay.alpha) * 1000.0).round() / 1000.0;
    let mut keys: Vec<Key> = vec![
        (
            "overlay",
            "visualize",
            KeyValue::Text(looks.overlay.mode.as_str().into()),
        ),
        ("overlay", "alpha", KeyValue::Number(alpha)),
        ("overlay", "legend", KeyValue::Bool(looks.overlay.legend)),
        (
            "overlay",
            "classes",
            shown.map_or(KeyValue::Absent, |shown| {
                KeyValue::Texts(names(&mut shown.iter().map(|label| usize::from(*label))))
            }),
        ),
    ];
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
    camera: String,
    looks: Arc<Looks>,
    /// `None` where nothing is ever watched.
    watch: Option<Arc<Watch>>,
}

impl Now {
    /// What runs for a camera.
    pub(super) fn of(camera: &Watched, health: &Health) -> Self {
        Self {
            camera: camera.name.clone(),
            looks: camera.control.looks(),
            watch: state_of(&camera.name, health).map(|state| state.watch()),
        }
    }

    /// What of it differs from the configuration.
    fn unsaved(&self, origin: &Origin) -> Result<Edit, Error> {
        let settings = origin.settings()?;
        let Some(camera) = settings.camera(&self.camera) else {
            return Ok(Edit::default());
        };
        let file = keys(&camera.looks_of(&self.looks.model)?);
        let differ = keys(&self.looks).into_iter().zip(file);
        let watch = self
            .watch
            .as_deref()
            .filter(|now| !places(now, &camera.watch).is_empty());
        Ok(Edit {
            keys: differ
                .filter(|(now, file)| now != file)
                .map(|(now, _)| now)
                .collect(),
            watch: watch.cloned(),
        })
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

fn to_json(camera: &str, looks: &Looks) -> Value {
    let classes = looks.model.classes.iter().enumerate().map(|(label, class)| {
        let is_shown = match &looks.overlay.shown {
            None => !class.background,
            Some(shown) => shown.iter().any(|shown| usize::from(*shown) == label),
        };
        let hidden = looks
            .privacy
            .as_ref()
            .and_then(|privacy| *privacy.redact.how.get(label)?);
        let [r, g, b] = class.color;
        json!({
            "name": class.name,
            "color": format!("#{r:02x}{g:02x}{b:02x}"),
            "is_background": class.background,
            "is_shown": is_shown,
            "hidden": hidden.map(name_of),
        })
    });
    json!({
        "camera": camera,
        "model": looks.model.name,
        "classes": classes.collect::<Vec<_>>(),
        "visualize": looks.overlay.mode.as_str(),
        "alpha": looks.overlay.alpha,
        "legend": looks.overlay.legend,
    })
}

async fn told(now: Now, origin: Option<Arc<Origin>>) -> Response {
    // It reads the file.
    let json = off_thread(move || with_difference(to_json(&now.camera, &now.looks), &now, origin.as_deref()));
    match json.await {
        Ok(value) => ([(CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
    }
}

/// 200 and how masks are shown; 404 for no such camera.
pub(super) async fn controls(
    State(app): State<App>,
    State(health): State<Health>,
    Query(asked): Query<Asked>,
) -> Response {
    match find(&health, &asked) {
        Ok(camera) => told(Now::of(camera, &health), app.origin()).await,
        Err(unknown) => unknown.into_response(),
    }
}

/// 200 and how masks are shown from now on; 404 for no such camera; 422 for a mistake, with `check-config`'s words.
pub(super) async fn change(
    State(app): State<App>,
    State(health): State<Health>,
    Query(asked): Query<Asked>,
    body: String,
) -> Response {
    let camera = match find(&health, &asked) {
        Ok(camera) => camera,
        Err(unknown) => return unknown.into_response(),
    };
    let change: Change = match serde_json::from_str(&body) {
        Ok(change) => change,
        Err(why) => return (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")).into_response(),
    };
    let mut mistake = None;
    camera.control.change_looks(|now| match change.apply(now) {
        Ok(looks) => {
            mistake = None;
            looks
        }
        Err(e) => {
            mistake = Some(e);
            now.clone()
        }
    });
    match mistake {
        Some(e) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{e}\n")).into_response(),
        None => {
            tracing::info!(camera = camera.name, ?change, "changed over HTTP");
            told(Now::of(camera, &health), app.origin()).await
        }
    }
}

/// 200 and the file's path; 404 for no such camera; 409 if there is no file, or it can't be written.
pub(super) async fn save(
    State(app): State<App>,
    State(health): State<Health>,
    Query(asked): Query<Asked>,
) -> Response {
    let camera = match find(&health, &asked) {
        Ok(camera) => camera,
        Err(unknown) => return unknown.into_response(),
    };
    let Some(origin) = app.origin() else {
        return (StatusCode::CONFLICT, "there is no configuration file\n").into_response();
    };
    let now = Now::of(camera, &health);
    let saved = off_thread(move || {
        let edit = now.unsaved(&origin)?;
        origin.edit(&now.camera, &edit)?.write()
    });
    match saved.await.flatten() {
        Ok(path) => format!("{}\n", path.display()).into_response(),
        Err(e) => (StatusCode::CONFLICT, format!("{e}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;
    use crate::health::tests::watched;
    use crate::output::access::RtspAccess;
    use crate::web::tests::{Answer, ask, get, serve, serve_app};
    use crate::web::{App, Gate};
    use std::net::SocketAddr;
    use vision::model::contract::Class;
    use vision::overlay::OverlayOptions;
    use vision::scene::ModelInfo;

    fn looks() -> Looks {
        let class = |name: &str, background| Class {
            name: name.into(),
            color: [1, 2, 255],
            background,
            thing: false,
        };
        Looks {
            model: Arc::new(ModelInfo {
                name: "made".into(),
                generation: 0,
                classes: vec![
                    class("nothing", true),
                    class("cat", false),
                    class("person", false),
                ],
            }),
            overlay: OverlayOptions::default(),
            privacy: None,
        }
    }

    fn changed(now: &Looks, change: &str) -> Result<Looks, String> {
        let change: Change = serde_json::from_str(change).map_err(|e| e.to_string())?;
        change.apply(now).map_err(|e| e.to_string())
    }

    fn post(address: SocketAddr, path: &str, body: &str) -> Answer {
        let length = body.len();
        ask(
            address,
            &format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"),
        )
    }

    #[test]
    fn what_is_said_changes_and_the_rest_stays() {
        let before = looks();
        let after = changed(
            &before,
            "{\"alpha\": 0.25, \"classes\": [\"Cat\"], \"visualize\": \"side-by-side\", \"legend\": false}",
        )
        .unwrap();
        assert_eq!(
            (after.overlay.alpha, after.overlay.mode, after.overlay.legend),
            (0.25, Visualize::SideBySide, false)
        );
        assert_eq!(after.overlay.shown, Some(vec![1]));
        let all = changed(&after, "{\"classes\": \"all\"}").unwrap();
        assert_eq!((all.overlay.shown, all.overlay.alpha), (None, 0.25));
        assert_eq!(changed(&before, "{}").unwrap(), before);
    }

    #[test]
    fn a_mistake_is_said_in_the_configuration_s_words() {
        for (change, part) in [
            ("{\"alpha\": 1.5}", "overlay.alpha = 1.5, expected 0 to 1"),
            ("{\"classes\": [\"cta\"]}", "did you mean \"cat\"?"),
            ("{\"classes\": \"none\"}", "expected \"all\" or a list of classes"),
            ("{\"visualize\": \"wild\"}", "unknown variant"),
            ("{\"opacity\": 1}", "unknown field"),
            ("{\"hide\": {\"dog\": \"blur\"}}", "no class \"dog\""),
            ("{\"alpha\": 1", "EOF"),
        ] {
            let said = changed(&looks(), change).unwrap_err();
            assert!(said.contains(part), "{change}: {said}");
        }
    }

    #[test]
    fn what_is_hidden_only_gets_stricter() {
        let hidden = changed(&looks(), "{\"hide\": {\"person\": \"pixelate\"}}").unwrap();
        let privacy = hidden.privacy.as_ref().unwrap();
        assert_eq!(privacy.redact.how, [None, None, Some(How::Pixelate)]);
        assert_eq!(privacy.max_mask_age, MAX_MASK_AGE);
        let said = changed(&hidden, "{\"hide\": {\"cat\": \"fill\", \"person\": \"blur\"}}").unwrap_err();
        assert!(
            said.contains("person is hidden by pixelate, and blur shows more"),
            "{said}"
        );
        let fill = changed(&hidden, "{\"hide\": {\"person\": \"fill\"}}").unwrap();
        assert_eq!(fill.privacy.unwrap().redact.how[2], Some(How::Fill));
    }

    #[test]
    fn a_change_shows_at_once_and_is_saved_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segd.toml");
        let file = "# mine\n[capture]\ninput = \"test://\"\n[stream]\noutputs = [\"null://\"]\n[overlay]\nalpha = 0.5 # half\n";
        std::fs::write(&path, file).unwrap();
        let camera = watched("segd");
        camera.control.set_looks(looks());
        let origin = Origin {
            config: Some(path.clone()),
            arguments: Layer::default(),
        };
        let app = App::new(
            Health::new(vec![(*camera).clone()]),
            Gate::new(RtspAccess::default()),
        )
        .with_origin(origin);
        let (address, _http) = serve_app(app);
        let told = |answer: &Answer| serde_json::from_slice::<Value>(&answer.body).unwrap();

        let now = told(&get(address, "/controls"));
        assert_eq!(now["unsaved"], json!([]));
        let cat = json!({ "name": "cat", "color": "#0102ff", "is_background": false, "is_shown": true, "hidden": null });
        assert_eq!(now["classes"][1], cat);
        assert_eq!(now["classes"][0]["is_shown"], false);

        let refused = post(address, "/controls", "{\"alpha\": 2}");
        assert_eq!((refused.code, camera.control.looks().overlay.alpha), (422, 0.5));
        assert!(refused.text().contains("overlay.alpha = 2"), "{}", refused.text());
        assert_eq!(post(address, "/controls?camera=yard", "{}").code, 404);

        let change = "{\"alpha\": 0.3, \"classes\": [\"person\"], \"hide\": {\"cat\": \"blur\"}}";
        let after = post(address, "/controls", change);
        assert_eq!(after.code, 200, "{}", after.text());
        assert_eq!(camera.control.looks().overlay.shown, Some(vec![2]));
        assert_eq!(
            told(&after)["unsaved"],
            json!(["overlay.alpha", "overlay.classes", "privacy.blur"])
        );
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            file,
            "nothing is written unasked"
        );

        let saved = post(address, "/controls/save", "");
        assert_eq!((saved.code, saved.text()), (200, format!("{}\n", path.display())));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("# mine\n") && text.contains("alpha = 0.3 # half\nclasses = [\"person\"]\n"),
            "{text}"
        );
        assert!(text.ends_with("[privacy]\nblur = [\"cat\"]\n"), "{text}");
        assert_eq!(told(&get(address, "/controls"))["unsaved"], json!([]));

        // A file with a mistake is left alone.
        std::fs::write(&path, file.replace("alpha = 0.5", "alpha = 7")).unwrap();
        assert_eq!(told(&get(address, "/controls"))["unsaved"], Value::Null);
        let refused = post(address, "/controls/save", "");
        assert!(
            refused.code == 409 && refused.text().contains("alpha = 7"),
            "{refused:?}"
        );
    }

    #[test]
    fn without_a_file_nothing_is_saved() {
        let (address, _http) = serve(Health::new(vec![watched("door").into()]));
        let refused = post(address, "/controls/save", "");
        assert!(
            refused.code == 409 && refused.text().contains("no configuration file"),
            "{refused:?}"
        );
    }
}
