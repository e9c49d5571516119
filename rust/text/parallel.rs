//! The rows of a call divided among threads.
//!
//! Threads take chunk after chunk of the rows and encode each into memory of their own, which stays in their caches. As
//! soon as the chunks before it are counted, the ids of a chunk are copied to their place among those of all rows; so
//! there is next to nothing that one thread would have to join in the end while the others wait. Threads live as long
//! as one call, so a forked child finds none that it could wait for.

use std::collections::VecDeque;
use std::mem::{MaybeUninit, take};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::text::wordpiece::ids::TokenId;
use crate::text::{EncodedRows, TextRows};

/// The most bytes of text that a thread takes at a time: with their ids, they fit into its second-level cache.
const CHUNK_BYTES: usize = 256 << 10;
/// The least, unless there are no more.
const MIN_CHUNK_BYTES: usize = 32 << 10;
/// Below this a second thread costs more than it saves.
const MIN_BYTES_PER_THREAD: usize = 128 << 10;

/// Encodes all rows with at most `threads` threads, in order.
///
/// `encoder` makes what a thread encodes with: it appends the ids of some rows to what it is given. The error that comes back is that of the first rows that have one.
pub fn encode<I, R, E>(rows: &R, threads: usize, encoder: impl Fn() -> E + Sync) -> Result<EncodedRows<I>>
where
    I: TokenId,
    R: TextRows + ?Sized,
    E: FnMut(Range<usize>, &mut EncodedRows<I>) -> Result<()>,
{
    let bytes = rows.total_len();
    let threads = threads.min(1 + bytes / MIN_BYTES_PER_THREAD).min(rows.len()).max(1);
    let mut out = EncodedRows::with_room(bytes / 3 + 2 * rows.len(), rows.len());
    if threads == 1 {
        let mut encode = encoder();
        let mut row = 0;
        while row < rows.len() {
            let range = chunk(rows, row, CHUNK_BYTES);
            row = range.end;
            encode(range, &mut out)?;
        }
        return Ok(out);
    }
    let chunk_bytes = (bytes / (4 * threads)).clamp(MIN_CHUNK_BYTES, CHUNK_BYTES);
    out.ends.resize(rows.len(), 0);
    let shared = Mutex::new(Shared {
        next_row: 0,
        counts: Vec::new(),
        total: 0,
        places: Vec::new(),
        room: out.ids.spare_capacity_mut(),
        ends: &mut out.ends,
    });
    let work = || work(rows, chunk_bytes, &shared, encoder());
    let results: Vec<_> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let others =
            others.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        std::iter::once(own).chain(others).collect()
    });
    let mut left = Vec::new();
    let mut errors = Vec::new();
    for result in results {
        match result {
            Ok(mut pending) => left.append(&mut pending),
            Err(error) => errors.push(error),
        }
    }
    if let Some((_, error)) = errors.into_iter().min_by_key(|(number, _)| *number) {
        return Err(error);
    }
    left.sort_unstable_by_key(|chunk| chunk.number);
    let Shared { mut places, .. } = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    let fitted = places.iter().take_while(|place| place.fits).map(|place| place.count).sum();
    let mut over = Vec::new();
    for chunk in left {
        if let Some(encoded) = chunk.put(&mut places) {
            over.push(encoded);
        }
    }
    // SAFETY: of the chunks that fitted, which are one after the other, all ids have been put in their place.
    unsafe { out.ids.set_len(fitted) };
    for encoded in over {
        out.ids.extend_from_slice(&encoded.ids);
    }
    Ok(out)
}

/// The rows from `start` on that make about `bytes` bytes.
fn chunk<R: TextRows + ?Sized>(rows: &R, start: usize, bytes: usize) -> Range<usize> {
    let (mut end, mut taken) = (start, 0);
    while end < rows.len() && taken < bytes {
        taken += rows.row_len(end) + 1;
        end += 1;
    }
    start..end
}

/// What the threads of a call share.
struct Shared<'a, I> {
    /// The first row that no thread has taken.
    next_row: usize,
    /// How many ids each chunk that was taken has, once it is known.
    counts: Vec<Option<usize>>,
    /// How many ids the chunks that have a place have.
    total: usize,
    /// The places of the first chunks: of all before one that is not counted.
    places: Vec<ChunkPlace<'a, I>>,
    /// Room for the ids of the others.
    room: &'a mut [MaybeUninit<I>],
    /// The ends of rows that no thread has taken.
    ends: &'a mut [usize],
}

/// Where the ids of a chunk belong.
struct ChunkPlace<'a, I> {
    start: usize,
    count: usize,
    /// Whether there was room for it, and for all before it.
    fits: bool,
    /// The room for it, until it is used.
    room: Option<&'a mut [MaybeUninit<I>]>,
}

impl<'a, I> Shared<'a, I> {
    /// Takes the next rows: the number of their chunk, and the room for their ends.
    fn take<R: TextRows + ?Sized>(&mut self, rows: &R, bytes: usize) -> Option<(usize, Range<usize>, &'a mut [usize])> {
        if self.next_row >= rows.len() {
            return None;
        }
        let range = chunk(rows, self.next_row, bytes);
        self.next_row = range.end;
        let (ends, rest) = take(&mut self.ends).split_at_mut(range.len());
        self.ends = rest;
        self.counts.push(None);
        Some((self.counts.len() - 1, range, ends))
    }

    /// Notes the number of ids of a chunk, and gives a place to it, and to those that have waited for it.
    fn count(&mut self, number: usize, count: usize) {
        self.counts[number] = Some(count);
        while let Some(&Some(count)) = self.counts.get(self.places.len()) {
            let before = self.places.last().is_none_or(|place| place.fits);
            let fits = before && count <= self.room.len();
            let room = fits.then(|| {
                let (own, rest) = take(&mut self.room).split_at_mut(count);
                self.room = rest;
                own
            });
            self.places.push(ChunkPlace { start: self.total, count, fits, room });
            self.total += count;
        }
    }
}

/// An encoded chunk that is not where it belongs.
struct Pending<'a, I> {
    number: usize,
    encoded: EncodedRows<I>,
    ends: &'a mut [usize],
}

impl<I: TokenId> Pending<'_, I> {
    /// Writes the ends of the rows, and their ids, where there is room; gives them back where there is none.
    fn put(self, places: &mut [ChunkPlace<'_, I>]) -> Option<EncodedRows<I>> {
        let place = &mut places[self.number];
        copy(place.start, place.room.take().unwrap_or_default(), self.ends, &self.encoded);
        (!place.fits).then_some(self.encoded)
    }
}

fn copy<I: TokenId>(start: usize, room: &mut [MaybeUninit<I>], ends: &mut [usize], encoded: &EncodedRows<I>) {
    for (slot, &id) in room.iter_mut().zip(&encoded.ids) {
        slot.write(id);
    }
    for (place, end) in ends.iter_mut().zip(&encoded.ends) {
        *place = start + end;
    }
}

fn lock<'l, 'a, I>(shared: &'l Mutex<Shared<'a, I>>) -> MutexGuard<'l, Shared<'a, I>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The work of one thread: what is left over of it, or the number of the chunk that failed and why.
fn work<'a, I: TokenId, R: TextRows + ?Sized>(
    rows: &R,
    chunk_bytes: usize,
    shared: &Mutex<Shared<'a, I>>,
    mut encode: impl FnMut(Range<usize>, &mut EncodedRows<I>) -> Result<()>,
) -> std::result::Result<Vec<Pending<'a, I>>, (usize, Error)> {
    let mut pending: VecDeque<Pending<'a, I>> = VecDeque::new();
    let mut free = Vec::new();
    loop {
        let Some((number, range, ends)) = lock(shared).take(rows, chunk_bytes) else { return Ok(pending.into()) };
        let mut encoded = free.pop().unwrap_or_else(|| EncodedRows::with_room(chunk_bytes / 3, range.len()));
        if let Err(error) = encode(range, &mut encoded) {
            // What the others have taken is before what is left: the first error is theirs or this one.
            lock(shared).next_row = rows.len();
            return Err((number, error));
        }
        lock(shared).count(number, encoded.ids.len());
        pending.push_back(Pending { number, encoded, ends });
        while let Some(first) = pending.front() {
            let room = match lock(shared).places.get_mut(first.number) {
                Some(place) => place.room.take().map(|room| (place.start, room)),
                None => None,
            };
            let Some((start, room)) = room else { break };
            let Some(Pending { mut encoded, ends, .. }) = pending.pop_front() else { break };
            copy(start, room, ends, &encoded);
            encoded.ids.clear();
            encoded.ends.clear();
            free.push(encoded);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Encoder<'r> = Box<dyn FnMut(Range<usize>, &mut EncodedRows<u16>) -> Result<()> + 'r>;

    /// Ids that are every `step`th byte of the rows; rows with a `!` fail.
    fn spelled<'r>(rows: &'r [&'r str], step: usize) -> impl Fn() -> Encoder<'r> + Sync {
        move || {
            Box::new(move |range, out| {
                for index in range {
                    if rows[index].contains('!') {
                        return Err(Error::Invalid(format!("row {index}")));
                    }
                    out.ids.extend(rows[index].bytes().step_by(step).map(u16::from));
                    out.ends.push(out.ids.len());
                }
                Ok(())
            })
        }
    }

    proptest! {
        /// However many threads there are, and whether or not there is room for all ids, the rows are those of one.
        #[test]
        fn threads_change_nothing(lengths in prop::collection::vec(0_usize..60_000, 1..60), step in 1_usize..6) {
            let text: String = ('a'..='z').cycle().take(60_000).collect();
            let rows: Vec<&str> = lengths.iter().map(|&length| &text[..length]).collect();
            let one = encode(rows.as_slice(), 1, spelled(&rows, step)).unwrap();
            for threads in [2, 5] {
                let many = encode(rows.as_slice(), threads, spelled(&rows, step)).unwrap();
                prop_assert!(many.ids == one.ids);
                prop_assert_eq!(&many.ends, &one.ends);
            }
        }
    }

    #[test]
    fn the_first_error_counts() {
        let plain = "ab ".repeat(20_000);
        let mut rows = vec![plain.as_str(); 40];
        rows[31] = "!";
        rows[17] = "!";
        for threads in [1, 2, 4] {
            let error = encode(rows.as_slice(), threads, spelled(&rows, 1)).unwrap_err();
            assert_eq!(error.to_string(), "row 17");
        }
    }
}
