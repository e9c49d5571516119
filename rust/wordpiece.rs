//! Rows of text to ids, for `BertNormalizer` + `BertPreTokenizer` + `WordPiece`, exact to Hugging Face.
//!
//! Rows are gathered, one after the other, into a block of text that stays in the first-level cache, each closed by a
//! byte that UTF-8 never uses. [`segment`] finds the words of the block; their text is the key to
//! [`WordCache`], which holds the ids of nearly all. The mark that closes a row is a word like any other, whose
//! ids are `[SEP] [CLS]`, so short rows cost no more than long ones. What the cache does not know, [`Words`] works out.
//!
//! ASCII separators and punctuation are neither deleted nor composed with what is beside them, so a stretch between two
//! of them has the same ids wherever it stands: that is what makes it a key.

use std::ops::Range;
use std::sync::Mutex;

use crate::error::Result;
use crate::segment::{BLOCK, FIRST_MARK, TextSimd, is_separator, segment};
use crate::tokenizer::{EncodeOptions, EncodedRows, Rows, TokenId};
use crate::tokenizer_library::Library;
use crate::unicode::Profile;
use crate::wordpiece_added::AddedTokens;
use crate::wordpiece_cache::WordCache;
use crate::wordpiece_key::{KEY_BYTES, Key};
use crate::wordpiece_lookup::{AHEAD, Batch, prefetch};
use crate::wordpiece_settings::Settings;
use crate::wordpiece_words::{Word, Words};

/// Marks put among the text. An added token found in it; its id is next in a queue.
pub const ADDED: u8 = FIRST_MARK;
/// The end of a row that gets no special tokens.
const BARE_END: u8 = 0xFE;
/// The end of a row: what the template puts after it and before the next one.
const ROW_END: u8 = 0xFF;

/// The flag, beside the count of ids, of a mark that ends a row.
const ENDS_ROW: u32 = 1;

/// How much text is gathered at a time.
const TEXT_BYTES: usize = 16 << 10;

/// About as many lines of text as a batch of words takes.
const LINES_PER_BATCH: usize = 6;

/// A tokenizer of BERT's kind; `I` holds its ids.
pub struct WordPiece<I: TokenId> {
    simd: TextSimd,
    words: Words,
    lowercase: bool,
    prefix: Vec<I>,
    suffix: Vec<I>,
    added: AddedTokens,
    /// The cache that a new thread begins with: the words of the vocabulary.
    warm: WordCache<I>,
    /// What threads that are done leave for those that come.
    idle: Mutex<Vec<Worker<I>>>,
}

/// What a thread works with.
struct Worker<I: TokenId> {
    cache: WordCache<I>,
    text: Vec<u8>,
    starts: Vec<u32>,
    ends: Vec<u32>,
    batch: Batch,
    added_ids: Vec<u32>,
    word: Word,
    ids: Vec<u32>,
}

impl<I: TokenId> WordPiece<I> {
    /// The engine for a tokenizer, or `None` where it has a setting that the engine does not know.
    pub fn new(library: &Library, profile: Profile) -> Option<Self> {
        let settings = Settings::read(library.tokenizer(), profile)?;
        let added = AddedTokens::new(library.tokenizer())?;
        let template: Vec<u32> = settings.suffix.iter().chain(&settings.prefix).copied().collect();
        I::pack(&template, ENDS_ROW)?;
        let mut warm = WordCache::new();
        warm.insert(Key::of(&[ROW_END]), &template, ENDS_ROW);
        warm.insert(Key::of(&[BARE_END]), &[], ENDS_ROW);
        let mut engine = Self {
            simd: TextSimd::available()[0],
            lowercase: settings.lowercase,
            prefix: settings.prefix.iter().map(|&id| I::from_u32(id)).collect(),
            suffix: settings.suffix.iter().map(|&id| I::from_u32(id)).collect(),
            added,
            warm,
            idle: Mutex::default(),
            words: settings.words,
        };
        engine.warm_up(&settings.tokens);
        Some(engine)
    }

    /// How many ids the template puts round a row.
    pub fn template_len(&self) -> usize {
        self.prefix.len() + self.suffix.len()
    }

    /// Puts the words of the vocabulary into the cache, in the order of their ids, which is about that of their frequency.
    fn warm_up(&mut self, tokens: &[(String, u32)]) {
        let (mut word, mut ids) = (Word::default(), Vec::new());
        let mut by_id: Vec<&(String, u32)> = tokens.iter().collect();
        by_id.sort_unstable_by_key(|(_, id)| id);
        for (token, _) in by_id {
            let bytes = token.as_bytes();
            let one_unit = match bytes {
                [byte] => !is_separator(*byte),
                _ => !bytes.iter().any(|byte| byte.is_ascii_punctuation() || is_separator(*byte)),
            };
            let reachable = !self.lowercase || !bytes.iter().any(u8::is_ascii_uppercase);
            if bytes.is_empty() || bytes.len() > KEY_BYTES || !one_unit || !reachable {
                continue;
            }
            let key = Key::of(bytes);
            if key.is_word() && self.warm.has_room(key) {
                ids.clear();
                self.words.encode(token, &mut word, &mut ids);
                self.warm.insert(key, &ids, 0);
            }
        }
    }

    fn worker(&self) -> Worker<I> {
        // In a child forked while another thread held the lock it would never be free again: do not wait for it.
        let idle = self.idle.try_lock().ok().and_then(|mut idle| idle.pop());
        idle.unwrap_or_else(|| Worker {
            cache: self.warm.clone(),
            text: Vec::with_capacity(2 * TEXT_BYTES),
            starts: Vec::new(),
            ends: Vec::new(),
            batch: Batch::new(),
            added_ids: Vec::new(),
            word: Word::default(),
            ids: Vec::new(),
        })
    }

    /// Encodes the rows of `range` and appends them to `out`.
    pub fn encode_range<R: Rows + ?Sized>(
        &self,
        rows: &R,
        range: Range<usize>,
        options: EncodeOptions,
        out: &mut EncodedRows<I>,
    ) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut worker = self.worker();
        let first = out.ends.len();
        let begin = out.ids.len();
        let end_mark = if options.add_special_tokens { ROW_END } else { BARE_END };
        if options.add_special_tokens {
            out.ids.extend_from_slice(&self.prefix);
        }
        let (mut row, mut position) = (range.start, 0);
        while row < range.end {
            worker.text.clear();
            worker.added_ids.clear();
            while row < range.end && worker.text.len() < TEXT_BYTES {
                let rest = &rows.row(row).as_bytes()[position..];
                let room = TEXT_BYTES.saturating_sub(worker.text.len());
                let taken =
                    if rest.len() <= room.max(TEXT_BYTES / 2) { rest.len() } else { cut_at_separator(rest, room) };
                worker.text.extend_from_slice(&rest[..taken]);
                if taken == rest.len() {
                    worker.text.push(end_mark);
                    (row, position) = (row + 1, 0);
                } else {
                    position += taken;
                }
            }
            self.added.mark(&mut worker.text, &mut worker.added_ids, options.split_special_tokens);
            let padded = (worker.text.len() / BLOCK + 1) * BLOCK;
            worker.text.resize(padded, b' ');
            let ahead = if row < range.end { rows.row(row).as_ptr().wrapping_add(position) } else { std::ptr::null() };
            self.encode_text(&mut worker, ahead, out);
        }
        if options.add_special_tokens {
            // The last mark has begun a row that does not come.
            let last = out.ids.len() - self.prefix.len();
            out.ids.truncate(last);
            for end in &mut out.ends[first..] {
                *end -= self.prefix.len();
            }
        }
        if let Some(max_length) = options.max_length {
            let suffix: &[I] = if options.add_special_tokens { &self.suffix } else { &[] };
            truncate(out, first, begin, max_length, suffix);
        }
        if let Ok(mut idle) = self.idle.try_lock() {
            idle.push(worker);
        }
        Ok(())
    }

    /// Encodes the gathered text; a row ends after the ids of its mark. `ahead`: where the text goes on, to be fetched
    /// meanwhile; rows often lie one after the other.
    fn encode_text(&self, worker: &mut Worker<I>, ahead: *const u8, out: &mut EncodedRows<I>) {
        let Worker { text, starts, ends, .. } = worker;
        // No other step of the normaliser tells a capital of ASCII from its small letter, so it can be made small first.
        segment(self.simd, text, self.lowercase, starts, ends);
        let words = starts.len();
        // Room for a key to be read past the end of the text; empty words that fill the last batch up.
        text.extend_from_slice(&[b' '; KEY_BYTES]);
        starts.resize(words.next_multiple_of(AHEAD), 0);
        ends.resize(words.next_multiple_of(AHEAD), 0);
        let mut marks = 0;
        for number in 0..words.div_ceil(AHEAD) {
            let first = number * AHEAD;
            let count = AHEAD.min(words - first);
            let bounds = (worker.starts[first..].first_chunk(), worker.ends[first..].first_chunk());
            let (Some(starts), Some(ends)) = bounds else { return };
            // SAFETY: `segment` gives positions in the text, which 16 more bytes come after.
            unsafe { worker.batch.prepare(self.simd, &worker.text, starts, ends, &worker.cache) };
            for line in 0..LINES_PER_BATCH {
                prefetch(ahead.wrapping_add((number * LINES_PER_BATCH + line) * BLOCK));
            }
            let mut word = 0;
            loop {
                word = worker.batch.resolve(self.simd, &worker.cache, word, count, out);
                if word == count {
                    break;
                }
                self.encode_word(worker, first + word, &mut marks, out);
                word += 1;
            }
        }
    }

    /// Encodes a word that is not in its set of the cache.
    #[cold]
    fn encode_word(&self, worker: &mut Worker<I>, number: usize, marks: &mut usize, out: &mut EncodedRows<I>) {
        let Worker { cache, text, starts, ends, batch, added_ids, word, ids } = worker;
        let key = batch.keys[number % AHEAD];
        if let Some(lanes) = cache.find(key) {
            out.ids.extend_from_slice(&lanes.as_ref()[..I::unpack(lanes).0]);
            return;
        }
        let bytes = &text[starts[number] as usize..ends[number] as usize];
        ids.clear();
        if bytes == [ADDED] {
            ids.extend(added_ids.get(*marks));
            *marks += 1;
        } else {
            // The rows are UTF-8 and words end at ASCII or at marks.
            let unit = std::str::from_utf8(bytes).unwrap_or_default();
            self.words.encode(unit, word, ids);
            cache.insert(key, ids, 0);
        }
        out.ids.extend(ids.iter().map(|&id| I::from_u32(id)));
    }
}

/// How much of a row that is longer than `room` to take: up to a separator, so that no word is cut; the last that fits,
/// else the first that comes.
fn cut_at_separator(row: &[u8], room: usize) -> usize {
    let fits = row[..room].iter().rposition(|&byte| is_separator(byte));
    let next = || row[room..].iter().position(|&byte| is_separator(byte)).map(|place| room + place);
    fits.or_else(next).map_or(row.len(), |place| place + 1)
}

/// Cuts the rows from number `first` on, whose ids begin at `begin`, to `max_length` ids that still end in `suffix`.
fn truncate<I: TokenId>(out: &mut EncodedRows<I>, first: usize, begin: usize, max_length: usize, suffix: &[I]) {
    let (mut read, mut write) = (begin, begin);
    for end in &mut out.ends[first..] {
        let length = *end - read;
        let kept = length.min(max_length);
        out.ids.copy_within(read..read + kept, write);
        if kept < length {
            out.ids[write + kept - suffix.len()..write + kept].copy_from_slice(suffix);
        }
        read = *end;
        write += kept;
        *end = write;
    }
    out.ids.truncate(write);
}
