//! What each step of an inference takes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

/// The CPU time this thread has used, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// The steps of an [`Engine`](crate::segment::Engine), in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Picture to tensor.
    Preprocess,
    /// The network.
    Infer,
    /// The network's answer to a mask.
    Decode,
}

/// Who is told what each step takes.
pub trait StepTimer: Send + Sync {
    /// A step took `wall_ns`, and `cpu_ns` of the calling thread's CPU time.
    fn record(&self, step: Step, wall_ns: u64, cpu_ns: u64);
}

impl dyn StepTimer + '_ {
    /// Runs `f` and records what it took.
    pub fn time<T>(&self, step: Step, f: impl FnOnce() -> T) -> T {
        let (wall, cpu) = (Instant::now(), thread_cpu_ns());
        let value = f();
        let wall_ns = u64::try_from(wall.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.record(step, wall_ns, thread_cpu_ns().saturating_sub(cpu));
        value
    }
}

/// Sums of CPU time.
#[derive(Debug, Default)]
pub struct CpuSums {
    cpu_ns: [AtomicU64; 3],
}

impl CpuSums {
    /// CPU time of `step` so far, in nanoseconds.
    pub fn cpu_ns(&self, step: Step) -> u64 {
        self.cpu_ns[step as usize].load(Relaxed)
    }
}

impl StepTimer for CpuSums {
    fn record(&self, step: Step, _wall_ns: u64, cpu_ns: u64) {
        self.cpu_ns[step as usize].fetch_add(cpu_ns, Relaxed);
    }
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Untimed;

impl StepTimer for Untimed {
    fn record(&self, _step: Step, _wall_ns: u64, _cpu_ns: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_its_own_sum() {
        let sums = CpuSums::default();
        let timer: &dyn StepTimer = &sums;
        assert_eq!(timer.time(Step::Infer, || 7), 7);
        timer.record(Step::Decode, 5, 3);
        timer.record(Step::Decode, 5, 4);
        assert_eq!((sums.cpu_ns(Step::Preprocess), sums.cpu_ns(Step::Decode)), (0, 7));
    }
}
