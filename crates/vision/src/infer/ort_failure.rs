//! ONNX Runtime's messages in one line for people: without the source locations that they begin with. If an accelerator
//! doesn't work, says what is missing and how to install it.

use super::Device;

/// Longest message, in characters.
const LONGEST: usize = 400;

/// Why an accelerator doesn't work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// What was found.
    pub cause: String,
    /// What to do.
    pub hint: String,
}

/// A message of ONNX Runtime in one line that a log can hold.
pub(super) fn one_line(message: &str) -> String {
    let text = message.split_whitespace().collect::<Vec<_>>().join(" ");
    // "FILE:LINE FUNCTION [ONNXRuntimeError] : 1 : FAIL : what went wrong"
    let text = text
        .split_once("[ONNXRuntimeError] : ")
        .and_then(|(_, rest)| rest.splitn(3, " : ").nth(2))
        .unwrap_or(&text);
    // "FILE:LINE FUNCTION CUDA failure 35: what went wrong ; GPU=... ; file=... ; expr=..."
    let text = match text.find("CUDA failure ") {
        Some(start) if text.starts_with('/') => text[start..].split(" ; ").next().unwrap_or(text),
        _ => text,
    };
    let text = text.trim_end_matches([' ', '.', ';']);
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// What to do about a file that ONNX Runtime does not read, for a reason that [`one_line`] gives.
pub(super) fn why_unreadable(cause: &str) -> &'static str {
    match cause.contains("Could not find an implementation for") {
        true => {
            "the library has this operator for other types or sets alone (32-bit floats are the usual ones): export again with \
             them, or run it with --backend tract"
        }
        false => "the file is damaged or of a newer operator set: export again, or update the library",
    }
}

/// What `message` says about an accelerator that doesn't work.
pub(super) fn explain(device: Device, message: &str) -> Failure {
    let cause = one_line(message);
    let name = device.provider();
    if cause.contains("execution provider is not enabled in this build") {
        return Failure {
            cause: format!("this library was built without {name}"),
            hint: format!(
                "take the libraries of an onnxruntime-gpu wheel (docs/jetson.md), or {}",
                other(device)
            ),
        };
    }
    if let Some((library, why)) = unloadable(&cause) {
        return explain_library(device, library, why);
    }
    let hint = match cuda_failure(&cause) {
        Some(2) => "the GPU's memory is full: what else runs on it?".to_owned(),
        Some(35) => "NVIDIA's driver is older than the CUDA that this ONNX Runtime was built for: update the driver, or take \
                     one that was built for your CUDA (on a Jetson, for your JetPack)"
            .to_owned(),
        Some(100) => "no GPU is seen: what does `nvidia-smi` say, and on a Jetson, is the user in the groups video and render?"
            .to_owned(),
        _ => "if `nvidia-smi` or `dmesg` show nothing wrong with the GPU, take another ONNX Runtime".to_owned(),
    };
    Failure {
        cause,
        hint: format!("{hint}; or {}", other(device)),
    }
}

/// What is left to choose.
fn other(device: Device) -> &'static str {
    match device {
        Device::TensorRt => "choose --device cuda or --device cpu",
        Device::Cuda | Device::Cpu => "choose --device cpu",
    }
}

/// Of `Failed to load library PATH with error: WHY`, the file's name and why.
fn unloadable(cause: &str) -> Option<(&str, &str)> {
    let (path, why) = cause
        .split_once("Failed to load library ")?
        .1
        .split_once(" with error: ")?;
    Some((file_name(path), why))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn cuda_failure(cause: &str) -> Option<u32> {
    let number = cause.split_once("CUDA failure ")?.1;
    number.split(':').next()?.trim().parse().ok()
}

/// The provider's library `library` was not loaded: `why`, in the loader's words.
fn explain_library(device: Device, library: &str, why: &str) -> Failure {
    let Some((lacking, _)) = why.split_once(": cannot open shared object file") else {
        return Failure {
            cause: format!("{library} was not loaded: {why}"),
            hint: format!(
                "it was made for another system, or for another CUDA or TensorRT than is there: take another \
                 onnxruntime-gpu wheel, or {}",
                other(device)
            ),
        };
    };
    let lacking = file_name(lacking);
    if lacking == library {
        return Failure {
            cause: format!("{library} is not beside ONNX Runtime's library"),
            hint: format!(
                "copy it there from the same onnxruntime-gpu wheel, or {}",
                other(device)
            ),
        };
    }
    let (stem, version) = lacking.split_once(".so").unwrap_or((lacking, ""));
    let version = version.trim_start_matches('.');
    let what = match stem {
        "libcuda" => {
            "install NVIDIA's driver (it is part of L4T on a Jetson: `sudo apt install nvidia-l4t-cuda`)"
                .to_owned()
        }
        // The number of CUDA itself.
        "libcudart" | "libcublas" | "libcublasLt" => with_jetpack(&format!("CUDA {version}")),
        "libcurand" | "libcufft" | "libcufftw" | "libnvrtc" | "libnvJitLink" => with_jetpack("CUDA"),
        _ if stem.starts_with("libcudnn") => with_jetpack(&format!("cuDNN {version}")),
        "libnvinfer" | "libnvinfer_plugin" | "libnvonnxparser" => {
            with_jetpack(&format!("TensorRT {version}"))
        }
        _ => format!("install {lacking}"),
    };
    Failure {
        cause: format!("{library} needs {lacking}, which is not found"),
        hint: format!(
            "{what}, set LD_LIBRARY_PATH if it lies elsewhere, or {}",
            other(device)
        ),
    }
}

fn with_jetpack(what: &str) -> String {
    format!(
        "install {what} (on a Jetson `sudo apt install nvidia-jetpack`, and an ONNX Runtime that was built for it)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: &str = "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 \
        onnxruntime::Provider& onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library ";

    fn explained(device: Device, message: &str) -> (String, String) {
        let failure = explain(device, message);
        assert!(failure.hint.contains("--device cpu"), "{failure:?}");
        (failure.cause, failure.hint)
    }

    #[test]
    fn an_operator_of_another_type_is_no_damage() {
        let cause = one_line(
            "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for GridSample(16) node with name 'a'",
        );
        assert!(why_unreadable(&cause).contains("--backend tract"), "{cause}");
        let cause = one_line("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Protobuf parsing failed.");
        assert!(why_unreadable(&cause).contains("damaged"), "{cause}");
    }

    /// Messages as ONNX Runtime 1.31.1 gave them on a machine without a GPU.
    #[test]
    fn what_is_missing_is_named_with_what_brings_it() {
        let lib = "/opt/ort/libonnxruntime_providers_cuda.so";
        let lacks = |library: &str, what: &str| {
            format!(
                "{BRIDGE}{library} with error: {what}: cannot open shared object file: No such file or directory\n"
            )
        };
        for (device, message, cause, hint) in [
            (
                Device::Cuda,
                lacks(lib, "libcublasLt.so.13"),
                "libonnxruntime_providers_cuda.so needs libcublasLt.so.13, which is not found",
                "install CUDA 13 (",
            ),
            (
                Device::Cuda,
                lacks(lib, "libcurand.so.10"),
                "libonnxruntime_providers_cuda.so needs libcurand.so.10, which is not found",
                "install CUDA (",
            ),
            (
                Device::Cuda,
                lacks(lib, "libcuda.so.1"),
                "libonnxruntime_providers_cuda.so needs libcuda.so.1, which is not found",
                "install NVIDIA's driver",
            ),
            (
                Device::Cuda,
                lacks(lib, "libcudnn.so.9"),
                "libonnxruntime_providers_cuda.so needs libcudnn.so.9, which is not found",
                "install cuDNN 9 (",
            ),
            (
                Device::TensorRt,
                lacks("/x/libonnxruntime_providers_tensorrt.so", "libnvinfer.so.10"),
                "libonnxruntime_providers_tensorrt.so needs libnvinfer.so.10, which is not found",
                "install TensorRT 10 (",
            ),
            (
                Device::Cuda,
                lacks(lib, lib),
                "libonnxruntime_providers_cuda.so is not beside ONNX Runtime's library",
                "copy it there",
            ),
            (
                Device::Cuda,
                format!(
                    "{BRIDGE}{lib} with error: /lib/libc.so.6: version `GLIBC_2.38' not found (required by {lib})"
                ),
                "libonnxruntime_providers_cuda.so was not loaded: /lib/libc.so.6: version `GLIBC_2.38' not found \
                 (required by /opt/ort/libonnxruntime_providers_cuda.so)",
                "made for another system",
            ),
            (
                Device::TensorRt,
                "TensorRT execution provider is not enabled in this build.".to_owned(),
                "this library was built without TensorRT",
                "onnxruntime-gpu wheel",
            ),
        ] {
            let (found, said) = explained(device, &message);
            assert_eq!(found, cause);
            assert!(said.starts_with(hint) || said.contains(hint), "{said}");
        }
    }

    #[test]
    fn what_cuda_says_is_not_lost_behind_where_it_was_said() {
        let place = "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, void, \
            onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const char*, \
            const char*, int) [with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = cudaError; std::conditional_t<THRW, \
            void, common::Status> = void] ";
        let message = |what: &str| {
            format!(
                "{place}{place}{what} ; GPU=-1 ; hostname=vm ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/\
                     cuda_execution_provider.cc ; line=355 ; expr=cudaSetDevice(info_.device_id);"
            )
        };
        for (what, hint) in [
            (
                "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version",
                "update the driver",
            ),
            (
                "CUDA failure 100: no CUDA-capable device is detected",
                "no GPU is seen",
            ),
            ("CUDA failure 2: out of memory", "memory is full"),
            ("CUDA failure 719: unspecified launch failure", "dmesg"),
        ] {
            let (cause, said) = explained(Device::Cuda, &message(what));
            assert_eq!(cause, what);
            assert!(said.contains(hint), "{said}");
        }
    }

    #[test]
    fn other_messages_stay_as_they_are_but_short() {
        assert_eq!(
            one_line("Load model failed:\nProtobuf parsing failed."),
            "Load model failed: Protobuf parsing failed"
        );
        let long = one_line(&"x".repeat(5000));
        assert_eq!(long.len(), LONGEST + 3);
        assert_eq!(one_line(""), "");
    }

    proptest::proptest! {
        #[test]
        fn no_message_is_too_odd(
            message in "(\\[ONNXRuntimeError\\] : )?(Failed to load library )?.{0,20}( with error: )?.{0,9}(CUDA failure )?.{0,30}"
        ) {
            for device in [Device::Cuda, Device::TensorRt] {
                let failure = explain(device, &message);
                proptest::prop_assert!(!failure.hint.is_empty() && !failure.cause.contains('\n'));
            }
        }
    }
}
