//! Arguments that say how often masks are made, and what happens between.

use std::time::Duration;

use clap::Args;

use crate::config::{MasksFile, check_range};
use crate::schedule::ScheduleOptions;
use vision::error::Result;
use vision::propagate::Smoothing;

/// How often masks are made.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Masks")]
pub struct ScheduleArgs {
    /// Cores that segd may use in all, for example 0.5: the network runs where the picture changes most
    #[arg(long, value_name = "CORES")]
    pub cpu_budget: Option<f64>,
    /// Masks should not get older than this, for example 100ms, and are not shown from then on. Without it: 100ms if
    /// the machine is fast enough, and shown up to 1s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub max_mask_age: Option<Duration>,
    /// Segment every N-th frame and no other but after a scene cut; 1: as many as there is time for
    #[arg(long, value_name = "N")]
    pub every: Option<u32>,
    /// A frame that is being segmented may wait this long for its own mask [default: 30ms]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub wait: Option<Duration>,
    /// Move masks with the picture between inferences [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub propagate: Option<bool>,
    /// Weight of the mask before in the next, along the motion, 0 to 0.95: less flicker; 0 is off [default: 0.5]
    #[arg(long, value_name = "0..0.95")]
    pub smooth: Option<f64>,
}

impl ScheduleArgs {
    /// Whether the command line says how often masks are made.
    pub fn is_set(&self) -> bool {
        self.cpu_budget.is_some() || self.max_mask_age.is_some() || self.every.is_some()
    }

    /// The arguments over the configuration file.
    ///
    /// # Errors
    /// Usage, naming the key.
    pub fn over(&self, file: &MasksFile) -> Result<ScheduleOptions> {
        let mut options = ScheduleOptions::default();
        let from_ms = |key: &str, ms: Option<f64>| -> Result<Option<Duration>> {
            ms.map(|ms| {
                Ok(Duration::from_secs_f64(
                    check_range(key, ms, 0.0..=60_000.0)? / 1e3,
                ))
            })
            .transpose()
        };
        // One way on the command line replaces another in the file.
        let file_way = !self.is_set();
        if let Some(every) = self.every.or(file.every.filter(|_| file_way)) {
            options.every = Some(check_range("every", f64::from(every), 1.0..=100_000.0)? as u32);
        }
        if let Some(cores) = self.cpu_budget.or(file.cpu_budget.filter(|_| file_way)) {
            options.cpu_budget = Some(check_range("cpu_budget", cores, 0.01..=1024.0)?);
        }
        let file_age = from_ms("max_mask_age_ms", file.max_mask_age_ms.filter(|_| file_way))?;
        if let Some(age) = self.max_mask_age.or(file_age) {
            check_range("max_mask_age", age.as_secs_f64() * 1e3, 1.0..=60_000.0)?;
            options.max_mask_age = age;
            options.hide_after = age;
        }
        if let Some(wait) = self.wait.or(from_ms("wait_ms", file.wait_ms)?) {
            options.wait = wait;
        }
        options.propagate = self.propagate.or(file.propagate).unwrap_or(options.propagate);
        if let Some(smooth) = self.smooth.or(file.smooth) {
            options.smooth = match check_range("smooth", smooth, 0.0..=0.95)? {
                0.0 => Smoothing::OFF,
                strength => Smoothing {
                    strength: strength as f32,
                    ..options.smooth
                },
            };
        }
        if !options.propagate {
            options.smooth = Smoothing::OFF;
            // Nothing is known of the picture's motion then, so nothing else can decide.
            let other = options.cpu_budget.is_some()
                || options.max_mask_age != ScheduleOptions::default().max_mask_age;
            if options.every.is_none() && !other {
                options.every = Some(1);
            }
        }
        Ok(options)
    }
}

/// `100ms`, `0.5s`, or a number of milliseconds.
fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let (number, per_second) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1e3),
        (None, Some(number)) => (number, 1.0),
        (None, None) => (text, 1e3),
    };
    let value: f64 = number
        .trim()
        .parse()
        .map_err(|_| format!("{text:?} is no time; write for example 100ms or 0.5s"))?;
    let seconds = value / per_second;
    match (0.0..=60.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(format!("{text:?} is not between 0 and 60s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("0.5s"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30"), Ok(Duration::from_millis(30)));
        for wrong in ["", "fast", "-1ms", "NaNms", "2h", "1e9s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_replaces_the_way_that_the_file_names() {
        let file = MasksFile {
            every: Some(4),
            wait_ms: Some(10.0),
            ..MasksFile::default()
        };
        let from_file = ScheduleArgs::default().over(&file).unwrap();
        assert_eq!(
            (from_file.every, from_file.wait),
            (Some(4), Duration::from_millis(10))
        );
        let args = ScheduleArgs {
            cpu_budget: Some(0.5),
            ..ScheduleArgs::default()
        };
        let both = args.over(&file).unwrap();
        assert_eq!((both.every, both.cpu_budget), (None, Some(0.5)));
        assert_eq!(both.wait, Duration::from_millis(10));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let file = |text: &str| toml::from_str::<MasksFile>(text).unwrap();
        for text in [
            "every = 0",
            "cpu_budget = 0.0",
            "max_mask_age_ms = 0.0",
            "smooth = 1.0",
            "wait_ms = -1.0",
        ] {
            let error = ScheduleArgs::default().over(&file(text)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn without_motion_every_frame_is_segmented_that_there_is_time_for() {
        let args = ScheduleArgs {
            propagate: Some(false),
            ..ScheduleArgs::default()
        };
        let options = args.over(&MasksFile::default()).unwrap();
        assert_eq!((options.every, options.smooth), (Some(1), Smoothing::OFF));
    }
}
