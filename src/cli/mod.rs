//! The command line: subcommands, their arguments, logging.

use std::ffi::OsString;
use std::io::IsTerminal;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::stdio::{self, LogWriter};
use vision::error::{Error, Result};

// All commands print through these, which shadow the standard library's: those panic when their reader is gone.
macro_rules! println {
    () => { $crate::stdio::print(format_args!("")) };
    ($($argument:tt)*) => { $crate::stdio::print(format_args!($($argument)*)) };
}
macro_rules! eprintln {
    ($($argument:tt)*) => { $crate::stdio::say(format_args!($($argument)*)) };
}

pub mod args;
pub mod bench;
pub mod check_config;
pub mod eval;
pub mod events;
mod eval_objects;
pub mod hash_password;
pub mod health;
pub mod image;
#[cfg(feature = "tract")]
pub mod import;
#[cfg(feature = "gstreamer")]
mod latency;
pub mod missing;
pub mod models;
mod offline;
pub mod probe;
pub mod propagation;
pub mod run;
pub mod schedule_args;
mod segments;
mod worst;

const EXAMPLES: &str = "\
Examples:
  segd --camera /dev/video0                     annotated video at rtsp://127.0.0.1:8554/segd
  segd --input street.mp4 --loop                the same from a file, again and again
  segd --input street.mp4 --no-pace --output street-seg.mkv
  segd image photo.jpg -o photo-seg.png         one picture
  segd probe                                    what this machine has, and what segd would use

Watch it:
  ffplay -fflags nobuffer rtsp://127.0.0.1:8554/segd     (or mpv --profile=low-latency)";

/// Labels every pixel of a camera's video with a segmentation network, draws the result onto the video,
/// and streams it over RTSP.
#[derive(Debug, Parser)]
#[command(name = "segd", version, after_help = EXAMPLES)]
pub struct Cli {
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
    /// What to do; `run` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Arguments of `run`.
    #[command(flatten)]
    pub run: run::RunArgs,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Segment a camera or a video and stream it (the default)
    Run(Box<run::RunArgs>),
    /// Segment single images
    Image(image::ImageArgs),
    /// Score a model on a labelled data set
    Eval(eval::EvalArgs),
    /// Measure this machine: time and CPU of each stage, drops, mask age, memory
    Bench(Box<bench::BenchArgs>),
    /// List cameras, backends and encoders, and say what segd would use
    Probe(probe::ProbeArgs),
    /// List the models that are found, with their scores
    Models(models::ModelsArgs),
    /// Make a model of an ONNX file: its contract, a look at its answer, a self-test
    #[cfg(feature = "tract")]
    Import(Box<import::ImportArgs>),
    /// List what happened in zones and at lines, from the file that events.file names
    Events(events::EventsArgs),
    /// Ask the daemon on this machine how it is; ends with code 1 if something is wrong
    Health(health::HealthArgs),
    /// Check a configuration file, and open what it names
    CheckConfig(check_config::CheckConfigArgs),
    /// Make a user's entry for the configuration out of a password that is read from standard input
    HashPassword(hash_password::HashPasswordArgs),
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logging options, the same for all subcommands.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or a filter such as `info,segd::capture=debug`
    #[arg(
        long,
        env = "SEGD_LOG",
        default_value = "info",
        global = true,
        help_heading = "Logging"
    )]
    pub log_level: String,
    /// Form of the log
    #[arg(
        long,
        env = "SEGD_LOG_FORMAT",
        value_enum,
        default_value = "text",
        global = true,
        help_heading = "Logging"
    )]
    pub log_format: LogFormat,
}

impl Cli {
    /// Reads the command line. Options of `run` before another command are refused, those that hold for all commands stand
    /// anywhere.
    ///
    /// # Errors
    /// What clap has to say, help and version included.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(arguments)?;
        if let Some((name, _)) = matches.subcommand()
            && let Some(option) = option_of_run(&command, &matches)
        {
            return Err(command.error(
                ErrorKind::ArgumentConflict,
                format!("{option} is an option of `segd run` and can't stand before `{name}`"),
            ));
        }
        Self::from_arg_matches(&matches).map_err(|e| e.format(&mut command))
    }
}

/// The first option of `run` that stands before a command.
fn option_of_run(command: &clap::Command, matches: &ArgMatches) -> Option<String> {
    command
        .get_arguments()
        .filter(|argument| !argument.is_global_set())
        .find(|argument| {
            let id = argument.get_id().as_str();
            let known = matches.try_contains_id(id).is_ok();
            known && matches.value_source(id) == Some(ValueSource::CommandLine)
        })
        .map(ToString::to_string)
}

/// Starts logging to standard error.
pub fn init_logging(args: &LogArgs) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_new(&args.log_level).unwrap_or_else(|why| {
        eprintln!("segd: --log-level {:?}: {why}; using \"info\"", args.log_level);
        EnvFilter::new("info")
    });
    // The inference libraries log every optimisation step at info.
    let filter = [
        "tract_onnx=warn",
        "tract_core=warn",
        "tract_hir=warn",
        "tract_linalg=warn",
        "ort=warn",
    ]
    .iter()
    .filter_map(|d| d.parse().ok())
    .fold(filter, |filter, directive| filter.add_directive(directive));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogWriter)
        .with_target(false);
    match args.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Runs what the command line says.
///
/// # Errors
/// The subcommand's error; fatal if what it printed could not be written, unless the reader has gone.
pub fn dispatch(cli: Cli) -> Result<()> {
    command(cli).and(stdio::finish())
}

fn command(cli: Cli) -> Result<()> {
    match cli.command {
        None => run::run(&cli.run),
        Some(Command::Run(args)) => run::run(&args),
        Some(Command::Image(args)) => image::run(args),
        Some(Command::Eval(args)) => eval::run(args),
        Some(Command::Bench(args)) => bench::run(*args),
        Some(Command::Probe(args)) => probe::run(args),
        Some(Command::Models(args)) => models::run(args),
        #[cfg(feature = "tract")]
        Some(Command::Import(args)) => import::run(&args),
        Some(Command::Events(args)) => events::run(args),
        Some(Command::Health(args)) => health::run(args),
        Some(Command::CheckConfig(args)) => check_config::run(args),
        Some(Command::HashPassword(args)) => hash_password::run(args),
    }
}

/// A report on stdout: as JSON, or as `print` puts it for people.
fn print_report<T: serde::Serialize>(json: bool, report: &T, print: impl FnOnce(&T)) -> Result<()> {
    if !json {
        print(report);
        return Ok(());
    }
    let text = serde_json::to_string_pretty(report)
        .map_err(|e| Error::fatal("the report can't be written as JSON").caused_by(e))?;
    println!("{text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Cli, clap::Error> {
        Cli::read(
            std::iter::once("segd")
                .chain(line.split_whitespace())
                .map(OsString::from),
        )
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_for_all_commands_stand_before_and_behind_them() {
        for line in [
            "--log-level warn models",
            "models --log-level warn",
            "--log-level warn --no-pace",
            "--log-level warn run --no-pace",
            "run --no-pace --log-level warn",
        ] {
            let cli = read(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert_eq!(cli.log.log_level, "warn", "{line}");
        }
        let cli = read("--log-format json probe").unwrap();
        assert_eq!(cli.log.log_format, LogFormat::Json);
        assert!(matches!(cli.command, Some(Command::Probe(_))));
    }

    #[test]
    fn options_of_run_do_not_stand_before_another_command() {
        for line in [
            "--no-pace models",
            "--width 320 --log-level warn probe",
            "--loop run",
        ] {
            let error = read(line).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::ArgumentConflict, "{line}");
            assert_eq!(error.exit_code(), 2);
        }
        let error = read("--width 320 probe").err().unwrap().to_string();
        assert!(error.contains("--width") && error.contains("`probe`"), "{error}");
    }
}
