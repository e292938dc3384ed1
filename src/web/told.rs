//! `/events/history.json`, `/events/hours.json` and `/events/minutes.json`: what was told, and how full zones were, from the
//! history.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tower::ServiceExt;
use tower_http::services::ServeFile;

use super::off_thread::off_thread;
use crate::events::event::{self, Kind, Rule, text};
use crate::events::filling::Filled;
use crate::events::history::search::{Cursor, MOST, MOST_HOURS, MOST_MINUTES, Reader, Search};
use crate::events::history::unix_ms;
use crate::events::snapshots;
use crate::health::Health;
use vision::error::Result;

/// Events of a page if nothing is said.
const PAGE: usize = 100;
/// Hours that are counted if nothing is said.
const HOURS: i64 = 24;

/// Which events.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    camera: Option<String>,
    /// A zone or a line.
    zone: Option<String>,
    class: Option<String>,
    rule: Option<Rule>,
    #[serde(rename = "type")]
    kind: Option<Kind>,
    /// A duration up to now, or a time.
    since: Option<String>,
    /// A time.
    until: Option<String>,
    /// Where the page before ended.
    before: Option<String>,
    limit: Option<usize>,
    hours: Option<i64>,
}

/// A time as RFC 3339 has it, or so long before now, in Unix ms.
fn time(key: &str, text: &str, now: SystemTime) -> std::result::Result<i64, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(unix_ms(time));
    }
    let ago = humantime::parse_duration(text).ok();
    let time = ago.map(|ago| now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH));
    time.map(unix_ms).ok_or_else(|| {
        format!("{key}: found {text:?}, expected a time such as 2026-01-02T03:04:05Z, or how long ago, such as 2h\n")
    })
}

impl Asked {
    /// Empty texts are fields of a form that nobody filled in.
    fn search(&self, now: SystemTime) -> std::result::Result<Search, String> {
        let name = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
        let at = |key: &str, text: &Option<String>| {
            let text = text.as_deref().filter(|text| !text.is_empty());
            text.map(|text| time(key, text, now)).transpose()
        };
        Ok(Search {
            camera: name(&self.camera),
            place: name(&self.zone),
            class: name(&self.class),
            rule: self.rule,
            kind: self.kind,
            from_ms: at("since", &self.since)?,
            until_ms: at("until", &self.until)?,
        })
    }
}

/// The history's file.
///
/// # Errors
/// 503: none is kept.
fn kept(health: &Health) -> std::result::Result<Arc<PathBuf>, (StatusCode, &'static str)> {
    let path = health.events().and_then(|desk| desk.history());
    path.ok_or((
        StatusCode::SERVICE_UNAVAILABLE,
        "no history of events is kept: set events.history\n",
    ))
}

/// The history's file, and what is looked for in it.
///
/// # Errors
/// As [`kept`]; 400 for a filter that is none.
fn asked_of(
    health: &Health,
    asked: &Asked,
    now: SystemTime,
) -> std::result::Result<(Arc<PathBuf>, Search), (StatusCode, Cow<'static, str>)> {
    let path = kept(health).map_err(|(status, why)| (status, why.into()))?;
    let search = asked.search(now);
    let search = search.map_err(|why| (StatusCode::BAD_REQUEST, why.into()))?;
    Ok((path, search))
}

fn answer(outcome: Result<Result<String>>) -> Response {
    match outcome.flatten() {
        Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(e) => (StatusCode::SERVICE_UNAVAILABLE, format!("{e}\n")).into_response(),
    }
}

/// 200 and a page of events, the newest first, and where the next page goes on; 400 for a filter that is none; 503 if no
/// history is kept, or it can't be read.
pub(super) async fn events(State(health): State<Health>, Query(asked): Query<Asked>) -> Response {
    let path = match kept(&health) {
        Ok(path) => path,
        Err(none) => return none.into_response(),
    };
    let before = asked.before.as_deref().filter(|before| !before.is_empty());
    let before = before.map(str::parse::<Cursor>).transpose();
    let (search, before) = match (asked.search(SystemTime::now()), before) {
        (Ok(search), Ok(before)) => (search, before),
        (Err(why), _) => return (StatusCode::BAD_REQUEST, why).into_response(),
        (_, Err(why)) => return (StatusCode::BAD_REQUEST, format!("before: {why}\n")).into_response(),
    };
    let limit = asked.limit.unwrap_or(PAGE);
    if !(1..=MOST).contains(&limit) {
        let why = format!("limit: found {limit}, expected 1 to {MOST}\n");
        return (StatusCode::BAD_REQUEST, why).into_response();
    }
    let page = move || {
        let found = Reader::open(&path)?.page(&search, before, limit)?;
        let next = json!(found.next.map(|next| next.to_string()));
        // Each line is an event's JSON already.
        Ok(format!(
            "{{\"events\":[{}],\"next\":{next}}}\n",
            found.lines.join(",\n")
        ))
    };
    answer(off_thread(page).await)
}

/// 200 and what happened in each hour, the oldest first; otherwise as [`events`].
pub(super) async fn hours(State(health): State<Health>, Query(asked): Query<Asked>) -> Response {
    let now = SystemTime::now();
    let (path, search) = match asked_of(&health, &asked, now) {
        Ok(found) => found,
        Err(why) => return why.into_response(),
    };
    let count = asked.hours.unwrap_or(HOURS);
    if !(1..=MOST_HOURS).contains(&count) {
        let why = format!("hours: found {count}, expected 1 to {MOST_HOURS}\n");
        return (StatusCode::BAD_REQUEST, why).into_response();
    }
    let counts = move || {
        let hours = Reader::open(&path)?.hours(&search, unix_ms(now), count)?;
        let hours = hours.iter().map(|hour| {
            let began = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(hour.at_ms.unsigned_abs());
            json!({
                "hour": text(began),
                "starts": hour.starts,
                "events": hour.events,
                "dwell_s": rounded(hour.dwell_s),
                "known_s": rounded(hour.filled.known_s),
                "occupied_s": rounded(hour.filled.occupied_s),
                "area": share(&hour.filled),
            })
        });
        Ok(format!("{}\n", json!({ "hours": hours.collect::<Vec<_>>() })))
    };
    answer(off_thread(counts).await)
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

/// The mean share of a zone; null while nothing is known.
fn share(filled: &Filled) -> Option<f64> {
    (filled.known_s > 0.0).then(|| (filled.area() * 1e4).round() / 1e4)
}

/// 200 and how full zones were in each minute, the oldest first; otherwise as [`events`].
pub(super) async fn minutes(State(health): State<Health>, Query(asked): Query<Asked>) -> Response {
    let now = SystemTime::now();
    let (path, search) = match asked_of(&health, &asked, now) {
        Ok(found) => found,
        Err(why) => return why.into_response(),
    };
    let hours = asked.hours.unwrap_or(1);
    let most = MOST_MINUTES / 60;
    if !(1..=most).contains(&hours) {
        let why = format!("hours: found {hours}, expected 1 to {most}\n");
        return (StatusCode::BAD_REQUEST, why).into_response();
    }
    let minutes = move || {
        let minutes = Reader::open(&path)?.minutes(&search, unix_ms(now), 60 * hours)?;
        let minutes = minutes.iter().map(|(at_ms, filled)| {
            let began = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(at_ms.unsigned_abs());
            json!({
                "minute": text(began),
                "known_s": rounded(filled.known_s),
                "occupied_s": rounded(filled.occupied_s),
                "area": share(filled),
                "area_most": (filled.area_most * 1e4).round() / 1e4,
                "regions_most": filled.regions_most,
                "tracks_most": filled.tracks_most,
            })
        });
        Ok(format!("{}\n", json!({ "minutes": minutes.collect::<Vec<_>>() })))
    };
    answer(off_thread(minutes).await)
}

/// 200 and the picture of an event; 404 if there is none, or none any more.
pub(super) async fn picture(
    State(health): State<Health>,
    Path((camera, name)): Path<(String, String)>,
) -> Response {
    let is_camera = health.cameras().iter().any(|known| known.name == camera);
    let folder = health.events().and_then(|desk| desk.snapshots());
    let file = folder.filter(|_| is_camera);
    let Some(file) = file.and_then(|folder| snapshots::file(&folder, &camera, &name)) else {
        return NO_PICTURE.into_response();
    };
    match off_thread(move || std::fs::read(file)).await {
        Ok(Ok(bytes)) => ([(CONTENT_TYPE, "image/jpeg")], bytes).into_response(),
        Ok(Err(_)) => NO_PICTURE.into_response(),
        Err(e) => (StatusCode::SERVICE_UNAVAILABLE, format!("{e}\n")).into_response(),
    }
}

/// 200 and the clip of an event, or the part of it that was asked for; 404 if there is none, or none any more.
pub(super) async fn clip(
    State(health): State<Health>,
    Path((camera, name)): Path<(String, String)>,
    request: Request,
) -> Response {
    let folder = health.events().and_then(|desk| desk.clips(&camera));
    let Some(folder) = folder.filter(|_| event::of_file(&name, ".mp4").is_some()) else {
        return NO_CLIP.into_response();
    };
    let Ok(answer) = ServeFile::new(folder.join(name)).oneshot(request).await;
    match answer.status() {
        StatusCode::NOT_FOUND => NO_CLIP.into_response(),
        _ => answer.map(Body::new),
    }
}

const NO_CLIP: (StatusCode, &str) = (StatusCode::NOT_FOUND, "no such clip\n");

const NO_PICTURE: (StatusCode, &str) = (StatusCode::NOT_FOUND, "no such picture\n");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::EventDesk;
    use crate::events::event::tests::event;
    use crate::events::event::{Event, Told};
    use crate::events::filling::Filling;
    use crate::events::history::{HistoryOptions, Minute, Store};
    use crate::health::tests::watched;
    use crate::web::tests::{get, serve};
    use serde_json::Value;

    #[test]
    fn a_time_is_one_or_so_long_ago() {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(10_000);
        assert_eq!(time("since", "1h", now), Ok(6_400_000));
        assert_eq!(time("since", "1970-01-01T00:00:01Z", now), Ok(1000));
        assert_eq!(time("since", "10000days", now), Ok(0));
        let why = time("until", "yesterday", now).unwrap_err();
        assert!(why.starts_with("until: found \"yesterday\""), "{why}");
    }

    #[test]
    fn the_history_is_searched_and_counted_over_http() {
        let desk = EventDesk::new(["door"]);
        let health = Health::new(vec![watched("door").into()]).with_events(desk.clone());
        let (address, _http) = serve(health);
        let none = get(address, "/events/history.json");
        assert_eq!(none.code, 503);
        assert!(none.text().contains("events.history"), "{}", none.text());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.db");
        desk.set_history(Some(path.clone()));
        let missing = get(address, "/events/hours.json");
        assert_eq!(missing.code, 503);
        assert!(missing.text().contains("events.db"), "{}", missing.text());
        let mut store = Store::open(&HistoryOptions {
            path,
            keep: std::time::Duration::from_secs(3600),
            max_bytes: 1 << 20,
        })
        .unwrap();
        let now = SystemTime::now();
        let told = |zone: &str, kind| {
            Arc::new(Told::new(Event {
                zone: Some(zone.into()),
                time: text(now),
                ..event(kind)
            }))
        };
        store
            .write(&[
                told("drive", Kind::Start),
                told("lawn", Kind::Start),
                told("drive", Kind::End),
            ])
            .unwrap();

        let json = |path: &str| -> Value {
            let answer = get(address, path);
            assert_eq!(answer.code, 200, "{path}: {}", answer.text());
            serde_json::from_slice(&answer.body).unwrap()
        };
        let kinds = |page: &Value| -> Vec<String> {
            let events = page["events"].as_array().unwrap().iter();
            events
                .map(|e| format!("{} {}", e["zone"].as_str().unwrap(), e["type"].as_str().unwrap()))
                .collect()
        };
        let all = json("/events/history.json?camera=&since=2h");
        assert_eq!(kinds(&all), ["drive end", "lawn start", "drive start"]);
        assert_eq!(all["next"], Value::Null);
        let page = json("/events/history.json?zone=drive&limit=1");
        assert_eq!(kinds(&page), ["drive end"]);
        let next = format!(
            "/events/history.json?zone=drive&before={}",
            page["next"].as_str().unwrap()
        );
        assert_eq!(kinds(&json(&next)), ["drive start"]);
        assert_eq!(
            kinds(&json("/events/history.json?type=end&rule=presence")),
            ["drive end"]
        );
        assert_eq!(kinds(&json("/events/history.json?camera=yard")), [""; 0]);

        let hours = json("/events/hours.json?zone=drive&hours=2");
        let hours = hours["hours"].as_array().unwrap();
        assert_eq!(hours.len(), 2);
        let sum = |key: &str| hours.iter().map(|hour| hour[key].as_f64().unwrap()).sum::<f64>();
        assert_eq!((sum("starts"), sum("events"), sum("dwell_s")), (1.0, 2.0, 1.0));

        let filling = Filling {
            zone: "drive".into(),
            class: "car".into(),
            filled: Filled {
                known_s: 60.0,
                occupied_s: 45.0,
                area_s: 15.0,
                area_most: 0.5,
                regions_most: 2,
                tracks_most: 1,
            },
        };
        let minute = Minute {
            minute: unix_ms(now) / 60_000,
            camera: "door".into(),
            filling,
        };
        store.write_minutes(&[minute]).unwrap();
        let minutes = json("/events/minutes.json?zone=drive");
        let minutes = minutes["minutes"].as_array().unwrap();
        assert_eq!(minutes.len(), 60);
        // It may be the next minute already.
        let last = minutes
            .iter()
            .rev()
            .find(|minute| minute["known_s"] == 60.0)
            .unwrap();
        let sum = [
            &last["occupied_s"],
            &last["area"],
            &last["area_most"],
            &last["regions_most"],
        ];
        assert_eq!(sum.map(|n| n.as_f64().unwrap()), [45.0, 0.25, 0.5, 2.0]);
        assert_eq!(minutes[0]["area"], Value::Null);
        let hours = json("/events/hours.json?class=car&hours=2");
        let hours = hours["hours"].as_array().unwrap().iter();
        assert_eq!(
            hours
                .map(|hour| hour["occupied_s"].as_f64().unwrap())
                .sum::<f64>(),
            45.0
        );
        let other = json("/events/minutes.json?zone=lawn");
        assert_eq!(other["minutes"][59]["known_s"], 0.0);

        for wrong in [
            "minutes.json?hours=25",
            "history.json?before=x",
            "history.json?limit=0",
            "hours.json?hours=745",
            "history.json?since=x",
        ] {
            assert_eq!(get(address, &format!("/events/{wrong}")).code, 400, "{wrong}");
        }
    }
}
