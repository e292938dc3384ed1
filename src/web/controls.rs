//! `/controls`: what may change while segd runs, with effect from the next picture on; and `/controls/save`, which writes
//! it into the configuration file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::app::App;
use super::camera::{Asked, find};
use super::off_thread::off_thread;
use super::unsaved::{Now, background, color_text, masks, name_of, rounded, with_difference};
use crate::config::{self, Origin, check_range, class_label};
use crate::health::Health;
use crate::pipeline::control::{Looks, Privacy};
use crate::schedule::ScheduleOptions;
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
    /// Classes and their colours, `#rrggbb`; `null` for the model's own.
    colors: BTreeMap<String, Option<String>>,
    smooth: Option<f64>,
    /// `blur` or a colour; `null` for none.
    #[serde(deserialize_with = "said")]
    background: Option<Option<String>>,
    // Of each of these `null` is the default.
    #[serde(deserialize_with = "said")]
    max_mask_age_ms: Option<Option<f64>>,
    #[serde(deserialize_with = "said")]
    cpu_budget: Option<Option<f64>>,
    #[serde(deserialize_with = "said")]
    every: Option<Option<u32>>,
}

/// What a key says, which may be `null`.
fn said<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(value).map(Some)
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
        match self.background.as_ref().map(Option::as_deref) {
            None => {}
            Some(None) => looks.overlay.behind = None,
            Some(Some(text)) if text == "blur" || text.starts_with('#') => {
                looks.overlay.behind = Some(config::behind(text)?);
            }
            Some(Some(text)) => {
                return Err(Error::usage(format!(
                    "overlay.background = {text:?}, expected blur or a colour such as #00b140"
                ))
                .hint("a picture is chosen in the configuration file"));
            }
        }
        if looks.overlay.behind.is_some() && looks.overlay.mode != Visualize::Overlay {
            return Err(Error::usage(format!(
                "overlay.background is set, and overlay.visualize = \"{}\"",
                looks.overlay.mode
            ))
            .hint("what stays in front of a background is shown as it is"));
        }
        match &self.classes {
            None => {}
            Some(Shown::All(All::All)) => looks.overlay.shown = None,
            Some(Shown::These(names)) => {
                let labels = names.iter().map(|name| class_label(name, classes, model));
                looks.overlay.shown = Some(labels.collect::<Result<_, _>>()?);
            }
        }
        for (name, color) in &self.colors {
            let label = class_label(name, classes, model)?;
            match color {
                Some(text) => looks.colors.insert(label, config::color("overlay.colors", text)?),
                None => looks.colors.remove(&label),
            };
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

impl Change {
    /// Which frames are segmented after the change, if it says anything of that. `hides`: something is hidden.
    ///
    /// # Errors
    /// Usage, naming the key.
    fn reschedule(&self, now: &ScheduleOptions, hides: bool) -> Result<Option<ScheduleOptions>, Error> {
        let mut section = masks(now);
        section.smooth = self.smooth.or(section.smooth);
        section.max_mask_age_ms = self.max_mask_age_ms.unwrap_or(section.max_mask_age_ms);
        section.cpu_budget = self.cpu_budget.unwrap_or(section.cpu_budget);
        section.every = self.every.unwrap_or(section.every);
        let wanted = config::schedule(&section, hides)?;
        Ok((wanted != *now).then_some(wanted))
    }
}

fn to_json(now: &Now) -> Value {
    let looks = &now.looks;
    let colored = looks.colored();
    let classes = colored.iter().enumerate().map(|(label, class)| {
        let is_shown = match &looks.overlay.shown {
            None => !class.background,
            Some(shown) => shown.iter().any(|shown| usize::from(*shown) == label),
        };
        let hidden = looks
            .privacy
            .as_ref()
            .and_then(|privacy| *privacy.redact.how.get(label)?);
        json!({
            "name": class.name,
            "color": color_text(class.color),
            "is_own_color": !looks.colors.keys().any(|of| usize::from(*of) == label),
            "is_background": class.background,
            "is_shown": is_shown,
            "hidden": hidden.map(name_of),
        })
    });
    json!({
        "camera": now.camera,
        "model": looks.model.name,
        "classes": classes.collect::<Vec<_>>(),
        "visualize": looks.overlay.mode.as_str(),
        "alpha": looks.overlay.alpha,
        "legend": looks.overlay.legend,
        "background": background(looks),
        "masks": now.schedule.as_ref().map(masks).map(|masks| json!({
            "smooth": masks.smooth.unwrap_or(rounded(ScheduleOptions::default().smooth.strength)),
            "max_mask_age_ms": masks.max_mask_age_ms,
            "cpu_budget": masks.cpu_budget,
            "every": masks.every,
        })),
    })
}

async fn told(now: Now, origin: Option<Arc<Origin>>) -> Response {
    // It reads the file.
    let json = off_thread(move || with_difference(to_json(&now), &now, origin.as_deref()));
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
        Ok(camera) => {
            told(
                Now::of(camera, &health, app.changer().ok().as_deref()),
                app.origin(),
            )
            .await
        }
        Err(unknown) => unknown.into_response(),
    }
}

/// 200 and how masks are shown from now on; 404 for no such camera; 422 for a mistake, with `check-config`'s words;
/// 503 while a model is being loaded.
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
    let models = app.changer().map(|changer| changer.models(&camera.name));
    if models.is_ok_and(|models| models.loading.is_some()) {
        // It takes over how masks are shown now, and would forget what is changed in between.
        let wait = "a model is being loaded: try once more in a moment\n";
        return (StatusCode::SERVICE_UNAVAILABLE, wait).into_response();
    }
    let before = camera.control.looks();
    let hides = before.privacy.is_some() || !change.hide.is_empty();
    let schedule = camera.control.schedule();
    let schedule = match schedule.map(|now| change.reschedule(&now, hides)).transpose() {
        Ok(schedule) => schedule.flatten(),
        Err(e) => return (StatusCode::UNPROCESSABLE_ENTITY, format!("{e}\n")).into_response(),
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
            if let Some(schedule) = schedule {
                camera.control.set_schedule(schedule);
            }
            tracing::info!(camera = camera.name, ?change, "changed over HTTP");
            told(
                Now::of(camera, &health, app.changer().ok().as_deref()),
                app.origin(),
            )
            .await
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
    let now = Now::of(camera, &health, app.changer().ok().as_deref());
    let saved = off_thread(move || now.save(&origin));
    match saved.await.flatten() {
        Ok(path) => format!("{}\n", path.display()).into_response(),
        Err(e) => (StatusCode::CONFLICT, format!("{e}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;
    use crate::config::edit::KeyValue;
    use crate::health::tests::watched;
    use crate::output::access::RtspAccess;
    use crate::web::tests::{Answer, ask, get, serve, serve_app};
    use crate::web::unsaved::keys;
    use crate::web::{App, Gate};
    use clap::ValueEnum;
    use std::collections::BTreeSet;
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
            colors: Default::default(),
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
        let green = changed(&before, "{\"background\": \"#00B140\"}").unwrap();
        assert_eq!(background(&green).as_deref(), Some("#00b140"));
        assert_eq!(changed(&green, "{\"background\": null}").unwrap(), before);
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
            (
                "{\"background\": \"/etc/passwd\"}",
                "overlay.background = \"/etc/passwd\", expected blur",
            ),
            (
                "{\"background\": \"blur\", \"visualize\": \"mask\"}",
                "overlay.visualize = \"mask\"",
            ),
            (
                "{\"colors\": {\"cat\": \"red\"}}",
                "overlay.colors = \"red\" is no colour",
            ),
            ("{\"colors\": {\"dog\": \"#ff0000\"}}", "no class \"dog\""),
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
    fn the_page_and_the_description_have_each_style() {
        let names: BTreeSet<&str> = Visualize::value_variants()
            .iter()
            .map(|mode| mode.as_str())
            .collect();
        let described: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
        let described = &described["components"]["schemas"]["Change"]["properties"]["visualize"]["enum"];
        let described = described.as_array().unwrap().iter();
        let described: BTreeSet<&str> = described.map(|name| name.as_str().unwrap()).collect();
        assert_eq!(described, names);
        let script = include_str!("static/controls.js");
        let styles = script
            .lines()
            .find_map(|line| line.strip_prefix("const STYLES = ["));
        let styles = styles.and_then(|line| line.strip_suffix("];")).unwrap();
        let styles: BTreeSet<&str> = styles.split(", ").map(|name| name.trim_matches('"')).collect();
        assert_eq!(styles, names);
    }

    #[test]
    fn colours_change_and_go_back_to_the_model_s() {
        let red = changed(&looks(), "{\"colors\": {\"Cat\": \"#ff0010\"}}").unwrap();
        assert_eq!(red.colored()[1].color, [255, 0, 16]);
        assert_eq!(
            red.model.classes[1].color,
            [1, 2, 255],
            "programs see the model's"
        );
        let named = BTreeMap::from([("cat".to_owned(), "#ff0010".to_owned())]);
        assert!(keys(&red, None).contains(&("overlay", "colors", KeyValue::Named(named))));
        assert_eq!(changed(&red, "{\"colors\": {\"cat\": null}}").unwrap(), looks());
    }

    #[test]
    fn how_masks_are_made_changes_by_the_configuration_s_rules() {
        let now = ScheduleOptions::default();
        let changed = |now: &ScheduleOptions, change: &str, hides| {
            let change: Change = serde_json::from_str(change).unwrap();
            change.reschedule(now, hides).map_err(|e| e.to_string())
        };
        assert_eq!(
            changed(&now, "{\"alpha\": 0.2, \"every\": null}", false).unwrap(),
            None
        );
        let asked = "{\"smooth\": 0.8, \"max_mask_age_ms\": 250.5, \"cpu_budget\": 1.5, \"every\": 4}";
        let all = changed(&now, asked, false).unwrap().unwrap();
        assert_eq!(
            (all.smooth.strength, all.every, all.cpu_budget),
            (0.8, Some(4), Some(1.5))
        );
        assert_eq!(
            (all.max_mask_age, all.hide_after),
            (Duration::from_micros(250_500), all.max_mask_age)
        );
        assert_eq!(
            config::schedule(&masks(&all), false).unwrap(),
            all,
            "its keys make it again"
        );
        let back = "{\"smooth\": 0.5, \"max_mask_age_ms\": null, \"cpu_budget\": null, \"every\": null}";
        assert_eq!(changed(&all, back, false).unwrap(), Some(now));
        // What hides needs each mask that there is time for.
        assert_eq!(changed(&now, "{}", true).unwrap().unwrap().every, Some(1));
        assert_eq!(changed(&all, "{}", true).unwrap(), None);
        for (change, part) in [
            ("{\"smooth\": 1}", "masks.smooth = 1, expected 0 to 0.95"),
            ("{\"every\": 0}", "masks.every = 0, expected 1"),
            ("{\"cpu_budget\": 0}", "masks.cpu_budget = 0"),
        ] {
            let said = changed(&now, change, false).unwrap_err();
            assert!(said.contains(part), "{change}: {said}");
        }
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
        let cat = json!({ "name": "cat", "color": "#0102ff", "is_own_color": true, "is_background": false, "is_shown": true, "hidden": null });
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
