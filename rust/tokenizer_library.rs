//! Any `tokenizer.json` through the `tokenizers` crate: byte-level BPE, Unigram, and what the engine in
//! [`crate::wordpiece`] does not cover.

use std::ops::Range;
use std::sync::OnceLock;

use tokenizers::{Encoding, PostProcessor, TruncationDirection};

use crate::error::{Error, Result};
use crate::tokenizer::{EncodeOptions, EncodedRows, Rows, TokenId};

/// A tokenizer of the crate `tokenizers`, as it is and, once asked for, blind to special tokens in the text.
pub struct Library {
    tokenizer: tokenizers::Tokenizer,
    splitting: OnceLock<tokenizers::Tokenizer>,
    template_len: usize,
}

impl Library {
    /// Parses a `tokenizer.json`; its `truncation` and `padding` are taken out.
    pub fn from_json(json: &str) -> Result<Self> {
        let mut tokenizer: tokenizers::Tokenizer =
            json.parse().map_err(|error| Error::Invalid(format!("not a tokenizer.json: {error}")))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| Error::Invalid(format!("not a tokenizer.json: {error}")))?;
        let template_len = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        Ok(Self { tokenizer, splitting: OnceLock::new(), template_len })
    }

    /// The tokenizer, to read its settings.
    pub fn tokenizer(&self) -> &tokenizers::Tokenizer {
        &self.tokenizer
    }

    fn splitting(&self) -> &tokenizers::Tokenizer {
        self.splitting.get_or_init(|| {
            let mut tokenizer = self.tokenizer.clone();
            tokenizer.set_encode_special_tokens(true);
            tokenizer
        })
    }

    /// How many ids the template puts round a row.
    pub fn template_len(&self) -> usize {
        self.template_len
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab(true).values().max().map_or(0, |&largest| largest as usize + 1)
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

    /// Encodes the rows of `range` and appends them to `out`.
    pub fn encode_range<I: TokenId, R: Rows + ?Sized>(
        &self,
        rows: &R,
        range: Range<usize>,
        options: EncodeOptions,
        out: &mut EncodedRows<I>,
    ) -> Result<()> {
        let tokenizer = if options.split_special_tokens { self.splitting() } else { &self.tokenizer };
        for index in range {
            let encoding = encode(tokenizer, rows.row(index), options, self.template_len)
                .map_err(|error| Error::Invalid(format!("row {index} cannot be encoded: {error}")))?;
            out.ids.extend(encoding.get_ids().iter().map(|&id| I::from_u32(id)));
            out.ends.push(out.ids.len());
        }
        Ok(())
    }
}

fn encode(
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
