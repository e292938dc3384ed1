//! `/status`: all figures as one JSON object.

use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::health::{Health, Watched};
use crate::metrics::{Snapshot, resident_bytes};

/// 200 and the status of the process.
pub(super) async fn status(State(health): State<Health>) -> ([(HeaderName, &'static str); 1], String) {
    (
        [(CONTENT_TYPE, "application/json")],
        format!("{:#}\n", render(&health)),
    )
}

/// The document.
pub(super) fn render(health: &Health) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "healthy": health.troubles().is_empty(),
        "ready": health.is_ready(),
        "rss_bytes": resident_bytes(),
        "reloads": {
            "taken": health.reloads.taken.load(Relaxed),
            "refused": health.reloads.refused.load(Relaxed),
        },
        "events": health.events().map(|desk| json!({
            "sinks": desk.sinks().iter().map(|sink| json!({
                "kind": sink.kind,
                "to": sink.to,
                "trouble": sink.trouble(),
                "delivered": sink.delivered.load(Relaxed),
                "lost": sink.lost(),
            })).collect::<Vec<_>>(),
            "count": desk.counts().values().sum::<u64>(),
        })),
        "cameras": health.cameras().iter().map(camera).collect::<Vec<_>>(),
    })
}

fn camera(camera: &Watched) -> Value {
    let seen = camera.observe();
    let vitals = &camera.metrics.vitals;
    let snapshot: Snapshot = camera.metrics.snapshot();
    let looks = camera.control.looks();
    json!({
        "name": camera.name,
        "troubles": camera.troubles().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "failed": seen.failed,
        "running_s": seen.running.as_secs_f64(),
        "source": {
            "live": seen.source_is_live,
            "lost": seen.source_lost,
            "silent_s": seen.silent.as_secs_f64(),
            "corrupt": vitals.corrupt.load(Relaxed),
            "lost_frames": vitals.lost.load(Relaxed),
            "slipped_s": vitals.slipped_ns.load(Relaxed) as f64 / 1e9,
            "loops": vitals.loops.load(Relaxed),
        },
        "network": vitals.runs_on().map(|on| json!({
            "backend": on.backend,
            "provider": on.provider,
            "precision": on.precision,
            "version": on.version,
            "failures": vitals.infer_failures.load(Relaxed),
            "preparing": vitals.preparing().map(|preparing| json!({
                "device": preparing.name,
                "for_s": camera.clock.now_ns().saturating_sub(preparing.since_ns) as f64 / 1e9,
            })),
        })),
        "classes_shown": looks.overlay.shown.as_ref().map(|shown| {
            let names = shown.iter().filter_map(|l| looks.model.classes.get(usize::from(*l)));
            names.map(|c| c.name.clone()).collect::<Vec<_>>()
        }),
        "privacy": looks.privacy.is_some(),
        "latency_s": match vitals.latency_ns.load(Relaxed) {
            0 => None,
            ns => Some(ns as f64 / 1e9),
        },
        "mask_age_s": seen.mask_age.map(|age| age.as_secs_f64()),
        "hidden": vitals.hidden.load(Relaxed),
        "notices": vitals.notices.load(Relaxed),
        "clients": vitals.watching(),
        "outputs_down": seen.outputs_down,
        "output_failures": vitals.output_failures.load(Relaxed),
        "dropped_outputs": vitals.dropped_outputs.load(Relaxed),
        "figures": snapshot,
    })
}
