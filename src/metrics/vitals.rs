//! Signs of life: what health, the watchdog and the log judge by.
//!
//! Times are nanoseconds of the pipeline's clock, 0 for "never".

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::capture::SourceCounters;
use crate::clock::TimeNs;
use vision::infer::RunsOn;

/// Signs of life of one pipeline. Shared by its threads.
#[derive(Debug, Default)]
pub struct Vitals {
    /// Attempts to open the source, and reads of it that came back.
    pub capture_steps: AtomicU64,
    /// Frames and notices that went to the outputs, and waits for a frame that came back.
    pub compose_steps: AtomicU64,
    /// When the last frame was captured.
    pub last_captured_ns: AtomicU64,
    /// When the last frame was handed to the outputs.
    pub last_composed_ns: AtomicU64,
    /// When the inference that runs now began; 0 while none runs.
    pub infer_began_ns: AtomicU64,
    /// Inferences that failed and were left out.
    pub infer_failures: AtomicU64,
    /// Age of the mask on the last composed frame; [`Self::NO_MASK`] if it had none.
    pub mask_age_ns: AtomicU64,
    /// From the capture of the last composed frame to its hand-over to the outputs; 0 before the first.
    pub latency_ns: AtomicU64,
    /// When the last frame with a mask was composed.
    pub last_masked_ns: AtomicU64,
    /// Whether the source is one that is opened again when it fails.
    pub source_is_live: AtomicBool,
    /// "Camera lost" pictures that went out.
    pub notices: AtomicU64,
    /// Frames that went out wholly hidden because there was no current mask.
    pub hidden: AtomicU64,
    /// Times an output failed.
    pub output_failures: AtomicU64,
    /// Outputs that are being opened again.
    pub outputs_down: AtomicU64,
    /// Frames that the outputs dropped.
    pub dropped_outputs: AtomicU64,
    /// Clients of the outputs that watch.
    pub clients: AtomicU64,
    /// Viewers that watch over HTTP.
    pub viewers: AtomicU64,
    /// Encoders at work: those whose outputs want the same work once.
    pub encoders: AtomicU64,
    /// Pictures that were encoded, by all encoders together.
    pub encoded: AtomicU64,
    /// Frames of the source that came broken.
    pub corrupt: AtomicU64,
    /// Frames that the source lost before they were read.
    pub lost: AtomicU64,
    /// Nanoseconds by which a recording's timeline slipped.
    pub slipped_ns: AtomicU64,
    /// Times that a recording began again.
    pub loops: AtomicU64,
    failed: Mutex<Option<String>>,
    source_lost: Mutex<Option<String>>,
    /// Which outputs are down, and why.
    outputs_trouble: Mutex<String>,
    /// Where the network ran at first, and where it runs now.
    runs_on: Mutex<Option<(RunsOn, RunsOn)>>,
    /// The faster device that is being prepared, if one is.
    preparing: Mutex<Option<Preparing>>,
    /// Why it was moved, if it was.
    moved: Mutex<Option<String>>,
}

/// A faster device that is being prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preparing {
    /// What it is, for people: `TensorRT`.
    pub name: String,
    /// When that began.
    pub since_ns: TimeNs,
}

/// A network that runs somewhere else than it was chosen for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderChange {
    /// Backend and provider that were chosen.
    pub from: String,
    /// Backend and provider that run.
    pub to: String,
    /// Why, if it failed there.
    pub why: Option<String>,
}

impl Vitals {
    /// The value of [`mask_age_ns`](Self::mask_age_ns) for a frame without a mask.
    pub const NO_MASK: u64 = u64::MAX;

    /// The pipeline has ended with an error; others may go on.
    pub fn set_failed(&self, why: String) {
        self.clients.store(0, Relaxed);
        *self.failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(why);
    }

    /// The error that ended the pipeline, if one did.
    pub fn failed(&self) -> Option<String> {
        self.failed.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The source is away, and why.
    pub fn set_source_lost(&self, why: String) {
        *self.source_lost.lock().unwrap_or_else(|e| e.into_inner()) = Some(why);
    }

    /// Which outputs are down, and why; an empty text if none is.
    pub fn set_outputs_trouble(&self, why: String) {
        *self.outputs_trouble.lock().unwrap_or_else(|e| e.into_inner()) = why;
    }

    /// Which outputs are down, and why.
    pub fn outputs_trouble(&self) -> String {
        let why = self.outputs_trouble.lock();
        why.unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// All who watch now.
    pub fn watching(&self) -> u64 {
        self.clients.load(Relaxed) + self.viewers.load(Relaxed)
    }

    /// A frame has come.
    pub fn captured_at(&self, now_ns: TimeNs) {
        // 0 is "never".
        if self.last_captured_ns.swap(now_ns.max(1), Relaxed) == 0 || self.source_lost().is_some() {
            *self.source_lost.lock().unwrap_or_else(|e| e.into_inner()) = None;
        }
    }

    /// Why the source is away, if it is.
    pub fn source_lost(&self) -> Option<String> {
        self.source_lost.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The network was prepared, and runs here. `chosen` if that is what was asked for just now: at the start, and
    /// when another model is swapped in.
    pub fn set_runs_on(&self, on: RunsOn, chosen: bool) {
        let mut runs_on = self.runs_on.lock().unwrap_or_else(|e| e.into_inner());
        *runs_on = match runs_on.take() {
            Some((first, _)) if !chosen => Some((first, on)),
            _ => {
                *self.moved.lock().unwrap_or_else(|e| e.into_inner()) = None;
                Some((on.clone(), on))
            }
        };
    }

    /// The network failed where it ran, for this reason, and runs here from now on.
    pub fn set_moved(&self, on: RunsOn, why: String) {
        self.set_runs_on(on, false);
        *self.moved.lock().unwrap_or_else(|e| e.into_inner()) = Some(why);
    }

    /// Where the network runs.
    pub fn runs_on(&self) -> Option<RunsOn> {
        let runs_on = self.runs_on.lock().unwrap_or_else(|e| e.into_inner());
        runs_on.as_ref().map(|(_, now)| now.clone())
    }

    /// If the network runs somewhere else than it was chosen for: from where, to where, why.
    pub fn provider_change(&self) -> Option<ProviderChange> {
        let runs_on = self.runs_on.lock().unwrap_or_else(|e| e.into_inner());
        let (first, now) = runs_on.as_ref()?;
        let text = |on: &RunsOn| format!("{} {}", on.backend, on.provider);
        (text(first) != text(now)).then(|| ProviderChange {
            from: text(first),
            to: text(now),
            why: self.moved.lock().unwrap_or_else(|e| e.into_inner()).clone(),
        })
    }

    /// A faster device is being prepared from now on; `None`: that has ended.
    pub fn set_preparing(&self, preparing: Option<Preparing>) {
        *self.preparing.lock().unwrap_or_else(|e| e.into_inner()) = preparing;
    }

    /// The faster device that is being prepared, if one is.
    pub fn preparing(&self) -> Option<Preparing> {
        self.preparing.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Adds what an opened source counted since `before`.
    pub fn add_counters(&self, before: SourceCounters, now: SourceCounters) {
        for (total, before, now) in [
            (&self.corrupt, before.corrupt, now.corrupt),
            (&self.lost, before.lost, now.lost),
            (&self.slipped_ns, before.slipped_ns, now.slipped_ns),
            (&self.loops, before.loops, now.loops),
        ] {
            if now > before {
                total.fetch_add(now - before, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_several_openings_add_up() {
        let vitals = Vitals::default();
        let counted = |corrupt, lost| SourceCounters {
            corrupt,
            lost,
            ..SourceCounters::default()
        };
        vitals.add_counters(counted(0, 0), counted(2, 5));
        vitals.add_counters(counted(2, 5), counted(3, 5));
        // Opened again: its own count begins at 0.
        vitals.add_counters(counted(0, 0), counted(0, 1));
        assert_eq!((vitals.corrupt.load(Relaxed), vitals.lost.load(Relaxed)), (3, 6));
    }

    #[test]
    fn a_provider_that_changes_by_itself_is_seen() {
        let vitals = Vitals::default();
        let on = |provider: &str| RunsOn {
            backend: "ort",
            provider: provider.into(),
            precision: "fp32".into(),
            version: "1".into(),
            input_size: vision::tensor::InputSize {
                width: 64,
                height: 48,
            },
        };
        vitals.set_runs_on(on("CUDA"), true);
        vitals.set_runs_on(on("CUDA"), false);
        assert_eq!(vitals.provider_change(), None);
        vitals.set_moved(on("CPU"), "the device is gone".into());
        assert_eq!(
            vitals.provider_change(),
            Some(ProviderChange {
                from: "ort CUDA".into(),
                to: "ort CPU".into(),
                why: Some("the device is gone".into()),
            })
        );
        vitals.set_runs_on(on("CPU"), true);
        assert_eq!(vitals.provider_change(), None);
        vitals.set_runs_on(on("CUDA"), false);
        assert_eq!(
            vitals.provider_change().unwrap().why,
            None,
            "the old reason is gone"
        );
    }

    #[test]
    fn a_frame_ends_the_loss() {
        let vitals = Vitals::default();
        vitals.set_source_lost("unplugged".into());
        assert_eq!(vitals.source_lost().as_deref(), Some("unplugged"));
        vitals.captured_at(0);
        assert_eq!(vitals.source_lost(), None);
        assert_eq!(vitals.last_captured_ns.load(Relaxed), 1);
    }
}
