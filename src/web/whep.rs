//! `/whep/CAMERA`: WebRTC by WHEP (<https://www.rfc-editor.org/rfc/rfc9725>): an offer is POSTed, its answer comes back
//! with the session's address, and DELETE ends the session. There is no PATCH: segd's candidates are in the answer, and
//! the browser's are learnt from what it sends.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::app::{App, OfConnection};
use super::webrtc::Refused;

const SDP: &str = "application/sdp";

/// 201 and the answer; 400 for what is no offer, 406 for one that takes no H.264, 415 for no SDP at all, 404 for no such
/// camera; 503 if as many watch as may, or there is no encoder or no WebRTC.
pub(super) async fn offer(
    State(app): State<App>,
    Path(camera): Path<String>,
    connection: OfConnection,
    headers: HeaderMap,
    body: String,
) -> Response {
    let Some((number, watched)) = app.camera(&camera) else {
        return (StatusCode::NOT_FOUND, "no such camera\n").into_response();
    };
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if !kind.is_some_and(|kind| {
        kind.split(';')
            .next()
            .is_some_and(|k| k.trim().eq_ignore_ascii_case(SDP))
    }) {
        return (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "application/sdp is expected\n",
        )
            .into_response();
    }
    let local = connection.and_then(|Extension(connection)| connection.local);
    let (Some(hub), Some(local)) = (app.gate.webrtc(), local) else {
        return (StatusCode::SERVICE_UNAVAILABLE, "there is no WebRTC here\n").into_response();
    };
    let ticket = match app.gate.admit(watched) {
        Ok(ticket) => ticket,
        Err(full) => return full.into_response(),
    };
    let Some(encoder) = watched.control.video.encoder() else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "there is no encoder for browsers\n",
        )
            .into_response();
    };
    match hub
        .watch((number, encoder, watched.clock.clone()), body, local.ip(), ticket)
        .await
    {
        Ok((id, answer)) => {
            let name = utf8_percent_encode(&camera, NON_ALPHANUMERIC);
            let head = [
                (CONTENT_TYPE, SDP.to_owned()),
                (LOCATION, format!("/whep/{name}/{id}")),
            ];
            (StatusCode::CREATED, head, answer).into_response()
        }
        Err(Refused::NoOffer(why)) => (StatusCode::BAD_REQUEST, format!("no offer: {why}\n")).into_response(),
        Err(Refused::NoVideo) => {
            (StatusCode::NOT_ACCEPTABLE, "the offer takes no H.264 video\n").into_response()
        }
        Err(Refused::Failed(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// 200; 404 if there is no such session any more.
pub(super) async fn end(State(app): State<App>, Path((_, id)): Path<(String, String)>) -> StatusCode {
    match app.gate.webrtc() {
        Some(hub) if hub.end(id).await => StatusCode::OK,
        _ => StatusCode::NOT_FOUND,
    }
}
