//! The encoded video of a camera, for a task of this server's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::off_thread::off_thread;
use crate::encode::{AccessUnit, Encoder, Membership, Offered, Queue, ReaderKind};
use vision::error::Result;

/// Viewers see that the camera is lost, and a late picture is worth nothing to them.
const READER: ReaderKind = ReaderKind {
    notices: true,
    low_delay: true,
};

/// A place at an encoder, whose units go where its queue sends them. Left when dropped.
pub(super) struct Feed {
    /// On a thread of its own when it ends: leaving may stop the encoder, which takes its time.
    membership: Option<Membership>,
    encoder: Arc<Encoder>,
    has_ended: Arc<AtomicBool>,
}

/// Where units go. Called by the encoder's thread: it must not wait.
pub(super) trait Take: Send + Sync {
    /// Takes a unit, or not.
    fn take(&self, unit: &AccessUnit) -> Offered;

    /// Whether there is much room.
    fn has_room(&self) -> bool;
}

/// Tells when the encoder lets go of it.
struct Ending<T> {
    to: T,
    has_ended: Arc<AtomicBool>,
}

impl<T: Take> Queue for Ending<T> {
    fn offer(&self, unit: &AccessUnit) -> Offered {
        self.to.take(unit)
    }

    fn has_room(&self) -> bool {
        self.to.has_room()
    }
}

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        self.has_ended.store(true, Relaxed);
    }
}

impl Feed {
    /// Units of `encoder` to `to`, a keyframe first.
    ///
    /// # Errors
    /// Transient, if the encoder has failed or does not start.
    pub(super) async fn begin(
        encoder: Arc<Encoder>,
        name: &'static str,
        to: impl Take + 'static,
    ) -> Result<Self> {
        let has_ended = Arc::new(AtomicBool::new(false));
        let queue = Box::new(Ending {
            to,
            has_ended: has_ended.clone(),
        });
        let begun = off_thread(move || {
            let membership = encoder.attach(name, READER, queue)?;
            Ok(Self {
                membership: Some(membership),
                encoder,
                has_ended,
            })
        });
        begun.await.flatten()
    }

    /// A keyframe soon, as the encoder's limit on them allows.
    pub(super) fn request_keyframe(&self) {
        self.encoder.request_keyframe();
    }

    /// Whether the encoder has ended: it has failed, or makes another picture now.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Relaxed)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let membership = self.membership.take();
        // Without another thread it is left here.
        let _ = std::thread::Builder::new()
            .name("http-leave".into())
            .spawn(move || drop(membership));
    }
}
