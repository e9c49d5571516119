//! What the engine needs to know of a `tokenizer.json`, or that it cannot do what the file asks for.

use tokenizers::models::ModelWrapper;
use tokenizers::{Encoding, Model, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Token, Tokenizer};

use crate::text::unicode::{Normalizer, NormalizerSettings};
use crate::text::wordpiece::words::WordEncoder;

/// The settings of a tokenizer of BERT's kind.
pub struct WordPieceSettings {
    /// Vocabulary and normaliser.
    pub words: WordEncoder,
    /// The vocabulary with its ids.
    pub tokens: Vec<(String, u32)>,
    /// Whether text is lower-cased.
    pub lowercase: bool,
    /// What the template puts before a row.
    pub prefix: Vec<u32>,
    /// What the template puts after a row.
    pub suffix: Vec<u32>,
}

impl WordPieceSettings {
    /// Reads the settings; `None` where one is of another kind or has a value that the engine does not cover.
    pub fn read(tokenizer: &Tokenizer) -> Option<Self> {
        let Some(NormalizerWrapper::BertNormalizer(normalizer)) = tokenizer.get_normalizer() else { return None };
        let Some(PreTokenizerWrapper::BertPreTokenizer(_)) = tokenizer.get_pre_tokenizer() else { return None };
        let ModelWrapper::WordPiece(model) = tokenizer.get_model() else { return None };
        if !normalizer.clean_text {
            return None;
        }
        let settings = NormalizerSettings {
            handle_chinese_chars: normalizer.handle_chinese_chars,
            strip_accents: normalizer.strip_accents.unwrap_or(normalizer.lowercase),
            lowercase: normalizer.lowercase,
        };
        let tokens: Vec<(String, u32)> = model.get_vocab().into_iter().collect();
        let unk_id = model.token_to_id(&model.unk_token)?;
        let words = WordEncoder::new(
            Normalizer::new(settings),
            &tokens,
            &model.continuing_subword_prefix,
            unk_id,
            model.max_input_chars_per_word,
        )?;
        let (prefix, suffix) = template(tokenizer)?;
        Some(Self { words, tokens, lowercase: normalizer.lowercase, prefix, suffix })
    }
}

/// What the template puts before and after a row; found by giving it a row of one id that no vocabulary has.
fn template(tokenizer: &Tokenizer) -> Option<(Vec<u32>, Vec<u32>)> {
    const TEXT: u32 = u32::MAX;
    match tokenizer.get_post_processor() {
        None | Some(PostProcessorWrapper::Bert(_) | PostProcessorWrapper::Template(_)) => {}
        Some(_) => return None,
    }
    let row = Encoding::from_tokens(vec![Token::new(TEXT, String::new(), (0, 0))], 0);
    let ids = tokenizer.post_process(row, None, true).ok()?.get_ids().to_vec();
    let mut parts = ids.split(|&id| id == TEXT);
    let (prefix, suffix, third) = (parts.next()?, parts.next()?, parts.next());
    third.is_none().then(|| (prefix.to_vec(), suffix.to_vec()))
}
