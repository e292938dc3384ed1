//! Configuration: the file, environment variables over it, command-line options over both, and what they come to.
//!
//! ```text
//! file ---------+
//! environment --+--> Layers --Settings::resolve--> Settings --with a model's contract--> Looks
//! arguments ----+
//! ```
//!
//! A [`Layer`] holds keys as they were written, each of which may be absent. [`Settings`] hold what a run needs, checked:
//! a start, a reload, `segd check-config` and `segd bench` have no other way to them. The classes that are drawn and
//! hidden can only be checked against a model; [`CameraSettings::looks`] does that once the model is known.

mod cameras;
mod diff;
pub mod edit;
mod environment;
mod layer;
mod listen;
mod looks;
mod resolve;
mod sections;
mod settings;
mod watch;
mod zones;

pub use crate::capture::ControlValue;
pub use diff::{CameraDiff, Diff};
pub use environment::from_environment;
pub use layer::{CameraLayer, Layer, Layers, Origin, Sections};
pub use listen::{DEFAULT_LISTEN, WebRtcSettings, may_listen, parse_listen};
pub use looks::{Drawing, Hiding, check_watched, class_label};
pub use resolve::{behind, color, drawing, model, schedule};
pub use sections::{
    AccessSection, CaptureSection, ClipsSection, EventsSection, HealthSection, Inputs, MasksSection,
    ModelSection, MqttSection, NumberOrAuto, OverlaySection, PrivacySection, RecordSection, RunSection,
    StreamSection,
};
pub use settings::{CameraSettings, EventSettings, HealthSettings, Settings};
pub use watch::FileLook;
pub use zones::{LineLayer, ZoneLayer};

use vision::error::{Error, Result};

/// Refuses a number that is not finite or out of `range`.
///
/// # Errors
/// Usage, naming the key.
pub fn check_range(key: &str, value: f64, range: std::ops::RangeInclusive<f64>) -> Result<f64> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Error::usage(format!(
        "{key} = {value}, expected {} to {}",
        range.start(),
        range.end()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert!(check_range("alpha", f64::NAN, 0.0..=1.0).is_err());
        assert!(
            check_range("alpha", 1.5, 0.0..=1.0)
                .unwrap_err()
                .to_string()
                .contains("alpha = 1.5")
        );
        assert!(check_range("alpha", 0.5, 0.0..=1.0).is_ok());
    }
}
