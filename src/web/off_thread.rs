//! Work that would hold up the server's thread.

use tokio::sync::{Semaphore, oneshot};
use vision::error::{Error, Result};

/// Who works now: one at a time in the whole process, so that many requests don't take the CPU from the pipelines. Others
/// wait, as many as there are connections.
static TURN: Semaphore = Semaphore::const_new(1);

/// Runs `work` on a thread of its own once it is its turn. It is done to its end even if nobody waits for it any more.
///
/// # Errors
/// Transient if the system can't start another thread; fatal if `work` panics.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let turn = TURN.acquire().await;
    let turn = turn.map_err(|e| Error::fatal("no work is taken any more").caused_by(e))?;
    let (done, result) = oneshot::channel();
    std::thread::Builder::new()
        .name("http-work".into())
        .spawn(move || {
            let _turn = turn;
            // The one who asked may have gone.
            let _ = done.send(work());
        })
        .map_err(|e| Error::transient("thread http-work can't be started").caused_by(e))?;
    result
        .await
        .map_err(|_| Error::fatal("thread http-work panicked; please report this"))
}
