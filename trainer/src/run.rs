//! A run's folder: all that resuming, exporting and reporting need, and nothing that they must be told again.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use vision::dataset::{Format, Location};

use crate::recipe::Recipe;

/// The first fields of log.csv; the last is the score's, [`Metric::column`].
const LOG_HEADER: &str = "step,seconds,loss";

/// What a run is scored by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Metric {
    /// The mean over classes of intersection over union.
    #[default]
    MeanIou,
    /// The mean over classes of the average precision of masks, at an intersection over union of a half.
    MaskAp50,
}

impl Metric {
    const ALL: [Self; 2] = [Self::MeanIou, Self::MaskAp50];

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MeanIou => "mean IoU",
            Self::MaskAp50 => "mask AP50",
        }
    }

    /// In log.csv.
    #[must_use]
    pub fn column(self) -> &'static str {
        match self {
            Self::MeanIou => "mean_iou",
            Self::MaskAp50 => "mask_ap50",
        }
    }
}

/// The files of a run's folder.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// What a run was started on: `run.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// How the data lies in its folder.
    pub format: Format,
    /// The data's folder.
    pub data: PathBuf,
    /// The published weights that the trunk started from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trunk: Option<PathBuf>,
    /// The checkpoint that the run started from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
}

impl Origin {
    /// The data.
    #[must_use]
    pub fn location(&self) -> Location {
        Location {
            format: self.format,
            root: self.data.clone(),
        }
    }
}

impl Folder {
    /// Makes the folder.
    ///
    /// # Errors
    /// It can't be made.
    pub fn create(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// Opens the folder of a run that was started.
    ///
    /// # Errors
    /// It holds no recipe.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = Self(path.to_owned());
        ensure!(
            folder.recipe_file().is_file(),
            "{} is not a run's folder: it holds no recipe.toml",
            path.display()
        );
        Ok(folder)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The recipe as it was used.
    #[must_use]
    pub fn recipe_file(&self) -> PathBuf {
        self.0.join("recipe.toml")
    }

    /// What the run was started on.
    #[must_use]
    pub fn origin_file(&self) -> PathBuf {
        self.0.join("run.toml")
    }

    /// The newest checkpoint.
    #[must_use]
    pub fn last(&self) -> PathBuf {
        self.0.join("last.safetensors")
    }

    /// The checkpoint with the best score.
    #[must_use]
    pub fn best(&self) -> PathBuf {
        self.0.join("best.safetensors")
    }

    /// `step,seconds,loss,mean_iou` (or another [`Metric::column`]), a line every few steps; the last is empty where no score
    /// was taken.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.0.join("log.csv")
    }

    /// Writes recipe and origin.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn start(&self, recipe: &Recipe, origin: &Origin) -> Result<()> {
        let write = |path: PathBuf, text: String| {
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
        };
        write(self.recipe_file(), toml::to_string(recipe)?)?;
        write(self.origin_file(), toml::to_string(origin)?)
    }

    /// The recipe.
    ///
    /// # Errors
    /// It can't be read, or makes no sense.
    pub fn recipe(&self) -> Result<Recipe> {
        Recipe::read(&self.recipe_file())
    }

    /// What the run was started on.
    ///
    /// # Errors
    /// It can't be read.
    pub fn origin(&self) -> Result<Origin> {
        let path = self.origin_file();
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Opens the log to add lines after step `step`; lines of later steps, which a run that was cut off may have left, go.
    ///
    /// # Errors
    /// The file can't be read or written.
    pub fn open_log(&self, step: u64, metric: Metric) -> Result<File> {
        let path = self.log();
        let mut text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let is_kept = |line: &&str| {
            let of = line.split(',').next().and_then(|step| step.parse::<u64>().ok());
            of.is_some_and(|of| of <= step)
        };
        let kept: Vec<&str> = text.lines().skip(1).filter(is_kept).collect();
        let header = format!("{LOG_HEADER},{}", metric.column());
        text = std::iter::once(header.as_str())
            .chain(kept)
            .map(|line| format!("{line}\n"))
            .collect();
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        file.write_all(text.as_bytes())?;
        Ok(file)
    }

    /// The log's lines.
    ///
    /// # Errors
    /// It can't be read, or a line is not as [`Folder::log`] says.
    pub fn read_log(&self) -> Result<Log> {
        let path = self.log();
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Log::parse(&text).with_context(|| path.display().to_string())
    }
}

/// What a run's log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// Step and mean loss since the line before.
    pub losses: Vec<(f64, f64)>,
    /// What the score is.
    pub metric: Metric,
    /// Step and score in percent.
    pub scores: Vec<(f64, f64)>,
    /// Seconds of training up to the last line.
    pub seconds: f64,
}

impl Log {
    /// Reads the text of a log.csv.
    ///
    /// # Errors
    /// A line has other fields, or there is none.
    pub fn parse(text: &str) -> Result<Self> {
        let header = text.lines().next().unwrap_or_default();
        let is_scored_by = |metric: &Metric| header.rsplit(',').next() == Some(metric.column());
        let mut log = Self {
            metric: Metric::ALL.into_iter().find(is_scored_by).unwrap_or_default(),
            ..Self::default()
        };
        for (number, line) in text.lines().enumerate().skip(1) {
            let number = number + 1;
            let fields: Vec<&str> = line.split(',').collect();
            let &[step, seconds, loss, score] = fields.as_slice() else {
                bail!(
                    "line {number}: {} fields, expected {LOG_HEADER} and a score",
                    fields.len()
                );
            };
            let value = |text: &str| {
                text.parse::<f64>()
                    .with_context(|| format!("line {number}: {text:?}"))
            };
            let step = value(step)?;
            log.seconds = value(seconds)?;
            log.losses.push((step, value(loss)?));
            if !score.is_empty() {
                log.scores.push((step, 100.0 * value(score)?));
            }
        }
        ensure!(!log.losses.is_empty(), "holds no step");
        Ok(log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_after_the_step_it_is_opened_at() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::create(&dir.path().join("run")).unwrap();
        writeln!(folder.open_log(0, Metric::MaskAp50).unwrap(), "20,1.5,2.0,").unwrap();
        writeln!(
            folder.open_log(20, Metric::MaskAp50).unwrap(),
            "40,3.0,1.0,0.25\n60,4.5,0.5,"
        )
        .unwrap();
        writeln!(folder.open_log(40, Metric::MaskAp50).unwrap(), "60,4.7,0.6,0.5").unwrap();
        let log = folder.read_log().unwrap();
        assert_eq!(log.losses, [(20.0, 2.0), (40.0, 1.0), (60.0, 0.6)]);
        assert_eq!(log.scores, [(40.0, 25.0), (60.0, 50.0)]);
        assert_eq!(log.seconds, 4.7);
        assert_eq!(log.metric, Metric::MaskAp50);
        let old = Log::parse("step,seconds,loss,mean_iou\n20,1.5,2.0,0.5\n").unwrap();
        assert_eq!(old.metric, Metric::MeanIou);
    }

    #[test]
    fn a_damaged_log_is_refused_by_line() {
        let message = format!("{:#}", Log::parse("header\n20,1.5,2.0,\n40,1.5\n").unwrap_err());
        assert!(message.contains("line 3"), "{message}");
        let message = format!("{:#}", Log::parse("header\n20,1.5,x,\n").unwrap_err());
        assert!(message.contains("\"x\""), "{message}");
        assert!(Log::parse("header\n").is_err());
    }

    #[test]
    fn a_folder_without_a_run_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let message = Folder::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains("recipe.toml"), "{message}");
    }
}
