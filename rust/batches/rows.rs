//! The tokenised rows, read where they lie: Arrow lists in chunks, with offsets of 32 or 64 bits, ids of 16, 32 or 64
//! bits, and, where a dataset was selected from or shuffled, a table of row numbers before them. Nothing is copied.

use crate::error::{Error, Result};

/// A buffer that something else owns, mapped from a file more often than not.
pub type Buffer<T> = Box<dyn AsRef<[T]> + Send + Sync>;

/// The offsets of one chunk: row `r` is `ids[offsets[r]..offsets[r + 1]]`.
pub enum Offsets {
    /// Of `list`.
    Narrow(Buffer<i32>),
    /// Of `large_list`.
    Wide(Buffer<i64>),
}

/// The ids of one chunk.
pub enum Ids {
    /// `uint16`.
    U16(Buffer<u16>),
    /// `uint32`.
    U32(Buffer<u32>),
    /// `int32`.
    I32(Buffer<i32>),
    /// `int64`.
    I64(Buffer<i64>),
}

/// The ids of one row, of whatever width.
#[derive(Clone, Copy)]
pub enum RowIds<'a> {
    /// `uint16`.
    U16(&'a [u16]),
    /// `uint32`.
    U32(&'a [u32]),
    /// `int32`.
    I32(&'a [i32]),
    /// `int64`.
    I64(&'a [i64]),
}

/// An integer type that ids come in.
pub trait Id: Copy + Send + Sync {
    /// The id for indexing; what is negative becomes too large for any vocabulary.
    fn index(self) -> usize;
    /// The id as it is written to a batch.
    fn wide(self) -> i64;
}

macro_rules! id {
    ($($type:ty),*) => {$(
        impl Id for $type {
            #[inline(always)]
            fn index(self) -> usize {
                self as usize
            }
            #[inline(always)]
            fn wide(self) -> i64 {
                i64::from(self)
            }
        }
    )*};
}
id!(u16, u32, i32, i64);

/// Evaluates `$body` with `$ids` bound to the row's slice of ids, whatever their width.
#[macro_export]
macro_rules! with_ids {
    ($row:expr, $ids:ident => $body:expr) => {
        match $row {
            $crate::batches::rows::RowIds::U16($ids) => $body,
            $crate::batches::rows::RowIds::U32($ids) => $body,
            $crate::batches::rows::RowIds::I32($ids) => $body,
            $crate::batches::rows::RowIds::I64($ids) => $body,
        }
    };
}

/// Consecutive rows in buffers of their own.
pub struct ColumnChunk {
    /// One more than there are rows.
    pub offsets: Offsets,
    /// What the offsets point into.
    pub ids: Ids,
}

impl ColumnChunk {
    fn rows(&self) -> usize {
        let offsets = match &self.offsets {
            Offsets::Narrow(offsets) => (**offsets).as_ref().len(),
            Offsets::Wide(offsets) => (**offsets).as_ref().len(),
        };
        offsets.saturating_sub(1)
    }

    fn span(&self, row: usize) -> (usize, usize) {
        match &self.offsets {
            Offsets::Narrow(offsets) => {
                let offsets = (**offsets).as_ref();
                (offsets[row] as usize, offsets[row + 1] as usize)
            }
            Offsets::Wide(offsets) => {
                let offsets = (**offsets).as_ref();
                (offsets[row] as usize, offsets[row + 1] as usize)
            }
        }
    }

    fn row(&self, row: usize) -> RowIds<'_> {
        let (start, end) = self.span(row);
        match &self.ids {
            Ids::U16(ids) => RowIds::U16(&(**ids).as_ref()[start..end]),
            Ids::U32(ids) => RowIds::U32(&(**ids).as_ref()[start..end]),
            Ids::I32(ids) => RowIds::I32(&(**ids).as_ref()[start..end]),
            Ids::I64(ids) => RowIds::I64(&(**ids).as_ref()[start..end]),
        }
    }
}

/// All rows of a column, numbered from 0.
pub struct TokenRows {
    chunks: Vec<ColumnChunk>,
    /// The first row of each chunk, and the number of stored rows at the end.
    starts: Vec<usize>,
    /// For every `1 << shift` stored rows the chunk that holds the first of them.
    guide: Vec<u32>,
    shift: u32,
    /// Which stored row is meant by each row, where that is not the row itself.
    selected: Option<Buffer<u64>>,
    count: usize,
}

impl TokenRows {
    /// The rows of `chunks` in order or, with `selected`, the stored rows that it names.
    pub fn new(chunks: Vec<ColumnChunk>, selected: Option<Buffer<u64>>) -> Result<Self> {
        let chunks: Vec<ColumnChunk> = chunks.into_iter().filter(|chunk| chunk.rows() > 0).collect();
        let mut starts = vec![0];
        for chunk in &chunks {
            starts.push(starts[starts.len() - 1] + chunk.rows());
        }
        let stored = starts[starts.len() - 1];
        let count = match &selected {
            None => stored,
            Some(selected) => {
                let selected = (**selected).as_ref();
                if let Some(row) = selected.iter().position(|&index| index >= stored as u64) {
                    return Err(Error::invalid(format!(
                        "row {row} of the dataset's indices is {}, but only {stored} rows are stored; write the dataset anew with flatten_indices()",
                        selected[row]
                    )));
                }
                selected.len()
            }
        };
        if count >= u32::MAX as usize {
            return Err(Error::invalid(format!(
                "{count} rows are more than the {} that one plan numbers; split the dataset",
                u32::MAX - 1
            )));
        }
        let shift = (stored / chunks.len().max(1)).max(1).ilog2();
        let guide = (0..stored)
            .step_by(1 << shift)
            .map(|row| (starts.partition_point(|&start| start <= row) - 1) as u32)
            .collect();
        Ok(Self { chunks, starts, guide, shift, selected, count })
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[inline]
    fn locate(&self, row: usize) -> (&ColumnChunk, usize) {
        let stored = match &self.selected {
            None => row,
            Some(selected) => (**selected).as_ref()[row] as usize,
        };
        let mut chunk = self.guide[stored >> self.shift] as usize;
        while self.starts[chunk + 1] <= stored {
            chunk += 1;
        }
        (&self.chunks[chunk], stored - self.starts[chunk])
    }

    /// The ids of a row.
    #[must_use]
    pub fn row(&self, row: usize) -> RowIds<'_> {
        let (chunk, row) = self.locate(row);
        chunk.row(row)
    }

    /// Asks the processor to bring the ids of a row near, which is of use where rows are read in no order.
    #[inline]
    pub fn prefetch(&self, row: usize) {
        #[cfg(target_arch = "x86_64")]
        with_ids!(self.row(row), ids => {
            let bytes = size_of_val(ids);
            for line in (0..bytes).step_by(64) {
                // SAFETY: a hint that reads nothing, at an address within the row.
                unsafe {
                    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                    _mm_prefetch::<_MM_HINT_T0>(ids.as_ptr().byte_add(line).cast());
                }
            }
        });
        #[cfg(not(target_arch = "x86_64"))]
        let _ = row;
    }

    /// Calls `visit(row, length)` for every row in order, reading nothing but offsets.
    pub fn for_each_length(&self, mut visit: impl FnMut(usize, usize)) {
        if self.selected.is_some() {
            (0..self.count).for_each(|row| visit(row, self.length(row)));
            return;
        }
        for (chunk, &first) in self.chunks.iter().zip(&self.starts) {
            match &chunk.offsets {
                Offsets::Narrow(offsets) => {
                    for (row, pair) in (**offsets).as_ref().windows(2).enumerate() {
                        visit(first + row, (pair[1] - pair[0]) as usize);
                    }
                }
                Offsets::Wide(offsets) => {
                    for (row, pair) in (**offsets).as_ref().windows(2).enumerate() {
                        visit(first + row, (pair[1] - pair[0]) as usize);
                    }
                }
            }
        }
    }

    /// The number of ids in a row.
    #[must_use]
    pub fn length(&self, row: usize) -> usize {
        let (chunk, row) = self.locate(row);
        let (start, end) = chunk.span(row);
        end - start
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    /// Rows of `uint16` ids in chunks of up to `chunk` rows whose offsets do not start at 0.
    pub fn rows_of(rows: &[Vec<u16>], chunk: usize) -> TokenRows {
        let chunks = rows
            .chunks(chunk.max(1))
            .map(|rows| {
                let mut ids = vec![9, 9, 9];
                let mut offsets = vec![3];
                for row in rows {
                    ids.extend_from_slice(row);
                    offsets.push(ids.len() as i64);
                }
                ColumnChunk { offsets: Offsets::Wide(Box::new(offsets)), ids: Ids::U16(Box::new(ids)) }
            })
            .collect();
        TokenRows::new(chunks, None).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_are_read_where_they_lie(
            rows in prop::collection::vec(prop::collection::vec(0_u16..100, 0..6), 1..40),
            chunk in 1_usize..9,
            picks in prop::collection::vec(0_usize..1000, 0..20),
        ) {
            let stored = samples::rows_of(&rows, chunk);
            prop_assert_eq!(stored.len(), rows.len());
            let selected: Vec<u64> = picks.iter().map(|pick| (pick % rows.len()) as u64).collect();
            for (row, expected) in rows.iter().enumerate() {
                prop_assert_eq!(stored.length(row), expected.len());
                let RowIds::U16(ids) = stored.row(row) else { panic!("uint16 rows") };
                prop_assert_eq!(ids, &expected[..]);
            }
            let TokenRows { chunks, .. } = stored;
            let chosen = TokenRows::new(chunks, Some(Box::new(selected.clone()))).unwrap();
            prop_assert_eq!(chosen.len(), selected.len());
            for (row, &pick) in selected.iter().enumerate() {
                prop_assert_eq!(chosen.length(row), rows[pick as usize].len());
            }
        }
    }

    #[test]
    fn an_index_beyond_the_rows_is_refused() {
        let TokenRows { chunks, .. } = samples::rows_of(&[vec![1], vec![2]], 1);
        let error = TokenRows::new(chunks, Some(Box::new(vec![0_u64, 2]))).err().unwrap().to_string();
        assert!(error.contains("row 1") && error.contains("is 2"), "{error}");
    }
}
