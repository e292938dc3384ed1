//! What Home Assistant is told, so that it shows segd by itself: one message for the device
//! (<https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload>). Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::topics::{Topics, safe};
use crate::events::desk::ZoneState;

/// A camera, as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Its name.
    pub camera: String,
    /// Its zones and their classes.
    pub zones: Vec<(String, String)>,
}

impl Shown {
    /// A camera and what is known of its zones.
    pub fn of(camera: &str, zones: &[ZoneState]) -> Self {
        let pairs = zones.iter().map(|z| (z.zone.to_string(), z.class.to_string()));
        Self {
            camera: camera.to_owned(),
            zones: pairs.collect(),
        }
    }
}

/// Each thing that is shown, by its id, and of what kind it is.
pub type Components = BTreeMap<String, Value>;

/// All that the cameras show.
pub fn components(topics: &Topics, cameras: &[Shown]) -> Components {
    let mut all = Components::new();
    let device = topics.device_id();
    let mut add = |id: String, platform: &str, name: String, more: Value| {
        let unique = format!("{device}_{id}");
        let mut one = Map::new();
        one.insert("platform".into(), platform.into());
        one.insert("unique_id".into(), unique.clone().into());
        one.insert("name".into(), name.into());
        if let Value::Object(more) = more {
            one.extend(more);
        }
        all.insert(unique, one.into());
    };
    for Shown { camera, zones } in cameras {
        let of_camera = |what: &str| format!("{}_{what}", safe(camera));
        for (zone, class) in zones {
            let topic = topics.zone(camera, zone, class);
            let id = |what: &str| format!("{}_{}_{}_{what}", safe(camera), safe(zone), safe(class));
            let name = |what: &str| format!("{camera} {zone} {class}{what}");
            add(
                id("occupancy"),
                "binary_sensor",
                name(""),
                json!({
                    "device_class": "occupancy",
                    "state_topic": topic,
                    "value_template":
                        "{{ 'None' if value_json.occupied is none else ('ON' if value_json.occupied else 'OFF') }}",
                }),
            );
            add(
                id("area"),
                "sensor",
                name(" area"),
                json!({
                    "state_topic": topic,
                    "state_class": "measurement",
                    "unit_of_measurement": "%",
                    "suggested_display_precision": 1,
                    "value_template": "{{ value_json.area * 100 }}",
                }),
            );
            for what in ["regions", "tracks"] {
                add(
                    id(what),
                    "sensor",
                    name(&format!(" {what}")),
                    json!({
                        "state_topic": topic,
                        "state_class": "measurement",
                        "value_template": format!("{{{{ value_json.{what} }}}}"),
                    }),
                );
            }
        }
        add(
            of_camera("camera"),
            "camera",
            camera.clone(),
            json!({ "topic": topics.snapshot(camera) }),
        );
        add(
            of_camera("enabled"),
            "switch",
            format!("{camera} events"),
            json!({
                "state_topic": topics.enabled(camera),
                "command_topic": topics.set(&topics.enabled(camera)),
                "payload_on": "ON",
                "payload_off": "OFF",
            }),
        );
        add(
            of_camera("fps"),
            "sensor",
            format!("{camera} frames a second"),
            json!({
                "state_topic": topics.state(camera),
                "state_class": "measurement",
                "unit_of_measurement": "fps",
                "entity_category": "diagnostic",
                "value_template": "{{ value_json.fps }}",
            }),
        );
        add(
            of_camera("problem"),
            "binary_sensor",
            format!("{camera} problem"),
            json!({
                "device_class": "problem",
                "entity_category": "diagnostic",
                "state_topic": topics.state(camera),
                "value_template": "{{ 'ON' if value_json.troubles else 'OFF' }}",
                "json_attributes_topic": topics.state(camera),
            }),
        );
    }
    all
}

/// The message for the device. Components that were shown `before` and are gone are named without their keys, which
/// removes them.
pub fn message(topics: &Topics, now: &Components, before: &Components) -> Value {
    let gone = before.iter().filter(|(id, _)| !now.contains_key(*id));
    let gone = gone.map(|(id, one)| (id.clone(), json!({ "platform": one["platform"] })));
    let all: Map<String, Value> = now.clone().into_iter().chain(gone).collect();
    json!({
        "device": {
            "identifiers": [topics.device_id()],
            "name": topics.prefix(),
            "manufacturer": "segd",
            "model": "segd",
            "sw_version": env!("CARGO_PKG_VERSION"),
        },
        "origin": { "name": "segd", "sw_version": env!("CARGO_PKG_VERSION") },
        "availability_topic": topics.availability(),
        "components": all,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys that Home Assistant's schema of each platform asks for, beside `platform` and `unique_id`.
    fn required(platform: &str) -> &'static [&'static str] {
        match platform {
            "binary_sensor" | "sensor" => &["state_topic"],
            "switch" => &["command_topic"],
            "camera" => &["topic"],
            other => panic!("{other} is not known here"),
        }
    }

    fn shown(zones: &[(&str, &str)]) -> Vec<Shown> {
        let pairs = zones.iter().map(|(z, c)| ((*z).to_owned(), (*c).to_owned()));
        vec![Shown {
            camera: "door".into(),
            zones: pairs.collect(),
        }]
    }

    #[test]
    fn each_component_has_the_keys_that_its_platform_asks_for() {
        let topics = Topics::new("segd");
        let now = components(&topics, &shown(&[("drive", "car"), ("drive", "traffic light")]));
        let message = message(&topics, &now, &Components::new());
        for key in ["device", "origin", "components"] {
            assert!(message[key].is_object(), "{key}");
        }
        assert!(message["device"]["identifiers"].is_array());
        assert!(message["origin"]["name"].is_string());
        assert_eq!(message["availability_topic"], "segd/availability");
        let all = message["components"].as_object().unwrap();
        // Occupancy, area, regions, tracks of two, and four of the camera.
        assert_eq!(all.len(), 12);
        for (id, one) in all {
            assert_eq!(one["unique_id"], **id);
            assert!(
                id.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)),
                "{id}"
            );
            for key in required(one["platform"].as_str().unwrap()) {
                assert!(one[key].is_string(), "{id} has no {key}");
            }
        }
        let light = &all["segd_door_drive_traffic_light_occupancy"];
        assert_eq!(light["state_topic"], "segd/door/drive/traffic_light");
        assert_eq!(light["name"], "door drive traffic light");
    }

    #[test]
    fn what_is_gone_is_removed() {
        let topics = Topics::new("segd");
        let before = components(&topics, &shown(&[("drive", "car"), ("lawn", "car")]));
        let now = components(&topics, &shown(&[("drive", "car")]));
        let message = message(&topics, &now, &before);
        assert_eq!(
            message["components"]["segd_door_lawn_car_area"],
            json!({ "platform": "sensor" })
        );
        assert!(message["components"]["segd_door_drive_car_area"]["state_topic"].is_string());
    }
}
