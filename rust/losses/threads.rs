//! The threads that share the rows: as many as the caller says, kept between calls, made anew in a forked process.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

struct Kept {
    process: u32,
    threads: usize,
    pool: Arc<ThreadPool>,
}

static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

/// A pool of `threads` threads.
pub fn pool(threads: usize) -> Result<Arc<ThreadPool>> {
    let process = std::process::id();
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kept) = kept.as_ref()
        && kept.process == process
        && kept.threads == threads
    {
        return Ok(Arc::clone(&kept.pool));
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("distilfast-loss-{index}"))
        .build()
        .map(Arc::new)
        .map_err(|error| Error::invalid(format!("{threads} threads cannot be started: {error}")))?;
    let before = kept.replace(Kept { process, threads, pool: Arc::clone(&pool) });
    if let Some(before) = before
        && before.process != process
    {
        // After a fork its threads do not exist here, and waiting for their end would take forever.
        std::mem::forget(before);
    }
    Ok(pool)
}
