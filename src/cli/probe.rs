//! `segd probe`: what this machine has, and what segd would use.

use clap::Args;

use crate::cli::args::ModelArgs;
use crate::error::Result;

/// Arguments of `segd probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Model and backend.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Prints cameras, the backend and the encoder that would be used. What is missing is printed with what to
/// do about it; it is no error.
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
    encoder();
    Ok(())
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

#[cfg(feature = "gstreamer")]
fn encoder() {
    use crate::frame::{FrameFormat, PixelFormat};
    let format = FrameFormat::new(PixelFormat::I420, 640, 480);
    match crate::stream::chosen_encoder(format, Some(30.0), &crate::stream::StreamOptions::default()) {
        Ok(name) => println!("encoder   {name}"),
        Err(error) => println!("encoder   none: {error}"),
    }
}

#[cfg(not(feature = "gstreamer"))]
fn encoder() {
    println!("encoder   this build has no GStreamer (feature `gstreamer`)");
}
