//! What a contract's values must be, beyond what their types say.

use super::{Contract, FORMAT, InputType, MAX_SIDE, Resize, ones, zeros};

impl Contract {
    /// Says which key holds what, and what was expected.
    pub(super) fn check(&self) -> Result<(), String> {
        if !(1..=FORMAT).contains(&self.format) {
            return Err(format!(
                "format = {}, this segd reads formats 1 to {FORMAT}",
                self.format
            ));
        }
        self.output.check()?;
        if self.format < self.oldest_format() {
            return Err(format!(
                "format = {}, but output.kind, output.regions and classes with thing = true need format = {}",
                self.format,
                self.oldest_format()
            ));
        }
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(good) {
            return Err(format!(
                "name = {:?}, expected letters, digits, '-', '_' and '.', not starting with '.'",
                self.name
            ));
        }
        let input = &self.input;
        for (key, side) in [("input.width", input.width), ("input.height", input.height)] {
            if side == 0 || side > MAX_SIDE {
                return Err(format!("{key} = {side}, expected 1 to {MAX_SIDE} pixels"));
            }
        }
        if input.multiple == 0 || input.multiple > MAX_SIDE {
            return Err(format!(
                "input.multiple = {}, expected 1 to {MAX_SIDE}",
                input.multiple
            ));
        }
        if input.offset >= input.multiple.max(2) {
            return Err(format!(
                "input.offset = {}, expected less than input.multiple",
                input.offset
            ));
        }
        if input.resize != Resize::Fit {
            for (key, side) in [("input.width", input.width), ("input.height", input.height)] {
                if !input.is_valid_side(side) {
                    return Err(format!(
                        "{key} = {side} is not a multiple of {} plus {}",
                        input.multiple, input.offset
                    ));
                }
            }
        }
        for (channel, (mean, std)) in input.mean.iter().zip(input.std).enumerate() {
            if !mean.is_finite() || !std.is_finite() || std <= 0.0 {
                return Err(format!(
                    "input.mean[{channel}] = {mean}, input.std[{channel}] = {std}: expected finite numbers, std > 0"
                ));
            }
        }
        if input.dtype == InputType::U8 && (input.mean != zeros() || input.std != ones()) {
            return Err("input.dtype = \"u8\" takes bytes as they are: mean must be 0 and std 1".into());
        }
        if self.classes.is_empty() || self.classes.len() > 256 {
            return Err(format!("{} classes, expected 1 to 256", self.classes.len()));
        }
        self.output.check_classes(&self.classes)?;
        for (i, class) in self.classes.iter().enumerate() {
            if class.name.is_empty() || self.classes[..i].iter().any(|c| c.name == class.name) {
                return Err(format!(
                    "classes[{i}].name = {:?}: empty or used twice",
                    class.name
                ));
            }
        }
        if self.files.is_empty() {
            return Err("no [[files]]: expected at least one".into());
        }
        // A contract may only name files beside itself.
        let beside = |key: &str, path: &str| {
            if path.is_empty() || path.starts_with('.') || !path.chars().all(good) {
                return Err(format!(
                    "{key} = {path:?}, expected the name of a file beside the contract"
                ));
            }
            Ok(())
        };
        if let Some(test) = &self.selftest {
            beside("selftest.image", &test.image)?;
            beside("selftest.labels", &test.labels)?;
            if !(test.agreement > 0.0 && test.agreement <= 1.0) {
                return Err(format!(
                    "selftest.agreement = {}, expected more than 0, at most 1",
                    test.agreement
                ));
            }
        }
        for file in &self.files {
            beside("files.path", &file.path)?;
            if file.sha256.len() != 64 || !file.sha256.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')) {
                return Err(format!(
                    "files.sha256 of {} = {:?}, expected 64 lower-case hex digits",
                    file.path, file.sha256
                ));
            }
            if let Some(unknown) = file
                .backends
                .iter()
                .find(|b| !matches!(b.as_str(), "tract" | "ort" | "tensorrt"))
            {
                return Err(format!(
                    "files.backends of {} has {unknown:?}, expected \"tract\", \"ort\" and \"tensorrt\"",
                    file.path
                ));
            }
        }
        Ok(())
    }
}
