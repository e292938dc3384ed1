//! Whatever a reader sends over a WebSocket, the connection ends when the reader does.
#![no_main]

use std::io::Cursor;
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use segd::web::{Limits, converse_on, silent};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime")
});

const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fuzz_target!(|frames: &[u8]| {
    let sent = Cursor::new([HEAD, frames].concat());
    let stream = tokio::io::join(sent, tokio::io::sink());
    let (ended, mut hears) = unbounded_channel();
    RUNTIME.block_on(async {
        // An error is one of the reader's.
        let _ = converse_on(stream, silent(ended), &Limits::DEFAULT).await;
        let heard = timeout(Duration::from_secs(5), hears.recv()).await;
        assert!(heard.is_ok(), "it goes on without its reader");
    });
});
