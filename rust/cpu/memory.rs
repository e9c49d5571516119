//! Memory of large gradients, kept from call to call.
//!
//! 125 MB fresh from the operating system cost 30,000 page faults, or as many pages to be cleared: as much time as the
//! loss itself. So what a gradient lay in is kept when the gradient is gone, and given to the next one of its size. The
//! system is told that it may take the pages back meanwhile, which it does when memory is short.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// Pieces that are kept: two losses may be under way at once.
const MOST_BLOCKS_KEPT: usize = 2;

static KEPT_BLOCKS: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// Memory for one gradient, with any content. Dropped, it is kept for the next.
pub struct GradientMemory {
    block: Option<Block>,
    length: usize,
}

struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a block owns its memory, which any thread may use and give back.
unsafe impl Send for Block {}
// SAFETY: through a shared reference nothing but the address can be had.
unsafe impl Sync for Block {}

impl GradientMemory {
    /// `length` bytes, at the beginning of a large page.
    ///
    /// # Errors
    ///
    /// There is not so much memory, or `length` is 0.
    pub fn take(length: usize) -> Result<Self> {
        let refused = || Error::invalid(format!("no memory for a gradient of {length} bytes"));
        if length == 0 {
            return Err(refused());
        }
        let mut kept = KEPT_BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        // Not one much too large, which another gradient may need.
        let fits = |block: &Block| block.layout.size() >= length && block.layout.size() / 2 <= length.max(PAGE_BYTES);
        let position = kept.iter().position(fits);
        let block = position.map(|index| kept.remove(index));
        drop(kept);
        let block = match block {
            Some(block) => block,
            None => Block::new(length).ok_or_else(refused)?,
        };
        Ok(Self { block: Some(block), length })
    }

    /// Where it begins.
    pub fn start(&self) -> *mut u8 {
        self.block.as_ref().map_or(std::ptr::null_mut(), |block| block.start.as_ptr())
    }

    /// Bytes that were asked for.
    pub fn length(&self) -> usize {
        self.length
    }
}

impl Drop for GradientMemory {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            block.advise_free();
            let mut kept = KEPT_BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push(block);
            let oldest = (kept.len() > MOST_BLOCKS_KEPT).then(|| kept.remove(0));
            drop(kept);
            drop(oldest);
        }
    }
}

impl Block {
    fn new(length: usize) -> Option<Self> {
        let layout = Layout::from_size_align(length.checked_next_multiple_of(PAGE_BYTES)?, PAGE_BYTES).ok()?;
        // SAFETY: the size is not 0.
        let start = NonNull::new(unsafe { alloc(layout) })?;
        let block = Self { start, layout };
        advise(block.start.as_ptr(), block.layout.size());
        Some(block)
    }

    /// Its content is no longer needed; its pages may stay.
    fn advise_free(&self) {
        #[cfg(target_os = "linux")]
        self.advise(libc::MADV_FREE);
    }

    #[cfg(target_os = "linux")]
    fn advise(&self, advice: libc::c_int) {
        // SAFETY: whole pages of this block alone, whose content does not matter at either time; where the advice does
        // not apply the kernel refuses it, which does no harm.
        unsafe {
            libc::madvise(self.start.as_ptr().cast(), self.layout.size(), advice);
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_never_shared_and_comes_back() {
        let lengths = [9 << 20, (9 << 20) + 1, 30 << 20, 9 << 20];
        for _ in 0..3 {
            let held: Vec<_> = lengths.iter().map(|&length| GradientMemory::take(length).unwrap()).collect();
            for (one, memory) in held.iter().enumerate() {
                assert_eq!(memory.start().addr() % PAGE_BYTES, 0);
                for other in &held[..one] {
                    let (a, b) = (memory.start().addr(), other.start().addr());
                    assert!(a + memory.length() <= b || b + other.length() <= a);
                }
                // SAFETY: the memory is this test's own.
                unsafe { memory.start().write_bytes(one as u8 + 1, memory.length()) };
            }
            for (one, memory) in held.iter().enumerate() {
                // SAFETY: written above.
                assert_eq!(unsafe { memory.start().add(memory.length() - 1).read() }, one as u8 + 1);
            }
        }
        assert!(GradientMemory::take(0).is_err());
    }
}
