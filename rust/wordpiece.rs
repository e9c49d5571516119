//! Rows of text to ids, for `BertNormalizer` + `BertPreTokenizer` + `WordPiece`, exact to Hugging Face.
//!
//! Rows are gathered, one after the other, into a block of text that stays in the first-level cache, each closed by a
//! byte that UTF-8 never uses. [`segment`] finds the words of the block; their text, lower-cased in a register, is the
//! key to [`WordCache`], which holds the ids of nearly all. The mark that closes a row is a word like any other, whose
//! ids are `[SEP] [CLS]`, so short rows cost no more than long ones. What the cache does not know, [`Words`] works out.
//!
//! ASCII separators and punctuation are neither deleted nor composed with what is beside them, so a stretch between two
//! of them has the same ids wherever it stands: that is what makes it a key.

use std::ops::Range;
use std::sync::Mutex;

use crate::error::Result;
use crate::segment::{BLOCK, FIRST_MARK, is_separator, segment};
use crate::tokenizer::{EncodeOptions, EncodedRows, Rows, TokenId};
use crate::tokenizer_library::Library;
use crate::unicode::Profile;
use crate::wordpiece_added::AddedTokens;
use crate::wordpiece_cache::WordCache;
use crate::wordpiece_key::{KEY_BYTES, LOWER_BIT, key_of, load_key};
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
/// How many words are looked up together: while the first is looked at, the lines of the others are on their way.
const AHEAD: usize = 64;
/// Sets of the cache of a thread, as a power of two: 4 MiB.
const CACHE_BITS: u32 = 16;

/// A tokenizer of BERT's kind; `I` holds its ids.
pub struct WordPiece<I: TokenId> {
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
        let mut warm = WordCache::new(CACHE_BITS);
        warm.insert(u128::from(ROW_END), &template, ENDS_ROW);
        warm.insert(u128::from(BARE_END), &[], ENDS_ROW);
        let mut engine = Self {
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
            let key = key_of(bytes);
            if key != 0 && self.warm.has_room(key) {
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
            self.encode_text(&mut worker, out);
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

    /// Encodes the gathered text; a row ends after the ids of its mark.
    fn encode_text(&self, worker: &mut Worker<I>, out: &mut EncodedRows<I>) {
        let Worker { cache, text, starts, ends, added_ids, word, ids } = worker;
        segment(text, starts, ends);
        // Room for a key to be read past the end of the text.
        text.extend_from_slice(&[b' '; KEY_BYTES]);
        let lower_bit = if self.lowercase { LOWER_BIT } else { 0 };
        let mut added_ids = added_ids.iter();
        let mut staged = [I::default(); AHEAD * 8];
        let mut keys = [0_u128; AHEAD];
        let mut places = [0_usize; AHEAD];
        let mut row_ends = [0_usize; AHEAD + 1];
        for (starts, ends) in starts.chunks(AHEAD).zip(ends.chunks(AHEAD)) {
            for (((&start, &end), key), place) in starts.iter().zip(ends).zip(&mut keys).zip(&mut places) {
                *key = load_key(text, start as usize, (end - start) as usize, lower_bit);
                *place = cache.place(*key);
                cache.prefetch(*place);
            }
            let (mut base, mut filled, mut closed) = (out.ids.len(), 0, 0);
            for (((&start, &end), &key), &place) in starts.iter().zip(ends).zip(&keys).zip(&places) {
                if let Some(lanes) = cache.get(place, key) {
                    let values = lanes.as_ref();
                    staged[filled..filled + I::LANES].copy_from_slice(values);
                    let (count, flag) = I::unpack(lanes);
                    filled += count;
                    row_ends[closed] = base + filled;
                    closed += flag;
                    continue;
                }
                out.ids.extend_from_slice(&staged[..filled]);
                filled = 0;
                let bytes = &text[start as usize..end as usize];
                ids.clear();
                if bytes == [ADDED] {
                    ids.extend(added_ids.next());
                } else {
                    // The rows are UTF-8 and words end at ASCII or at marks.
                    let unit = std::str::from_utf8(bytes).unwrap_or_default();
                    self.words.encode(unit, word, ids);
                    if bytes.len() <= KEY_BYTES {
                        cache.insert(key, ids, 0);
                    }
                }
                out.ids.extend(ids.iter().map(|&id| I::from_u32(id)));
                base = out.ids.len();
            }
            out.ids.extend_from_slice(&staged[..filled]);
            out.ends.extend_from_slice(&row_ends[..closed]);
        }
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
