//! The ids of one stretch of text without separators: normalised, split into words, and each word into pieces.

use crate::text::unicode::{CharacterClass, Normalizer, hangul};
use crate::text::wordpiece::trie::Trie;

/// Vocabulary and normaliser: all that decides the ids of a word.
#[derive(Debug)]
pub struct WordEncoder {
    normalizer: Normalizer,
    trie: Trie,
    /// Where the pieces that continue a word begin: the node of `##`, if there are any.
    continuation: Option<u32>,
    unk_id: u32,
    max_chars: usize,
}

/// A word that is being put together.
#[derive(Debug, Default)]
pub struct WordScratch {
    bytes: Vec<u8>,
    chars: usize,
}

impl WordScratch {
    fn push(&mut self, char: char) {
        let mut buffer = [0; 4];
        self.bytes.extend_from_slice(char.encode_utf8(&mut buffer).as_bytes());
        self.chars += 1;
    }
}

impl WordEncoder {
    /// `tokens`: the vocabulary with its ids; `prefix`: what marks a piece that continues a word; `max_chars`: the
    /// length above which a word is unknown.
    ///
    /// `None` for a vocabulary that is too large.
    pub fn new(
        normalizer: Normalizer,
        tokens: &[(String, u32)],
        prefix: &str,
        unk_id: u32,
        max_chars: usize,
    ) -> Option<Self> {
        let trie = Trie::new(tokens.iter().map(|(token, id)| (token.as_bytes(), *id)).collect())?;
        let continuation = trie.walk(prefix.as_bytes());
        Some(Self { normalizer, trie, continuation, unk_id, max_chars })
    }

    /// Appends the ids of `text`, a stretch without ASCII separators and punctuation (or one mark of punctuation).
    pub fn encode(&self, text: &str, word: &mut WordScratch, ids: &mut Vec<u32>) {
        // Most words stay as they are, and many have a long beginning that does.
        let mut kept = 0;
        let Some((changed, _)) =
            text.char_indices().inspect(|_| kept += 1).find(|&(_, char)| !self.normalizer.stays(char))
        else {
            self.pieces(text.as_bytes(), kept, ids);
            return;
        };
        let before = ids.len();
        word.bytes.extend_from_slice(&text.as_bytes()[..changed]);
        word.chars = kept - 1;
        for char in text[changed..].chars() {
            match self.normalizer.class(char) {
                CharacterClass::Word(char) => word.push(char),
                CharacterClass::Deleted => {}
                CharacterClass::Space => self.finish(word, ids),
                CharacterClass::Alone(char) => self.alone(char, word, ids),
                CharacterClass::Several(number) => {
                    for char in self.normalizer.expansion(number).chars() {
                        if self.normalizer.is_punctuation(char) {
                            self.alone(char, word, ids);
                        } else {
                            word.push(char);
                        }
                    }
                }
                CharacterClass::Hangul => {
                    if let Some((letters, count)) = hangul(char) {
                        letters[..count].iter().for_each(|&letter| word.push(letter));
                    }
                }
                CharacterClass::Mark => {
                    ids.truncate(before);
                    word.bytes.clear();
                    word.chars = 0;
                    self.encode_by_definition(text, ids);
                    return;
                }
            }
        }
        self.finish(word, ids);
    }

    /// [`Self::encode`] for any text, step by step.
    pub fn encode_by_definition(&self, text: &str, ids: &mut Vec<u32>) {
        self.normalizer.words_by_definition(text, |word| self.pieces(word.as_bytes(), word.chars().count(), ids));
    }

    fn alone(&self, char: char, word: &mut WordScratch, ids: &mut Vec<u32>) {
        self.finish(word, ids);
        word.push(char);
        self.finish(word, ids);
    }

    fn finish(&self, word: &mut WordScratch, ids: &mut Vec<u32>) {
        if word.chars > 0 {
            self.pieces(&word.bytes, word.chars, ids);
            word.bytes.clear();
            word.chars = 0;
        }
    }

    /// Appends the pieces of a normalised word, the longest first; the unknown token where it has none or is too long.
    fn pieces(&self, word: &[u8], chars: usize, ids: &mut Vec<u32>) {
        if chars > self.max_chars {
            ids.push(self.unk_id);
            return;
        }
        let before = ids.len();
        let mut rest = word;
        let mut root = Some(Trie::ROOT);
        while !rest.is_empty() {
            let Some((length, id)) = root.and_then(|root| self.trie.longest(root, rest)) else {
                ids.truncate(before);
                ids.push(self.unk_id);
                return;
            };
            ids.push(id);
            rest = &rest[length..];
            root = self.continuation;
        }
    }
}
