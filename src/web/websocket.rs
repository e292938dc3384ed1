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

/// A page whose one route, `/`, is a WebSocket that says nothing; `ended` hears that its reader has gone.
#[cfg(fuzzing)]
pub fn silent(ended: tokio::sync::mpsc::UnboundedSender<()>) -> axum::Router {
    use axum::routing::get;
    let open = move |upgrade: WebSocketUpgrade| {
        let ended = ended.clone();
        async move {
            to_reader(upgrade).on_upgrade(move |mut socket| async move {
                let (_nothing, mut from) = tokio::sync::mpsc::channel::<()>(1);
                let said = next(&mut socket, &mut from).await;
                assert!(said.is_none(), "nothing was said");
                // Whoever listens may have gone.
                let _ = ended.send(());
            })
        }
    };
    axum::Router::new().route("/", get(open))
}
