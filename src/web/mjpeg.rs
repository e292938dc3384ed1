//! `/stream.mjpeg`: the outgoing pictures as a multipart answer of JPEGs, which every browser shows in an `<img>`.
//!
//! One task for each camera makes JPEGs, while somebody watches. All viewers get the same ones; whoever is slow misses
//! some.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::app::{Gate, OfConnection, Ticket};
use super::camera::{Asked, find};
use super::off_thread::off_thread;
use super::stream::fed_body;
use crate::health::{Health, Watched};
use crate::pipeline::control::Control;
use crate::snapshot::jpeg;

/// From one JPEG to the next at least: one costs several milliseconds of a core, and better ways to watch have every
/// picture.
const PERIOD: Duration = Duration::from_millis(66);

/// What stands between the parts.
const BOUNDARY: &str = "segd-picture";

/// The newest part, head included; `None` before the first.
type Newest = Option<Bytes>;

/// The JPEGs that are made now, of each camera that somebody watches.
pub(super) struct Pictures {
    cameras: Vec<Mutex<Weak<watch::Sender<Newest>>>>,
}

impl Pictures {
    /// None yet, of so many cameras.
    pub(super) fn new(cameras: usize) -> Self {
        Self {
            cameras: (0..cameras).map(|_| Mutex::default()).collect(),
        }
    }

    /// The JPEGs of the camera with this number, from now on; those of whoever watches it already.
    fn watch(&self, number: usize, control: &Arc<Control>) -> Option<watch::Receiver<Newest>> {
        let mut slot = self
            .cameras
            .get(number)?
            .lock()
            .unwrap_or_else(|e| e.into_inner());
        if let Some(sender) = slot.upgrade() {
            return Some(sender.subscribe());
        }
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        *slot = Arc::downgrade(&sender);
        tokio::spawn(make(sender, control.clone()));
        Some(receiver)
    }
}

/// Makes JPEGs until nobody wants them.
async fn make(newest: Arc<watch::Sender<Newest>>, control: Arc<Control>) {
    let mut next = Instant::now();
    while newest.receiver_count() > 0 {
        sleep_until(next).await;
        let picture = tokio::select! {
            picture = control.snapshots.next() => picture,
            () = newest.closed() => return,
        };
        let Ok(picture) = picture else {
            return;
        };
        next = Instant::now() + PERIOD;
        match off_thread(move || jpeg(&picture)).await.flatten() {
            Ok(jpeg) => drop(newest.send_replace(Some(part(&jpeg)))),
            Err(e) => tracing::warn!("/stream.mjpeg: {e}"),
        }
    }
}

/// One part of the answer.
fn part(jpeg: &[u8]) -> Bytes {
    let head = format!(
        "--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n",
        jpeg.len()
    );
    [head.as_bytes(), jpeg, b"\r\n"].concat().into()
}

/// 200 and pictures without end; 404 for no such camera; 503 if as many watch as may.
pub(super) async fn stream(
    State(health): State<Health>,
    State(gate): State<Arc<Gate>>,
    State(pictures): State<Arc<Pictures>>,
    Query(asked): Query<Asked>,
    connection: OfConnection,
) -> Response {
    match begin(&health, &gate, &pictures, &asked) {
        Ok((newest, ticket)) => {
            if let Some(Extension(connection)) = connection {
                connection.keep();
            }
            let (feed, body) = fed_body();
            tokio::spawn(send(newest, feed, ticket));
            let kind = format!("multipart/x-mixed-replace; boundary={BOUNDARY}");
            ([(CONTENT_TYPE, kind)], body).into_response()
        }
        Err(refused) => refused.into_response(),
    }
}

fn begin(
    health: &Health,
    gate: &Arc<Gate>,
    pictures: &Pictures,
    asked: &Asked,
) -> Result<(watch::Receiver<Newest>, Ticket), (axum::http::StatusCode, String)> {
    let camera = find(health, asked)?;
    let ticket = gate.admit(camera)?;
    let number = health
        .cameras()
        .iter()
        .position(|c: &Watched| std::ptr::eq(c, camera));
    let newest = number.and_then(|number| pictures.watch(number, &camera.control));
    let newest = newest.ok_or_else(|| (axum::http::StatusCode::NOT_FOUND, "no such camera\n".to_owned()))?;
    Ok((newest, ticket))
}

/// Gives a viewer the newest part whenever it has taken the one before, until it goes.
async fn send(mut newest: watch::Receiver<Newest>, feed: tokio::sync::mpsc::Sender<Bytes>, ticket: Ticket) {
    let _ticket = ticket;
    loop {
        let Ok(room) = feed.reserve().await else {
            return;
        };
        let changed = tokio::select! {
            changed = newest.changed() => changed,
            () = feed.closed() => return,
        };
        if changed.is_err() {
            return;
        }
        let part = newest.borrow_and_update().clone();
        match part {
            Some(part) => room.send(part),
            None => drop(room),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::watched;
    use crate::output::access::RtspAccess;
    use crate::web::tests::{connect, get, serve_as};
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::sync::atomic::Ordering::Relaxed;
    use vision::frame::{FrameFormat, PixelFormat};

    fn watch(address: SocketAddr) -> TcpStream {
        let mut stream = connect(address);
        stream
            .write_all(b"GET /stream.mjpeg?camera=door HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        stream
    }

    /// Offers grey pictures until `done`.
    fn show(camera: &Watched, luma: u8, mut done: impl FnMut() -> bool) {
        let format = FrameFormat::new(PixelFormat::I420, 32, 16);
        let mut picture = vec![128; format.packed_bytes()];
        picture[..32 * 16].fill(luma);
        while !done() {
            camera.control.snapshots.offer(format, &picture);
            std::thread::yield_now();
        }
    }

    /// The pictures' mean luma in what came so far.
    fn pictures(bytes: &[u8]) -> Vec<u8> {
        let starts: Vec<usize> = bytes
            .windows(4)
            .enumerate()
            .filter(|(_, w)| w == b"\r\n\r\n")
            .map(|(at, _)| at + 4)
            .collect();
        let whole = starts.iter().skip(1).filter_map(|at| {
            let picture = image::load_from_memory(&bytes[*at..]).ok()?.to_luma8();
            Some((picture.pixels().map(|p| u64::from(p.0[0])).sum::<u64>() / 512) as u8)
        });
        whole.collect()
    }

    /// Reads in the background what comes.
    fn read(mut stream: TcpStream) -> Arc<Mutex<Vec<u8>>> {
        let all = Arc::new(Mutex::new(Vec::new()));
        let sink = all.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut bytes) {
                sink.lock().unwrap().extend_from_slice(&bytes[..n]);
            }
        });
        all
    }

    #[test]
    fn viewers_share_pictures_count_and_leave() {
        let camera = watched("door");
        let rules = RtspAccess {
            max_clients: 2,
            ..RtspAccess::default()
        };
        let (address, _http) = serve_as(Health::new(vec![(*camera).clone()]), rules);
        let vitals = &camera.metrics.vitals;
        let (one, two) = (watch(address), watch(address));
        let one_too = one.try_clone().unwrap();
        let (got, also) = (read(one), read(two));
        show(&camera, 50, || {
            pictures(&got.lock().unwrap()).len() >= 2 && !pictures(&also.lock().unwrap()).is_empty()
        });
        assert_eq!(vitals.watching(), 2);
        assert!(
            String::from_utf8_lossy(&got.lock().unwrap())
                .contains("multipart/x-mixed-replace; boundary=segd-picture")
        );
        // Video's grey of 50 of 16 to 235 is 40 of 0 to 255 on a screen.
        assert!(pictures(&got.lock().unwrap())[0].abs_diff(40) <= 2);
        // What is shown later comes later.
        show(&camera, 200, || {
            pictures(&got.lock().unwrap())
                .last()
                .is_some_and(|l| l.abs_diff(214) <= 2)
        });

        let full = get(address, "/stream.mjpeg");
        assert_eq!(full.code, 503);
        assert!(full.text().contains("access.max_clients"), "{full:?}");
        assert_eq!(get(address, "/stream.mjpeg?camera=yard").code, 404);

        one_too.shutdown(std::net::Shutdown::Both).unwrap();
        show(&camera, 50, || vitals.viewers.load(Relaxed) == 1);
    }

    #[test]
    fn a_crowd_takes_no_viewer_s_place() {
        let camera = watched("door");
        let (address, _http) = serve_as(Health::new(vec![(*camera).clone()]), RtspAccess::default());
        let got = read(watch(address));
        show(&camera, 50, || !pictures(&got.lock().unwrap()).is_empty());
        let crowd: Vec<TcpStream> = (0..100).map(|_| connect(address)).collect();
        assert_eq!(get(address, "/healthz").code, 200);
        let before = got.lock().unwrap().len();
        show(&camera, 200, || got.lock().unwrap().len() > before + 2000);
        drop(crowd);
    }
}
