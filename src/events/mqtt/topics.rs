//! The names of topics, and what is said on those that segd listens to. Pure.

/// A name as a level of a topic and as a part of an id: what is no letter, digit, `-` or `_` becomes `_`.
pub fn safe(name: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    name.chars().map(|c| if keep(c) { c } else { '_' }).collect()
}

/// The topics below one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
}

/// What segd is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// To watch a camera's zones and lines, or not.
    Enabled(bool),
    /// To draw these classes alone; all but the background if none is named.
    Classes(Vec<String>),
}

impl Topics {
    /// Topics that begin with `prefix`.
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    /// What they begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The id that Home Assistant knows the device by.
    pub fn device_id(&self) -> String {
        safe(&self.prefix)
    }

    /// `online`, or `offline`; retained.
    pub fn availability(&self) -> String {
        format!("{}/availability", self.prefix)
    }

    fn camera(&self, camera: &str, rest: &str) -> String {
        format!("{}/{}/{rest}", self.prefix, safe(camera))
    }

    /// What is known of a class in a zone, as JSON; retained.
    pub fn zone(&self, camera: &str, zone: &str, class: &str) -> String {
        self.camera(camera, &format!("{}/{}", safe(zone), safe(class)))
    }

    /// How a camera does, as JSON; retained.
    pub fn state(&self, camera: &str) -> String {
        self.camera(camera, "state")
    }

    /// Events, as JSON; never retained.
    pub fn event(&self, camera: &str) -> String {
        self.camera(camera, "event")
    }

    /// The outgoing picture at the last start of a presence, as JPEG; retained.
    pub fn snapshot(&self, camera: &str) -> String {
        self.camera(camera, "snapshot")
    }

    /// `ON` while the camera's zones and lines are watched, or `OFF`; retained.
    pub fn enabled(&self, camera: &str) -> String {
        self.camera(camera, "enabled")
    }

    /// The classes that are drawn, with commas between them; retained.
    pub fn classes(&self, camera: &str) -> String {
        self.camera(camera, "classes")
    }

    /// Where a topic's value is asked for.
    pub fn set(&self, topic: &str) -> String {
        format!("{topic}/set")
    }

    /// What is asked for, and of which of these cameras.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read<'a>(
        &self,
        cameras: impl IntoIterator<Item = &'a str>,
        topic: &str,
        payload: &[u8],
    ) -> Result<(&'a str, Asked), String> {
        let text = std::str::from_utf8(payload).map_err(|_| "its payload is no UTF-8 text".to_owned())?;
        let text = text.trim();
        for camera in cameras {
            if topic == self.set(&self.enabled(camera)) {
                return match text {
                    "ON" => Ok((camera, Asked::Enabled(true))),
                    "OFF" => Ok((camera, Asked::Enabled(false))),
                    other => Err(format!("found {other:?}, expected ON or OFF")),
                };
            }
            if topic == self.set(&self.classes(camera)) {
                let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
                return Ok((camera, Asked::Classes(names.map(str::to_owned).collect())));
            }
        }
        Err("no camera has this topic".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_or_refused() {
        let topics = Topics::new("home/segd");
        let read = |topic: &str, payload: &str| topics.read(["door", "yard"], topic, payload.as_bytes());
        assert_eq!(
            read("home/segd/yard/enabled/set", "OFF"),
            Ok(("yard", Asked::Enabled(false)))
        );
        assert_eq!(
            read("home/segd/door/classes/set", " person, car "),
            Ok(("door", Asked::Classes(vec!["person".into(), "car".into()])))
        );
        assert_eq!(
            read("home/segd/door/classes/set", ""),
            Ok(("door", Asked::Classes(vec![])))
        );
        assert!(
            read("home/segd/door/enabled/set", "on")
                .unwrap_err()
                .contains("\"on\"")
        );
        assert!(read("home/segd/shed/enabled/set", "ON").is_err());
        assert!(
            topics
                .read(["door"], "home/segd/door/enabled/set", &[0xff])
                .is_err()
        );
        assert_eq!(
            topics.zone("door", "drive", "traffic light/red"),
            "home/segd/door/drive/traffic_light_red"
        );
    }
}
