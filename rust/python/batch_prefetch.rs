//! Batches made ahead of time, on a thread that knows nothing of Python.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use numpy::{PyArray1, PyArrayMethods};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::batches::{PyBatchEpoch, PyBatchPlan};
use crate::batches::plan::Epoch;
use crate::batches::{Batches, Scratch};

/// A batch that was asked for.
struct Job {
    epoch: Arc<Epoch>,
    index: usize,
    /// Kept alive until the job is handed back.
    buffer: Py<PyArray1<i64>>,
    memory: Memory,
}

/// The elements of a job's buffer.
struct Memory {
    first: *mut i64,
    length: usize,
}

// SAFETY: the memory belongs to the array of its job, which lives as long; the caller of `submit` leaves it alone until
// `take` gives it back, so that one thread at a time uses it.
unsafe impl Send for Memory {}

type Number = (u64, usize);

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    in_progress: Option<Number>,
    /// False where making the batch failed.
    done: HashMap<Number, (Job, bool)>,
    stopped: bool,
}

struct Shared {
    batches: Arc<Batches>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut scratch = Scratch::default();
        let mut state = self.lock();
        while !state.stopped {
            let Some(job) = state.waiting.pop_front() else {
                state = self.wait(state);
                continue;
            };
            let number = (job.epoch.number, job.index);
            state.in_progress = Some(number);
            drop(state);
            // SAFETY: see `Memory`; the length is that of the array.
            let buffer = unsafe { std::slice::from_raw_parts_mut(job.memory.first, job.memory.length) };
            let fill = || self.batches.fill(&job.epoch, job.index, buffer, &mut scratch);
            let whole = std::panic::catch_unwind(std::panic::AssertUnwindSafe(fill)).is_ok();
            state = self.lock();
            state.in_progress = None;
            state.done.insert(number, (job, whole));
            self.changed.notify_all();
        }
    }
}

/// Makes batches of a plan on a thread of its own, in the order in which they are submitted.
#[pyclass(frozen, module = "distilfast._core", name = "BatchPrefetcher")]
pub struct PyBatchPrefetcher {
    shared: Arc<Shared>,
    worker: Mutex<Option<JoinHandle<()>>>,
    process: u32,
}

#[pymethods]
impl PyBatchPrefetcher {
    #[new]
    fn new(plan: &PyBatchPlan) -> Self {
        let shared = Shared { batches: plan.batches.clone(), state: Mutex::default(), changed: Condvar::new() };
        Self { shared: Arc::new(shared), worker: Mutex::default(), process: std::process::id() }
    }

    /// Asks for batch `index`, to be written into `buffer`, which is not to be touched before `take` gives it back.
    fn submit(
        &self,
        plan: &PyBatchPlan,
        epoch: &PyBatchEpoch,
        index: usize,
        buffer: &Bound<'_, PyArray1<i64>>,
    ) -> PyResult<()> {
        let mut access = buffer.try_readwrite()?;
        let slice = access.as_slice_mut()?;
        plan.check_buffer(epoch, index, slice.len())?;
        let memory = Memory { first: slice.as_mut_ptr(), length: slice.len() };
        let job = Job { epoch: epoch.epoch.clone(), index, buffer: buffer.clone().unbind(), memory };
        self.shared.lock().waiting.push_back(job);
        self.shared.changed.notify_all();
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            let shared = self.shared.clone();
            let builder = std::thread::Builder::new().name("distilfast-batches".into());
            *worker = Some(builder.spawn(move || shared.work())?);
        }
        Ok(())
    }

    /// The buffer of batch `index` once it is written; None where it was never asked for.
    fn take(&self, py: Python<'_>, epoch: u64, index: usize) -> PyResult<Option<Py<PyArray1<i64>>>> {
        let number = (epoch, index);
        let found = py.detach(|| {
            let mut state = self.shared.lock();
            loop {
                if let Some(done) = state.done.remove(&number) {
                    return Some(done);
                }
                let asked = |job: &Job| (job.epoch.number, job.index) == number;
                if state.in_progress != Some(number) && !state.waiting.iter().any(asked) {
                    return None;
                }
                state = self.shared.wait(state);
            }
        });
        match found {
            None => Ok(None),
            Some((job, true)) => Ok(Some(job.buffer)),
            Some(_) => Err(PyRuntimeError::new_err(format!("batch {index} of epoch {epoch} could not be made"))),
        }
    }

    /// Forgets every batch that was asked for, but those of `epoch` in `kept`; returns what remains.
    fn keep(&self, epoch: u64, kept: Vec<usize>) -> Vec<usize> {
        let mut dropped = Vec::new();
        let mut remaining = Vec::new();
        {
            let mut state = self.shared.lock();
            let wanted = |number: Number| number.0 == epoch && kept.contains(&number.1);
            for job in std::mem::take(&mut state.waiting) {
                if wanted((job.epoch.number, job.index)) {
                    remaining.push(job.index);
                    state.waiting.push_back(job);
                } else {
                    dropped.push(job);
                }
            }
            let finished: Vec<Number> = state.done.keys().copied().collect();
            for number in finished {
                if wanted(number) {
                    remaining.push(number.1);
                } else if let Some((job, _)) = state.done.remove(&number) {
                    dropped.push(job);
                }
            }
            remaining.extend(state.in_progress.filter(|&number| wanted(number)).map(|number| number.1));
        }
        // Someone may be waiting for what is dropped.
        self.shared.changed.notify_all();
        // References to Python objects go while attached to it, after the lock.
        drop(dropped);
        remaining
    }
}

impl Drop for PyBatchPrefetcher {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // In a forked child the thread does not exist, and its lock may be held for good: leave all as it is.
            std::mem::forget(self.shared.clone());
            return;
        }
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker {
            // It panics in no batch (those are caught) and finishes at most one more.
            let _ = worker.join();
        }
    }
}
