//! `/scene.json` and `/mask.png`: what is seen in the next outgoing picture.
//!
//! A scene is made while somebody asks and at no other time. Classes that `[privacy]` hides are left out of both, and where
//! the picture itself is hidden for want of a young mask, nothing is known.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::camera::{Asked, find};
use super::off_thread::off_thread;
use crate::clock::TimeNs;
use crate::health::{Health, Watched};
use crate::observe::Seen;
use crate::pipeline::control::Looks;
use vision::frame::Mask;
use vision::picture::index_png;
use vision::scene::Scene;

/// How long a picture is waited for: several frames of a slow camera.
const WAIT: Duration = Duration::from_secs(3);

/// What is known of one picture, and of which of it may be told.
struct Known {
    captured_at_ns: TimeNs,
    /// `None` if nothing is.
    scene: Option<Arc<Scene>>,
    looks: Arc<Looks>,
}

impl Known {
    /// Waits for the next picture; `None` if none goes out.
    async fn next(camera: &Watched) -> Option<Self> {
        let seen = timeout(WAIT, camera.control.scenes.next()).await.ok()?.ok()?;
        Some(Self::of(seen, camera.control.looks()))
    }

    fn of(seen: Seen, looks: Arc<Looks>) -> Self {
        let captured_at_ns = seen.captured_at_ns();
        let scene = match seen {
            // What another model's classes are called, and which are hidden, these looks don't say.
            Seen::Scene(scene) if scene.model.generation != looks.model.generation => None,
            Seen::Scene(scene) => {
                let is_young = looks
                    .privacy
                    .as_ref()
                    .is_none_or(|privacy| u128::from(scene.map_age_ns()) <= privacy.max_mask_age.as_nanos());
                is_young.then_some(scene)
            }
            Seen::Unknown { .. } => None,
        };
        Self {
            captured_at_ns,
            scene,
            looks,
        }
    }

    /// Whether pictures must not show the class.
    fn is_hidden(&self, class: usize) -> bool {
        let privacy = self.looks.privacy.as_ref();
        privacy.is_some_and(|privacy| privacy.redact.how.get(class).is_some_and(Option::is_some))
    }

    /// The document; `unix_ms` is the time of capture.
    fn to_json(&self, camera: &str, unix_ms: u64) -> Value {
        let classes = &self.looks.model.classes;
        let hidden = (0..classes.len()).filter(|class| self.is_hidden(*class));
        json!({
            "camera": camera,
            "captured_at_unix_ms": unix_ms,
            "model": self.looks.model.name,
            "hidden_classes": hidden.map(|class| &classes[class].name).collect::<Vec<_>>(),
            "seen": self.scene.as_ref().map(|scene| json!({
                "width": scene.map.width,
                "height": scene.map.height,
                "mask_age_s": scene.map_age_ns() as f64 / 1e9,
                "segments": self.segments(scene),
            })),
        })
    }

    /// Those that take pixels and may be told, the largest first; without the background.
    fn segments(&self, scene: &Scene) -> Vec<Value> {
        let pixels = (scene.map.width * scene.map.height).max(1) as f64;
        let mut all: Vec<_> = scene.segments.iter().zip(scene.extents()).collect();
        all.sort_by_key(|(_, extent)| std::cmp::Reverse(extent.area));
        let told = all.into_iter().filter_map(|(segment, extent)| {
            let index = usize::from(segment.class);
            let class = scene.model.classes.get(index)?;
            if extent.area == 0 || class.background || self.is_hidden(index) {
                return None;
            }
            let area = &extent.bbox;
            Some(json!({
                "class": class.name,
                "instance": segment.instance,
                "track": segment.track,
                "score": segment.score,
                "share": f64::from(extent.area) / pixels,
                "area": extent.area,
                "box": { "x": area.x, "y": area.y, "width": area.width, "height": area.height },
            }))
        });
        told.collect()
    }

    /// Each pixel's class; hidden ones are the background, or the first class where there is none.
    fn class_map(&self, scene: &Scene) -> Mask {
        let nothing = scene.model.classes.iter().position(|class| class.background);
        let nothing = u8::try_from(nothing.unwrap_or(0)).unwrap_or(0);
        let mut table = [nothing; 256];
        for (slot, segment) in table.iter_mut().zip(&scene.segments) {
            if !self.is_hidden(usize::from(segment.class)) {
                *slot = u8::try_from(segment.class).unwrap_or(nothing);
            }
        }
        Mask {
            width: scene.map.width,
            height: scene.map.height,
            labels: scene
                .map
                .labels
                .iter()
                .map(|label| table[usize::from(*label)])
                .collect(),
        }
    }
}

/// The Unix time, in ms, of `at_ns` on the camera's clock.
fn unix_ms(camera: &Watched, at_ns: TimeNs) -> u64 {
    let age = Duration::from_nanos(camera.clock.now_ns().saturating_sub(at_ns));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.saturating_sub(age).as_millis()).unwrap_or(u64::MAX)
}

const NO_PICTURE: (StatusCode, &str) = (StatusCode::SERVICE_UNAVAILABLE, "no picture went out\n");

/// 200 and what is seen, which is `null` where there is no young mask; 404 for no such camera; 503 if no picture went out.
pub(super) async fn scene(State(health): State<Health>, Query(asked): Query<Asked>) -> Response {
    let camera = match find(&health, &asked) {
        Ok(camera) => camera,
        Err(unknown) => return unknown.into_response(),
    };
    let Some(known) = Known::next(camera).await else {
        return NO_PICTURE.into_response();
    };
    let (name, at) = (camera.name.clone(), unix_ms(camera, known.captured_at_ns));
    match off_thread(move || known.to_json(&name, at)).await {
        Ok(value) => ([(CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
    }
}

/// 200 and each pixel's class as a palette PNG; 404 for no such camera; 503 if no picture went out, or nothing is known of it.
pub(super) async fn mask(State(health): State<Health>, Query(asked): Query<Asked>) -> Response {
    let camera = match find(&health, &asked) {
        Ok(camera) => camera,
        Err(unknown) => return unknown.into_response(),
    };
    let Some(known) = Known::next(camera).await else {
        return NO_PICTURE.into_response();
    };
    let Some(scene) = known.scene.clone() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "there is no young mask\n").into_response();
    };
    let encode = move || index_png(&known.class_map(&scene), &scene.model.classes);
    match off_thread(encode).await {
        Ok(Ok(body)) => ([(CONTENT_TYPE, "image/png")], body).into_response(),
        Ok(Err(e)) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the mask can't be encoded: {e}\n"),
        )
            .into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::watched;
    use crate::pipeline::control::Privacy;
    use crate::web::tests::{Answer, answer, connect, get, serve};
    use std::io::Write;
    use std::net::SocketAddr;
    use vision::model::contract::Class;
    use vision::overlay::OverlayOptions;
    use vision::redact::{How, RedactOptions};
    use vision::scene::{ModelInfo, Segment};

    fn class(name: &str, background: bool) -> Class {
        Class {
            name: name.into(),
            color: [name.len() as u8, 20, 30],
            background,
            thing: false,
        }
    }

    fn looks(hidden: Option<usize>, generation: u64) -> Looks {
        Looks {
            model: Arc::new(ModelInfo {
                name: "made".into(),
                generation,
                classes: vec![
                    class("nothing", true),
                    class("cat", false),
                    class("person", false),
                ],
            }),
            overlay: OverlayOptions::default(),
            privacy: hidden.map(|class| {
                let mut how = vec![None; 3];
                how[class] = Some(How::Blur);
                Privacy {
                    redact: RedactOptions { how, margin: 0.0 },
                    max_mask_age: Duration::from_millis(100),
                }
            }),
        }
    }

    /// Of 4x2 pixels: four of nothing, three of a person, one of a cat.
    fn seen(looks: &Looks, mask_age_ms: u64) -> Seen {
        let map = Mask {
            width: 4,
            height: 2,
            labels: vec![0, 2, 2, 0, 0, 2, 1, 0],
        };
        let captured = 10_000_000_000;
        Seen::Scene(Arc::new(Scene::new(
            (captured, 7),
            captured - mask_age_ms * 1_000_000,
            looks.model.clone(),
            Arc::new(map),
            (0..3).map(Segment::of_class).collect(),
        )))
    }

    fn told(hidden: Option<usize>, mask_age_ms: u64) -> Value {
        let looks = Arc::new(looks(hidden, 0));
        Known::of(seen(&looks, mask_age_ms), looks).to_json("door", 5)
    }

    #[test]
    fn what_is_seen_has_share_area_and_box_and_no_background() {
        let told = told(None, 40);
        assert_eq!(
            (&told["camera"], &told["captured_at_unix_ms"]),
            (&json!("door"), &json!(5))
        );
        let seen = &told["seen"];
        assert_eq!(
            (&seen["width"], &seen["height"], &seen["mask_age_s"]),
            (&json!(4), &json!(2), &json!(0.04))
        );
        let person = json!({
            "class": "person", "instance": null, "track": null, "score": 1.0, "share": 0.375, "area": 3,
            "box": { "x": 1, "y": 0, "width": 2, "height": 2 },
        });
        assert_eq!(seen["segments"][0], person);
        assert_eq!(seen["segments"][1]["class"], "cat");
        assert_eq!(seen["segments"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_is_hidden_is_told_nowhere() {
        let told = told(Some(2), 40);
        assert_eq!(told["hidden_classes"], json!(["person"]));
        let segments = told["seen"]["segments"].as_array().unwrap();
        assert_eq!(segments.len(), 1);
        assert_eq!(segments[0]["class"], "cat");
        let looks = Arc::new(looks(Some(2), 0));
        let Seen::Scene(scene) = seen(&looks, 40) else {
            unreachable!()
        };
        let known = Known::of(Seen::Scene(scene.clone()), looks);
        assert_eq!(known.class_map(&scene).labels, [0, 0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn nothing_is_known_without_a_young_mask_of_this_model() {
        assert_eq!(told(Some(2), 101)["seen"], Value::Null);
        assert!(
            told(None, 101)["seen"].is_object(),
            "without privacy its age is said"
        );
        let unknown = Seen::Unknown {
            captured_at_ns: 1,
            sequence: 1,
        };
        for seen in [unknown, seen(&looks(None, 1), 0)] {
            let told = Known::of(seen, Arc::new(looks(None, 0))).to_json("door", 0);
            assert_eq!(told["seen"], Value::Null);
        }
    }

    /// Asks while pictures go out.
    fn while_seen(address: SocketAddr, camera: &Watched, path: &str, seen: &Seen) -> Answer {
        let mut stream = connect(address);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let asked = std::thread::spawn(move || answer(stream).expect("an answer"));
        while !asked.is_finished() {
            camera.control.scenes.offer(seen);
            std::thread::yield_now();
        }
        asked.join().unwrap()
    }

    #[test]
    fn both_are_made_only_while_somebody_asks() {
        let camera = watched("door");
        camera.control.set_looks(looks(None, 0));
        let (address, _http) = serve(Health::new(vec![(*camera).clone()]));
        assert_eq!(get(address, "/scene.json?camera=yard").text(), "cameras: door\n");
        assert!(!camera.control.scenes.is_wanted());

        let seen = seen(&camera.control.looks(), 0);
        let json = while_seen(address, &camera, "/scene.json", &seen);
        assert_eq!(
            (json.code, json.header("content-type")),
            (200, Some("application/json"))
        );
        let told: Value = serde_json::from_slice(&json.body).unwrap();
        assert_eq!(told["seen"]["segments"][0]["class"], "person");

        let png = while_seen(address, &camera, "/mask.png?camera=door", &seen);
        assert_eq!((png.code, png.header("content-type")), (200, Some("image/png")));
        let decoder = png::Decoder::new(std::io::Cursor::new(&png.body));
        let mut reader = decoder.read_info().unwrap();
        assert_eq!(reader.info().color_type, png::ColorType::Indexed);
        assert_eq!(reader.info().palette.as_ref().unwrap()[6..9], [6, 20, 30]);
        let mut labels = vec![0; 8];
        reader.next_frame(&mut labels).unwrap();
        assert_eq!(labels, [0, 2, 2, 0, 0, 2, 1, 0]);

        let unknown = Seen::Unknown {
            captured_at_ns: 1,
            sequence: 1,
        };
        assert_eq!(while_seen(address, &camera, "/mask.png", &unknown).code, 503);
        assert!(!camera.control.scenes.is_wanted());
    }
}
