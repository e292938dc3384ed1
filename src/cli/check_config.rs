//! `segd check-config`: reads a configuration, opens what it names, and says what would run.

use std::path::PathBuf;

use clap::Args;

use crate::choose::Chooser;
use crate::clock::RealClock;
use crate::config::{CameraSettings, Layer, Layers, Settings};
use crate::daemon::check_outputs;
use vision::error::Result;

/// Arguments of `segd check-config`.
#[derive(Debug, Args)]
pub struct CheckConfigArgs {
    /// The configuration file
    pub file: PathBuf,
    /// Open no camera, stream or file: only read the configuration and the model
    #[arg(long)]
    pub no_source: bool,
}

/// Checks the file. A camera that is not there now is said, and is no error: it may be plugged in later.
///
/// # Errors
/// Usage, naming the key, what was found and what was expected; fatal for a model that does not run.
pub fn run(args: CheckConfigArgs) -> Result<()> {
    let layers = Layers::of_file(Layer::read(&args.file)?);
    let cameras = check(&layers, !args.no_source)?;
    println!("{}: ok", args.file.display());
    for (name, lines) in &cameras {
        if cameras.len() > 1 {
            println!("{name}");
        }
        for line in lines {
            println!("  {line}");
        }
    }
    Ok(())
}

/// Checks what a start with these layers would run. For each camera its name, and what was found in a line each.
///
/// # Errors
/// As [`run`].
pub fn check(layers: &Layers, opens_sources: bool) -> Result<Vec<(String, Vec<String>)>> {
    let settings = Settings::resolve(layers)?;
    let chooser = Chooser::default();
    let one = |camera: &CameraSettings| {
        let checked = check_camera(camera, &chooser, opens_sources);
        let lines = checked.map_err(|e| match settings.cameras.len() {
            1 => e,
            _ => e.in_camera(&camera.name),
        })?;
        Ok((camera.name.clone(), lines))
    };
    settings.cameras.iter().map(one).collect()
}

fn check_camera(camera: &CameraSettings, chooser: &Chooser, opens_source: bool) -> Result<Vec<String>> {
    check_outputs(camera)?;
    let name = camera.source.name();
    let source = if opens_source {
        let opener = camera.source.opener(&camera.capture, RealClock::shared())?;
        match opener.open() {
            Ok(source) => source.describe(),
            Err(e) if e.is_transient() => format!("{name}: not there now: {e}"),
            Err(e) => return Err(e),
        }
    } else {
        format!("{name} (not opened)")
    };
    let model = camera.model.find()?;
    // Classes that don't exist are told before a backend is tried.
    let looks = camera.looks(&model.contract, 0)?;
    let choice = chooser.choose_for(&camera.model, model)?;
    let contract = &choice.model.contract;
    let mut lines = vec![
        format!("source  {source}"),
        format!(
            "model   {} on {}: {}",
            contract.name,
            choice.backend.name(),
            choice.why
        ),
    ];
    lines.extend(camera.outputs.iter().map(|output| format!("output  {output}")));
    if let Some(privacy) = looks.privacy {
        let hidden = privacy.redact.how.iter().zip(&contract.classes);
        let names: Vec<&str> = hidden
            .filter(|(how, _)| how.is_some())
            .map(|(_, class)| class.name.as_str())
            .collect();
        lines.push(format!("hidden  {}", names.join(", ")));
    }
    Ok(lines)
}
