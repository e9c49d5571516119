//! Any `tokenizer.json` through the `tokenizers` crate: byte-level BPE, Unigram, and what the engine in
//! [`crate::text::wordpiece`] does not cover.

use std::fmt::Display;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use tokenizers::{Encoding, PostProcessor, TruncationDirection};

use crate::error::{Error, Result};
use crate::text::wordpiece::ids::TokenId;
use crate::text::{EncodeOptions, EncodedRows, TextRows};

/// A tokenizer of the crate `tokenizers`, as it is and, once asked for, blind to special tokens in the text.
pub struct Library {
    tokenizer: tokenizers::Tokenizer,
    splitting: OnceLock<tokenizers::Tokenizer>,
    template_len: usize,
    vocab_size: usize,
}

impl Library {
    /// Parses a `tokenizer.json`; its `truncation` and `padding` are taken out.
    pub fn from_json(json: &str) -> Result<Self> {
        let mut tokenizer: tokenizers::Tokenizer =
            json.parse().map_err(|error| Error::Invalid(format!("not a tokenizer.json: {error}")))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| Error::Invalid(format!("not a tokenizer.json: {error}")))?;
        let template_len = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        let vocab_size = tokenizer.get_vocab(true).values().max().map_or(0, |&largest| largest as usize + 1);
        let library = Self { tokenizer, splitting: OnceLock::new(), template_len, vocab_size };
        library.check_template()?;
        Ok(library)
    }

    /// Refuses a template with an id that no token has, for which there may be no room in an id.
    fn check_template(&self) -> Result<()> {
        let row = self.tokenizer.post_process(Encoding::default(), None, true);
        let row = row.map_err(|error| Error::Invalid(format!("the post_processor fails: {error}")))?;
        let vocab_size = self.vocab_size;
        match row.get_ids().iter().find(|&&id| id as usize >= vocab_size) {
            Some(id) => {
                Err(Error::Invalid(format!("the post_processor adds the id {id}; the vocabulary has {vocab_size} ids")))
            }
            None => Ok(()),
        }
    }

    /// The tokenizer, to read its settings.
    pub fn tokenizer(&self) -> &tokenizers::Tokenizer {
        &self.tokenizer
    }

    fn splitting(&self) -> &tokenizers::Tokenizer {
        if self.splitting.get().is_none() {
            // Made before it is put in its place, not while: a child forked meanwhile, in which this thread is no more,
            // would wait for ever for it to be done.
            let mut tokenizer = self.tokenizer.clone();
            tokenizer.set_encode_special_tokens(true);
            _ = self.splitting.set(tokenizer);
        }
        self.splitting.get().unwrap_or(&self.tokenizer)
    }

    /// How many ids the template puts round a row.
    pub fn template_len(&self) -> usize {
        self.template_len
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a token, special or not.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The token of each id; `None` where an id has none.
    pub fn tokens(&self) -> Vec<Option<String>> {
        let mut tokens = vec![None; self.vocab_size()];
        for (token, id) in self.tokenizer.get_vocab(true) {
            tokens[id as usize] = Some(token);
        }
        tokens
    }

    /// The ids of the special tokens, ascending.
    pub fn special_ids(&self) -> Vec<u32> {
        let added = self.tokenizer.get_added_tokens_decoder();
        let mut ids: Vec<u32> = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// The `tokenizer.json` as the crate writes it.
    pub fn to_json(&self) -> Result<String> {
        self.tokenizer.to_string(true).map_err(|error| Error::Invalid(format!("cannot be written as JSON: {error}")))
    }

    /// What encodes the rows of a range and appends them to what it is given.
    pub fn encoder<'a, I: TokenId, R: TextRows + ?Sized>(
        &'a self,
        rows: &'a R,
        options: EncodeOptions,
    ) -> impl FnMut(Range<usize>, &mut EncodedRows<I>) -> Result<()> + 'a {
        let tokenizer = if options.split_special_tokens { self.splitting() } else { &self.tokenizer };
        move |range, out| {
            rows.check(range.clone())?;
            for index in range {
                let refused = |error: &dyn Display| Error::Invalid(format!("row {index} cannot be encoded: {error}"));
                let text = std::str::from_utf8(rows.row(index)).map_err(|error| refused(&error))?;
                let encoding = encode(tokenizer, text, options, self.template_len).map_err(|error| refused(&error))?;
                out.ids.extend(encoding.get_ids().iter().map(|&id| I::from_u32(id)));
                out.ends.push(out.ids.len());
            }
            Ok(())
        }
    }
}

/// What panics in the crate, as added tokens that are normalised to nothing can, is an error.
fn encode(
    tokenizer: &tokenizers::Tokenizer,
    text: &str,
    options: EncodeOptions,
    template_len: usize,
) -> tokenizers::Result<Encoding> {
    // A tokenizer holds caches behind locks that a panic poisons, and nothing else that it could leave half done.
    catch_unwind(AssertUnwindSafe(|| encode_or_panic(tokenizer, text, options, template_len)))
        .unwrap_or_else(|_| Err("the crate tokenizers panicked".into()))
}

fn encode_or_panic(
    tokenizer: &tokenizers::Tokenizer,
    text: &str,
    options: EncodeOptions,
    template_len: usize,
) -> tokenizers::Result<Encoding> {
    let Some(max_length) = options.max_length else {
        return tokenizer.encode_fast(text, options.add_special_tokens);
    };
    let mut encoding = tokenizer.encode_fast(text, false)?;
    let room = if options.add_special_tokens { max_length - template_len } else { max_length };
    encoding.truncate(room, 0, TruncationDirection::Right);
    tokenizer.post_process(encoding, None, options.add_special_tokens)
}
