//! Added tokens written in the text: `[MASK]` and its like are found before anything else is done to the text.

use tokenizers::Tokenizer;

use crate::text::wordpiece::segment::ADDED;

#[derive(Clone, Debug)]
struct Added {
    content: Vec<u8>,
    id: u32,
    special: bool,
}

/// The added tokens, the longest first.
#[derive(Clone, Debug)]
pub struct AddedTokens {
    tokens: Vec<Added>,
    first_bytes: Vec<u8>,
}

impl AddedTokens {
    /// The added tokens of a tokenizer; `None` where one is looked for in another way than letter by letter in the raw
    /// text, or could run over a separator.
    ///
    /// `lstrip` and `rstrip` only take in white space, which gives no ids anyhow.
    pub fn new(tokenizer: &Tokenizer) -> Option<Self> {
        let mut tokens = Vec::new();
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            if token.normalized || token.single_word || token.content.contains(char::is_whitespace) {
                return None;
            }
            tokens.push(Added { content: token.content.clone().into_bytes(), id, special: token.special });
        }
        tokens.sort_unstable_by(|a, b| (b.content.len(), &b.content).cmp(&(a.content.len(), &a.content)));
        let mut first_bytes: Vec<u8> = tokens.iter().filter_map(|token| token.content.first().copied()).collect();
        first_bytes.sort_unstable();
        first_bytes.dedup();
        Some(Self { tokens, first_bytes })
    }

    /// Puts the mark [`ADDED`] and separators in the place of every added token in `text`, from left to right and the
    /// longest first, and their ids into `ids`. With `split_special`, special tokens are text and stay.
    pub fn mark(&self, text: &mut [u8], ids: &mut Vec<u32>, split_special: bool) {
        let mut from = 0;
        while let Some(place) = self.find_first_byte(&text[from..]) {
            let start = from + place;
            let Some(token) = self.tokens.iter().find(|token| text[start..].starts_with(&token.content)) else {
                from = start + 1;
                continue;
            };
            from = start + token.content.len();
            if token.special && split_special {
                continue;
            }
            text[start..from].fill(b' ');
            text[start] = ADDED;
            ids.push(token.id);
        }
    }

    fn find_first_byte(&self, text: &[u8]) -> Option<usize> {
        match *self.first_bytes {
            [] => None,
            [one] => memchr::memchr(one, text),
            [one, two] => memchr::memchr2(one, two, text),
            [one, two, three] => memchr::memchr3(one, two, three, text),
            ref more => text.iter().position(|byte| more.contains(byte)),
        }
    }
}
