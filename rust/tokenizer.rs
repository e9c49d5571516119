//! Rows of text to rows of token ids: one face over the engines, and the division of the work among threads.
//!
//! Rows come as anything that is [`Rows`]; they are cut into chunks of about a megabyte, threads take chunk after chunk,
//! and the results are joined in the order of the rows. Threads live as long as one call, so a forked child finds none
//! that it could wait for.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};
use crate::tokenizer_library::Library;

/// Rows of UTF-8 text, readable from several threads.
pub trait Rows: Sync {
    /// The number of rows.
    fn len(&self) -> usize;

    /// The bytes of a row; already known to be UTF-8.
    fn row(&self, index: usize) -> &str;

    /// The number of bytes of a row.
    fn row_len(&self, index: usize) -> usize {
        self.row(index).len()
    }

    /// Whether there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Rows for [&str] {
    fn len(&self) -> usize {
        <[&str]>::len(self)
    }

    fn row(&self, index: usize) -> &str {
        self[index]
    }
}

/// A token id as it is stored: `u16` where the vocabulary allows, else `u32`.
pub trait TokenId: Copy + Default + Send + Sync + 'static {
    /// The id, which the caller knows to fit.
    fn from_u32(id: u32) -> Self;
}

impl TokenId for u16 {
    fn from_u32(id: u32) -> Self {
        id as Self
    }
}

impl TokenId for u32 {
    fn from_u32(id: u32) -> Self {
        id
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

/// A tokenizer file, ready to encode.
pub struct Tokenizer {
    library: Library,
}

/// The bytes of text a thread takes at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Below this a second thread costs more than it saves.
const MIN_BYTES_PER_THREAD: usize = 128 << 10;

impl Tokenizer {
    /// The tokenizer that a `tokenizer.json` describes.
    ///
    /// Its `truncation` and `padding` blocks are not applied.
    pub fn from_json(json: &str) -> Result<Self> {
        Ok(Self { library: Library::from_json(json)? })
    }

    /// The number of ids: one more than the largest.
    pub fn vocab_size(&self) -> usize {
        self.library.vocab_size()
    }

    /// Whether ids are stored as `u16`.
    pub fn is_narrow(&self) -> bool {
        self.vocab_size() <= 1 << 16
    }

    /// The id of a token, special or not.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.library.token_to_id(token)
    }

    /// The token of each id; `None` where an id has none.
    pub fn tokens(&self) -> Vec<Option<String>> {
        self.library.tokens()
    }

    /// The ids of the special tokens, ascending.
    pub fn special_ids(&self) -> Vec<u32> {
        self.library.special_ids()
    }

    /// The `tokenizer.json` as the `tokenizers` crate writes it.
    pub fn to_json(&self) -> Result<String> {
        self.library.to_json()
    }

    /// What does the work: `wordpiece` or `tokenizers`.
    pub fn engine(&self) -> &'static str {
        "tokenizers"
    }

    /// Encodes one text.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
        self.check(options)?;
        let mut out = EncodedRows::default();
        self.encode_range([text].as_slice(), 0..1, options, &mut out)?;
        Ok(out.ids)
    }

    /// Encodes all rows with at most `threads` threads, in order.
    ///
    /// `I` must be able to hold the ids: `u16` only where [`Self::is_narrow`].
    pub fn encode_rows<I: TokenId, R: Rows + ?Sized>(
        &self,
        rows: &R,
        options: EncodeOptions,
        threads: usize,
    ) -> Result<EncodedRows<I>> {
        self.check(options)?;
        let chunks = cut(rows);
        let bytes: usize = chunks.iter().map(|(_, bytes)| bytes).sum();
        let threads = threads.min(chunks.len()).min(1 + bytes / MIN_BYTES_PER_THREAD).max(1);
        if threads == 1 {
            let mut out = EncodedRows::default();
            for (range, _) in chunks {
                self.encode_range(rows, range, options, &mut out)?;
            }
            return Ok(out);
        }
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<(usize, EncodedRows<I>)>> {
            let mut done = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some((range, _)) = chunks.get(number) else { return Ok(done) };
                let mut out = EncodedRows::default();
                self.encode_range(rows, range.clone(), options, &mut out)?;
                done.push((number, out));
            }
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let others =
                others.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            std::iter::once(own).chain(others).collect()
        });
        let mut parts = Vec::with_capacity(chunks.len());
        for result in results {
            parts.append(&mut result?);
        }
        parts.sort_unstable_by_key(|(number, _)| *number);
        Ok(join(&parts))
    }

    fn check(&self, options: EncodeOptions) -> Result<()> {
        let template = if options.add_special_tokens { self.library.template_len() } else { 0 };
        match options.max_length {
            Some(length) if length < template.max(1) => Err(Error::Invalid(format!(
                "max_length={length} leaves no room for the {template} special tokens of a row; raise it"
            ))),
            _ => Ok(()),
        }
    }

    fn encode_range<I: TokenId, R: Rows + ?Sized>(
        &self,
        rows: &R,
        range: Range<usize>,
        options: EncodeOptions,
        out: &mut EncodedRows<I>,
    ) -> Result<()> {
        self.library.encode_range(rows, range, options, out)
    }
}

/// The rows in chunks of about [`CHUNK_BYTES`], each with its bytes.
fn cut<R: Rows + ?Sized>(rows: &R) -> Vec<(Range<usize>, usize)> {
    let mut chunks = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for index in 0..rows.len() {
        bytes += rows.row_len(index) + 1;
        if bytes >= CHUNK_BYTES {
            chunks.push((start..index + 1, bytes));
            (start, bytes) = (index + 1, 0);
        }
    }
    if start < rows.len() {
        chunks.push((start..rows.len(), bytes));
    }
    chunks
}

fn join<I: TokenId>(parts: &[(usize, EncodedRows<I>)]) -> EncodedRows<I> {
    let mut out = EncodedRows {
        ids: Vec::with_capacity(parts.iter().map(|(_, part)| part.ids.len()).sum()),
        ends: Vec::with_capacity(parts.iter().map(|(_, part)| part.ends.len()).sum()),
    };
    for (_, part) in parts {
        let base = out.ids.len();
        out.ids.extend_from_slice(&part.ids);
        out.ends.extend(part.ends.iter().map(|end| base + end));
    }
    out
}

/// The threads to use where the caller names none: `RAYON_NUM_THREADS`, else one for each core.
pub fn default_threads() -> usize {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|value| value.parse().ok()).filter(|&count| count > 0);
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}
