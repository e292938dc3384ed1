//! `/zones`: what is watched in a camera's pictures, and what is in it now. A change is in force from the next picture on;
//! `/controls/save` writes it into the configuration file.

use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::App;
use super::camera::{Asked, find};
use super::models::refusal;
use super::off_thread::off_thread;
use super::unsaved::{Now, state_of, with_difference};
use crate::config::{LineLayer, ZoneLayer};
use crate::health::{Health, Watched};

/// Nothing is known of a camera's zones that has shown nothing for so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// All that is to be watched from now on.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wanted {
    zones: Vec<ZoneLayer>,
    lines: Vec<LineLayer>,
}

fn to_json(camera: &Watched, health: &Health) -> Value {
    let state = state_of(&camera.name, health);
    let watch = state.as_ref().map(|state| state.watch()).unwrap_or_default();
    let zones: Vec<ZoneLayer> = watch.zones.iter().map(Into::into).collect();
    let lines: Vec<LineLayer> = watch.lines.iter().map(Into::into).collect();
    let known = state
        .map(|state| state.zones(camera.clock.now_ns(), PATIENCE))
        .unwrap_or_default();
    let known = known.iter().map(|known| {
        json!({
            "zone": *known.zone,
            "class": *known.class,
            "occupied": known.occupied,
            "area": known.area,
            "regions": known.regions,
            "tracks": known.tracks,
        })
    });
    json!({
        "camera": camera.name,
        "zones": zones,
        "lines": lines,
        "visualize": camera.control.looks().overlay.mode.as_str(),
        "now": known.collect::<Vec<_>>(),
    })
}

/// 200 and what is watched; 404 for no such camera.
pub(super) async fn zones(State(health): State<Health>, Query(asked): Query<Asked>) -> Response {
    match find(&health, &asked) {
        Ok(camera) => {
            let told = format!("{:#}\n", to_json(camera, &health));
            ([(CONTENT_TYPE, "application/json")], told).into_response()
        }
        Err(unknown) => unknown.into_response(),
    }
}

/// 200 and what is watched from now on, with what differs from the file; 404 for no such camera; 422 for a mistake, with
/// `check-config`'s words; 503 while the configuration is being read again.
pub(super) async fn change(
    State(app): State<App>,
    State(health): State<Health>,
    Query(asked): Query<Asked>,
    body: String,
) -> Response {
    let camera = match find(&health, &asked) {
        Ok(camera) => camera.clone(),
        Err(unknown) => return unknown.into_response(),
    };
    let wanted: Wanted = match serde_json::from_str(&body) {
        Ok(wanted) => wanted,
        Err(why) => return (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")).into_response(),
    };
    let changer = match app.changer() {
        Ok(changer) => changer,
        Err(refused) => return refused.into_response(),
    };
    let origin = app.origin();
    let changed = off_thread(move || {
        changer.set_watch(&camera.name, &wanted.zones, &wanted.lines)?;
        tracing::info!(camera = camera.name, ?wanted, "zones and lines changed over HTTP");
        let now = Now::of(&camera, &health, Some(&*changer));
        Ok(with_difference(
            to_json(&camera, &health),
            &now,
            origin.as_deref(),
        ))
    });
    match changed.await.flatten() {
        Ok(value) => ([(CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response(),
        Err(e) => (refusal(&e), format!("{e}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::*;
    use crate::config::{Layer, Origin};
    use crate::events::EventDesk;
    use crate::health::tests::watched;
    use crate::output::access::RtspAccess;
    use crate::web::tests::{Answer, ask, get, serve, serve_app};
    use crate::web::{Changer, Gate, Models};
    use vision::error::{Error, Result};

    const FILE: &str = "capture.input = \"test://\"\nstream.outputs = [\"null://\"]\n";

    /// Changes the desk alone.
    struct Desk {
        desk: Arc<EventDesk>,
        origin: Origin,
    }

    impl Changer for Desk {
        fn set_watch(&self, camera: &str, zones: &[ZoneLayer], lines: &[LineLayer]) -> Result<()> {
            if zones.iter().any(|zone| zone.name == "later") {
                return Err(Error::transient("not now"));
            }
            let watch = self.origin.settings()?.watch_with(camera, zones, lines)?;
            self.desk.cameras()[0].set_watch(Arc::new(watch));
            Ok(())
        }

        fn load_model(&self, _camera: &str, model: &str) -> Result<()> {
            Err(Error::usage(format!("no model {model:?}")))
        }

        fn models(&self, _camera: &str) -> Models {
            Models::default()
        }
    }

    fn post(address: SocketAddr, path: &str, body: &str) -> Answer {
        let length = body.len();
        ask(
            address,
            &format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"),
        )
    }

    fn told(answer: &Answer) -> Value {
        serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"))
    }

    #[test]
    fn zones_change_and_are_saved_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segd.toml");
        std::fs::write(&path, FILE).unwrap();
        let origin = Origin {
            config: Some(path.clone()),
            arguments: Layer::default(),
        };
        let desk = EventDesk::new(["segd"]);
        let health = Health::new(vec![(*watched("segd")).clone()]).with_events(desk.clone());
        let changer = Arc::new(Desk {
            desk,
            origin: origin.clone(),
        });
        let app = App::new(health, Gate::new(RtspAccess::default()));
        let (address, _http) = serve_app(app.with_origin(origin).with_changer(changer));
        assert_eq!(told(&get(address, "/zones"))["zones"], json!([]));

        let zone =
            json!({ "name": "drive", "polygon": [[0.0, 0.0], [1.0, 0.0], [1.0, 0.5]], "after_ms": 300.0 });
        let line = json!({ "name": "gate", "points": [[0.0, 0.5], [1.0, 0.5]] });
        let body = json!({ "zones": [zone], "lines": [line] }).to_string();
        let changed = told(&post(address, "/zones", &body));
        assert_eq!((&changed["zones"][0], &changed["lines"][0]), (&zone, &line));
        assert_eq!(changed["unsaved"], json!(["line gate", "zone drive"]));
        let difference = changed["difference"].as_str().unwrap();
        assert!(
            difference.contains("+ [[zone]]\n+ name = \"drive\"\n"),
            "{difference}"
        );
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            FILE,
            "nothing is written unasked"
        );
        assert_eq!(told(&get(address, "/zones"))["zones"], json!([zone]));

        assert_eq!(post(address, "/controls/save", "").code, 200);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with(FILE) && text.contains("[[line]]\nname = \"gate\""),
            "{text}"
        );
        assert_eq!(told(&get(address, "/controls"))["unsaved"], json!([]));

        let crossed = json!({ "name": "x", "polygon": [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]] });
        for (body, code, part) in [
            (
                json!({ "zones": [crossed] }),
                422,
                "zone x: polygon: the border crosses itself",
            ),
            (
                json!({ "zones": [{ "name": "x", "sides": 4 }] }),
                422,
                "unknown field `sides`",
            ),
            (json!({ "zones": [{ "name": "later" }] }), 503, "not now"),
        ] {
            let refused = post(address, "/zones", &body.to_string());
            assert_eq!(refused.code, code, "{refused:?}");
            assert!(refused.text().contains(part), "{refused:?}");
        }
        assert_eq!(told(&get(address, "/zones"))["zones"], json!([zone]), "as before");
        assert_eq!(post(address, "/zones?camera=yard", "{}").code, 404);

        let models = told(&get(address, "/models"));
        assert_eq!(
            (&models["running"], &models["loading"]),
            (&json!("made"), &Value::Null)
        );
        let listed = models["models"].as_array().unwrap().iter();
        let voc21 = listed
            .clone()
            .find(|model| model["name"] == "voc21")
            .expect("the one in the binary");
        assert!(voc21["scores"][0]["value"].as_f64().unwrap() > 0.0, "{voc21}");
        let refused = post(address, "/models", "{\"model\": \"none\"}");
        assert_eq!(
            (refused.code, refused.text()),
            (422, "no model \"none\"\n".into())
        );
        assert_eq!(post(address, "/models?camera=yard", "{}").code, 404);
    }

    #[test]
    fn where_nothing_runs_nothing_is_changed() {
        let (address, _http) = serve(Health::new(vec![watched("door").into()]));
        assert_eq!(told(&get(address, "/zones"))["zones"], json!([]));
        assert_eq!(post(address, "/zones", "{}").code, 409);
    }
}
