//! `segd run`: the daemon's arguments.

use std::path::PathBuf;

use clap::Args;

use crate::cli::args::{ModelArgs, VisualizeArgs};
use crate::cli::offline::{self, Shard};
use crate::cli::schedule_args::ScheduleArgs;
use crate::config::{
    AccessSection, CaptureSection, HealthSection, Inputs, Layer, ModelSection, Origin, OverlaySection,
    RunSection, Sections, StreamSection,
};
use crate::daemon;
use crate::output::Codec;
use vision::error::{Error, Result};

/// Where frames come from.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Source")]
pub struct SourceArgs {
    /// Camera: a device, /dev/v4l/by-id/..., usb:VENDOR:PRODUCT or usb:VENDOR:PRODUCT:SERIAL, or csi://0 for the first
    /// camera on a board's CSI connectors [env: SEGD_CAMERA]
    #[arg(long, value_name = "DEVICE", conflicts_with = "input")]
    pub camera: Option<String>,
    /// Video file, rtsp:// address, folder of images, test://, or gst:LAUNCH LINE ending in an appsink;
    /// several recordings are played one after the other; @LIST: a file that names a recording a line, each of which is
    /// converted into an output of its own (with --no-pace and --output 'FOLDER/{stem}.mkv') [env: SEGD_INPUT]
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
    /// End with code 1 if the camera or network stream is not there at the start, in place of waiting for it
    #[arg(long)]
    pub no_wait: bool,
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
    /// What stands in place of all but the classes: blur, a colour (#rrggbb), or the file of a picture
    #[arg(long, value_name = "blur|COLOR|FILE", help_heading = "Drawing")]
    pub background: Option<String>,
    /// Configuration file; the command line overrides it [default: /etc/segd/segd.toml if it exists]
    #[arg(long, value_name = "FILE", env = "SEGD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Read the configuration file again when it changes, as at SIGHUP
    #[arg(long, env = "SEGD_WATCH_CONFIG")]
    pub watch_config: bool,
    /// End after this many frames
    #[arg(long, value_name = "N")]
    pub frames: Option<u64>,
    /// Of the recordings of --input @LIST, convert every N-th, from number I on; I is 0 to N-1
    #[arg(long, value_name = "I/N", requires = "input")]
    pub shard: Option<Shard>,
    /// At most this many inferences a second, to save power; the video keeps its rate
    #[arg(long, value_name = "RATE")]
    pub max_inferences_per_second: Option<f64>,
    /// Serve addresses other than loopback to everyone who reaches them
    #[arg(long)]
    pub insecure: bool,
    /// Health and metrics over HTTP; "" for none [default: 127.0.0.1:8555]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http: Option<String>,
}

impl SourceArgs {
    /// Whether a source is named.
    pub fn is_set(&self) -> bool {
        self.camera.is_some() || !self.input.is_empty()
    }

    fn section(&self) -> CaptureSection {
        CaptureSection {
            camera: self.camera.clone(),
            input: (!self.input.is_empty()).then(|| Inputs(self.input.clone())),
            width: self.width,
            height: self.height,
            fps: self.fps,
            looped: self.looped.then_some(true),
            ..CaptureSection::default()
        }
    }
}

impl OutputArgs {
    fn section(&self) -> StreamSection {
        StreamSection {
            outputs: (!self.output.is_empty()).then(|| self.output.clone()),
            codec: self.codec,
            bitrate_kbps: self.bitrate_kbps,
            encoder: self.encoder.clone(),
            ..StreamSection::default()
        }
    }
}

impl RunArgs {
    /// The keys that are set.
    pub fn layer(&self) -> Layer {
        Layer {
            sections: Sections {
                capture: self.source.section(),
                model: ModelSection {
                    max_inferences_per_second: self.max_inferences_per_second,
                    ..self.model.section()
                },
                masks: self.schedule.section(),
                overlay: OverlaySection {
                    background: self.background.clone(),
                    ..self.visualize.section()
                },
                stream: self.output.section(),
                ..Sections::default()
            },
            access: AccessSection {
                insecure: self.insecure.then_some(true),
                ..AccessSection::default()
            },
            health: HealthSection {
                listen: self.http.clone(),
                ..HealthSection::default()
            },
            run: RunSection {
                frames: self.frames,
                no_pace: self.source.no_pace.then_some(true),
                lockstep: self.source.lockstep.then_some(true),
                no_wait: self.source.no_wait.then_some(true),
                ..self.model.run_section()
            },
            ..Layer::default()
        }
    }

    /// Where the run's settings come from.
    pub fn origin(&self) -> Origin {
        Origin {
            config: self.config.clone(),
            arguments: self.layer(),
        }
    }
}

/// Runs until the sources have ended or a signal comes.
///
/// # Errors
/// Usage for wrong arguments or configuration; otherwise what ended a pipeline.
pub fn run(args: &RunArgs) -> Result<()> {
    match offline::list_of(args) {
        Some(list) => offline::run(args, &list),
        None if args.shard.is_some() => Err(Error::usage(
            "--shard shares out the recordings of a list, and --input names none",
        )
        .hint("--input @LIST, where LIST names a recording a line")),
        None => daemon::run(args.origin(), args.watch_config),
    }
}
