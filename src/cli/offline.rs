//! `segd --input @LIST --shard I/N --no-pace`: recordings of a list, each into a file of its own, shared out among processes.
//!
//! A recording is written under another name and gets its own only when it is complete, so what is there is finished and
//! is skipped by the next run. Each process keeps a manifest of what it made, by which model.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};

use crossbeam_channel::Receiver;
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::run::RunArgs;
use crate::choose::Chooser;
use crate::config::{Inputs, Origin, Settings};
use crate::daemon::{build_camera, status};
use crate::metrics::Metrics;
use crate::pipeline;
use crate::supervise::{Ended, stop_on_signals};
use vision::error::{Error, Result};
use vision::file;
use vision::model::contract::Contract;
use vision::model::load::sha256_hex;

/// What stands for a recording's name, without folder and extension, in the output's.
const STEM: &str = "{stem}";

/// What manifests are called, without what tells shards apart.
const MANIFEST: &str = "manifest";

/// Entries of a list at most.
const MAX_ENTRIES: usize = 10_000_000;

/// Largest list in bytes.
const MAX_LIST_BYTES: u64 = 1 << 30;

/// The part of a list that one process does: every `of`-th entry, from number `index` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 0 on, below `of`.
    pub index: usize,
    /// How many processes share the list, at least 1.
    pub of: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Self { index: 0, of: 1 }
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let expected = "expected I/N with I from 0 to N-1, such as 0/4";
        let (index, of) = text.split_once('/').ok_or(expected)?;
        match index.parse().ok().zip(of.parse().ok()) {
            Some((index, of)) if index < of => Ok(Self { index, of }),
            Some(_) => Err(format!("there is no shard {text}, {expected}")),
            None => Err(expected.into()),
        }
    }
}

impl Shard {
    fn manifest(self) -> String {
        match self.of {
            1 => format!("{MANIFEST}.jsonl"),
            of => format!("{MANIFEST}-{}-of-{of}.jsonl", self.index),
        }
    }
}

/// What became of one recording, a line of a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    /// Changes when a key is removed or means something else.
    v: u32,
    input: String,
    output: String,
    /// The model's name.
    model: String,
    /// Of the list of its files with their sha256: two models of one name differ.
    model_sha256: String,
    /// Why nothing was made.
    error: Option<String>,
    /// Of a recording that was made.
    made: Option<Made>,
    /// When that was, in RFC 3339.
    time: String,
    /// The version that did it.
    segd: String,
}

/// How a recording was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Made {
    backend: String,
    provider: String,
    precision: String,
    library: String,
    frames: u64,
    inferences: u64,
    seconds: f64,
}

/// One recording of the list, and what is made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    input: String,
    output: PathBuf,
}

/// How a run went.
#[derive(Debug, Default)]
struct Tally {
    made: u64,
    skipped: u64,
    failed: Vec<String>,
}

/// The list that is named as the source: `@LIST`.
pub fn list_of(args: &RunArgs) -> Option<PathBuf> {
    match args.source.input.as_slice() {
        [one] => one.strip_prefix('@').map(PathBuf::from),
        _ => None,
    }
}

/// Converts this shard's recordings, one after the other. One that fails is recorded, and the others go on.
///
/// # Errors
/// Usage: the list, the output's pattern, or a recording that comes twice; otherwise fatal, naming how many have failed
/// or, after a signal, are left.
pub fn run(args: &RunArgs, list: &Path) -> Result<()> {
    if !args.source.no_pace {
        return Err(Error::usage("a list of recordings is converted, not streamed").hint("add --no-pace"));
    }
    let shard = args.shard.unwrap_or_default();
    let pattern = Pattern::new(&args.output.output)?;
    let items = items(&read_list(list)?, &pattern)?;
    let origin = args.origin();
    // What is wrong for all recordings is told before the first one, whatever that is.
    let output = pattern.text.replace(STEM, "test");
    let settings = settings(&origin, "test://", output)?;
    let model = settings.only_camera()?.model.find()?.contract;
    let mut work = Work {
        origin,
        chooser: Chooser::default(),
        stop: stop_on_signals()?,
        max_frames: args.frames,
        fingerprint: fingerprint(&model),
        model: model.name,
        done: manifests(&pattern.folder)?,
        manifest: pattern.folder.join(shard.manifest()),
        tally: Tally::default(),
    };
    let mine: Vec<&Item> = items.iter().skip(shard.index).step_by(shard.of).collect();
    info!(
        list = %list.display(),
        recordings = items.len(),
        of_this_shard = mine.len(),
        "offline"
    );
    fs::create_dir_all(&pattern.folder).map_err(|e| {
        Error::fatal(format!(
            "the outputs' folder {} can't be made",
            pattern.folder.display()
        ))
        .caused_by(e)
    })?;
    let mut left = 0;
    for (done, item) in mine.iter().enumerate() {
        if work.one(item)? == Next::Stop {
            left = mine.len() - done;
            break;
        }
    }
    let Tally {
        made,
        skipped,
        failed,
    } = work.tally;
    println!(
        "{made} made, {skipped} skipped, {} failed: {}",
        failed.len(),
        work.manifest.display()
    );
    // Whoever shares out the work must not take a part that was interrupted for done.
    if left > 0 {
        return Err(
            Error::fatal(format!("stopped: {left} of this shard's recordings are left"))
                .hint("the next run goes on there"),
        );
    }
    match failed.as_slice() {
        [] => Ok(()),
        [first, ..] => Err(Error::fatal(format!(
            "{} of the recordings have failed, the first one is {first}",
            failed.len()
        ))
        .hint("the manifest says why each did; the next run tries them again")),
    }
}

/// Where outputs go.
#[derive(Debug, PartialEq, Eq)]
struct Pattern {
    /// What stands before the first folder or file with [`STEM`] in its name.
    folder: PathBuf,
    /// The whole, with [`STEM`].
    text: String,
}

impl Pattern {
    fn new(outputs: &[String]) -> Result<Self> {
        let [text] = outputs else {
            return Err(Error::usage(format!(
                "a list of recordings needs one --output, there are {}",
                outputs.len()
            ))
            .hint("such as --output 'masks/{stem}.mkv'"));
        };
        let name = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        if text.contains("://") || !name.contains(STEM) || text.matches(STEM).count() != 1 {
            return Err(Error::usage(format!(
                "--output {text:?}: of a list each recording has an output of its own, expected FOLDER/{STEM}.mkv, \
                 FOLDER/{STEM}.mp4 or FOLDER/{STEM}/"
            )));
        }
        let folder = match text.trim_end_matches('/').rsplit_once('/') {
            Some(("", _)) => PathBuf::from("/"),
            Some((folder, _)) => folder.into(),
            None => ".".into(),
        };
        Ok(Self {
            folder,
            text: text.clone(),
        })
    }

    /// The output of a recording.
    fn output(&self, input: &str) -> Result<PathBuf> {
        let stem = Path::new(input).file_stem().and_then(|stem| stem.to_str());
        match stem.filter(|stem| !stem.is_empty()) {
            Some(stem) => Ok(self.text.replace(STEM, stem).into()),
            None => Err(Error::usage(format!("{input:?} has no file name"))),
        }
    }
}

/// The recordings of a list: one a line, empty lines and those after `#` left out.
fn read_list(path: &Path) -> Result<Vec<String>> {
    let text = file::read_text(path, MAX_LIST_BYTES).map_err(|e| {
        Error::usage(format!("the list of recordings {} can't be read", path.display()))
            .caused_by(e)
            .hint("one recording a line; a source whose own name begins with @ is written ./@NAME")
    })?;
    let lines = text.lines().map(str::trim);
    let entries: Vec<String> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    match entries.len() {
        0 => Err(Error::usage(format!(
            "the list of recordings {} names none",
            path.display()
        ))),
        n if n > MAX_ENTRIES => Err(Error::usage(format!(
            "the list of recordings {} has {n} entries, at most {MAX_ENTRIES} are taken",
            path.display()
        ))),
        _ => Ok(entries),
    }
}

/// The recordings with their outputs, which all differ.
fn items(entries: &[String], pattern: &Pattern) -> Result<Vec<Item>> {
    let mut by_output: BTreeMap<PathBuf, &str> = BTreeMap::new();
    let mut items = Vec::with_capacity(entries.len());
    for input in entries {
        let output = pattern.output(input)?;
        if let Some(other) = by_output.insert(output.clone(), input) {
            return Err(Error::usage(format!(
                "{other} and {input} would both be written to {}",
                output.display()
            ))
            .hint("give them different names, or convert them in runs of their own"));
        }
        items.push(Item {
            input: input.clone(),
            output,
        });
    }
    Ok(items)
}

/// What was made, by all manifests of a folder, by output.
fn manifests(folder: &Path) -> Result<BTreeMap<String, Record>> {
    let wrong = |path: &Path, e: std::io::Error| {
        Error::fatal(format!("{} can't be read", path.display())).caused_by(e)
    };
    let mut done = BTreeMap::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(done),
        Err(e) => return Err(wrong(folder, e)),
    };
    let mut paths = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(|e| wrong(folder, e))?.file_name();
        let is_manifest = |n: &str| n.starts_with(MANIFEST) && n.ends_with(".jsonl");
        if name.to_str().is_some_and(is_manifest) {
            paths.insert(folder.join(name));
        }
    }
    for path in paths {
        let file = fs::File::open(&path).map_err(|e| wrong(&path, e))?;
        let mut odd = 0;
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|e| wrong(&path, e))?;
            match serde_json::from_str::<Record>(&line) {
                Ok(record) if record.made.is_some() => {
                    done.insert(record.output.clone(), record);
                }
                Ok(_) => {}
                Err(_) => odd += 1,
            }
        }
        if odd > 0 {
            warn!(
                "{}: {odd} lines are no records, as after a crash; they are left out",
                path.display()
            );
        }
    }
    Ok(done)
}

/// Whether the run goes on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Go,
    Stop,
}

/// One process's work.
struct Work {
    origin: Origin,
    /// Backends are tested once for all recordings.
    chooser: Chooser,
    stop: Receiver<()>,
    max_frames: Option<u64>,
    /// The model's name, and one number for its files.
    model: String,
    fingerprint: String,
    done: BTreeMap<String, Record>,
    manifest: PathBuf,
    tally: Tally,
}

impl Work {
    /// Does one recording.
    ///
    /// # Errors
    /// What concerns all of them: the folder and the manifest.
    fn one(&mut self, item: &Item) -> Result<Next> {
        if self.stop.try_recv().is_ok() {
            return Ok(Next::Stop);
        }
        let output = item.output.to_string_lossy().into_owned();
        if item.output.exists() {
            return Ok(self.skip(&output));
        }
        let folder = item.output.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        // Written beside its place, on the same file system.
        let unfinished = tempfile::Builder::new()
            .prefix(".unfinished-")
            .tempdir_in(folder)
            .map_err(|e| {
                Error::fatal(format!("nothing can be written into {}", folder.display())).caused_by(e)
            })?;
        let beside = unfinished
            .path()
            .join(item.output.file_name().unwrap_or_default());
        let slash = if output.ends_with('/') { "/" } else { "" };
        let record = |error: Option<String>, made: Option<Made>| Record {
            v: 1,
            input: item.input.clone(),
            output: output.clone(),
            model: self.model.clone(),
            model_sha256: self.fingerprint.clone(),
            error,
            made,
            time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            segd: env!("CARGO_PKG_VERSION").into(),
        };
        let began = Instant::now();
        let metrics = Metrics::shared();
        let convert = || {
            let settings = settings(&self.origin, &item.input, format!("{}{slash}", beside.display()))?;
            let built = build_camera(settings.only_camera()?, &self.chooser, metrics.clone())?;
            let _progress = status::show_progress(metrics.clone(), self.max_frames)?;
            pipeline::run(built.parts, built.options, &self.stop)
        };
        let finished = convert().and_then(|ended| match ended {
            Ended::Stopped => Ok(false),
            Ended::Finished => fs::rename(&beside, &item.output).map(|()| true).map_err(|e| {
                Error::fatal(format!("{output} can't be given its name"))
                    .caused_by(e)
                    .hint("a source without a picture leaves no output")
            }),
        });
        match finished {
            Ok(false) => return Ok(Next::Stop),
            Ok(true) => {
                let on = metrics.vitals.runs_on();
                let text = |of: fn(&vision::infer::RunsOn) -> &str| on.as_ref().map_or("", of).to_owned();
                let made = Made {
                    backend: text(|on| on.backend),
                    provider: text(|on| &on.provider),
                    precision: text(|on| &on.precision),
                    library: text(|on| &on.version),
                    frames: metrics.composed.load(Relaxed),
                    inferences: metrics.inferences.load(Relaxed),
                    seconds: began.elapsed().as_secs_f64(),
                };
                info!("{output}: {} frames in {:.1} s", made.frames, made.seconds);
                self.tally.made += 1;
                self.note(&record(None, Some(made)))?;
            }
            Err(e) => {
                error!("{}: {e}", item.input);
                self.note(&record(Some(e.to_string()), None))?;
                self.tally.failed.push(format!("{}: {e}", item.input));
            }
        }
        Ok(Next::Go)
    }

    /// What is there is finished, and stays; another model's is no success.
    fn skip(&mut self, output: &str) -> Next {
        match self.done.get(output) {
            Some(before) if before.model_sha256 != self.fingerprint => {
                let short = |sha256: &str| sha256.chars().take(12).collect::<String>();
                let why = format!(
                    "{output} was made by {} ({}...), the model is {} ({}...) now: write to another folder, or remove it",
                    before.model,
                    short(&before.model_sha256),
                    self.model,
                    short(&self.fingerprint)
                );
                error!("{why}");
                self.tally.failed.push(why);
                return Next::Go;
            }
            Some(_) => info!("{output} is finished: skipped"),
            None => warn!("{output} is there, and in no manifest: skipped"),
        }
        self.tally.skipped += 1;
        Next::Go
    }

    /// Adds a line to the manifest, which is on the disk when this returns.
    fn note(&self, record: &Record) -> Result<()> {
        let wrong = |e: std::io::Error| {
            Error::fatal(format!(
                "the manifest {} can't be written",
                self.manifest.display()
            ))
            .caused_by(e)
        };
        let mut line = serde_json::to_string(record).map_err(|e| wrong(e.into()))?;
        line.push('\n');
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.manifest)
            .map_err(wrong)?;
        file.write_all(line.as_bytes()).map_err(wrong)?;
        file.sync_data().map_err(wrong)
    }
}

/// The settings of one recording.
fn settings(origin: &Origin, input: &str, output: String) -> Result<Settings> {
    let mut origin = origin.clone();
    origin.arguments.sections.capture.input = Some(Inputs(vec![input.to_owned()]));
    origin.arguments.sections.stream.outputs = Some(vec![output]);
    origin.settings()
}

/// One number for a model's files.
fn fingerprint(contract: &Contract) -> String {
    let lines = contract
        .files
        .iter()
        .map(|file| format!("{} {}\n", file.sha256, file.path));
    sha256_hex(lines.collect::<String>().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_shard_is_one_of_several() {
        assert_eq!("0/1".parse(), Ok(Shard::default()));
        assert_eq!("3/4".parse(), Ok(Shard { index: 3, of: 4 }));
        for wrong in ["4/4", "1/0", "0/0", "-1/4", "1", "", "/", "1/4/2", "a/b", "1.5/2"] {
            let error = wrong.parse::<Shard>().unwrap_err();
            assert!(error.contains("such as 0/4"), "{wrong}: {error}");
        }
    }

    fn pattern(text: &str) -> Result<Pattern> {
        Pattern::new(&[text.to_owned()])
    }

    #[test]
    fn an_output_has_the_recordings_name() {
        for (text, folder, output) in [
            ("{stem}.mkv", ".", "door.mkv"),
            ("out/{stem}.mp4", "out", "out/door.mp4"),
            ("/{stem}.mp4", "/", "/door.mp4"),
            ("/a/b/x-{stem}/", "/a/b", "/a/b/x-door/"),
        ] {
            let pattern = pattern(text).unwrap();
            assert_eq!(pattern.folder, Path::new(folder), "{text}");
            assert_eq!(
                pattern.output("/in/door.2026.mp4").unwrap(),
                Path::new(&output.replace("door", "door.2026"))
            );
        }
        for wrong in [
            "out.mkv",
            "rtsp://127.0.0.1/{stem}",
            "{stem}/a.mkv",
            "{stem}/{stem}.mkv",
            "",
        ] {
            assert_eq!(pattern(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
        assert!(Pattern::new(&[]).unwrap_err().to_string().contains("there are 0"));
        assert!(pattern("{stem}.mkv").unwrap().output("/").is_err());
    }

    #[test]
    fn two_recordings_never_share_an_output() {
        let entries = ["a/door.mp4".to_owned(), "b/door.mkv".to_owned()];
        let error = items(&entries, &pattern("{stem}.mkv").unwrap()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("a/door.mp4") && text.contains("b/door.mkv"),
            "{text}"
        );
    }

    #[test]
    fn a_list_is_read_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        fs::write(&path, "# of March\r\n a b.mp4 \n\n#c.mp4\nd#.mp4").unwrap();
        assert_eq!(read_list(&path).unwrap(), ["a b.mp4", "d#.mp4"]);
        fs::write(&path, "# nothing\n").unwrap();
        assert!(read_list(&path).unwrap_err().to_string().contains("names none"));
        assert_eq!(read_list(folder.path()).unwrap_err().exit_code(), 2);
    }

    proptest! {
        #[test]
        fn shards_do_each_recording_once(count in 0_usize..60, of in 1_usize..9) {
            let all: Vec<usize> = (0..count).collect();
            let mut done: Vec<usize> = (0..of)
                .flat_map(|index| all.iter().copied().skip(index).step_by(of).collect::<Vec<_>>())
                .collect();
            done.sort_unstable();
            prop_assert_eq!(done, all);
        }
    }
}
