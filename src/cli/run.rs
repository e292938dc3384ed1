//! `segd run`: the daemon's arguments, and pipelines made from them and the configuration.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tracing::info;

use crate::capture::{CaptureOptions, Pace, SourceSpec, parse_uri};
use crate::choose::{Choice, ChoiceOptions, Threads};
use crate::cli::args::{ModelArgs, VisualizeArgs, class_label};
use crate::cli::schedule_args::ScheduleArgs;
use crate::clock::RealClock;
use crate::config::{self, CameraConfig, FileConfig, NumberOrAuto, check_range};
use crate::metrics::Metrics;
use crate::pipeline::control::{Control, Looks, Privacy};
use crate::pipeline::{self, LostPicture, MaskPolicy, Parts, PipelineOptions};
use crate::stream::access::{RtspAccess, TlsFiles, User};
use crate::stream::{Codec, StreamOptions, parse_output};
use crate::supervise::OnTransient;
use vision::error::{Error, Result};
use vision::frame::{FrameFormat, PixelFormat};
use vision::model::contract::Contract;
use vision::overlay::Visualize;
use vision::redact::{How, RedactOptions};
use vision::scene::ModelInfo;
use vision::segment::Engine;

/// Where frames come from.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Source")]
pub struct SourceArgs {
    /// Camera: a device, /dev/v4l/by-id/..., usb:VENDOR:PRODUCT or usb:VENDOR:PRODUCT:SERIAL, or csi://0 for the first
    /// camera on a board's CSI connectors [env: SEGD_CAMERA]
    #[arg(long, value_name = "DEVICE", conflicts_with = "input")]
    pub camera: Option<String>,
    /// Video file, rtsp:// address, folder of images, test://, or gst:LAUNCH LINE ending in an appsink;
    /// several recordings are played one after the other [env: SEGD_INPUT]
    #[arg(long, value_name = "URI", num_args = 1..)]
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
    /// Take each frame of a file exactly once, as fast as possible; with its own mask, unless --every, --max-mask-age
    /// or --cpu-budget is given
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
    /// What video is encoded as: h264, which every player has, or h265, for fewer bits [default: h264]
    #[arg(long, value_enum)]
    pub codec: Option<Codec>,
    /// GStreamer element that encodes; the first that works if not given
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
    /// Masks.
    #[command(flatten)]
    pub schedule: ScheduleArgs,
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
    /// Serve addresses other than loopback to everyone who reaches them
    #[arg(long)]
    pub insecure: bool,
    /// Health and metrics over HTTP; "" for none [default: 127.0.0.1:8555]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http: Option<String>,
}

/// Reads the configuration file that is named, or the default one if it exists, and lays the environment's keys
/// over it.
///
/// # Errors
/// Usage, naming file or variable, and key.
pub fn read_config(path: Option<&PathBuf>) -> Result<FileConfig> {
    let file = match path.cloned().or_else(config::default_config_path) {
        Some(path) => FileConfig::read(&path)?,
        None => FileConfig::default(),
    };
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Ok(config::from_environment(variables)?.over(&file))
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
        options.untimed_fps = Some(options.fps);
    }
    options.pixel_format = file.pixel_format;
    options.controls = file.controls.clone().unwrap_or_default().into_iter().collect();
    options.tls_fingerprint.clone_from(&file.tls_fingerprint);
    options.tls_ca.clone_from(&file.tls_ca);
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
pub fn pipeline_options(args: &RunArgs, camera: &CameraConfig, spec: &SourceSpec) -> Result<PipelineOptions> {
    let stall_ms = camera.capture.stall_timeout_ms.unwrap_or(5_000);
    let no_pace = args.source.no_pace;
    if no_pace && spec.is_live() {
        return Err(
            Error::usage("--no-pace is for files; a camera or network stream has its own pace")
                .hint("leave --no-pace away, or use --lockstep"),
        );
    }
    // Every frame with its own mask, unless it is said which.
    let lockstep = args.source.lockstep || (no_pace && !args.schedule.is_set());
    Ok(PipelineOptions {
        masks: if lockstep {
            MaskPolicy::Lockstep
        } else {
            MaskPolicy::Newest
        },
        schedule: args.schedule.over(&camera.masks)?,
        live: !(no_pace || args.source.lockstep),
        on_source_error: if spec.is_live() {
            pipeline::reconnect()
        } else {
            OnTransient::GiveUp
        },
        read_timeout: Duration::from_millis(500),
        stall_timeout: Duration::from_millis(stall_ms.max(500)),
        stamp: false,
        max_frames: args.frames,
        lost_picture: None,
    })
}

/// The model that is asked for, and where it runs. `cameras` share the machine.
///
/// # Errors
/// Usage, naming the key.
pub fn wanted(args: &RunArgs, camera: &CameraConfig, cameras: usize) -> Result<ChoiceOptions> {
    let mut options = args.model.over(&camera.model)?;
    let schedule = args.schedule.over(&camera.masks)?;
    options.length = options.length.within_budget(&schedule);
    if !matches!(
        args.model.threads.or(camera.model.threads),
        Some(NumberOrAuto::Number(_))
    ) {
        options.threads = Threads::auto(cameras).within_budget(&schedule);
    }
    Ok(options)
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

/// The cameras of a run: those of the configuration, with the arguments over each. The arguments' source and outputs
/// are for a single one.
///
/// # Errors
/// Usage, naming the key.
pub fn cameras(args: &RunArgs, file: &FileConfig) -> Result<Vec<CameraConfig>> {
    let has_source = args.source.camera.is_some() || !args.source.input.is_empty();
    let named = match (has_source, args.output.output.is_empty()) {
        (true, _) => Some("--camera and --input"),
        (false, false) => Some("--output"),
        (false, true) => None,
    };
    if let (Some(named), false) = (named, file.camera.is_empty()) {
        return Err(Error::usage(format!(
            "{named} can't be used with the {} [[camera]] of the configuration",
            file.camera.len()
        ))
        .hint("use another configuration, such as --config /dev/null"));
    }
    let mut cameras = file.cameras()?;
    if let ([camera], false) = (cameras.as_mut_slice(), args.output.output.is_empty()) {
        camera.outputs.clone_from(&args.output.output);
    }
    Ok(cameras)
}

/// Who may watch, from arguments over configuration.
///
/// # Errors
/// Usage, naming the key.
pub fn access_from(args: &RunArgs, file: &config::AccessFile) -> Result<RtspAccess> {
    let users = file.users.iter().flatten().map(|entry| User::parse(entry));
    let tls = match (&file.certificate, &file.key) {
        (Some(certificate), Some(key)) => Some(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
        }),
        (None, None) => None,
        _ => {
            return Err(Error::usage(
                "access.certificate and access.key: one stands without the other",
            ));
        }
    };
    let access = RtspAccess {
        users: users.collect::<Result<_>>()?,
        insecure: args.insecure || file.insecure.unwrap_or(false),
        tls,
        max_clients: file
            .max_clients
            .unwrap_or_else(|| RtspAccess::default().max_clients),
    };
    access.validate()?;
    Ok(access)
}

/// How a camera's video is encoded and who may watch it, from arguments over configuration.
///
/// # Errors
/// Usage, naming the key.
pub fn stream_options(args: &RunArgs, camera: &CameraConfig, file: &FileConfig) -> Result<StreamOptions> {
    let defaults = StreamOptions::default();
    let options = StreamOptions {
        codec: args.output.codec.or(camera.stream.codec).unwrap_or_default(),
        bitrate_kbps: args.output.bitrate_kbps.or(camera.stream.bitrate_kbps),
        keyframe_interval_s: camera
            .stream
            .keyframe_interval_s
            .unwrap_or(defaults.keyframe_interval_s),
        encoder: args
            .output
            .encoder
            .clone()
            .or_else(|| camera.stream.encoder.clone()),
        max_bitrate_kbps: file.access.max_bitrate_kbps.unwrap_or(defaults.max_bitrate_kbps),
        access: access_from(args, &file.access)?,
    };
    options.validate()?;
    Ok(options)
}

/// How a model's masks are shown, and what is hidden.
///
/// # Errors
/// Usage, naming the key.
pub fn looks_from(
    args: &RunArgs,
    camera: &CameraConfig,
    contract: &Contract,
    generation: u64,
) -> Result<Looks> {
    Ok(Looks {
        model: ModelInfo::of(contract, generation),
        overlay: args.visualize.over(&camera.overlay)?.options(contract)?,
        privacy: privacy_from(&camera.privacy, contract)?,
    })
}

fn privacy_from(file: &config::PrivacyFile, contract: &Contract) -> Result<Option<Privacy>> {
    let margin = file.margin.unwrap_or(0.04);
    check_range("privacy.margin", f64::from(margin), 0.0..=1.0)?;
    let max_age_ms = file.max_mask_age_ms.unwrap_or(500);
    check_range("privacy.max_mask_age_ms", max_age_ms as f64, 1.0..=60_000.0)?;
    let mut how = vec![None; contract.classes.len()];
    let mut any = false;
    // Where a class stands in two lists, the one that shows less is taken.
    for (names, this) in [
        (&file.blur, How::Blur),
        (&file.pixelate, How::Pixelate),
        (&file.fill, How::Fill),
    ] {
        for name in names.iter().flatten() {
            let label = class_label(name, contract)?;
            how[usize::from(label)] = Some(this);
            any = true;
        }
    }
    Ok(any.then(|| Privacy {
        redact: RedactOptions { how, margin },
        max_mask_age: Duration::from_millis(max_age_ms),
    }))
}

/// A pipeline that is put together, and what a reload needs to know of it.
pub struct Built {
    /// What it is made of.
    pub parts: Parts,
    /// How it runs.
    pub options: PipelineOptions,
    /// The model and the backend that were chosen.
    pub choice: Choice,
}

/// Puts the pipeline of one camera together.
///
/// # Errors
/// Usage for wrong arguments or configuration; fatal for a model that can't be run.
pub fn build_camera(
    args: &RunArgs,
    camera: &CameraConfig,
    file: &FileConfig,
    metrics: Arc<Metrics>,
) -> Result<Built> {
    let (spec, capture_options) = source_from(&args.source, &camera.capture)?;
    let mut options = pipeline_options(args, camera, &spec)?;
    let infer_interval = infer_interval(args, &camera.model)?;
    let stream_options = stream_options(args, camera, file)?;
    let sinks = camera
        .outputs
        .iter()
        .map(|output| parse_output(output)?.opener(&stream_options))
        .collect::<Result<Vec<_>>>()?;

    let clock = RealClock::shared();
    let source = spec.opener(&capture_options, clock.clone())?;
    let chosen = wanted(args, camera, file.camera.len().max(1))?.choose()?;
    info!(
        camera = camera.name,
        model = chosen.model.contract.name,
        backend = chosen.backend.name(),
        why = chosen.why,
        "model"
    );
    let looks = looks_from(args, camera, &chosen.model.contract, 0)?;
    // Few masks are enough to show things, not to hide them: then every frame is segmented that there is time for.
    if looks.privacy.is_some() && !args.schedule.is_set() && camera.masks == config::MasksFile::default() {
        options.schedule.every = Some(1);
    }
    if options.live {
        options.lost_picture = Some(lost_picture(&capture_options, looks.overlay.mode));
    }
    let engine = Engine::new(
        chosen.model.clone(),
        chosen.backend.clone(),
        chosen.longest,
        metrics.clone(),
    )
    .with_fallbacks(chosen.fallbacks.clone());
    for output in camera.outputs.iter().filter(|o| o.starts_with("rtsp")) {
        eprintln!("segd: watch it with: ffplay -fflags nobuffer {output}   (or vlc {output})");
    }
    Ok(Built {
        parts: Parts {
            source,
            sinks,
            engine,
            control: Control::new(looks, infer_interval),
            clock,
            metrics,
        },
        options,
        choice: chosen,
    })
}

/// Puts the pipeline of a single camera together.
///
/// # Errors
/// As [`build_camera`]; usage if the configuration has several.
pub fn build(args: &RunArgs, file: &FileConfig, metrics: Arc<Metrics>) -> Result<(Parts, PipelineOptions)> {
    let cameras = cameras(args, file)?;
    let [camera] = cameras.as_slice() else {
        return Err(Error::usage(
            "one camera is needed, the configuration has several",
        ));
    };
    let built = build_camera(args, camera, file, metrics)?;
    Ok((built.parts, built.options))
}

/// What clients see while a live source is away: twice a second is enough to see the seconds count.
fn lost_picture(capture: &CaptureOptions, mode: Visualize) -> LostPicture {
    let mut width = capture.width as usize;
    if mode == Visualize::SideBySide {
        width *= 2;
    }
    LostPicture {
        after: Duration::from_secs(1),
        period: Duration::from_millis(500),
        format: FrameFormat::new(PixelFormat::I420, width, capture.height as usize),
        frame_rate: Some(capture.fps),
    }
}
