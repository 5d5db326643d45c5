//! Gives memory back after work: an agent is idle nearly always, and its memory is somebody else's.

/// Blocks of this many bytes and more come from the kernel and go back to it when they are freed (mallopt(3)): pieces of a download.
const MMAP_BYTES: i32 = 128 * 1024;

/// Keeps glibc from raising that limit by itself to the size of the largest block seen, and so from keeping every piece for later. Call it
/// before other threads start.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "a C function without a safe wrapper")]
    // SAFETY: it takes no pointer; a parameter that it does not know is answered with 0 and changes nothing.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, MMAP_BYTES);
    }
}

/// Returns free pages to the kernel (malloc_trim(3)); elsewhere than on glibc, nothing.
///
/// glibc keeps what was freed below the top of each thread's arena: after one 50 MB release that is more than the agent itself needs.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "a C function without a safe wrapper")]
    // SAFETY: it takes no pointer, and glibc documents it as safe to call from any thread.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
