//! Rows of text to ids, for `BertNormalizer` + `BertPreTokenizer` + `WordPiece`, exact to Hugging Face.
//!
//! Rows are gathered, one after the other, into a block of text that stays in the first-level cache, each closed by a
//! byte that UTF-8 never uses. [`segment`] finds the words of the block; their text is the key to
//! [`WordCache`], which holds the ids of nearly all. The mark that closes a row is a word like any other, whose
//! ids are `[SEP] [CLS]`, so short rows cost no more than long ones. What the cache does not know, [`WordEncoder`] works out.
//!
//! Rows that come from elsewhere may not be UTF-8, and need no look at each byte to tell: a word of the cache was UTF-8
//! when it came in, every other one is checked before it is encoded, and bytes that look like marks give more of them than
//! were put in. Only when one of these tells are the rows themselves checked, to name the one that is wrong.
//!
//! ASCII separators and punctuation are neither deleted nor composed with what is beside them, so a stretch between two
//! of them has the same ids wherever it stands: that is what makes it a key.

mod added;
pub mod cache;
pub mod ids;
mod long_words;
pub mod lookup;
pub mod segment;
mod settings;
pub mod trie;
mod words;
mod worker;

use std::ops::Range;

use crate::error::{Error, Result};
use crate::simd::Level;
use crate::text::library::Library;
use crate::text::wordpiece::added::AddedTokens;
use crate::text::wordpiece::cache::{KEY_BYTES, WordCache, WordKey};
use crate::text::wordpiece::ids::{PackedIds, TokenId};
use crate::text::wordpiece::lookup::{WORDS_PER_BATCH, prefetch};
use crate::text::wordpiece::segment::{ADDED, SEGMENT_BYTES, is_separator, segment};
use crate::text::wordpiece::settings::WordPieceSettings;
use crate::text::wordpiece::words::{WordEncoder, WordScratch};
use crate::text::wordpiece::worker::{IdleWorkers, TEXT_BYTES, Worker};
use crate::text::{EncodeOptions, EncodedRows, TextRows};

/// The end of a row that gets no special tokens.
const BARE_END: u8 = 0xFE;
/// The end of a row: what the template puts after it and before the next one.
const ROW_END: u8 = 0xFF;

/// The flag, beside the count of ids, of a mark that ends a row.
const ENDS_ROW: u32 = 1;

/// About as many lines of text as a batch of words takes.
const LINES_PER_BATCH: usize = 6;

/// A tokenizer of BERT's kind; `I` holds its ids.
pub struct WordPiece<I: TokenId> {
    level: Level,
    words: WordEncoder,
    lowercase: bool,
    prefix: Vec<I>,
    suffix: Vec<I>,
    added: AddedTokens,
    /// The cache that a new thread begins with: the words of the vocabulary.
    warm: WordCache,
    idle: IdleWorkers,
    /// The most bytes of a row between two separators: what positions of 32 bits reach.
    most_bytes: usize,
}

impl<I: TokenId> WordPiece<I> {
    /// The engine for a tokenizer, or `None` where it has a setting that the engine does not know.
    pub fn new(library: &Library, level: Level) -> Option<Self> {
        let settings = WordPieceSettings::read(library.tokenizer())?;
        let added = AddedTokens::new(library.tokenizer())?;
        let template: Vec<u32> = settings.suffix.iter().chain(&settings.prefix).copied().collect();
        let mut warm = WordCache::new();
        // First in their sets, where words stay: no other look-up heeds the flag.
        warm.insert(WordKey::of(&[ROW_END]), PackedIds::new::<I>(&template, ENDS_ROW)?);
        warm.insert(WordKey::of(&[BARE_END]), PackedIds::new::<I>(&[], ENDS_ROW)?);
        let mut engine = Self {
            level,
            lowercase: settings.lowercase,
            prefix: settings.prefix.iter().map(|&id| I::from_u32(id)).collect(),
            suffix: settings.suffix.iter().map(|&id| I::from_u32(id)).collect(),
            added,
            warm,
            idle: IdleWorkers::default(),
            most_bytes: u32::MAX as usize - 4 * TEXT_BYTES,
            words: settings.words,
        };
        engine.warm_up(&settings.tokens);
        Some(engine)
    }

    /// The instructions that words are found and looked up with.
    pub fn level(&self) -> Level {
        self.level
    }

    /// How many ids the template puts round a row.
    pub fn template_len(&self) -> usize {
        self.prefix.len() + self.suffix.len()
    }

    /// Puts the words of the vocabulary into the cache, in the order of their ids, which is about that of their frequency.
    fn warm_up(&mut self, tokens: &[(String, u32)]) {
        let (mut word, mut ids) = (WordScratch::default(), Vec::new());
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
            let key = WordKey::of(bytes);
            if key.is_word() && self.warm.has_room(key) {
                ids.clear();
                self.words.encode(token, &mut word, &mut ids);
                if let Some(packed) = PackedIds::new::<I>(&ids, 0) {
                    self.warm.insert(key, packed);
                }
            }
        }
    }

    /// What encodes the rows of a range and appends them to what it is given.
    pub fn encoder<'a, R: TextRows + ?Sized>(
        &'a self,
        rows: &'a R,
        options: EncodeOptions,
    ) -> impl FnMut(Range<usize>, &mut EncodedRows<I>) -> Result<()> + 'a {
        let mut lent = self.idle.lend(|| Worker::new(self.warm.clone()));
        move |range, out| match &mut lent.worker {
            Some(worker) => self.encode_range(worker, rows, range, options, out),
            None => Ok(()),
        }
    }

    fn encode_range<R: TextRows + ?Sized>(
        &self,
        worker: &mut Worker,
        rows: &R,
        range: Range<usize>,
        options: EncodeOptions,
        out: &mut EncodedRows<I>,
    ) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let first = out.ends.len();
        let begin = out.ids.len();
        let end_mark = if options.add_special_tokens { ROW_END } else { BARE_END };
        if options.add_special_tokens {
            out.ids.extend_from_slice(&self.prefix);
        }
        let (mut row, mut position) = (range.start, 0);
        while row < range.end {
            worker.text.clear();
            let (first_row, ended) = (row, out.ends.len());
            while row < range.end && worker.text.len() < TEXT_BYTES {
                let rest = &rows.row(row)[position..];
                let room = TEXT_BYTES.saturating_sub(worker.text.len());
                let taken = if rest.len() <= room.max(TEXT_BYTES / 2) {
                    rest.len()
                } else {
                    cut_at_separator(rest, room, self.most_bytes).ok_or_else(|| too_long(row, self.most_bytes))?
                };
                worker.text.extend_from_slice(&rest[..taken]);
                if taken == rest.len() {
                    worker.text.push(end_mark);
                    (row, position) = (row + 1, 0);
                } else {
                    position += taken;
                }
            }
            worker.added_ids.clear();
            self.added.mark(&mut worker.text, &mut worker.added_ids, options.split_special_tokens);
            let padded = (worker.text.len() / SEGMENT_BYTES + 1) * SEGMENT_BYTES;
            worker.text.resize(padded, b' ');
            let ahead = if row < range.end { rows.row(row).as_ptr().wrapping_add(position) } else { std::ptr::null() };
            self.encode_text(worker, ahead, out);
            let marks_fit = out.ends.len() - ended == row - first_row && worker.added == worker.added_ids.len();
            if worker.torn || !marks_fit {
                rows.check(range.clone())?;
            }
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
        Ok(())
    }

    /// Encodes the gathered text; a row ends after the ids of its mark. `ahead`: where the text goes on, to be fetched
    /// meanwhile; rows often lie one after the other.
    fn encode_text(&self, worker: &mut Worker, ahead: *const u8, out: &mut EncodedRows<I>) {
        let Worker { text, starts, ends, .. } = worker;
        // No other step of the normaliser tells a capital of ASCII from its small letter, so it can be made small first.
        segment(self.level, text, self.lowercase, starts, ends);
        let words = starts.len();
        // Room for a key to be read past the end of the text; empty words that fill the last batch up.
        text.extend_from_slice(&[b' '; KEY_BYTES]);
        starts.resize(words.next_multiple_of(WORDS_PER_BATCH), 0);
        ends.resize(words.next_multiple_of(WORDS_PER_BATCH), 0);
        (worker.added, worker.torn) = (0, false);
        let count = words.div_ceil(WORDS_PER_BATCH);
        self.prepare(worker, 0);
        for number in 0..count {
            // The lines of the next batch come while this one is looked at.
            if number + 1 < count {
                self.prepare(worker, number + 1);
            }
            for line in 0..LINES_PER_BATCH {
                prefetch(ahead.wrapping_add((number * LINES_PER_BATCH + line) * SEGMENT_BYTES));
            }
            let first = number * WORDS_PER_BATCH;
            let (mut word, count) = (0, WORDS_PER_BATCH.min(words - first));
            loop {
                word = worker.batches[number % 2].resolve(self.level, &worker.cache, word, count, out);
                if word == count {
                    break;
                }
                self.encode_word(worker, first + word, out);
                word += 1;
            }
        }
    }

    /// Makes a batch ready to be looked at.
    #[inline]
    fn prepare(&self, worker: &mut Worker, number: usize) {
        let Worker { cache, text, starts, ends, batches, .. } = worker;
        let bounds = (starts.as_chunks().0.get(number), ends.as_chunks().0.get(number));
        let (Some(starts), Some(ends)) = bounds else { return };
        // SAFETY: `segment` gives positions in the text, which 16 more bytes come after.
        unsafe { batches[number % 2].prepare(self.level, text, starts, ends, cache) };
    }

    /// Encodes a word that is not in its set of the cache.
    #[cold]
    fn encode_word(&self, worker: &mut Worker, number: usize, out: &mut EncodedRows<I>) {
        let Worker { cache, long_words, text, starts, ends, batches, added_ids, added, word, ids, torn } = worker;
        let key = batches[number / WORDS_PER_BATCH % 2].keys[number % WORDS_PER_BATCH];
        if let Some(packed) = cache.find(key) {
            packed.append(&mut out.ids);
            return;
        }
        let bytes = &text[starts[number] as usize..ends[number] as usize];
        if bytes == [ADDED] {
            out.ids.extend(added_ids.get(*added).map(|&id| I::from_u32(id)));
            *added += 1;
            return;
        }
        if long_words.append(bytes, &mut out.ids) {
            return;
        }
        ids.clear();
        // Words end at ASCII or at marks: each is UTF-8 if its row is.
        let Ok(unit) = std::str::from_utf8(bytes) else {
            *torn = true;
            return;
        };
        self.words.encode(unit, word, ids);
        if !PackedIds::new::<I>(ids, 0).is_some_and(|packed| cache.insert(key, packed)) {
            long_words.insert::<I>(bytes, ids);
        }
        out.ids.extend(ids.iter().map(|&id| I::from_u32(id)));
    }
}

/// How much of a row that is longer than `room` to take: up to a separator, so that no word is cut; the last that fits,
/// else the first that comes. `None` if that is more than `most`.
fn cut_at_separator(row: &[u8], room: usize, most: usize) -> Option<usize> {
    let fits = row[..room].iter().rposition(|&byte| is_separator(byte));
    let next = || row[room..].iter().take(most).position(|&byte| is_separator(byte)).map(|place| room + place);
    let end = fits.or_else(next).map_or(row.len(), |place| place + 1);
    (end <= most).then_some(end)
}

#[cold]
fn too_long(row: usize, most: usize) -> Error {
    Error::Invalid(format!(
        "row {row} has more than {most} bytes without a space, tab or line break; break it into shorter rows"
    ))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> WordPiece<u16> {
        let json = r###"{"version":"1.0","added_tokens":[],"normalizer":{"type":"BertNormalizer","clean_text":true,
            "handle_chinese_chars":true,"strip_accents":null,"lowercase":true},
            "pre_tokenizer":{"type":"BertPreTokenizer"},
            "model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##",
                "max_input_chars_per_word":100,"vocab":{"[UNK]":0,"a":1,".":2}}}"###;
        let library = Library::from_json(json).unwrap();
        WordPiece::new(&library, Level::Scalar).expect("what the engine covers")
    }

    /// With the limit lowered, since the real one takes gigabytes.
    #[test]
    fn a_row_that_positions_do_not_reach_is_refused() {
        let mut engine = engine();
        engine.most_bytes = 60_000;
        let (spaced, dotted) = ("a ".repeat(50_000), ".".repeat(50_000));
        let rows = [spaced.as_str(), &dotted, &".".repeat(60_001)];
        let mut out = EncodedRows::default();
        let mut encode = engine.encoder(rows.as_slice(), EncodeOptions::default());
        encode(0..2, &mut out).unwrap();
        assert_eq!(out.ends, [50_000, 100_000]);
        let message = encode(2..3, &mut out).unwrap_err().to_string();
        assert!(message.starts_with("row 2 has more than 60000 bytes without a space"), "{message}");
    }
}
