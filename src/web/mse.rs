//! `/stream.mse`: fragmented MP4 over a WebSocket, for Media Source Extensions. First the media type as text, then the
//! beginning and one fragment a picture.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

use super::app::{Gate, OfConnection, Ticket};
use super::camera::{Asked, find};
use super::feed::{Feed, Take};
use super::websocket;
use crate::encode::fragments::Fragments;
use crate::encode::{AccessUnit, Offered};
use crate::health::Health;

/// Units that wait for a viewer; one that is slower loses all up to the next keyframe, counted by the encoder.
const QUEUED: usize = 32;

struct ToViewer(Sender<AccessUnit>);

impl Take for ToViewer {
    fn take(&self, unit: &AccessUnit) -> Offered {
        match self.0.try_send(unit.clone()) {
            Ok(()) => Offered::Taken,
            Err(TrySendError::Full(_)) => Offered::Full,
            Err(TrySendError::Closed(_)) => Offered::Gone,
        }
    }

    fn has_room(&self) -> bool {
        self.0.capacity() > QUEUED / 2
    }
}

/// 101 and video; 404 for no such camera; 503 if as many watch as may, or there is no encoder; 400 or 426 for what begins
/// no WebSocket.
pub(super) async fn stream(
    State(health): State<Health>,
    State(gate): State<Arc<Gate>>,
    Query(asked): Query<Asked>,
    connection: OfConnection,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    let camera = match find(&health, &asked) {
        Ok(camera) => camera,
        Err(unknown) => return unknown.into_response(),
    };
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(why) => return why.into_response(),
    };
    let ticket = match gate.admit(camera) {
        Ok(ticket) => ticket,
        Err(full) => return full.into_response(),
    };
    let Some(encoder) = camera.control.video.encoder() else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "there is no encoder for browsers\n",
        )
            .into_response();
    };
    let (sender, units) = channel(QUEUED);
    let feed = match Feed::begin(encoder, "MSE", ToViewer(sender)).await {
        Ok(feed) => feed,
        Err(why) => return (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    };
    if let Some(Extension(connection)) = connection {
        connection.keep();
    }
    websocket::to_reader(upgrade).on_upgrade(|socket| send(socket, units, feed, ticket))
}

/// Sends fragments until the viewer goes or the encoder ends.
async fn send(mut socket: WebSocket, mut units: Receiver<AccessUnit>, feed: Feed, ticket: Ticket) {
    let _held = (feed, ticket);
    let mut fragments: Option<Fragments> = None;
    while let Some(unit) = websocket::next(&mut socket, &mut units).await {
        if fragments.is_none() {
            let Some(begun) = Fragments::begin(&unit) else {
                continue;
            };
            let head = [
                Message::text(begun.mime()),
                Message::binary(Bytes::copy_from_slice(begun.beginning())),
            ];
            for message in head {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            fragments = Some(begun);
        }
        if let Some(fragments) = &mut fragments {
            let fragment = fragments.fragment(&unit);
            if socket.send(Message::binary(fragment)).await.is_err() {
                return;
            }
        }
    }
}
