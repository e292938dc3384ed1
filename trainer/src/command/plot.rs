//! `segd-train plot`.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::Args;

use crate::report::curves;
use crate::run::Log;

/// Arguments of `plot`.
#[derive(Args)]
pub struct Arguments {
    /// The run's log.csv.
    #[arg(long)]
    log: PathBuf,
    /// The SVG to write.
    #[arg(long)]
    out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// The log can't be read, or the picture can't be written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let text =
        std::fs::read_to_string(&arguments.log).with_context(|| arguments.log.display().to_string())?;
    let log = Log::parse(&text).with_context(|| arguments.log.display().to_string())?;
    let svg = curves::svg(&log).map_err(|why| anyhow!("drawing {}: {why}", arguments.log.display()))?;
    std::fs::write(&arguments.out, svg).with_context(|| format!("writing {}", arguments.out.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let (log, out) = (folder.path().join("log.csv"), folder.path().join("curve.svg"));
        std::fs::write(
            &log,
            "step,seconds,loss,mean_iou\n20,1.5,2.0,\n40,3.0,1.0,0.25\n60,4.5,0.5,0.5\n",
        )
        .unwrap();
        run(&Arguments {
            log: log.clone(),
            out: out.clone(),
        })
        .unwrap();
        let svg = std::fs::read_to_string(&out).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("validation mean IoU"));
        std::fs::write(&log, "step,seconds,loss,mean_iou\n20,1.5\n").unwrap();
        let message = format!("{:#}", run(&Arguments { log, out }).unwrap_err());
        assert!(
            message.contains("log.csv") && message.contains("line 2"),
            "{message}"
        );
    }
}
