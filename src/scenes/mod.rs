//! What is seen in pictures, for programs: one JSON document for each, over HTTP, a WebSocket, or as lines of a file.
//!
//! Nothing is told of classes that `[privacy]` hides, and nothing at all of a picture that is hidden for want of a young
//! mask. `file.rs` writes lines.

pub mod file;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::clock::{SharedClock, TimeNs};
use crate::observe::Seen;
use crate::pipeline::control::Looks;
use vision::frame::LabelMap;
use vision::rle::Rle;
use vision::scene::Scene;

/// What is known of one picture, and of which of it may be told.
pub struct Known {
    /// When the picture was taken.
    pub captured_at_ns: TimeNs,
    sequence: u64,
    /// `None` if nothing is.
    scene: Option<Arc<Scene>>,
    looks: Arc<Looks>,
}

impl Known {
    /// What these looks let be told of a picture.
    pub fn of(seen: Seen, looks: Arc<Looks>) -> Self {
        let (captured_at_ns, sequence) = (seen.captured_at_ns(), seen.sequence());
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
            sequence,
            scene,
            looks,
        }
    }

    /// Whether pictures must not show the class.
    pub fn is_hidden(&self, class: usize) -> bool {
        let privacy = self.looks.privacy.as_ref();
        privacy.is_some_and(|privacy| privacy.redact.how.get(class).is_some_and(Option::is_some))
    }

    /// What is seen, if anything is.
    pub fn scene(&self) -> Option<&Arc<Scene>> {
        self.scene.as_ref()
    }

    /// The document; `unix_ms` is the time of capture. With `rle` each segment has its mask.
    pub fn to_json(&self, camera: &str, unix_ms: u64, rle: bool) -> Value {
        let classes = &self.looks.model.classes;
        let hidden = (0..classes.len()).filter(|class| self.is_hidden(*class));
        json!({
            "camera": camera,
            "captured_at_unix_ms": unix_ms,
            "sequence": self.sequence,
            "model": self.looks.model.name,
            "hidden_classes": hidden.map(|class| &classes[class].name).collect::<Vec<_>>(),
            "seen": self.scene.as_ref().map(|scene| json!({
                "width": scene.map.width,
                "height": scene.map.height,
                "mask_age_s": scene.map_age_ns() as f64 / 1e9,
                "segments": self.segments(scene, rle),
            })),
        })
    }

    /// Those that take pixels and may be told, the largest first; without the background.
    fn segments(&self, scene: &Scene, rle: bool) -> Vec<Value> {
        let pixels = (scene.map.width * scene.map.height).max(1) as f64;
        let masks = rle.then(|| Rle::of_each(&scene.map, scene.segments.len()));
        let mut all: Vec<_> = scene.segments.iter().zip(scene.extents()).enumerate().collect();
        all.sort_by_key(|(_, (_, extent))| std::cmp::Reverse(extent.area));
        let told = all.into_iter().filter_map(|(number, (segment, extent))| {
            let index = usize::from(segment.class);
            let class = scene.model.classes.get(index)?;
            if extent.area == 0 || class.background || self.is_hidden(index) {
                return None;
            }
            let area = &extent.bbox;
            let mut told = json!({
                "class": class.name,
                "instance": segment.instance,
                "track": segment.track,
                "score": segment.score,
                "share": f64::from(extent.area) / pixels,
                "area": extent.area,
                "box": { "x": area.x, "y": area.y, "width": area.width, "height": area.height },
            });
            if let Some(masks) = &masks {
                told["rle"] =
                    json!({ "size": [scene.map.height, scene.map.width], "counts": masks[number].to_coco() });
            }
            Some(told)
        });
        told.collect()
    }

    /// Each pixel's class; hidden ones are the background, or the first class where there is none.
    pub fn class_map(&self, scene: &Scene) -> LabelMap {
        let nothing = scene.model.classes.iter().position(|class| class.background);
        let nothing = u8::try_from(nothing.unwrap_or(0)).unwrap_or(0);
        let mut table = [nothing; 256];
        for (slot, segment) in table.iter_mut().zip(&scene.segments) {
            if !self.is_hidden(usize::from(segment.class)) {
                *slot = u8::try_from(segment.class).unwrap_or(nothing);
            }
        }
        LabelMap {
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

/// The Unix time, in ms, of `at_ns` on a camera's clock.
pub fn unix_ms(clock: &SharedClock, at_ns: TimeNs) -> u64 {
    let age = Duration::from_nanos(clock.now_ns().saturating_sub(at_ns));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.saturating_sub(age).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::pipeline::control::Privacy;
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

    pub(crate) fn looks(hidden: Option<usize>, generation: u64) -> Looks {
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
            colors: Default::default(),
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
    pub(crate) fn seen(looks: &Looks, mask_age_ms: u64) -> Seen {
        let map = LabelMap {
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
        Known::of(seen(&looks, mask_age_ms), looks).to_json("door", 5, false)
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
            let told = Known::of(seen, Arc::new(looks(None, 0))).to_json("door", 0, false);
            assert_eq!(told["seen"], Value::Null);
        }
    }
}
