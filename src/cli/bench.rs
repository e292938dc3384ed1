//! `segd bench`: what each stage costs on this machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::choose::Chooser;
#[cfg(feature = "gstreamer")]
use crate::cli::latency;
use crate::cli::propagation;
use crate::cli::run::RunArgs;
use crate::daemon::{build_camera, status};
use crate::metrics::{Metrics, Snapshot, process_cpu_ns, resident_bytes};
use crate::pipeline;
use crate::supervise::{Ticker, stop_on_signals};
use vision::error::{Error, Result};

/// Where the client of `--latency` connects.
const LATENCY_OUTPUT: &str = "rtsp://127.0.0.1:8556/bench";

/// Frames measured where the source has no end of its own.
const DEFAULT_FRAMES: u64 = 300;

/// Arguments of `segd bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What is run. Without a source: a test pattern of 640x480. Without an output: none (null://).
    #[command(flatten)]
    pub run: RunArgs,
    /// Run at the source's own pace with the newest mask, as the daemon does, in place of every frame with its own
    /// mask as fast as possible
    #[arg(long)]
    pub live: bool,
    /// In place of speed, measure what moving masks costs in quality: on a VOC data set's folder, from which pans and
    /// zooms with known labels are made, or on a video, against inferring every frame
    #[arg(long, value_name = "DIR|FILE")]
    pub propagation: Option<PathBuf>,
    /// Measure from capture to a client: run live with an RTSP output, watch it over loopback, and read each picture's
    /// time of capture from a pattern drawn onto it and from its packets' headers
    #[arg(long)]
    pub latency: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What a bench measured.
#[derive(Debug, Serialize)]
struct Report {
    runs_on: String,
    wall_s: f64,
    fps: f64,
    cpu_ms_per_frame: f64,
    /// CPU on segd's own threads besides the network: capture copy, pre- and postprocess, overlay, hand-over.
    own_cpu_ms_per_frame: f64,
    rss_start_mib: f64,
    rss_end_mib: f64,
    /// CPU of each thread by name, GStreamer's decoder and encoder threads included.
    threads_cpu_ms_per_frame: BTreeMap<String, f64>,
    /// What a client saw.
    #[cfg(feature = "gstreamer")]
    to_client: Option<latency::ToClient>,
    #[serde(flatten)]
    figures: Snapshot,
}

/// Runs the bench.
///
/// # Errors
/// As `segd run`.
pub fn run(mut args: BenchArgs) -> Result<()> {
    if let Some(path) = &args.propagation {
        let limit = args.run.frames.map(|n| n as usize);
        return propagation::run(path, &args.run.model, limit, args.json);
    }
    if !args.run.source.is_set() && args.run.config.is_none() {
        args.run.source.input.push("test://".into());
        args.run.frames.get_or_insert(DEFAULT_FRAMES);
    }
    if args.latency {
        args.live = true;
        let is_rtsp = |output: &String| output.starts_with("rtsp://");
        if !args.run.output.output.iter().any(is_rtsp) {
            args.run.output.output.push(LATENCY_OUTPUT.into());
        }
    }
    if args.run.output.output.is_empty() {
        args.run.output.output.push("null://".into());
    }
    if args.run.source.looped || args.run.source.camera.is_some() {
        args.run.frames.get_or_insert(DEFAULT_FRAMES);
    }
    args.run.source.no_pace = !args.live && args.run.source.camera.is_none();
    let settings = args.run.origin().settings()?;
    let metrics = Metrics::shared();
    let built = build_camera(settings.only_camera()?, &Chooser::default(), metrics.clone())?;
    let (parts, mut options) = (built.parts, built.options);
    options.stamp = args.latency;
    #[cfg(feature = "gstreamer")]
    let seen = Arc::new(latency::Seen::default());
    #[cfg(feature = "gstreamer")]
    let client = match args.run.output.output.iter().find(|o| o.starts_with("rtsp://")) {
        Some(address) if args.latency => Some(latency::watch(address, parts.clock.clone(), seen.clone())?),
        _ => None,
    };

    let asked_to_stop = stop_on_signals()?;
    let progress = status::show_progress(metrics.clone(), args.run.frames)?;
    let measured = Arc::new(Mutex::new(Measured::default()));
    let sampler = {
        let (measured, metrics) = (measured.clone(), metrics.clone());
        Ticker::start("bench", LOOK, move || {
            measured
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .sample(&metrics);
        })?
    };
    pipeline::run(parts, options, &asked_to_stop)?;
    drop((sampler, progress));
    #[cfg(feature = "gstreamer")]
    let to_client = client.map(|_| seen.summary());
    let mut measured = measured.lock().unwrap_or_else(|e| e.into_inner());
    let end = Moment::now(&metrics);

    let figures = metrics.snapshot();
    if figures.composed == 0 {
        return Err(Error::fatal("no frame was composed").hint("is the source empty?"));
    }
    let Some(start) = measured
        .start
        .take()
        .filter(|start| start.composed < end.composed)
    else {
        return Err(Error::fatal(format!(
            "only {} frames were composed: too few to measure",
            figures.composed
        ))
        .hint("use --frames or a longer file"));
    };
    let frames = (end.composed - start.composed) as f64;
    let wall = (end.at - start.at).as_secs_f64();
    let own: f64 = figures
        .stages
        .iter()
        .filter(|(stage, _)| *stage != crate::metrics::Stage::Infer)
        .map(|(_, s)| s.cpu_ms)
        .sum();
    let report = Report {
        runs_on: metrics
            .vitals
            .runs_on()
            .map(|on| on.to_string())
            .unwrap_or_default(),
        wall_s: wall,
        fps: frames / wall,
        cpu_ms_per_frame: (end.cpu_ns - start.cpu_ns) as f64 / 1e6 / frames,
        own_cpu_ms_per_frame: own / figures.composed as f64,
        rss_start_mib: mib(start.rss),
        rss_end_mib: mib(end.rss),
        threads_cpu_ms_per_frame: measured.threads.per_frame(frames),
        #[cfg(feature = "gstreamer")]
        to_client,
        figures,
    };
    super::print_report(args.json, &report, print)
}

/// Frames that go by before the measurement starts: preparing the network and filling caches don't count.
const WARM_UP_FRAMES: u64 = 10;

/// How often it is looked whether the measurement starts.
const LOOK: Duration = Duration::from_millis(20);
/// Threads are looked at once in so many looks: reading their times costs CPU time that would count as segd's.
const LOOKS_PER_SAMPLE: u32 = 25;

/// Totals at one moment.
#[derive(Debug)]
struct Moment {
    at: Instant,
    cpu_ns: u64,
    composed: u64,
    rss: u64,
}

impl Moment {
    fn now(metrics: &Metrics) -> Self {
        Self {
            at: Instant::now(),
            cpu_ns: process_cpu_ns(),
            composed: metrics.composed.load(std::sync::atomic::Ordering::Relaxed),
            rss: resident_bytes().unwrap_or(0),
        }
    }
}

#[derive(Debug, Default)]
struct Measured {
    start: Option<Moment>,
    threads: ThreadCpu,
    looks: u32,
}

impl Measured {
    fn sample(&mut self, metrics: &Metrics) {
        if self.start.is_none() {
            let now = Moment::now(metrics);
            if now.composed < WARM_UP_FRAMES {
                return;
            }
            self.start = Some(now);
        }
        if self.looks.is_multiple_of(LOOKS_PER_SAMPLE) {
            self.threads.sample();
        }
        self.looks += 1;
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn print(report: &Report) {
    let figures = &report.figures;
    println!("{}", report.runs_on);
    println!(
        "{} frames in {:.1} s: {:.1} fps, {} inferences, {:.2} CPU ms a frame in all, {:.2} on segd's own stages besides the network",
        figures.composed,
        report.wall_s,
        report.fps,
        figures.inferences,
        report.cpu_ms_per_frame,
        report.own_cpu_ms_per_frame
    );
    println!(
        "{:<12} {:>9} {:>9} {:>9} {:>13}",
        "stage", "p50 ms", "p95 ms", "p99 ms", "CPU ms/frame"
    );
    for (stage, s) in &figures.stages {
        println!(
            "{:<12} {:>9.2} {:>9.2} {:>9.2} {:>13.3}",
            stage.as_str(),
            s.wall.p50_ms,
            s.wall.p95_ms,
            s.wall.p99_ms,
            s.cpu_ms / figures.composed as f64
        );
    }
    for (name, l) in [
        ("mask age", figures.mask_age),
        ("to stream", figures.capture_to_stream),
    ] {
        println!("{name:<12} {:>9.2} {:>9.2} {:>9.2}", l.p50_ms, l.p95_ms, l.p99_ms);
    }
    #[cfg(feature = "gstreamer")]
    if let Some(seen) = &report.to_client {
        for (name, l) in [("to client", seen.by_pattern), ("by RTP header", seen.by_header)] {
            println!(
                "{name:<13}{:>9.2} {:>9.2} {:>9.2}   {} pictures",
                l.p50_ms, l.p95_ms, l.p99_ms, l.count
            );
        }
        println!(
            "start to first picture at the client {:.2} s; {} pictures with an unreadable pattern",
            seen.first_picture_s, seen.unreadable
        );
    }
    let asked = figures.asked.iter().filter(|(_, n)| *n > 0);
    let asked: Vec<String> = asked
        .map(|(reason, n)| format!("{} {n}", reason.as_str()))
        .collect();
    if !asked.is_empty() {
        println!(
            "inferred because: {}; {} frames propagated, {} waited for their own mask ({} in vain), {} blanked",
            asked.join(", "),
            figures.propagated,
            figures.waited,
            figures.waited_in_vain,
            figures.blanked
        );
    }
    println!("threads (CPU ms/frame):");
    for (name, ms) in &report.threads_cpu_ms_per_frame {
        if *ms >= 0.005 {
            println!("  {name:<16} {ms:>8.3}");
        }
    }
    println!(
        "dropped {} (capture {}, compose {}, queues {:?}), without mask {}, RSS {:.0} -> {:.0} MiB",
        status::dropped(figures),
        figures.dropped_capture,
        figures.dropped_compose,
        figures.dropped_mailboxes,
        figures.without_mask,
        report.rss_start_mib,
        report.rss_end_mib
    );
}

/// The CPU time of each thread of this process, by thread id, as last seen: a thread that has ended keeps its figure.
/// From `/proc/self/task/*/schedstat`, whose first number is nanoseconds on a CPU
/// (<https://docs.kernel.org/scheduler/sched-stats.html>).
#[derive(Debug, Default)]
struct ThreadCpu {
    first: BTreeMap<u32, u64>,
    last: BTreeMap<u32, (String, u64)>,
}

impl ThreadCpu {
    fn sample(&mut self) {
        let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
            return;
        };
        let initial = self.last.is_empty();
        for task in tasks.flatten() {
            let Some(id) = task.file_name().to_str().and_then(|s| s.parse::<u32>().ok()) else {
                continue;
            };
            let read = |name: &str| std::fs::read_to_string(task.path().join(name)).ok();
            let (Some(comm), Some(stat)) = (read("comm"), read("schedstat")) else {
                continue;
            };
            let Some(ns) = stat.split_whitespace().next().and_then(|s| s.parse::<u64>().ok()) else {
                continue;
            };
            // What a thread used before the bench does not count.
            let first = *self.first.entry(id).or_insert(if initial { ns } else { 0 });
            self.last
                .insert(id, (comm.trim().to_owned(), ns.saturating_sub(first)));
        }
    }

    /// Milliseconds a frame, threads of the same name added up; trailing numbers in a name are dropped.
    fn per_frame(&self, frames: f64) -> BTreeMap<String, f64> {
        let mut by_name = BTreeMap::new();
        for (name, ns) in self.last.values() {
            let name = name
                .trim_end_matches(|c: char| c.is_ascii_digit() || c == ':')
                .to_owned();
            *by_name.entry(name).or_insert(0.0) += *ns as f64 / 1e6 / frames;
        }
        by_name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_seen_with_their_cpu_time() {
        let mut cpu = ThreadCpu::default();
        cpu.sample();
        let sampler = std::thread::Builder::new()
            .name("burner".into())
            .spawn(move || {
                let start = crate::metrics::thread_cpu_ns();
                while crate::metrics::thread_cpu_ns() - start < 20_000_000 {}
                cpu.sample();
                cpu
            })
            .unwrap();
        let per_frame = sampler.join().unwrap().per_frame(2.0);
        assert!(per_frame["burner"] >= 5.0, "{per_frame:?}");
    }
}
