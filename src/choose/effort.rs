//! How much an inference does and with how many threads, by what it takes here.

use std::thread::available_parallelism;
use std::time::Duration;

use super::{ChoiceOptions, Trusted};
use crate::schedule::ScheduleOptions;
use vision::error::Result;
use vision::infer::{Device, time};
use vision::model::Model;
use vision::model::contract::Input;

/// Threads of one inference on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// So many, at least 1.
    Count(usize),
    /// As few as an inference needs to take no more time than `limit` here, up to `most`.
    Within {
        /// What an inference may take.
        limit: Duration,
        /// Threads at most.
        most: usize,
    },
}

impl Default for Threads {
    fn default() -> Self {
        Self::Count(1)
    }
}

/// With twice the threads an inference must take no more than this part of the time: where it doesn't, cores are busy
/// elsewhere, or too few.
const WORTH: f64 = 0.75;

impl Threads {
    /// So that a frame can wait for its own mask, with no more threads than this camera's share of the cores.
    pub fn auto(cameras: usize) -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self::Within {
            limit: ScheduleOptions::default().wait.mul_f64(MOSTLY),
            most: (cores / cameras.max(1)).max(1),
        }
    }

    /// No more of them than a CPU budget has cores.
    #[must_use]
    pub fn within_budget(self, schedule: &ScheduleOptions) -> Self {
        match (self, schedule.cpu_budget) {
            (Self::Within { limit, most }, Some(cores)) => Self::Within {
                limit,
                most: most.min((cores as usize).max(1)),
            },
            _ => self,
        }
    }

    /// The number to begin with.
    pub(super) fn first(self) -> usize {
        match self {
            Self::Count(count) => count.max(1),
            Self::Within { .. } => 1,
        }
    }
}

/// The fewest threads, in doublings up to `most`, for which `taken_ns` gives no more than `limit_ns`; fewer where more
/// of them don't help. With what they take.
fn fewest(
    most: usize,
    limit_ns: u64,
    mut taken_ns: impl FnMut(usize) -> Result<u64>,
) -> Result<(usize, u64)> {
    let mut best = (1, taken_ns(1)?);
    while best.1 > limit_ns && best.0 < most {
        let more = (2 * best.0).min(most);
        let taken = taken_ns(more)?;
        let worth = 1.0 - (1.0 - WORTH) * (more - best.0) as f64 / best.0 as f64;
        if taken as f64 > best.1 as f64 * worth {
            break;
        }
        best = (more, taken);
    }
    Ok(best)
}

/// How large the network's input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InputLength {
    /// As the contract says.
    #[default]
    Contract,
    /// The longer side in pixels.
    Pixels(usize),
    /// The contract's, or as much less, down to half, as an inference needs to take no more time than this here.
    Within(Duration),
}

impl InputLength {
    /// So that a frame can wait for its own mask, as long as frames do by default ([`ScheduleOptions`]), most of the time.
    pub fn auto() -> Self {
        Self::Within(ScheduleOptions::default().wait.mul_f64(MOSTLY))
    }

    /// Takes no more of a CPU budget in cores than leaves masks younger than `max_mask_age`.
    #[must_use]
    pub fn within_budget(self, schedule: &ScheduleOptions) -> Self {
        match (self, schedule.cpu_budget) {
            (Self::Within(time), Some(cores)) => {
                Self::Within(time.min(schedule.max_mask_age.mul_f64(MOSTLY * cores.clamp(0.0, 1.0))))
            }
            _ => self,
        }
    }

    /// The longer side, where it was said.
    pub(super) fn pixels(self) -> Option<usize> {
        match self {
            Self::Pixels(pixels) => Some(pixels),
            Self::Contract | Self::Within(_) => None,
        }
    }
}

/// Part of a limit on time that an inference may take in the least of several runs.
const MOSTLY: f64 = 0.8;

/// The longer side of an input that takes `limit_ns` or less, where the contract's takes `taken_ns`: time goes with the area.
/// At least half of the contract's; `None` for the contract's own.
fn length_within(input: &Input, taken_ns: u64, limit_ns: u64) -> Option<usize> {
    if taken_ns <= limit_ns {
        return None;
    }
    let whole = input.width.max(input.height);
    let wanted = (whole as f64 * (limit_ns as f64 / taken_ns as f64).sqrt()) as usize;
    let steps = wanted.saturating_sub(input.offset) / input.multiple;
    let below = steps * input.multiple + input.offset;
    Some(below.max(input.nearest_side(whole.div_ceil(2)))).filter(|&length| length < whole)
}

/// Inferences that are timed: the least counts.
const RUNS: usize = 3;

impl ChoiceOptions {
    /// The backend with as many threads as are wanted, and how many those are.
    pub(super) fn with_threads(&self, model: &Model, mut trusted: Trusted) -> Result<(Trusted, usize)> {
        let (limit, most) = match self.threads {
            Threads::Within { limit, most } if most > 1 && self.device == Device::Cpu => (limit, most),
            threads => return Ok((trusted, threads.first())),
        };
        let size = model.contract.input.size_for(640, 480, self.length.pixels());
        let alone = match trusted.cost {
            Some(cost) => cost,
            None => time(model, &*trusted.backend, size, RUNS)?,
        };
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let (threads, taken_ns) = fewest(most, limit_ns, |threads| match threads {
            1 => Ok(alone.wall_ns),
            _ => match trusted.backend.with_threads(threads)? {
                Some(threaded) => Ok(time(model, &*threaded, size, RUNS)?.wall_ns),
                None => Ok(u64::MAX),
            },
        })?;
        let ms = |ns: u64| ns as f64 / 1e6;
        if threads > 1
            && let Some(threaded) = trusted.backend.with_threads(threads)?
        {
            trusted.backend = threaded;
            let (taken, alone) = (ms(taken_ns), ms(alone.wall_ns));
            trusted.why += &format!("; {threads} threads: {taken:.1} ms, {alone:.1} with one");
            trusted.cost = None;
        } else {
            trusted.why += &format!("; 1 thread: {:.1} ms", ms(alone.wall_ns));
        }
        Ok((trusted, threads))
    }

    /// The longer side of the input.
    pub(super) fn longest(&self, model: &Model, mut trusted: Trusted) -> Result<(Option<usize>, Trusted)> {
        let InputLength::Within(limit) = self.length else {
            return Ok((self.length.pixels(), trusted));
        };
        let input = &model.contract.input;
        let cost = match trusted.cost {
            Some(cost) => cost,
            None => time(model, &*trusted.backend, input.size_for(640, 480, None), RUNS)?,
        };
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let ms = cost.wall_ns as f64 / 1e6;
        let longest = length_within(input, cost.wall_ns, limit_ns);
        trusted.why += &match longest {
            None => format!("; an inference takes {ms:.1} ms, and the input is the model's"),
            Some(pixels) => format!(
                "; an input of {pixels} pixels, as one of {} takes {ms:.1} ms",
                input.width.max(input.height)
            ),
        };
        Ok((longest, trusted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_as_large_as_time_allows() {
        let model = Model::embedded().unwrap();
        let Some(input) = model.map(|model| model.contract.input) else {
            return;
        };
        assert_eq!((input.width, input.height, input.multiple), (512, 512, 32));
        assert_eq!(length_within(&input, 20, 24), None);
        assert_eq!(length_within(&input, 24, 24), None);
        // 512 * sqrt(24 / 30) is 457.9.
        assert_eq!(length_within(&input, 30, 24), Some(448));
        assert_eq!(length_within(&input, 25, 24), Some(480));
        assert_eq!(length_within(&input, 10_000, 24), Some(256));
        assert_eq!(length_within(&input, u64::MAX, 0), Some(256));
    }

    #[test]
    fn a_budget_shortens_inferences_and_never_lengthens_them() {
        let with = |cpu_budget| ScheduleOptions {
            cpu_budget,
            ..ScheduleOptions::default()
        };
        let ms = |n| InputLength::Within(Duration::from_millis(n));
        assert_eq!(InputLength::auto(), ms(24));
        assert_eq!(InputLength::auto().within_budget(&with(None)), ms(24));
        assert_eq!(InputLength::auto().within_budget(&with(Some(4.0))), ms(24));
        assert_eq!(InputLength::auto().within_budget(&with(Some(0.25))), ms(20));
        assert_eq!(
            InputLength::Contract.within_budget(&with(Some(0.1))),
            InputLength::Contract
        );
    }

    #[test]
    fn there_are_as_few_threads_as_do_and_no_more_than_help() {
        let ms = |table: &'static [u64]| move |threads: usize| Ok(table[threads - 1]);
        assert_eq!(fewest(4, 24, ms(&[20, 1, 1, 1])).unwrap(), (1, 20));
        assert_eq!(fewest(4, 24, ms(&[40, 22, 0, 12])).unwrap(), (2, 22));
        assert_eq!(fewest(4, 24, ms(&[90, 48, 0, 26])).unwrap(), (4, 26));
        // The third and the fourth core are busy.
        assert_eq!(fewest(4, 24, ms(&[90, 48, 0, 45])).unwrap(), (2, 48));
        assert_eq!(fewest(4, 24, ms(&[90, 80, 0, 1])).unwrap(), (1, 90));
        // Half as many more have to help half as much.
        assert_eq!(fewest(3, 24, ms(&[90, 48, 40])).unwrap(), (3, 40));
        assert_eq!(fewest(3, 24, ms(&[90, 48, 45])).unwrap(), (2, 48));
        assert_eq!(fewest(1, 24, ms(&[90])).unwrap(), (1, 90));
    }

    #[test]
    fn cameras_share_the_cores_and_a_budget_bounds_threads() {
        let cores = available_parallelism().unwrap().get();
        let most = |threads| match threads {
            Threads::Within { most, .. } => most,
            Threads::Count(count) => count,
        };
        assert_eq!(most(Threads::auto(1)), cores);
        assert_eq!(most(Threads::auto(cores)), 1);
        assert_eq!(most(Threads::auto(100)), 1);
        let budget = |cores| ScheduleOptions {
            cpu_budget: Some(cores),
            ..ScheduleOptions::default()
        };
        let limit = Duration::from_millis(24);
        let wanted = Threads::Within { limit, most: 4 };
        assert_eq!(most(wanted.within_budget(&budget(0.5))), 1);
        assert_eq!(most(wanted.within_budget(&budget(2.5))), 2);
        assert_eq!(most(wanted.within_budget(&ScheduleOptions::default())), 4);
        let count = Threads::Count(3);
        assert_eq!(count.within_budget(&budget(0.5)), count);
    }
}
