//! Large pages for large results.

use super::formats::RowMut;

/// Asks for large pages where the rows lie: a gradient of 125 MB that has just been allocated otherwise costs 30,000
/// page faults, which take longer than computing it.
pub fn prefer_large_pages(rows: &[RowMut<'_>]) {
    #[cfg(target_os = "linux")]
    if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
        const PAGE: usize = 4096;
        let (first, last) = (first.as_row(), last.as_row());
        let end = last.address().addr() + last.len() * last.element_size();
        let gap = first.address().addr().wrapping_neg() % PAGE;
        let start = first.address().wrapping_add(gap);
        let length = end.saturating_sub(start.addr()) / PAGE * PAGE;
        // SAFETY: advice about pages between the first and the last row; it changes no content, and where it does not
        // apply the kernel refuses it, which does no harm.
        unsafe {
            libc::madvise(start.cast_mut().cast(), length, libc::MADV_HUGEPAGE);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = rows;
}
