//! `/metrics`: all figures in Prometheus' text format (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;

use crate::events::EventDesk;
use crate::events::desk::SinkState;
use crate::health::{Health, Watched};
use crate::metrics::{Latency, Stage, Vitals, open_files, process_cpu_ns, resident_bytes};

/// Upper bounds of the latency histograms' buckets, in seconds.
const BOUNDS: [f64; 16] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.033, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
];

/// One family of metrics: its header once, then its samples.
struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl<'a> Family<'a> {
    fn new(out: &'a mut String, name: &'static str, kind: &str, help: &str) -> Self {
        // Writing to a String does not fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Self { out, name }
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.named("", labels, value);
    }

    fn named(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        let _ = write!(self.out, "{}{suffix}", self.name);
        for (index, (key, text)) in labels.iter().enumerate() {
            let escaped = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(
                self.out,
                "{}{key}=\"{escaped}\"",
                if index == 0 { '{' } else { ',' }
            );
        }
        let _ = writeln!(self.out, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn histogram(&mut self, labels: &[(&str, &str)], latency: &Latency) {
        let (counts, total, sum) = latency.buckets(&BOUNDS);
        for (bound, count) in BOUNDS.iter().zip(counts) {
            let le = bound.to_string();
            let labels: Vec<_> = labels.iter().copied().chain([("le", le.as_str())]).collect();
            self.named("_bucket", &labels, count as f64);
        }
        let labels_inf: Vec<_> = labels.iter().copied().chain([("le", "+Inf")]).collect();
        self.named("_bucket", &labels_inf, total as f64);
        self.named("_sum", labels, sum);
        self.named("_count", labels, total as f64);
    }
}

/// 200 and all metrics.
pub(super) async fn metrics(State(health): State<Health>) -> ([(HeaderName, &'static str); 1], String) {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, kind)], render(&health))
}

fn render(health: &Health) -> String {
    let mut out = String::with_capacity(16 * 1024);
    type Count = fn(&Watched) -> u64;
    let get = |counter: &AtomicU64| counter.load(Relaxed);
    let counters: [(&'static str, &str, Count); 11] = [
        ("segd_frames_captured_total", "Frames captured.", |c| {
            c.metrics.captured.load(Relaxed)
        }),
        (
            "segd_frames_composed_total",
            "Frames handed to the outputs.",
            |c| c.metrics.composed.load(Relaxed),
        ),
        (
            "segd_frames_without_mask_total",
            "Frames that went out without a mask.",
            |c| c.metrics.without_mask.load(Relaxed),
        ),
        (
            "segd_frames_hidden_total",
            "Frames wholly hidden because there was no current mask.",
            |c| c.metrics.vitals.hidden.load(Relaxed),
        ),
        ("segd_inferences_total", "Inferences.", |c| {
            c.metrics.inferences.load(Relaxed)
        }),
        ("segd_inference_failures_total", "Inferences that failed.", |c| {
            c.metrics.vitals.infer_failures.load(Relaxed)
        }),
        (
            "segd_source_reconnects_total",
            "Times the source was opened again.",
            |c| c.metrics.reconnects.load(Relaxed),
        ),
        (
            "segd_source_frames_corrupt_total",
            "Frames of the source that came broken.",
            |c| c.metrics.vitals.corrupt.load(Relaxed),
        ),
        (
            "segd_source_frames_lost_total",
            "Frames lost before they were read, by the source's numbering.",
            |c| c.metrics.vitals.lost.load(Relaxed),
        ),
        (
            "segd_output_failures_total",
            "Times an output failed or could not be opened.",
            |c| c.metrics.vitals.output_failures.load(Relaxed),
        ),
        (
            "segd_frames_encoded_total",
            "Frames that were encoded, by all encoders together.",
            |c| c.metrics.vitals.encoded.load(Relaxed),
        ),
    ];
    for (name, help, count) in counters {
        let mut family = Family::new(&mut out, name, "counter", help);
        for camera in health.cameras() {
            family.sample(&[("camera", &camera.name)], count(camera) as f64);
        }
    }

    let mut family = Family::new(
        &mut out,
        "segd_frames_dropped_total",
        "counter",
        "Frames dropped, by the queue that was full.",
    );
    for camera in health.cameras() {
        let metrics = &camera.metrics;
        let mut queues = metrics.mailbox_drops();
        queues.push(("capture_pool", get(&metrics.dropped_capture)));
        queues.push(("compose_pool", get(&metrics.dropped_compose)));
        queues.push(("outputs", get(&metrics.vitals.dropped_outputs)));
        for (queue, drops) in queues {
            family.sample(&[("camera", &camera.name), ("queue", queue)], drops as f64);
        }
    }

    type Gauge = fn(&Watched) -> f64;
    let gauges: [(&'static str, &str, Gauge); 8] = [
        ("segd_clients", "Clients that watch.", |c| {
            c.metrics.vitals.watching() as f64
        }),
        (
            "segd_encoders",
            "Video encoders at work; outputs that want the same share one.",
            |c| c.metrics.vitals.encoders.load(Relaxed) as f64,
        ),
        (
            "segd_outputs_down",
            "Outputs that have failed and are opened again.",
            |c| c.metrics.vitals.outputs_down.load(Relaxed) as f64,
        ),
        ("segd_source_up", "1 while the source gives frames.", |c| {
            let seen = c.observe();
            f64::from(u8::from(
                seen.failed.is_none()
                    && seen.source_lost.is_none()
                    && seen.has_captured
                    && seen.silent <= c.limits.silence,
            ))
        }),
        (
            "segd_mask_age_last_seconds",
            "Age of the mask on the last frame; NaN without one.",
            |c| match c.metrics.vitals.mask_age_ns.load(Relaxed) {
                Vitals::NO_MASK => f64::NAN,
                ns => ns as f64 / 1e9,
            },
        ),
        (
            "segd_source_slipped_seconds",
            "By how much a recording's timeline has slipped.",
            |c| c.metrics.vitals.slipped_ns.load(Relaxed) as f64 / 1e9,
        ),
        (
            "segd_provider_degraded",
            "1 while the network runs elsewhere than it was chosen to, after a provider failed.",
            |c| f64::from(u8::from(c.observe().provider_change.is_some())),
        ),
        ("segd_healthy", "1 if nothing is wrong.", |c| {
            f64::from(u8::from(c.troubles().is_empty()))
        }),
    ];
    for (name, help, value) in gauges {
        let mut family = Family::new(&mut out, name, "gauge", help);
        for camera in health.cameras() {
            family.sample(&[("camera", &camera.name)], value(camera));
        }
    }

    let mut family = Family::new(
        &mut out,
        "segd_provider_info",
        "gauge",
        "Always 1; what the network runs on.",
    );
    for camera in health.cameras() {
        if let Some(on) = camera.metrics.vitals.runs_on() {
            let labels = [
                ("camera", camera.name.as_str()),
                ("backend", on.backend),
                ("provider", &on.provider),
                ("precision", &on.precision),
                ("version", &on.version),
            ];
            family.sample(&labels, 1.0);
        }
    }

    let mut family = Family::new(
        &mut out,
        "segd_stage_seconds",
        "histogram",
        "Wall time of each call of a stage; capture includes waiting for the source.",
    );
    for camera in health.cameras() {
        for stage in Stage::ALL {
            let labels = [("camera", camera.name.as_str()), ("stage", stage.as_str())];
            family.histogram(&labels, &camera.metrics.stage(stage).wall);
        }
    }
    let mut family = Family::new(
        &mut out,
        "segd_mask_age_seconds",
        "histogram",
        "Age of the mask on each composed frame.",
    );
    for camera in health.cameras() {
        family.histogram(&[("camera", &camera.name)], &camera.metrics.mask_age);
    }
    let mut family = Family::new(
        &mut out,
        "segd_capture_to_stream_seconds",
        "histogram",
        "From capture to the hand-over to the outputs.",
    );
    for camera in health.cameras() {
        family.histogram(&[("camera", &camera.name)], &camera.metrics.capture_to_stream);
    }

    type OfReader = fn(&(&'static str, u64, u64)) -> u64;
    let families: [(&'static str, &str, OfReader); 2] = [
        (
            "segd_scenes_offered_total",
            "Scenes for those who read them, by reader.",
            |(_, sent, _)| *sent,
        ),
        (
            "segd_scenes_dropped_total",
            "Scenes that a reader was too slow for.",
            |(_, _, dropped)| *dropped,
        ),
    ];
    for (name, help, of) in families {
        let mut family = Family::new(&mut out, name, "counter", help);
        for camera in health.cameras() {
            for count in camera.control.scenes.counts() {
                family.sample(
                    &[("camera", &camera.name), ("reader", count.0)],
                    of(&count) as f64,
                );
            }
        }
    }
    if let Some(desk) = health.events() {
        render_events(&mut out, desk);
    }
    let mut family = Family::new(
        &mut out,
        "segd_reloads_total",
        "counter",
        "Configuration reloads.",
    );
    family.sample(&[("result", "taken")], get(&health.reloads.taken) as f64);
    family.sample(&[("result", "refused")], get(&health.reloads.refused) as f64);
    let process: [(&'static str, &str, &str, Option<f64>); 3] = [
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory.",
            resident_bytes().map(|b| b as f64),
        ),
        (
            "process_open_fds",
            "gauge",
            "Open file descriptors.",
            open_files().map(|n| n as f64),
        ),
        (
            "process_cpu_seconds_total",
            "counter",
            "CPU time used.",
            Some(process_cpu_ns() as f64 / 1e9),
        ),
    ];
    for (name, kind, help, value) in process {
        if let Some(value) = value {
            Family::new(&mut out, name, kind, help).sample(&[], value);
        }
    }
    out
}

fn render_events(out: &mut String, desk: &EventDesk) {
    let mut family = Family::new(
        out,
        "segd_events_total",
        "counter",
        "Events, by camera, zone or line, rule and type.",
    );
    for ((camera, place, rule, kind), count) in desk.counts() {
        let labels = [
            ("camera", &*camera),
            ("place", &*place),
            ("rule", rule),
            ("type", kind),
        ];
        family.sample(&labels, count as f64);
    }
    type Value = fn(&SinkState) -> f64;
    let families: [(&'static str, &str, &str, Value); 3] = [
        (
            "segd_events_delivered_total",
            "counter",
            "Events that a sink has taken.",
            |sink| sink.delivered.load(Relaxed) as f64,
        ),
        (
            "segd_events_lost_total",
            "counter",
            "Events that a sink could not take, or had no room for.",
            |sink| sink.lost() as f64,
        ),
        (
            "segd_event_sink_up",
            "gauge",
            "1 while a sink takes events.",
            |sink| f64::from(u8::from(sink.trouble().is_none())),
        ),
    ];
    for (name, kind, help, value) in families {
        let mut family = Family::new(out, name, kind, help);
        for sink in desk.sinks() {
            family.sample(&[("sink", sink.kind), ("to", &sink.to)], value(&sink));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::watched;

    #[test]
    fn every_line_is_a_comment_or_a_sample_and_buckets_rise() {
        let camera = watched("do\"or");
        for ms in [1u64, 4, 9, 40, 3000] {
            camera.metrics.mask_age.record(ms * 1_000_000);
        }
        let text = render(&Health::new(vec![camera.into()]));
        let mut families = std::collections::BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let name = rest.split(' ').next().unwrap().to_owned();
                assert!(families.insert(name.clone()), "{name} stands there twice");
            } else if !line.starts_with("# HELP ") {
                let (_, value) = line.rsplit_once(' ').expect(line);
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(text.contains("segd_frames_captured_total{camera=\"do\\\"or\"} 0"));
        let buckets: Vec<f64> = text
            .lines()
            .filter(|l| l.starts_with("segd_mask_age_seconds_bucket"))
            .map(|l| l.rsplit_once(' ').unwrap().1.parse().unwrap())
            .collect();
        assert_eq!(buckets.len(), BOUNDS.len() + 1);
        assert!(buckets.is_sorted());
        assert_eq!((buckets[0], buckets[4], buckets[16]), (0.0, 3.0, 5.0));
        assert!(text.contains("segd_mask_age_seconds_count{camera=\"do\\\"or\"} 5"));
        let sum = text
            .lines()
            .find(|l| l.starts_with("segd_mask_age_seconds_sum"))
            .unwrap();
        let sum: f64 = sum.rsplit_once(' ').unwrap().1.parse().unwrap();
        assert!((sum - 3.054).abs() < 1e-9, "{sum}");
    }
}
