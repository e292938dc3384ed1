//! WebSockets whose readers have nothing to say.

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use tokio::sync::mpsc::Receiver;

/// Bytes of a message of a reader at most.
const LONGEST_MESSAGE: usize = 1024;

/// An upgrade that takes short messages alone.
pub(super) fn to_reader(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade
        .max_message_size(LONGEST_MESSAGE)
        .max_frame_size(LONGEST_MESSAGE)
}

/// What comes next; `None` once there is no more, or the reader goes or says anything.
pub(super) async fn next<T>(socket: &mut WebSocket, from: &mut Receiver<T>) -> Option<T> {
    loop {
        tokio::select! {
            item = from.recv() => return item,
            said = socket.recv() => match said {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return None,
            },
        }
    }
}
