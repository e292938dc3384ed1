//! `segd check-config`: reads a configuration, opens what it names, and says what would run.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::args::{ModelArgs, VisualizeArgs};
use crate::cli::run::{
    OutputArgs, RunArgs, SourceArgs, cameras, infer_interval, looks_from, pipeline_options, source_from,
    stream_options,
};
use crate::cli::schedule_args::ScheduleArgs;
use crate::clock::RealClock;
use crate::config::{CameraConfig, FileConfig};
use crate::health::http;
use crate::output::{OutputSpec, StreamOptions, parse_output};
use vision::error::{Error, Result};

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
    let file = FileConfig::read(&args.file)?;
    let run = RunArgs {
        source: SourceArgs::default(),
        output: OutputArgs::default(),
        model: ModelArgs::default(),
        schedule: ScheduleArgs::default(),
        visualize: VisualizeArgs::default(),
        config: None,
        frames: None,
        max_inferences_per_second: None,
        insecure: false,
        http: None,
    };
    let insecure = file.access.insecure.unwrap_or(false);
    if let Some(listen) = file.health.listen.as_deref().filter(|l| !l.is_empty()) {
        http::parse_listen(listen, insecure)?;
    }
    let cameras = cameras(&run, &file)?;
    let mut lines = Vec::new();
    for camera in &cameras {
        let checked = check(&args, &run, camera, &file);
        lines.push(checked.map_err(|e| match cameras.len() {
            1 => e,
            _ => e.in_camera(&camera.name),
        })?);
    }
    println!("{}: ok", args.file.display());
    for (camera, lines) in cameras.iter().zip(lines) {
        if cameras.len() > 1 {
            println!("{}", camera.name);
        }
        for line in lines {
            println!("  {line}");
        }
    }
    Ok(())
}

fn check(
    args: &CheckConfigArgs,
    run: &RunArgs,
    camera: &CameraConfig,
    file: &FileConfig,
) -> Result<Vec<String>> {
    let (spec, capture) = source_from(&run.source, &camera.capture)?;
    pipeline_options(run, camera, &spec)?;
    infer_interval(run, &camera.model)?;
    let stream = stream_options(run, camera, file)?;
    let mut outputs = Vec::new();
    for output in &camera.outputs {
        outputs.push(check_output(output, &stream)?);
    }
    let opener = spec.opener(&capture, RealClock::shared())?;
    let source = if args.no_source {
        format!("{} (not opened)", spec.name())
    } else {
        match opener.open() {
            Ok(source) => source.describe(),
            Err(e) if e.is_transient() => format!("{}: not there now: {e}", spec.name()),
            Err(e) => return Err(e),
        }
    };
    let choice = run.model.over(&camera.model)?.choose()?;
    let contract = &choice.model.contract;
    let looks = looks_from(run, camera, contract, 0)?;
    let mut lines = vec![
        format!("source  {source}"),
        format!(
            "model   {} on {}: {}",
            contract.name,
            choice.backend.name(),
            choice.why
        ),
    ];
    lines.extend(outputs.into_iter().map(|o| format!("output  {o}")));
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

/// Checks that an output could be opened, without opening it.
fn check_output(output: &str, options: &StreamOptions) -> Result<String> {
    let spec = parse_output(output)?;
    spec.opener(options)?;
    match &spec {
        #[cfg(feature = "gstreamer")]
        OutputSpec::Rtsp(address) if address.tls => {
            if let Some(files) = &options.access.tls {
                crate::output::rtsp_auth::check_tls(files)?;
            }
        }
        OutputSpec::Mp4(path) | OutputSpec::Mkv(path) => {
            check_folder(path.parent().unwrap_or(Path::new("")), output)?;
        }
        _ => {}
    }
    Ok(spec.to_string())
}

/// A folder that files can be made in.
fn check_folder(folder: &Path, output: &str) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    tempfile::Builder::new()
        .prefix(".segd-")
        .tempfile_in(folder)
        .map(|_| ())
        .map_err(|e| {
            Error::usage(format!(
                "output {output}: no file can be made in {}",
                folder.display()
            ))
            .caused_by(e)
        })
}
