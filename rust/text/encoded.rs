//! Rows of text that come, how they are to be encoded, and the rows of ids that they become.

use std::ops::Range;

use crate::cpu::memory::advise;
use crate::error::Result;

/// Rows of UTF-8 text, readable from several threads.
pub trait TextRows: Sync {
    /// The number of rows.
    fn len(&self) -> usize;

    /// The bytes of a row; UTF-8 where [`Self::check`] finds nothing wrong.
    fn row(&self, index: usize) -> &[u8];

    /// The number of bytes of a row.
    fn row_len(&self, index: usize) -> usize {
        self.row(index).len()
    }

    /// The number of bytes of all rows.
    fn total_len(&self) -> usize {
        (0..self.len()).map(|index| self.row_len(index)).sum()
    }

    /// Refuses rows of which one is not UTF-8, naming the first.
    fn check(&self, range: Range<usize>) -> Result<()> {
        let _ = range;
        Ok(())
    }

    /// Whether there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl TextRows for [&str] {
    fn len(&self) -> usize {
        <[&str]>::len(self)
    }

    fn row(&self, index: usize) -> &[u8] {
        self[index].as_bytes()
    }
}

/// How to encode; the same for every row of a call.
#[derive(Clone, Copy, Debug)]
pub struct EncodeOptions {
    /// Whether the template's tokens (`[CLS]` ... `[SEP]`) go round each row.
    pub add_special_tokens: bool,
    /// The most ids of a row, the template's included; what is over is cut off at the end of the text.
    pub max_length: Option<usize>,
    /// Whether special tokens written in the text are text like any other.
    pub split_special_tokens: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { add_special_tokens: true, max_length: None, split_special_tokens: false }
    }
}

/// Encoded rows: row `i` is `ids[ends[i - 1]..ends[i]]`.
#[derive(Debug, Default)]
pub struct EncodedRows<I> {
    /// The ids of all rows, one after the other.
    pub ids: Vec<I>,
    /// Where each row ends in `ids`.
    pub ends: Vec<usize>,
}

impl<I> EncodedRows<I> {
    /// No rows, and room for so many ids and rows.
    pub fn with_room(ids: usize, rows: usize) -> Self {
        let ids: Vec<I> = Vec::with_capacity(ids);
        advise(ids.as_ptr(), size_of::<I>() * ids.capacity());
        Self { ids, ends: Vec::with_capacity(rows) }
    }
}

/// Encoded rows of either width.
#[derive(Debug)]
pub enum Encoded {
    /// Of a vocabulary of at most 65,536.
    Narrow(EncodedRows<u16>),
    /// Of a larger one.
    Wide(EncodedRows<u32>),
}
