//! The default model inside the binary (feature `embed-model`).

/// The files of the embedded model, by name; empty without the feature.
const FILES: &[(&str, &[u8])] = &[
    #[cfg(feature = "embed-model")]
    (
        "contract.toml",
        include_bytes!("../../../../models/voc21/contract.toml"),
    ),
    #[cfg(feature = "embed-model")]
    ("fp32.onnx", include_bytes!("../../../../models/voc21/fp32.onnx")),
    #[cfg(feature = "embed-model")]
    ("int8.onnx", include_bytes!("../../../../models/voc21/int8.onnx")),
    #[cfg(feature = "embed-model")]
    (
        "selftest.jpg",
        include_bytes!("../../../../models/voc21/selftest.jpg"),
    ),
    #[cfg(feature = "embed-model")]
    (
        "selftest-labels.png",
        include_bytes!("../../../../models/voc21/selftest-labels.png"),
    ),
];

/// A file of the embedded model.
pub(super) fn file(name: &str) -> Option<&'static [u8]> {
    FILES
        .iter()
        .find(|(path, _)| *path == name)
        .map(|(_, bytes)| *bytes)
}

#[cfg(all(test, feature = "embed-model"))]
mod tests {
    use crate::model::{DEFAULT_MODEL, Model};

    #[test]
    fn the_embedded_model_is_whole() {
        let model = Model::embedded().unwrap().unwrap();
        assert_eq!(model.contract.name, DEFAULT_MODEL);
        for file in &model.contract.files {
            model.network(file).unwrap();
        }
        let test = model.contract.selftest.clone().unwrap();
        model.file(&test.image).unwrap();
        model.file(&test.labels).unwrap();
    }
}
