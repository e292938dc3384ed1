//! A camera's controls (brightness, exposure, focus ...) by name
//! (<https://docs.kernel.org/userspace-api/media/v4l/control.html>).

use std::path::Path;

use v4l::Device;
use v4l::control::{Control, Description, Flags, Type, Value};

use super::error::camera_error;
use crate::capture::meant::meant;
use crate::capture::options::ControlValue;
use vision::error::{Error, Result};

/// A control's name as it is written in the configuration: lower case, everything but letters and digits an
/// underscore, as v4l2-ctl writes it.
fn key(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.is_empty() && !out.ends_with('_') {
            out.push('_');
        }
    }
    out.trim_end_matches('_').to_owned()
}

/// Whether it can be set to a number or switched.
fn can_be_set(control: &Description) -> bool {
    let typ = matches!(
        control.typ,
        Type::Integer | Type::Integer64 | Type::Boolean | Type::Menu | Type::IntegerMenu
    );
    typ && !control.flags.intersects(Flags::DISABLED | Flags::READ_ONLY)
}

fn controls_of(device: &Device) -> Vec<Description> {
    let all = device.query_controls().unwrap_or_default();
    all.into_iter().filter(can_be_set).collect()
}

/// Each control with its range, one line each.
pub(super) fn list_controls(device: &Device) -> Vec<String> {
    let line = |c: &Description| match c.typ {
        Type::Boolean => format!("{} = true or false (default {})", key(&c.name), c.default == 1),
        Type::Menu | Type::IntegerMenu => {
            let items = c.items.iter().flatten();
            let items: Vec<String> = items.map(|(n, item)| format!("{n}: {item}")).collect();
            format!("{} = {} (default {})", key(&c.name), items.join(", "), c.default)
        }
        _ => format!(
            "{} = {} to {}, step {} (default {})",
            key(&c.name),
            c.minimum,
            c.maximum,
            c.step,
            c.default
        ),
    };
    controls_of(device).iter().map(line).collect()
}

/// What a control is set to: its number and value.
fn wanted(path: &Path, all: &[Description], name: &str, value: ControlValue) -> Result<Control> {
    let Some(control) = all.iter().find(|c| key(&c.name) == key(name)) else {
        let keys: Vec<String> = all.iter().map(|c| key(&c.name)).collect();
        let names: Vec<&str> = keys.iter().map(String::as_str).collect();
        let error = Error::usage(format!("camera {}: it has no control {name:?}", path.display()));
        return Err(match meant(&key(name), &names) {
            Some(near) => error.hint(format!("did you mean {near:?}?")),
            None => error.hint(format!("it has {}", names.join(", "))),
        });
    };
    let number = match value {
        ControlValue::Switch(on) => i64::from(on),
        ControlValue::Number(number) => number,
    };
    if !(control.minimum..=control.maximum).contains(&number) {
        return Err(Error::usage(format!(
            "camera {}: capture.controls.{name} = {number}, expected {} to {}",
            path.display(),
            control.minimum,
            control.maximum
        )));
    }
    let value = match control.typ {
        Type::Boolean => Value::Boolean(number != 0),
        _ => Value::Integer(number),
    };
    Ok(Control {
        id: control.id,
        value,
    })
}

/// Sets controls. Switches and menus come first: a number such as the exposure time can only be set once its
/// automatic is off.
///
/// # Errors
/// Usage, for a control that the camera hasn't, or a value out of its range; transient, if the camera refuses.
pub(super) fn set_controls(device: &Device, path: &Path, values: &[(String, ControlValue)]) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    let all = controls_of(device);
    let mut controls = Vec::with_capacity(values.len());
    for (name, value) in values {
        controls.push((name, wanted(path, &all, name, *value)?));
    }
    let is_number = |c: &Control| {
        let kind = all.iter().find(|d| d.id == c.id).map(|d| d.typ);
        matches!(kind, Some(Type::Integer | Type::Integer64))
    };
    controls.sort_by_key(|(_, c)| is_number(c));
    for (name, control) in controls {
        device
            .set_control(control)
            .map_err(|e| camera_error(path, &format!("setting control {name}"), e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(id: u32, name: &str, typ: Type, range: std::ops::RangeInclusive<i64>) -> Description {
        Description {
            id,
            typ,
            name: name.into(),
            minimum: *range.start(),
            maximum: *range.end(),
            step: 1,
            default: 0,
            flags: Flags::empty(),
            items: None,
        }
    }

    #[test]
    fn names_are_those_of_v4l2_ctl() {
        assert_eq!(key("White Balance, Automatic"), "white_balance_automatic");
        assert_eq!(key("Exposure Time, Absolute"), "exposure_time_absolute");
        assert_eq!(key("Power Line Frequency"), "power_line_frequency");
    }

    #[test]
    fn values_are_checked() {
        let all = [
            described(1, "Brightness", Type::Integer, 0..=255),
            described(2, "White Balance, Automatic", Type::Boolean, 0..=1),
        ];
        let path = Path::new("/dev/video0");
        let set = |name: &str, value| wanted(path, &all, name, value);
        let brightness = set("brightness", ControlValue::Number(128)).unwrap();
        assert!(matches!(brightness.value, Value::Integer(128)));
        let white = set("white_balance_automatic", ControlValue::Switch(false)).unwrap();
        assert!(matches!(white.value, Value::Boolean(false)));
        for (name, value, part) in [
            (
                "brightnes",
                ControlValue::Number(1),
                "did you mean \"brightness\"?",
            ),
            ("zoom", ControlValue::Number(1), "it has brightness, white"),
            ("brightness", ControlValue::Number(256), "0 to 255"),
        ] {
            let error = set(name, value).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
