//! What a machine lacks that segd could use there, and the command that brings it: pure.

use crate::board::Board;

/// What is known of a machine.
pub struct Facts<'a> {
    /// The board.
    pub board: &'a Board,
    /// Whether GStreamer has an element.
    pub has: &'a dyn Fn(&str) -> bool,
    /// What ONNX Runtime's library was built with; `None` if there is no library.
    pub providers: Option<&'a [&'static str]>,
    /// Version of TensorRT's library, if it is there.
    pub tensorrt: Option<&'a str>,
    /// Name of an NVIDIA GPU, if there is one.
    pub gpu: Option<&'a str>,
}

/// Something that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What, and what it is for.
    pub what: String,
    /// The command that brings it, or where it is described.
    pub command: String,
}

/// Where the library with CUDA and TensorRT is described.
const ACCELERATED: &str = "see \"ONNX Runtime with CUDA and TensorRT\" in docs/jetson.md";

/// What is missing.
pub fn missing(facts: &Facts<'_>) -> Vec<Missing> {
    let mut all = Vec::new();
    let mut lacks = |what: &str, command: &str| {
        all.push(Missing {
            what: what.to_owned(),
            command: command.to_owned(),
        });
    };
    let (board, has) = (facts.board, facts.has);
    let any = |names: &[&str]| names.iter().any(|name| has(name));
    if board.is_jetson() {
        // Boards of this name have no encoder to be had.
        let has_nvenc = !board.model.as_ref().is_some_and(|m| m.contains("Orin Nano"));
        let mut elements = vec![
            ("nvvidconv", "colour conversion in hardware"),
            ("nvv4l2decoder", "decoding in hardware"),
            ("nvarguscamerasrc", "cameras on the CSI connectors"),
        ];
        if has_nvenc {
            elements.push(("nvv4l2h264enc", "encoding in hardware"));
        }
        for (element, purpose) in elements {
            if !has(element) {
                lacks(
                    &format!("GStreamer's {element}, for {purpose}"),
                    "sudo apt install --reinstall nvidia-l4t-gstreamer && rm -rf ~/.cache/gstreamer-1.0",
                );
            }
        }
    }
    if board.is_raspberry_pi() && !has("libcamerasrc") {
        lacks(
            "GStreamer's libcamerasrc, for cameras on the CSI connectors",
            "sudo apt install gstreamer1.0-libcamera",
        );
    }
    for (elements, what, package) in [
        (
            &["x264enc", "openh264enc"][..],
            "an H.264 encoder that needs no hardware",
            "gstreamer1.0-plugins-ugly",
        ),
        (
            &["x265enc"],
            "an H.265 encoder that needs no hardware",
            "gstreamer1.0-plugins-bad",
        ),
        (
            &["avdec_h264", "openh264dec"],
            "an H.264 decoder that needs no hardware",
            "gstreamer1.0-libav",
        ),
        (&["h264parse"], "mp4 and mkv files", "gstreamer1.0-plugins-bad"),
        (&["rtph264pay"], "RTSP outputs", "gstreamer1.0-plugins-good"),
    ] {
        if !any(elements) {
            lacks(what, &format!("sudo apt install {package}"));
        }
    }
    let accelerated = board.is_jetson() || facts.gpu.is_some();
    match facts.providers {
        None => lacks(
            "ONNX Runtime, which is several times faster than tract",
            "`make onnxruntime` in segd's sources and ORT_DYLIB_PATH=.ort/libonnxruntime.so, or segd's Debian package, which has it",
        ),
        Some(providers) if accelerated => {
            for provider in ["CUDA", "TensorRT"] {
                if !providers.contains(&provider) {
                    lacks(&format!("ONNX Runtime with {provider}"), ACCELERATED);
                }
            }
            if providers.contains(&"TensorRT") && facts.tensorrt.is_none() {
                let command = if board.is_jetson() {
                    "sudo apt install nvidia-tensorrt"
                } else {
                    "install TensorRT of the version that this ONNX Runtime names (libnvinfer)"
                };
                lacks("TensorRT's library, libnvinfer", command);
            }
        }
        Some(_) => {}
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::L4t;

    const CPU: &[&str] = &["CPU"];

    fn jetson(model: &str) -> Board {
        Board {
            model: Some(model.into()),
            l4t: Some(L4t {
                major: 36,
                minor: 4,
                patch: 3,
            }),
            ..Board::default()
        }
    }

    fn texts(
        board: &Board,
        lacking: &[&str],
        providers: Option<&'static [&'static str]>,
        gpu: Option<&str>,
    ) -> Vec<String> {
        let found = missing(&Facts {
            board,
            has: &|name| !lacking.contains(&name),
            providers,
            tensorrt: None,
            gpu,
        });
        found
            .into_iter()
            .map(|m| format!("{}: {}", m.what, m.command))
            .collect()
    }

    #[test]
    fn a_pc_with_all_plugins_lacks_nothing() {
        assert_eq!(texts(&Board::default(), &["nvvidconv"], Some(CPU), None), [""; 0]);
    }

    #[test]
    fn each_thing_comes_with_its_command() {
        let pc = Board::default();
        let bare = texts(&pc, &["x264enc", "openh264enc", "x265enc"], None, None);
        assert_eq!(bare.len(), 3, "{bare:?}");
        assert!(bare[0].contains("gstreamer1.0-plugins-ugly") && bare[1].contains("plugins-bad"));
        assert!(bare[2].contains("make onnxruntime"));
        // One of two is enough.
        assert_eq!(texts(&pc, &["x264enc"], Some(CPU), None), [""; 0]);
        let pi = Board {
            model: Some("Raspberry Pi 5 Model B Rev 1.0".into()),
            ..Board::default()
        };
        let pi = texts(&pi, &["libcamerasrc"], Some(CPU), None);
        assert!(pi[0].contains("gstreamer1.0-libcamera"), "{pi:?}");
    }

    #[test]
    fn a_jetson_is_told_of_its_hardware() {
        let nvidia = ["nvvidconv", "nvv4l2decoder", "nvarguscamerasrc", "nvv4l2h264enc"];
        let count = |model: &str| {
            let said = texts(&jetson(model), &nvidia, Some(CPU), None);
            said.iter().filter(|t| t.contains("nvidia-l4t-gstreamer")).count()
        };
        assert_eq!(count("NVIDIA Jetson AGX Orin Developer Kit"), 4);
        assert_eq!(
            count("NVIDIA Jetson Orin Nano Developer Kit"),
            3,
            "it has no encoder"
        );
        let said = texts(&jetson("NVIDIA Jetson AGX Orin"), &[], Some(CPU), None);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said.iter().all(|t| t.contains("docs/jetson.md")));
        let said = texts(
            &jetson("NVIDIA Jetson AGX Orin"),
            &[],
            Some(&["CPU", "CUDA", "TensorRT"]),
            None,
        );
        assert_eq!(
            said,
            ["TensorRT's library, libnvinfer: sudo apt install nvidia-tensorrt"]
        );
        let card = texts(&Board::default(), &[], Some(CPU), Some("NVIDIA RTX A2000"));
        assert_eq!(card.len(), 2, "{card:?}");
    }
}
