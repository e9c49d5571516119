//! What a thread that encodes keeps from call to call, and where it waits meanwhile.

use std::sync::Mutex;

use crate::text::wordpiece::cache::WordCache;
use crate::text::wordpiece::long_words::LongWords;
use crate::text::wordpiece::lookup::WordBatch;
use crate::text::wordpiece::words::WordScratch;

/// How much text is gathered at a time.
pub const TEXT_BYTES: usize = 16 << 10;

/// What a thread works with.
pub struct Worker {
    pub cache: WordCache,
    pub long_words: LongWords,
    pub text: Vec<u8>,
    pub starts: Vec<u32>,
    pub ends: Vec<u32>,
    /// The words that are looked at, and those that come next, by turns.
    pub batches: [WordBatch; 2],
    pub added_ids: Vec<u32>,
    /// How many of them have been put among the ids.
    pub added: usize,
    pub word: WordScratch,
    pub ids: Vec<u32>,
    /// Whether a word was not UTF-8.
    pub torn: bool,
}

impl Worker {
    /// One that knows the words of `cache` and has seen no text.
    pub fn new(cache: WordCache) -> Self {
        Self {
            cache,
            long_words: LongWords::default(),
            text: Vec::with_capacity(2 * TEXT_BYTES),
            starts: Vec::new(),
            ends: Vec::new(),
            batches: [WordBatch::new(), WordBatch::new()],
            added_ids: Vec::new(),
            added: 0,
            word: WordScratch::default(),
            ids: Vec::new(),
            torn: false,
        }
    }
}

/// What threads that are done leave for those that come: at most one for each core.
pub struct IdleWorkers {
    idle: Mutex<Vec<Worker>>,
    most: usize,
}

impl Default for IdleWorkers {
    fn default() -> Self {
        Self { idle: Mutex::default(), most: std::thread::available_parallelism().map_or(1, usize::from) }
    }
}

impl IdleWorkers {
    /// An idle worker, or one that is made.
    pub fn lend(&self, make: impl FnOnce() -> Worker) -> LentWorker<'_> {
        // In a child forked while another thread held the lock it would never be free again: do not wait for it.
        let idle = self.idle.try_lock().ok().and_then(|mut idle| idle.pop());
        LentWorker { idle: self, worker: Some(idle.unwrap_or_else(make)) }
    }
}

/// A worker that goes back to the idle ones when its thread is done.
pub struct LentWorker<'a> {
    idle: &'a IdleWorkers,
    /// There until it goes back.
    pub worker: Option<Worker>,
}

impl Drop for LentWorker<'_> {
    fn drop(&mut self) {
        // See `IdleWorkers::lend`: nobody waits for this lock.
        if let Ok(mut idle) = self.idle.idle.try_lock()
            && idle.len() < self.idle.most
        {
            idle.extend(self.worker.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_kept_than_there_are_cores() {
        let workers = IdleWorkers::default();
        let cache = WordCache::new();
        let many: Vec<_> = (0..workers.most + 3).map(|_| workers.lend(|| Worker::new(cache.clone()))).collect();
        drop(many);
        assert_eq!(workers.idle.lock().unwrap().len(), workers.most);
        let lent = workers.lend(|| unreachable!("one is idle"));
        assert_eq!(workers.idle.lock().unwrap().len(), workers.most - 1);
        drop(lent);
    }
}
