//! What `BertNormalizer` and `BertPreTokenizer` do to each character, as tables.
//!
//! Hugging Face's tables mix Unicode versions and change between releases; ours are generated from what `tokenizers` 0.23
//! was seen to do, which is what 0.20 and later do. [`Normalizer`] holds two forms of the same thing: [`Normalizer::words_by_definition`], step by step as
//! Hugging Face does it, and [`Normalizer::class`], one look-up for what all steps together make of a character; only
//! texts with a combining mark that is kept, whose order can change, need the first.

use crate::text::unicode_tables as tables;

type Spans = &'static [(u32, u32)];
type Mapping = &'static [(u32, &'static str)];

/// The settings of a `BertNormalizer` whose `clean_text` is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormalizerSettings {
    /// Whether Chinese characters are words of their own.
    pub handle_chinese_chars: bool,
    /// Whether accents are taken off.
    pub strip_accents: bool,
    /// Whether letters are lower-cased.
    pub lowercase: bool,
}

/// What becomes of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CharacterClass {
    /// Part of a word, as this character.
    Word(char),
    /// Nothing; its neighbours join.
    Deleted,
    /// The end of a word.
    Space,
    /// A word of its own, as this character.
    Alone(char),
    /// Several characters, see [`Normalizer::expansion`].
    Several(u32),
    /// A Hangul syllable that falls apart into letters, see [`hangul`].
    Hangul,
    /// A combining mark that is kept and may have to change places with its neighbours.
    Mark,
}

const CHARACTERS_PER_BLOCK: usize = 128;
const KIND_SHIFT: u32 = 24;
const PAYLOAD: u32 = (1 << KIND_SHIFT) - 1;

// The kinds of an entry of the look-up table, in its upper byte. The payload is a character or the number of an
// expansion; 0, which is no character that a text keeps, means the character itself, so that plain blocks are all alike.
const WORD: u32 = 0;
const DELETED: u32 = 1;
const SPACE: u32 = 2;
const ALONE: u32 = 3;
const SEVERAL: u32 = 4;
const HANGUL: u32 = 5;
const MARK: u32 = 6;

/// The tables under given settings.
#[derive(Debug)]
pub struct Normalizer {
    settings: NormalizerSettings,
    blocks: Vec<[u32; CHARACTERS_PER_BLOCK]>,
    index: Vec<u16>,
    expansions: Vec<String>,
}

impl Normalizer {
    /// Builds the look-up table.
    pub fn new(settings: NormalizerSettings) -> Self {
        let mut normalizer = Self { settings, blocks: Vec::new(), index: Vec::new(), expansions: Vec::new() };
        let mut flat = vec![0_u32; 0x11_0000];
        normalizer.fill(&mut flat);
        let mut known = std::collections::HashMap::new();
        for block in flat.as_chunks::<CHARACTERS_PER_BLOCK>().0 {
            let number = *known.entry(block).or_insert_with(|| {
                normalizer.blocks.push(*block);
                normalizer.blocks.len() as u16 - 1
            });
            normalizer.index.push(number);
        }
        normalizer
    }

    fn fill(&mut self, flat: &mut [u32]) {
        let NormalizerSettings { handle_chinese_chars, strip_accents, lowercase } = self.settings;
        for &(first, last) in tables::PUNCTUATION {
            flat[first as usize..=last as usize].fill(ALONE << KIND_SHIFT);
        }
        if handle_chinese_chars {
            for &(first, last) in tables::CHINESE {
                flat[first as usize..=last as usize].fill(ALONE << KIND_SHIFT);
            }
        }
        let mut changed: Vec<u32> = Vec::new();
        if strip_accents {
            flat[0xAC00..=0xD7A3].fill(HANGUL << KIND_SHIFT);
            changed.extend(tables::STRIPPED.iter().map(|&(code, _)| code));
        }
        if lowercase {
            changed.extend(tables::LOWER.iter().map(|&(code, _)| code));
        }
        for code in changed {
            let Some(char) = char::from_u32(code) else { continue };
            flat[code as usize] = self.entry(char);
        }
        if strip_accents {
            for &(code, _) in tables::COMBINING_CLASSES {
                if flat[code as usize] >> KIND_SHIFT == WORD {
                    flat[code as usize] = MARK << KIND_SHIFT;
                }
            }
        }
        for &(first, last) in tables::SPACES {
            flat[first as usize..=last as usize].fill(SPACE << KIND_SHIFT);
        }
        for &(first, last) in tables::DELETED {
            flat[first as usize..=last as usize].fill(DELETED << KIND_SHIFT);
        }
    }

    /// The entry of a character that is neither deleted by `clean_text` nor a space.
    fn entry(&mut self, char: char) -> u32 {
        let alone = self.settings.handle_chinese_chars && within(tables::CHINESE, char);
        let result: String = self.stripped(char).iter().flat_map(|&kept| self.lowered(kept)).collect();
        let mut chars = result.chars();
        match (chars.next(), chars.next()) {
            (None, _) => DELETED << KIND_SHIFT,
            (Some(only), None) => {
                let kind = if alone || within(tables::PUNCTUATION, only) { ALONE } else { WORD };
                kind << KIND_SHIFT | only as u32
            }
            _ => {
                self.expansions.push(result);
                SEVERAL << KIND_SHIFT | (self.expansions.len() as u32 - 1)
            }
        }
    }

    /// What becomes of a character.
    #[inline]
    pub fn class(&self, char: char) -> CharacterClass {
        let code = char as usize;
        let entry = self.blocks[self.index[code / CHARACTERS_PER_BLOCK] as usize][code % CHARACTERS_PER_BLOCK];
        let payload = entry & PAYLOAD;
        let itself = if payload == 0 { char } else { char::from_u32(payload).unwrap_or(char) };
        match entry >> KIND_SHIFT {
            WORD => CharacterClass::Word(itself),
            DELETED => CharacterClass::Deleted,
            SPACE => CharacterClass::Space,
            ALONE => CharacterClass::Alone(itself),
            SEVERAL => CharacterClass::Several(payload),
            HANGUL => CharacterClass::Hangul,
            _ => CharacterClass::Mark,
        }
    }

    /// Whether a character is part of a word and stays as it is.
    #[inline]
    pub fn stays(&self, char: char) -> bool {
        let code = char as usize;
        self.blocks[self.index[code / CHARACTERS_PER_BLOCK] as usize][code % CHARACTERS_PER_BLOCK] == WORD << KIND_SHIFT
    }

    /// The characters, all of them of words or punctuation, that [`CharacterClass::Several`] stands for.
    pub fn expansion(&self, number: u32) -> &str {
        &self.expansions[number as usize]
    }

    /// Whether a normalised character is a word of its own.
    pub fn is_punctuation(&self, char: char) -> bool {
        within(tables::PUNCTUATION, char)
    }

    /// The normalised words of a text: every step of `BertNormalizer` and `BertPreTokenizer`, one after the other.
    pub fn words_by_definition(&self, text: &str, mut word: impl FnMut(&str)) {
        let normalized = self.normalize(text);
        for chunk in normalized.split(|char: char| char.is_whitespace()).filter(|chunk| !chunk.is_empty()) {
            let mut rest = chunk;
            while let Some(position) = rest.find(|char| self.is_punctuation(char)) {
                if position > 0 {
                    word(&rest[..position]);
                }
                let after = position + rest[position..].chars().next().map_or(0, char::len_utf8);
                word(&rest[position..after]);
                rest = &rest[after..];
            }
            if !rest.is_empty() {
                word(rest);
            }
        }
    }

    /// A text as `BertNormalizer` leaves it.
    pub fn normalize(&self, text: &str) -> String {
        let mut chars: Vec<char> = Vec::with_capacity(text.len());
        for char in text.chars().filter(|&char| !within(tables::DELETED, char)) {
            if within(tables::SPACES, char) {
                chars.push(' ');
            } else if self.settings.handle_chinese_chars && within(tables::CHINESE, char) {
                chars.extend([' ', char, ' ']);
            } else {
                chars.push(char);
            }
        }
        if self.settings.strip_accents {
            chars = self.decompose_and_strip(&chars);
        }
        if self.settings.lowercase {
            return chars.iter().flat_map(|&char| self.lowered(char)).collect();
        }
        chars.iter().collect()
    }

    /// Canonical decomposition, canonical order, and the marks taken out.
    fn decompose_and_strip(&self, chars: &[char]) -> Vec<char> {
        let mut kept: Vec<char> = Vec::with_capacity(chars.len());
        // Marks since the last starter, with their classes; a stable sort by class is the canonical order. A mark that
        // is taken out leaves the order of the others alone, unless it is a starter: then nothing moves across it.
        let mut marks: Vec<(u8, char)> = Vec::new();
        let flush = |kept: &mut Vec<char>, marks: &mut Vec<(u8, char)>| {
            marks.sort_by_key(|&(class, _)| class);
            kept.extend(marks.drain(..).map(|(_, char)| char));
        };
        for &char in chars {
            let result = self.stripped(char);
            if result.is_empty() && combining_class(char) == 0 {
                flush(&mut kept, &mut marks);
            }
            for char in result {
                match combining_class(char) {
                    0 => {
                        flush(&mut kept, &mut marks);
                        kept.push(char);
                    }
                    class => marks.push((class, char)),
                }
            }
        }
        flush(&mut kept, &mut marks);
        kept
    }

    fn stripped(&self, char: char) -> Vec<char> {
        if !self.settings.strip_accents {
            return vec![char];
        }
        if let Some((letters, count)) = hangul(char) {
            return letters[..count].to_vec();
        }
        map(tables::STRIPPED, char).map_or_else(|| vec![char], |result| result.chars().collect())
    }

    fn lowered(&self, char: char) -> Vec<char> {
        if !self.settings.lowercase {
            return vec![char];
        }
        map(tables::LOWER, char).map_or_else(|| vec![char], |result| result.chars().collect())
    }
}

/// The two or three letters of a Hangul syllable (The Unicode Standard, section 3.12).
pub fn hangul(char: char) -> Option<([char; 3], usize)> {
    let index = (char as u32).checked_sub(0xAC00).filter(|&index| index < 11_172)?;
    let letter = |base: u32, offset: u32| char::from_u32(base + offset);
    let (lead, vowel, tail) = (index / 588, index % 588 / 28, index % 28);
    let letters = [letter(0x1100, lead)?, letter(0x1161, vowel)?, letter(0x11A7, tail)?];
    Some((letters, if tail == 0 { 2 } else { 3 }))
}

fn combining_class(char: char) -> u8 {
    let table = tables::COMBINING_CLASSES;
    table.binary_search_by_key(&(char as u32), |&(code, _)| code).map_or(0, |place| table[place].1)
}

fn within(spans: Spans, char: char) -> bool {
    let code = char as u32;
    let after = spans.partition_point(|&(first, _)| first <= code);
    after > 0 && spans[after - 1].1 >= code
}

fn map(mapping: Mapping, char: char) -> Option<&'static str> {
    mapping.binary_search_by_key(&(char as u32), |&(code, _)| code).ok().map(|place| mapping[place].1)
}
