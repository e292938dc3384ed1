//! The default model inside the binary (feature `embed-model`).

/// The files of the embedded model, by name; empty without the feature.
const FILES: &[(&str, &[u8])] = &[];

/// A file of the embedded model.
pub(super) fn file(name: &str) -> Option<&'static [u8]> {
    FILES
        .iter()
        .find(|(path, _)| *path == name)
        .map(|(_, bytes)| *bytes)
}
