//! `segd run`: the daemon.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tracing::info;

use crate::capture::{CaptureOptions, Pace, SourceSpec, parse_uri};
use crate::cli::args::{ModelArgs, VisualizeArgs};
use crate::cli::status;
use crate::clock::RealClock;
use crate::config::{self, FileConfig, check_range};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::pipeline::control::{Control, Looks};
use crate::pipeline::{self, MaskPolicy, Parts, PipelineOptions};
use crate::segment::Engine;
use crate::stream::{DEFAULT_OUTPUT, StreamOptions, parse_output};
use crate::supervise::{OnTransient, stop_on_signals};

/// Where frames come from.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Source")]
pub struct SourceArgs {
    /// Camera device, or csi://0 for the first camera on a board's CSI connectors
    #[arg(long, value_name = "DEVICE", conflicts_with = "input", env = "SEGD_CAMERA")]
    pub camera: Option<String>,
    /// Video file, rtsp:// address, folder of images, test://, or gst:LAUNCH LINE ending in an appsink;
    /// several recordings are played one after the other
    #[arg(long, value_name = "URI", num_args = 1.., env = "SEGD_INPUT")]
    pub input: Vec<String>,
    /// Wanted width in pixels; a camera's nearest mode is taken [default: 640]
    #[arg(long, value_name = "PIXELS")]
    pub width: Option<u32>,
    /// Wanted height in pixels [default: 480]
    #[arg(long, value_name = "PIXELS")]
    pub height: Option<u32>,
    /// Wanted frames per second [default: 30]
    #[arg(long, value_name = "RATE")]
    pub fps: Option<f64>,
    /// Start a file again at its end
    #[arg(long = "loop")]
    pub looped: bool,
    /// Take each frame of a file exactly once, as fast as possible, with its own mask
    #[arg(long)]
    pub no_pace: bool,
    /// Every frame waits for its own mask, also at the source's pace (for files and tests)
    #[arg(long)]
    pub lockstep: bool,
}

/// Where annotated video goes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// rtsp://ADDRESS:PORT/PATH, FILE.mp4, FILE.mkv, or a FOLDER/ of PNGs; may be given several times
    /// [default: rtsp://127.0.0.1:8554/segd]
    #[arg(long, short, value_name = "URI")]
    pub output: Vec<String>,
    /// Video bitrate in kbit/s; chosen from size and rate if not given
    #[arg(long, value_name = "KBPS")]
    pub bitrate_kbps: Option<u32>,
    /// GStreamer element that encodes H.264; the first that works if not given
    #[arg(long, value_name = "ELEMENT")]
    pub encoder: Option<String>,
}

/// Arguments of `segd run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Source.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Outputs.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Model and backend.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Drawing.
    #[command(flatten)]
    pub visualize: VisualizeArgs,
    /// Configuration file; the command line overrides it [default: /etc/segd/segd.toml if it exists]
    #[arg(long, value_name = "FILE", env = "SEGD_CONFIG")]
    pub config: Option<PathBuf>,
    /// End after so many frames
    #[arg(long, value_name = "N")]
    pub frames: Option<u64>,
    /// At most so many inferences a second, to save power; the video keeps its rate
    #[arg(long, value_name = "RATE")]
    pub max_inferences_per_second: Option<f64>,
}

/// Reads the configuration file that is named, or the default one if it exists.
///
/// # Errors
/// Usage, naming file and key.
pub fn read_config(path: Option<&PathBuf>) -> Result<FileConfig> {
    match path.cloned().or_else(config::default_config_path) {
        Some(path) => FileConfig::read(&path),
        None => Ok(FileConfig::default()),
    }
}

/// What a source is, from arguments over configuration.
///
/// # Errors
/// Usage, naming what is wrong.
pub fn source_from(args: &SourceArgs, file: &config::CaptureFile) -> Result<(SourceSpec, CaptureOptions)> {
    // A source on the command line replaces whichever kind the file names.
    let (camera, input) = match (&args.camera, args.input.as_slice()) {
        (None, []) => (file.camera.clone(), file.input.iter().cloned().collect()),
        (camera, input) => (camera.clone(), input.to_vec()),
    };
    let spec = match (camera, input.as_slice()) {
        (Some(_), [_, ..]) => {
            return Err(
                Error::usage("capture.camera and capture.input are both set").hint("keep one of them")
            );
        }
        (Some(camera), []) if camera.starts_with("csi://") => parse_uri(&camera)?,
        (Some(camera), []) => SourceSpec::Camera(camera.into()),
        (None, [_, ..]) => {
            let items = input.iter().map(|text| parse_uri(text));
            SourceSpec::playlist(items.collect::<Result<_>>()?)?
        }
        (None, []) if std::path::Path::new("/dev/video0").exists() => {
            SourceSpec::Camera("/dev/video0".into())
        }
        (None, []) => {
            return Err(Error::usage(
                "no source: there is no /dev/video0, and neither --camera nor --input was given",
            )
            .hint("try `segd --input VIDEO.mp4` or `segd --input test://`"));
        }
    };
    let mut options = CaptureOptions::default();
    if let Some(width) = args.width.or(file.width) {
        check_range("width", f64::from(width), 16.0..=16384.0)?;
        options.width = width;
    }
    if let Some(height) = args.height.or(file.height) {
        check_range("height", f64::from(height), 16.0..=16384.0)?;
        options.height = height;
    }
    if let Some(fps) = args.fps.or(file.fps) {
        options.fps = check_range("fps", fps, 0.1..=1000.0)?;
    }
    options.looped = args.looped || file.looped.unwrap_or(false);
    options.pace = if args.no_pace {
        Pace::AsFastAsPossible
    } else {
        Pace::Recorded
    };
    Ok((spec, options))
}

/// The pipeline's options from arguments over configuration.
///
/// # Errors
/// Usage, naming the key.
pub fn pipeline_options(args: &RunArgs, file: &FileConfig, spec: &SourceSpec) -> Result<PipelineOptions> {
    let stall_ms = file.capture.stall_timeout_ms.unwrap_or(5_000);
    let no_pace = args.source.no_pace;
    if no_pace && spec.is_live() {
        return Err(
            Error::usage("--no-pace is for files; a camera or network stream has its own pace")
                .hint("leave --no-pace away, or use --lockstep"),
        );
    }
    Ok(PipelineOptions {
        masks: if no_pace || args.source.lockstep {
            MaskPolicy::Lockstep
        } else {
            MaskPolicy::Newest
        },
        live: !(no_pace || args.source.lockstep),
        on_source_error: if spec.is_live() {
            pipeline::reconnect()
        } else {
            OnTransient::GiveUp
        },
        read_timeout: Duration::from_millis(500),
        stall_timeout: Duration::from_millis(stall_ms.max(500)),
        max_frames: args.frames,
        lost_picture: None,
    })
}

/// The least time between two inferences, from arguments over configuration.
///
/// # Errors
/// Usage, naming the key.
pub fn infer_interval(args: &RunArgs, file: &config::ModelFile) -> Result<Duration> {
    match args.max_inferences_per_second.or(file.max_inferences_per_second) {
        Some(rate) => {
            let rate = check_range("max_inferences_per_second", rate, 0.01..=1000.0)?;
            Ok(Duration::from_secs_f64(1.0 / rate))
        }
        None => Ok(Duration::ZERO),
    }
}

/// Runs the daemon until the source ends or a signal comes.
///
/// # Errors
/// Usage for wrong arguments or configuration; otherwise what ended the pipeline.
pub fn run(args: RunArgs) -> Result<()> {
    let file = read_config(args.config.as_ref())?;
    let metrics = Metrics::shared();
    let (parts, options) = build(&args, &file, metrics.clone())?;
    let asked_to_stop = stop_on_signals()?;
    let _status = status::log_status(metrics.clone())?;
    let _progress = match options.live {
        true => None,
        false => status::show_progress(metrics, args.frames)?,
    };
    pipeline::run(parts, options, &asked_to_stop)?;
    Ok(())
}

/// Puts the pipeline together.
///
/// # Errors
/// Usage for wrong arguments or configuration; fatal for a model that can't be run.
pub fn build(args: &RunArgs, file: &FileConfig, metrics: Arc<Metrics>) -> Result<(Parts, PipelineOptions)> {
    let (spec, capture_options) = source_from(&args.source, &file.capture)?;
    let options = pipeline_options(args, file, &spec)?;
    let infer_interval = infer_interval(args, &file.model)?;

    let stream_options = StreamOptions {
        bitrate_kbps: args.output.bitrate_kbps.or(file.stream.bitrate_kbps),
        encoder: args
            .output
            .encoder
            .clone()
            .or_else(|| file.stream.encoder.clone()),
        ..StreamOptions::default()
    };
    let mut outputs = args.output.output.clone();
    if outputs.is_empty() {
        outputs = file
            .stream
            .outputs
            .clone()
            .unwrap_or_else(|| vec![DEFAULT_OUTPUT.to_owned()]);
    }
    let sinks = outputs
        .iter()
        .map(|output| parse_output(output)?.opener(&stream_options))
        .collect::<Result<Vec<_>>>()?;

    let clock = RealClock::shared();
    let source = spec.opener(&capture_options, clock.clone())?;
    let chosen = args.model.over(&file.model)?.choose()?;
    info!(
        model = chosen.model.contract.name,
        backend = chosen.backend.name(),
        why = chosen.why,
        "model"
    );
    let looks = Looks {
        generation: 0,
        classes: chosen.model.contract.classes.clone(),
        overlay: args
            .visualize
            .over(&file.overlay)?
            .options(&chosen.model.contract)?,
        privacy: None,
    };
    let engine = Engine::new(chosen.model, chosen.backend, chosen.longest, metrics.clone());
    for output in outputs.iter().filter(|o| o.starts_with("rtsp://")) {
        eprintln!("segd: watch it with: ffplay -fflags nobuffer {output}   (or vlc {output})");
    }
    Ok((
        Parts {
            source,
            sinks,
            engine,
            control: Control::new(looks, infer_interval),
            clock,
            metrics,
        },
        options,
    ))
}
