//! A body that goes on as long as somebody feeds it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::Frame;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// A body of what is sent to the other end. One piece waits at most: whoever feeds it waits for the client to take it, and
/// sends what is newest then.
pub(super) fn fed_body() -> (Sender<Bytes>, Body) {
    let (feed, pieces) = channel(1);
    (feed, Body::new(Fed(pieces)))
}

struct Fed(Receiver<Bytes>);

impl hyper::body::Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}
