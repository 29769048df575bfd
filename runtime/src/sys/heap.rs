//! What the C library keeps of freed memory, and how to give it back.
//!
//! `free(3)` keeps small blocks for the next `malloc(3)`. A process that
//! worked hard for a moment and then sleeps for weeks should not hold them:
//! see `malloc_trim(3)` and `VmRSS` in `/proc/PID/status`.

/// `int malloc_trim(size_t pad);`
///
/// Gives free memory at the top of the heap, and whole free pages inside it,
/// back to the kernel.
pub fn malloc_trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks and touches only
    // blocks that are free; no argument of ours is read as a pointer.
    unsafe {
        libc::malloc_trim(0);
    }
}
