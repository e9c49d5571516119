//! The padded layout: rows of like length together, every bucket with a fixed width and a fixed number of rows.

use crate::batches::plan::{Member, Shape};
use crate::batches::rows::TokenRows;
use crate::random::Permutation;
use crate::simd::Level;

/// Rows that are padded to one width.
struct Bucket {
    shape: Shape,
    /// Where its own rows begin in the order.
    first: usize,
    /// How many rows are its own.
    own: usize,
    /// How many rows come up from narrower buckets; they go into its first batches.
    carried: usize,
    /// Its first batch.
    batch: usize,
    /// How many full batches it has.
    full: usize,
}

/// Buckets of fixed width. Rows that do not fill the last batch of a bucket go up to the next wider one; what is left in
/// the widest forms one batch with fewer rows, the only one that is short. Which rows go up is drawn in each epoch, how
/// many do is not.
pub struct PaddedPlan {
    /// Rows by bucket and, within a bucket, by number.
    order: Vec<u32>,
    buckets: Vec<Bucket>,
    short: Option<Shape>,
}

impl PaddedPlan {
    /// Buckets of `widths` (ascending), each with as many rows as fit `batch_tokens`, over rows with the lengths that
    /// `histogram` counts.
    pub fn new(rows: &TokenRows, histogram: &[u64], widths: &[usize], batch_tokens: usize) -> Self {
        let mut buckets: Vec<Bucket> = Vec::with_capacity(widths.len());
        let (mut first, mut carried, mut batch, mut narrower) = (0, 0, 0, 0);
        for &width in widths {
            let shape = Shape { rows: batch_tokens / width, width };
            let own = histogram[narrower..=width.min(histogram.len() - 1)].iter().sum::<u64>() as usize;
            let full = (carried + own) / shape.rows;
            buckets.push(Bucket { shape, first, own, carried, batch, full });
            carried = (carried + own) % shape.rows;
            first += own;
            batch += full;
            narrower = width + 1;
        }
        let short = (carried > 0).then(|| Shape { rows: carried, width: widths[widths.len() - 1] });
        Self { order: sort_by_bucket(rows, &buckets), buckets, short }
    }

    fn full_batches(&self) -> usize {
        self.buckets.last().map_or(0, |bucket| bucket.batch + bucket.full)
    }

    /// The number of batches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.full_batches() + usize::from(self.short.is_some())
    }

    /// Never: there is a row, so there is a batch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shapes that occur, and how often.
    #[must_use]
    pub fn shapes(&self) -> Vec<(Shape, usize)> {
        let full = self.buckets.iter().filter(|bucket| bucket.full > 0).map(|bucket| (bucket.shape, bucket.full));
        full.chain(self.short.map(|shape| (shape, 1))).collect()
    }

    /// The number of rows of each bucket.
    #[must_use]
    pub fn class_sizes(&self) -> Vec<u32> {
        self.buckets.iter().map(|bucket| bucket.own as u32).collect()
    }

    /// The shape of a batch.
    #[must_use]
    pub fn shape(&self, batch: usize) -> Shape {
        self.bucket_of(batch).1
    }

    fn bucket_of(&self, batch: usize) -> (usize, Shape) {
        match self.short {
            Some(shape) if batch == self.full_batches() => (self.buckets.len() - 1, shape),
            _ => {
                let number = self.buckets.partition_point(|bucket| bucket.batch + bucket.full <= batch);
                (number, self.buckets[number].shape)
            }
        }
    }

    /// The rows of a batch and its shape.
    pub fn members(
        &self,
        level: Level,
        shuffles: &[Permutation],
        batch: usize,
        rows: &TokenRows,
        members: &mut Vec<Member>,
    ) -> Shape {
        let (number, shape) = self.bucket_of(batch);
        let bucket = &self.buckets[number];
        let from = (batch - bucket.batch) * bucket.shape.rows;
        let mut numbers = Vec::with_capacity(shape.rows);
        self.collect(level, shuffles, number, (from, from + shape.rows), &mut numbers);
        members.extend(numbers.iter().enumerate().map(|(slot, &row)| {
            let length = rows.length(row as usize) as u32;
            Member { row, start: (slot * shape.width) as u32, length }
        }));
        shape
    }

    /// Appends the rows at the places `from..to` among all that a bucket handles: first those that came up to it, then
    /// its own.
    fn collect(
        &self,
        level: Level,
        shuffles: &[Permutation],
        number: usize,
        (from, to): (usize, usize),
        out: &mut Vec<u32>,
    ) {
        let bucket = &self.buckets[number];
        if from < bucket.carried {
            // The rows that came up are the last of the narrower bucket.
            let narrower = &self.buckets[number - 1];
            let skipped = narrower.full * narrower.shape.rows;
            self.collect(level, shuffles, number - 1, (from + skipped, to.min(bucket.carried) + skipped), out);
        }
        let first = out.len();
        let places = from.max(bucket.carried)..to.max(bucket.carried);
        out.extend(places.map(|place| (place - bucket.carried) as u32));
        shuffles[number].apply_all(level, &mut out[first..]);
        for place in &mut out[first..] {
            *place = self.order[bucket.first + *place as usize];
        }
    }
}

/// A counting sort of the rows by their bucket.
fn sort_by_bucket(rows: &TokenRows, buckets: &[Bucket]) -> Vec<u32> {
    let widest = buckets.last().map_or(0, |bucket| bucket.shape.width);
    let mut bucket_of = vec![0_u16; widest + 1];
    for (length, number) in bucket_of.iter_mut().enumerate() {
        *number = buckets.partition_point(|bucket| bucket.shape.width < length) as u16;
    }
    let mut next: Vec<usize> = buckets.iter().map(|bucket| bucket.first).collect();
    let mut order = vec![0; rows.len()];
    rows.for_each_length(|row, length| {
        let place = &mut next[bucket_of[length] as usize];
        order[*place] = row as u32;
        *place += 1;
    });
    order
}
