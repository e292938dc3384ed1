//! A fixed set of byte buffers. A buffer returns itself when dropped; an empty pool gives `None`,
//! and never allocates.
//!
//! The buffer that came back last is handed out first: its bytes are still in the processor's cache, and memory that is
//! only needed when all queues are full is not touched before.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::MmapMut;

/// A buffer's memory.
#[derive(Debug)]
enum Bytes {
    Heap(Box<[u8]>),
    /// Straight from the system, which gives pages when they are first written to. The heap would hand out what others have
    /// let go, whose pages are there already.
    Mapped(MmapMut),
}

impl Bytes {
    /// Zeros.
    fn new(bytes: usize) -> Self {
        match MmapMut::map_anon(bytes) {
            Ok(mapped) => Self::Mapped(mapped),
            Err(_) => Self::Heap(vec![0; bytes].into_boxed_slice()),
        }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped(bytes) => bytes,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped(bytes) => bytes,
        }
    }
}

#[derive(Debug)]
struct Shared {
    /// Has room for all buffers from the start.
    free: Mutex<Vec<Bytes>>,
    buffer_bytes: usize,
    exhausted: AtomicU64,
}

impl Shared {
    fn free(&self) -> MutexGuard<'_, Vec<Bytes>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pool of `capacity` buffers of `buffer_bytes` bytes each, all allocated at the start.
#[derive(Debug, Clone)]
pub struct FramePool {
    shared: Arc<Shared>,
    capacity: usize,
}

impl FramePool {
    /// Allocates the pool. `capacity` is at least 1. The system gives a buffer's pages when it is first written to.
    pub fn new(capacity: usize, buffer_bytes: usize) -> Self {
        let capacity = capacity.max(1);
        let free = (0..capacity).map(|_| Bytes::new(buffer_bytes)).collect();
        Self {
            shared: Arc::new(Shared {
                free: Mutex::new(free),
                buffer_bytes,
                exhausted: AtomicU64::new(0),
            }),
            capacity,
        }
    }

    /// A free buffer, its content unspecified; `None` (and counted) if all are in use.
    pub fn take(&self) -> Option<PooledBuffer> {
        let found = self.shared.free().pop();
        match found {
            Some(bytes) => Some(PooledBuffer {
                bytes,
                home: Some(self.shared.clone()),
            }),
            None => {
                self.shared.exhausted.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Bytes of each buffer.
    pub fn buffer_bytes(&self) -> usize {
        self.shared.buffer_bytes
    }

    /// Buffers in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Buffers that are free now.
    pub fn available(&self) -> usize {
        self.shared.free().len()
    }

    /// How often [`take`](Self::take) found the pool empty.
    pub fn exhausted(&self) -> u64 {
        self.shared.exhausted.load(Ordering::Relaxed)
    }
}

/// A buffer of ordinary memory, on loan from a [`FramePool`], or one that belongs to nobody ([`PooledBuffer::unpooled`]).
/// docs/design/0046-zero-copy-on-a-jetson.md says how a Jetson's own memory would come in.
#[derive(Debug)]
pub struct PooledBuffer {
    bytes: Bytes,
    home: Option<Arc<Shared>>,
}

impl PooledBuffer {
    /// A buffer outside any pool, for single images and tests.
    pub fn unpooled(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Bytes::Heap(bytes.into_boxed_slice()),
            home: None,
        }
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            let bytes = std::mem::replace(&mut self.bytes, Bytes::Heap(Box::default()));
            home.free().push(bytes);
        }
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes.as_slice()
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.as_mut_slice()
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_comes_back_and_an_empty_pool_counts() {
        let pool = FramePool::new(2, 8);
        let mut a = pool.take().unwrap();
        a[0] = 7;
        let address = a.as_ptr();
        let _b = pool.take().unwrap();
        assert!(pool.take().is_none());
        assert_eq!(pool.exhausted(), 1);
        drop(a);
        let again = pool.take().unwrap();
        assert_eq!(again.as_ptr(), address, "the same memory is handed out again");
        assert_eq!(again.len(), 8);
    }

    #[test]
    fn the_buffer_that_came_back_last_is_handed_out_first() {
        let pool = FramePool::new(4, 8);
        let address = pool.take().unwrap().as_ptr();
        for _ in 0..10 {
            let buffer = pool.take().unwrap();
            assert_eq!(buffer.as_ptr(), address);
            assert_eq!(pool.available(), 3);
        }
    }

    #[test]
    fn a_buffer_outlives_its_pool() {
        let buffer = FramePool::new(1, 4).take().unwrap();
        assert_eq!(buffer.len(), 4);
    }
}
