//! glibc's heap: how many of it there are, and when it gives memory back.

/// Heaps that threads share.
///
/// glibc makes up to eight a core, and a heap keeps what its threads have freed: memory would grow with each RTSP client
/// that comes and goes, to a third more than is ever in use
/// (<https://man7.org/linux/man-pages/man3/mallopt.3.html>, `M_ARENA_MAX`). Call it before any thread starts.
pub fn share() {
    #[cfg(target_env = "gnu")]
    {
        const HEAPS: libc::c_int = 2;
        // SAFETY: mallopt takes two numbers. If it refuses, nothing has changed.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, HEAPS);
        }
    }
}

/// Gives memory that is free back to the system. The pages that are written to again cost a page fault each, and other
/// threads may wait some milliseconds for memory: for moments after which less is needed, not for every frame.
pub fn give_back() {
    // SAFETY: malloc_trim takes a number, and touches only what is free.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
