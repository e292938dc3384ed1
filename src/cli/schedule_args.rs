//! Arguments that say how often masks are made, and what happens between.

use std::time::Duration;

use clap::Args;

use crate::config::MasksSection;

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
    /// The keys that are set.
    pub fn section(&self) -> MasksSection {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        MasksSection {
            cpu_budget: self.cpu_budget,
            max_mask_age_ms: self.max_mask_age.map(ms),
            every: self.every,
            wait_ms: self.wait.map(ms),
            propagate: self.propagate,
            smooth: self.smooth,
        }
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
    fn times_are_milliseconds_in_the_configuration() {
        let args = ScheduleArgs {
            max_mask_age: Some(Duration::from_millis(200)),
            wait: Some(Duration::ZERO),
            ..ScheduleArgs::default()
        };
        let section = args.section();
        assert_eq!(
            (section.max_mask_age_ms, section.wait_ms),
            (Some(200.0), Some(0.0))
        );
    }
}
