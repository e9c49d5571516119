//! Memory in large pages: fewer of them to ask for, and fewer addresses to look up.

/// The size of a large page; the system's may be another, then the advice is worth less and still right.
pub const PAGE_BYTES: usize = 2 << 20;

/// Advises the system to keep the `bytes` bytes from `start` on in large pages, as far as whole ones fit in.
pub fn advise<T>(start: *const T, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        let skipped = start.cast::<u8>().align_offset(PAGE_BYTES);
        let whole = bytes.saturating_sub(skipped) / PAGE_BYTES * PAGE_BYTES;
        if whole > 0 {
            // SAFETY: the advice changes how memory is kept and nothing that is in it; the pages lie in what was given.
            unsafe { libc::madvise(start.cast::<u8>().wrapping_add(skipped) as *mut _, whole, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}
