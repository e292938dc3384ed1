//! `segd probe`: what this machine has, and what segd would use.

use clap::Args;

use crate::board::Board;
use crate::choose::ChoiceOptions;
use crate::cli::args::ModelArgs;
use crate::cli::missing::{Facts, missing};
use vision::error::Result;

/// Arguments of `segd probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Model and backend.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Prints the board, cameras, backends, encoders and decoders, and what would be used. What is missing is printed with
/// the command that brings it; it is no error.
///
/// # Errors
/// Usage for wrong arguments.
pub fn run(args: ProbeArgs) -> Result<()> {
    let options = args.model.options()?;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "segd      {} on {} {}, {cpus} CPUs",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    let board = Board::read();
    print_board(&board);
    cameras();
    match options.choose() {
        Ok(choice) => println!(
            "network   {} on {}: {}",
            choice.model.contract.name,
            choice.backend.name(),
            choice.why
        ),
        Err(error) => println!("network   none: {error}"),
    }
    let providers = providers(&options);
    video();
    let (tensorrt, gpu) = (tensorrt(), gpu());
    let facts = Facts {
        board: &board,
        has: &has_element,
        providers: providers.as_deref(),
        tensorrt: tensorrt.as_deref(),
        gpu: gpu.as_deref(),
    };
    for one in missing(&facts) {
        println!("missing   {}: {}", one.what, one.command);
    }
    Ok(())
}

fn print_board(board: &Board) {
    if let Some(model) = &board.model {
        println!("board     {model}");
    }
    if let Some(l4t) = board.l4t {
        let jetpack = l4t.jetpack().unwrap_or("unknown");
        println!("L4T       {l4t} (JetPack {jetpack})");
        if l4t.major < 36 {
            println!("          segd's package needs JetPack 6; see \"Older JetPacks\" in docs/jetson.md");
        }
    }
    if let Some(mode) = &board.power_mode {
        println!("power     {mode}");
    }
    let modes: Vec<String> = board
        .power_modes
        .iter()
        .map(|(n, name)| format!("{n} {name}"))
        .collect();
    if !modes.is_empty() {
        println!(
            "          modes: {}; change with `sudo nvpmodel -m NUMBER`",
            modes.join(", ")
        );
    }
    if let Some(gpu) = gpu() {
        println!("GPU       {gpu}");
    }
    if let Some(version) = tensorrt() {
        println!("TensorRT  {version}");
    }
}

/// Prints ONNX Runtime's library, and gives what it was built with.
#[cfg(feature = "ort")]
fn providers(options: &ChoiceOptions) -> Option<Vec<&'static str>> {
    use vision::infer::Device;
    use vision::infer::ort::{OrtBackend, OrtOptions, built_in_providers, try_provider};
    let found = OrtBackend::load(OrtOptions {
        library: options.ort_library.clone(),
        ..OrtOptions::default()
    })
    .and_then(|ort| Ok((built_in_providers(options.ort_library.as_deref())?, ort)));
    match found {
        Ok((providers, ort)) => {
            println!(
                "ort       {} of {}, built with {}",
                ort.version(),
                ort.library().display(),
                providers.join(", ")
            );
            for device in [Device::Cuda, Device::TensorRt] {
                let name = device.provider();
                if !providers.contains(&name) {
                    continue;
                }
                match try_provider(options.ort_library.as_deref(), device) {
                    Ok(()) => println!("          {name} works"),
                    Err(why) => println!("          {name} can't be used: {why}"),
                }
            }
            Some(providers)
        }
        Err(error) => {
            println!("ort       none: {error}");
            None
        }
    }
}

#[cfg(not(feature = "ort"))]
fn providers(_: &ChoiceOptions) -> Option<Vec<&'static str>> {
    println!("ort       this build has no ONNX Runtime (feature `ort`)");
    None
}

#[cfg(feature = "ort")]
fn tensorrt() -> Option<String> {
    vision::infer::engine_cache::installed_tensorrt()
}

#[cfg(not(feature = "ort"))]
fn tensorrt() -> Option<String> {
    None
}

#[cfg(feature = "ort")]
fn gpu() -> Option<String> {
    vision::infer::engine_cache::gpu_name()
}

#[cfg(not(feature = "ort"))]
fn gpu() -> Option<String> {
    None
}

#[cfg(feature = "gstreamer")]
fn has_element(name: &str) -> bool {
    gstreamer::init().is_ok() && gstreamer::ElementFactory::find(name).is_some()
}

#[cfg(not(feature = "gstreamer"))]
fn has_element(_: &str) -> bool {
    true
}

#[cfg(feature = "camera")]
fn cameras() {
    let cameras = crate::capture::list_cameras();
    if cameras.is_empty() {
        println!("cameras   none (no /dev/video*); use --input for a file or an rtsp:// address");
    }
    for camera in &cameras {
        println!("camera    {}  {}", camera.path.display(), camera.name);
        if let Some(by_id) = &camera.by_id {
            println!("          {}", by_id.display());
        }
        if let Some(usb) = &camera.usb {
            println!("          {usb}");
        }
        match &camera.modes {
            Ok(modes) => modes.iter().for_each(|mode| println!("          {mode}")),
            Err(why) => println!("          can't be used: {why}"),
        }
        for control in &camera.controls {
            println!("          control {control}");
        }
    }
    if let Some(camera) = cameras
        .iter()
        .find(|c| c.modes.as_ref().is_ok_and(|m| !m.is_empty()))
    {
        println!(
            "          `segd` without arguments would use {}",
            camera.path.display()
        );
    }
}

#[cfg(not(feature = "camera"))]
fn cameras() {
    println!("cameras   this build has no camera support (feature `camera`)");
}

/// Prints encoders, decoders and what reads CSI cameras: what would be used, and what stands behind it.
#[cfg(feature = "gstreamer")]
fn video() {
    use crate::capture::CaptureOptions;
    use crate::capture::gst::csi;
    use crate::capture::gst::decoders::{self, Compression};
    use crate::encode::{Codec, chosen_encoder, plan};
    use crate::output::StreamOptions;
    use vision::frame::{FrameFormat, PixelFormat};
    let format = FrameFormat::new(PixelFormat::I420, 640, 480);
    for codec in Codec::ALL {
        let options = StreamOptions {
            codec,
            ..StreamOptions::default()
        };
        match chosen_encoder(format, Some(30.0), &options.encoding()) {
            Ok(name) => {
                let others = plan::known(codec)
                    .iter()
                    .filter(|e| **e != name && has_element(e));
                println!("encoder   {codec}: {name}{}", also(others.copied().collect()));
            }
            Err(error) => println!("encoder   {codec}: none: {error}"),
        }
    }
    for (compression, text) in [
        (Compression::H264, "H.264"),
        (Compression::H265, "H.265"),
        (Compression::Jpeg, "JPEG"),
    ] {
        let found = decoders::candidates(compression, &has_element);
        match found.split_first() {
            Some((name, others)) => println!("decoder   {text}: {name}{}", also(others.to_vec())),
            None => println!("decoder   {text}: none"),
        }
    }
    match csi::plans(0, &CaptureOptions::default(), &has_element) {
        Ok(plans) => println!("csi       {}", plans[0].element),
        Err(_) => println!("csi       no GStreamer element for cameras on CSI connectors"),
    }
}

/// What else is installed, for the end of a line.
#[cfg(feature = "gstreamer")]
fn also(others: Vec<&str>) -> String {
    if others.is_empty() {
        String::new()
    } else {
        format!(" (also installed: {})", others.join(", "))
    }
}

#[cfg(not(feature = "gstreamer"))]
fn video() {
    println!("encoder   this build has no GStreamer (feature `gstreamer`)");
}
