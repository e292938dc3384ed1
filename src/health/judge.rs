//! What counts as unwell: pure.

use std::fmt;
use std::time::Duration;

use crate::metrics::ProviderChange;

/// From when on something counts as wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A source that gives no frame for longer is stalled.
    pub silence: Duration,
    /// A mask that is older is frozen.
    pub mask_age: Duration,
    /// How long after the start nothing but a missing source counts: models load, encoders are tried.
    pub warm_up: Duration,
}

/// Signs of life of one pipeline at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The error that ended the pipeline, if one did.
    pub failed: Option<String>,
    /// Whether the source is one that should give frames without end.
    pub source_is_live: bool,
    /// Why the source is away, if it is.
    pub source_lost: Option<String>,
    /// Whether there ever was a frame.
    pub has_captured: bool,
    /// Since the last captured frame, or the start.
    pub silent: Duration,
    /// Since the last frame that went to the outputs, or the start.
    pub uncomposed: Duration,
    /// Whether any did.
    pub has_composed: bool,
    /// Age of the mask on the last frame; `None` without one.
    pub mask_age: Option<Duration>,
    /// Since the last frame with a mask, or the start.
    pub unmasked: Duration,
    /// How long the inference in flight has run.
    pub inferring: Option<Duration>,
    /// Since the start.
    pub running: Duration,
    /// Outputs that have failed and are opened again.
    pub outputs_down: u64,
    /// Which ones, and why.
    pub outputs_trouble: String,
    /// When the network does not run where it was chosen to.
    pub provider_change: Option<ProviderChange>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The pipeline has ended: why.
    Failed(String),
    /// The source is away: how long, and why.
    SourceLost(Duration, String),
    /// The source gives no frames.
    SourceStalled(Duration),
    /// Frames come and don't go out.
    NothingGoesOut(Duration),
    /// The mask is too old; `None` if there is none at all.
    MaskFrozen(Option<Duration>),
    /// An inference does not come to its end.
    InferenceHangs(Duration),
    /// Degraded: the network runs somewhere else than it was chosen to.
    ProviderChanged(ProviderChange),
    /// Outputs are down: how many, and why.
    OutputsDown(u64, String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |d: &Duration| format!("{:.1} s", d.as_secs_f64());
        match self {
            Self::Failed(why) => write!(f, "ended: {why}"),
            Self::SourceLost(since, why) => write!(f, "source lost for {}: {why}", s(since)),
            Self::SourceStalled(since) => write!(f, "source stalled: no frame for {}", s(since)),
            Self::NothingGoesOut(since) => write!(f, "no frame went out for {}", s(since)),
            Self::MaskFrozen(Some(age)) => write!(f, "mask frozen: it is {} old", s(age)),
            Self::MaskFrozen(None) => write!(f, "mask frozen: frames go out without any"),
            Self::InferenceHangs(since) => write!(f, "inference hangs for {}", s(since)),
            Self::ProviderChanged(ProviderChange { from, to, why }) => {
                write!(f, "degraded: the network ran on {from} and runs on {to} now")?;
                why.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
            }
            Self::OutputsDown(count, why) => {
                write!(f, "{count} outputs are down")?;
                match why.as_str() {
                    "" => Ok(()),
                    why => write!(f, ": {why}"),
                }
            }
        }
    }
}

/// What is wrong.
pub fn judge(seen: &Observed, limits: &Limits) -> Vec<Trouble> {
    if let Some(why) = &seen.failed {
        return vec![Trouble::Failed(why.clone())];
    }
    let mut troubles = Vec::new();
    let warm = seen.running > limits.warm_up;
    let silent = seen.silent > limits.silence;
    match &seen.source_lost {
        Some(why) => troubles.push(Trouble::SourceLost(seen.silent, why.clone())),
        None if seen.source_is_live && silent && (seen.has_captured || warm) => {
            troubles.push(Trouble::SourceStalled(seen.silent));
        }
        None => {}
    }
    // Frames that don't come can't go out, and have no mask.
    let flowing = seen.has_captured && !silent && seen.source_lost.is_none();
    if flowing && warm {
        if seen.uncomposed > limits.silence {
            troubles.push(Trouble::NothingGoesOut(seen.uncomposed));
        } else if seen.mask_age.unwrap_or(seen.unmasked) > limits.mask_age {
            // After a scene cut a few frames have none.
            troubles.push(Trouble::MaskFrozen(seen.mask_age));
        }
    }
    if let Some(time) = seen
        .inferring
        .filter(|t| *t > limits.mask_age.max(limits.silence))
    {
        troubles.push(Trouble::InferenceHangs(time));
    }
    if let Some(change) = &seen.provider_change {
        troubles.push(Trouble::ProviderChanged(change.clone()));
    }
    if seen.outputs_down > 0 {
        troubles.push(Trouble::OutputsDown(
            seen.outputs_down,
            seen.outputs_trouble.clone(),
        ));
    }
    troubles
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        silence: Duration::from_secs(5),
        mask_age: Duration::from_secs(3),
        warm_up: Duration::from_secs(20),
    };

    fn well() -> Observed {
        Observed {
            failed: None,
            source_is_live: true,
            source_lost: None,
            has_captured: true,
            silent: Duration::from_millis(20),
            uncomposed: Duration::from_millis(25),
            has_composed: true,
            mask_age: Some(Duration::from_millis(90)),
            unmasked: Duration::from_millis(25),
            inferring: Some(Duration::from_millis(10)),
            running: Duration::from_secs(600),
            outputs_down: 0,
            outputs_trouble: String::new(),
            provider_change: None,
        }
    }

    fn kinds(seen: Observed) -> Vec<Trouble> {
        judge(&seen, &LIMITS)
    }

    #[test]
    fn each_sign_is_told_apart() {
        let s = Duration::from_secs;
        assert_eq!(kinds(well()), []);
        let frozen = Observed {
            mask_age: Some(s(4)),
            ..well()
        };
        assert_eq!(kinds(frozen), [Trouble::MaskFrozen(Some(s(4)))]);
        let cut = Observed {
            mask_age: None,
            ..well()
        };
        assert_eq!(kinds(cut), []);
        let none = Observed {
            mask_age: None,
            unmasked: s(4),
            ..well()
        };
        assert_eq!(kinds(none.clone()), [Trouble::MaskFrozen(None)]);
        let starting = Observed {
            running: s(3),
            ..none
        };
        assert_eq!(kinds(starting), []);
        let stalled = Observed {
            silent: s(6),
            mask_age: None,
            ..well()
        };
        assert_eq!(kinds(stalled.clone()), [Trouble::SourceStalled(s(6))]);
        // A file that has come to its end is not stalled.
        let ended = Observed {
            source_is_live: false,
            ..stalled
        };
        assert_eq!(kinds(ended), []);
        let lost = Observed {
            source_lost: Some("unplugged".into()),
            silent: s(12),
            ..well()
        };
        assert_eq!(kinds(lost), [Trouble::SourceLost(s(12), "unplugged".into())]);
        let stuck = Observed {
            uncomposed: s(7),
            ..well()
        };
        assert_eq!(kinds(stuck), [Trouble::NothingGoesOut(s(7))]);
        let hanging = Observed {
            inferring: Some(s(8)),
            ..well()
        };
        assert_eq!(kinds(hanging), [Trouble::InferenceHangs(s(8))]);
        let change = ProviderChange {
            from: "ort CUDA".into(),
            to: "ort CPU".into(),
            why: Some("the device is gone".into()),
        };
        let moved = Observed {
            provider_change: Some(change.clone()),
            outputs_down: 1,
            outputs_trouble: "a.mkv has failed: the disk is full".into(),
            ..well()
        };
        let ended = Observed {
            failed: Some("out of memory".into()),
            silent: s(99),
            ..moved.clone()
        };
        assert_eq!(kinds(ended), [Trouble::Failed("out of memory".into())]);
        assert_eq!(
            kinds(moved),
            [
                Trouble::ProviderChanged(change.clone()),
                Trouble::OutputsDown(1, "a.mkv has failed: the disk is full".into())
            ]
        );
        assert_eq!(
            Trouble::ProviderChanged(change).to_string(),
            "degraded: the network ran on ort CUDA and runs on ort CPU now: the device is gone"
        );
    }

    #[test]
    fn a_camera_that_never_was_there_counts_after_the_start() {
        let never = Observed {
            has_captured: false,
            has_composed: false,
            silent: Duration::from_secs(8),
            running: Duration::from_secs(8),
            mask_age: None,
            inferring: None,
            ..well()
        };
        assert_eq!(kinds(never.clone()), []);
        let late = Observed {
            running: Duration::from_secs(21),
            silent: Duration::from_secs(21),
            ..never
        };
        assert_eq!(kinds(late), [Trouble::SourceStalled(Duration::from_secs(21))]);
    }
}
