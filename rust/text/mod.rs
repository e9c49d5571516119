//! Rows of text to rows of token ids: one face over the engines.
//!
//! Rows come as anything that is [`TextRows`]; [`crate::text::parallel`] divides them among threads.

pub mod encoded;
pub mod library;
pub mod lines;
mod parallel;
pub mod rows;
pub mod unicode;
mod unicode_tables;
pub mod wordpiece;

pub use encoded::{EncodeOptions, Encoded, EncodedRows, TextRows};

use std::sync::OnceLock;

use crate::error::{Error, Result};
use crate::simd::Level;
use crate::text::library::Library;
use crate::text::wordpiece::WordPiece;

/// A tokenizer file, ready to encode.
pub struct Tokenizer {
    library: Library,
    engine: Engine,
    vocab_size: usize,
    template_len: usize,
}

/// What does the work.
enum Engine {
    Narrow(WordPiece<u16>),
    Wide(WordPiece<u32>),
    Library,
}

impl Tokenizer {
    /// The tokenizer that a `tokenizer.json` describes, exact to `tokenizers` 0.20 to 0.23.
    ///
    /// Its `truncation` and `padding` blocks are not applied.
    pub fn from_json(json: &str) -> Result<Self> {
        let library = Library::from_json(json)?;
        let vocab_size = library.vocab_size();
        // Forms for AVX-512 were measured: no faster than those for AVX2.
        let level = match Level::chosen()? {
            Level::Avx512 => Level::Avx2,
            other => other,
        };
        let engine = if vocab_size <= 1 << 16 {
            WordPiece::new(&library, level).map(Engine::Narrow)
        } else {
            WordPiece::new(&library, level).map(Engine::Wide)
        };
        let engine = engine.unwrap_or(Engine::Library);
        let template_len = match &engine {
            Engine::Narrow(words) => words.template_len(),
            Engine::Wide(words) => words.template_len(),
            Engine::Library => library.template_len(),
        };
        Ok(Self { library, engine, vocab_size, template_len })
    }

    /// The number of ids: one more than the largest.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
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
        match self.engine {
            Engine::Narrow(_) | Engine::Wide(_) => "wordpiece",
            Engine::Library => "tokenizers",
        }
    }

    /// The instructions that words are found and looked up with; `None` where the `tokenizers` crate does that.
    pub fn level(&self) -> Option<Level> {
        match &self.engine {
            Engine::Narrow(words) => Some(words.level()),
            Engine::Wide(words) => Some(words.level()),
            Engine::Library => None,
        }
    }

    /// Encodes one text.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
        Ok(match self.encode_rows([text].as_slice(), options, 1)? {
            Encoded::Narrow(rows) => rows.ids.into_iter().map(u32::from).collect(),
            Encoded::Wide(rows) => rows.ids,
        })
    }

    /// Encodes all rows with at most `threads` threads, in order.
    pub fn encode_rows<R: TextRows + ?Sized>(
        &self,
        rows: &R,
        options: EncodeOptions,
        threads: usize,
    ) -> Result<Encoded> {
        let template = if options.add_special_tokens { self.template_len } else { 0 };
        if let Some(length) = options.max_length.filter(|&length| length < template.max(1)) {
            return Err(Error::Invalid(format!(
                "max_length={length} leaves no room for the {template} special tokens of a row; raise it"
            )));
        }
        match &self.engine {
            Engine::Narrow(words) => {
                parallel::encode(rows, threads, || words.encoder(rows, options)).map(Encoded::Narrow)
            }
            Engine::Wide(words) => parallel::encode(rows, threads, || words.encoder(rows, options)).map(Encoded::Wide),
            Engine::Library if self.vocab_size <= 1 << 16 => {
                parallel::encode(rows, threads, || self.library.encoder(rows, options)).map(Encoded::Narrow)
            }
            Engine::Library => {
                parallel::encode(rows, threads, || self.library.encoder(rows, options)).map(Encoded::Wide)
            }
        }
    }
}

/// The threads to use where the caller names none: `RAYON_NUM_THREADS`, else one for each core.
pub fn default_threads() -> usize {
    // The system takes its time to count the cores.
    static CORES: OnceLock<usize> = OnceLock::new();
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|value| value.parse().ok()).filter(|&count| count > 0);
    asked.unwrap_or_else(|| *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIECES: &str = "a b c ab ##a ##b ##c ##bc . , [ ] mask ! é ##é 日 ##日 ᄀ ##ᅡ ς ß 〮 ##〮 ㅋ - 0 ##1";

    fn tokenizer(lowercase: bool) -> Tokenizer {
        let pieces = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"].into_iter().chain(PIECES.split(' '));
        let vocab: Vec<String> = pieces.zip(0..).map(|(piece, id)| format!(r#""{piece}":{id}"#)).collect();
        let vocab = vocab.join(",");
        let flags = r#""single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true"#;
        let json = format!(
            r#"{{"version":"1.0","truncation":null,"padding":null,
            "added_tokens":[{{"id":3,"content":"[MASK]",{flags}}},{{"id":2,"content":"[SEP]",{flags}}}],
            "normalizer":{{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,
                "strip_accents":null,"lowercase":{lowercase}}},
            "pre_tokenizer":{{"type":"BertPreTokenizer"}},
            "post_processor":{{"type":"BertProcessing","sep":["[SEP]",2],"cls":["[CLS]",1]}},"decoder":null,
            "model":{{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"\u0023#",
                "max_input_chars_per_word":12,"vocab":{{{vocab}}}}}}}"#
        );
        Tokenizer::from_json(&json).expect("a tokenizer")
    }

    proptest! {
        /// The engine against the library, row for row, one call after another with the same caches.
        #[test]
        fn engine_is_the_library(
            texts in prop::collection::vec("(\\PC|[abcA-C .,é日가\u{302e}\u{1b44}\u{301}\u{b}\u{ad}]|\\[MASK\\]){0,60}", 1..20),
            add_special_tokens: bool,
            split_special_tokens: bool,
            lowercase: bool,
            max_length in prop::option::of(2_usize..30),
        ) {
            let tokenizer = tokenizer(lowercase);
            prop_assert_eq!(tokenizer.engine(), "wordpiece");
            let rows: Vec<&str> = texts.iter().map(String::as_str).collect();
            let options = EncodeOptions { add_special_tokens, max_length, split_special_tokens };
            let mut expected = EncodedRows::<u16>::default();
            tokenizer.library.encoder(rows.as_slice(), options)(0..rows.len(), &mut expected)?;
            let Encoded::Narrow(found) = tokenizer.encode_rows(rows.as_slice(), options, 2)? else { panic!("a small vocabulary") };
            prop_assert_eq!(found.ids, expected.ids);
            prop_assert_eq!(found.ends, expected.ends);
        }
    }

    #[test]
    fn chunks_are_joined_in_order() {
        let rows: Vec<String> = (0..40).map(|number| "ab ".repeat(number * 2000)).collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        let tokenizer = tokenizer(true);
        let encode = |threads| match tokenizer.encode_rows(rows.as_slice(), EncodeOptions::default(), threads) {
            Ok(Encoded::Narrow(rows)) => (rows.ids, rows.ends),
            _ => panic!("a small vocabulary"),
        };
        let one = encode(1);
        assert_eq!(one.1[1], 2 + 4000 / 2 + 2);
        assert_eq!(encode(3), one);
    }
}
