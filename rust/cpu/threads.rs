//! The threads that share the rows: torch's own OpenMP team where it has one, else as many as the caller says, kept
//! between calls, made anew in a forked process.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

#[cfg(target_os = "linux")]
use super::openmp::Team;
use crate::error::{Error, Result};

/// Does `work` on every item, on `threads` threads, the calling one among them.
pub fn for_each<T: Send>(items: &mut [T], threads: usize, work: impl Fn(&mut T) + Sync) -> Result<()> {
    if threads <= 1 || items.len() <= 1 {
        items.iter_mut().for_each(work);
        return Ok(());
    }
    let rest = Mutex::new(items.iter_mut());
    let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).next();
    let take = || {
        while let Some(item) = next() {
            work(item);
        }
    };
    #[cfg(target_os = "linux")]
    if let Some(team) = team().filter(|team| threads <= team.most_threads()) {
        team.run(threads, &take);
        return Ok(());
    }
    pool(threads - 1)?.in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| take());
        }
        take();
    });
    Ok(())
}

/// torch's team, except in a forked process, where its threads are missing and would be waited for.
#[cfg(target_os = "linux")]
fn team() -> Option<&'static Team> {
    (!is_forked()).then(Team::of_torch).flatten()
}

/// Whether this process is not the one that asked first, which is the one that loaded the library.
pub fn is_forked() -> bool {
    static FIRST: OnceLock<u32> = OnceLock::new();
    let process = std::process::id();
    *FIRST.get_or_init(|| process) != process
}

struct KeptPool {
    process: u32,
    threads: usize,
    pool: Arc<ThreadPool>,
}

static KEPT_POOL: Mutex<Option<KeptPool>> = Mutex::new(None);

/// A pool of `threads` threads.
fn pool(threads: usize) -> Result<Arc<ThreadPool>> {
    let process = std::process::id();
    let mut kept = KEPT_POOL.lock().unwrap_or_else(PoisonError::into_inner);
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
    let before = kept.replace(KeptPool { process, threads, pool: Arc::clone(&pool) });
    if let Some(before) = before
        && before.process != process
    {
        // After a fork its threads do not exist here, and waiting for their end would take forever.
        std::mem::forget(before);
    }
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn every_item_is_worked_on_once() {
        for threads in 1..5 {
            for length in [0, 1, 2, 3, 100] {
                let mut items: Vec<usize> = (0..length).collect();
                for_each(&mut items, threads, |item| *item += 1000).unwrap();
                assert!(items.into_iter().eq(1000..1000 + length), "{threads} threads");
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let mut items = [0, 1, 2, 3];
        let result = catch_unwind(AssertUnwindSafe(|| for_each(&mut items, 2, |item| assert!(*item != 2, "two"))));
        assert!(result.is_err());
        for_each(&mut items, 2, |item| *item = 7).unwrap();
        assert_eq!(items, [7; 4]);
    }
}
