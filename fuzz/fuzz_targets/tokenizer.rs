//! Any bytes as text, through our engine and through the `tokenizers` crate: no panic, no id that the vocabulary does not
//! have, and the same ids.
//!
//! The first four bytes choose the tokenizer, the options and the length to cut at; the rest is the text, a row up to
//! each 0xFF. Bytes that are not UTF-8 become U+FFFD.

#![no_main]

use std::cell::RefCell;
use std::collections::HashMap;

use distilfast::text::{EncodeOptions, Encoded, Tokenizer};
use libfuzzer_sys::fuzz_target;
use tokenizers::{Tokenizer as Library, TruncationParams};

const PIECES: &str = "a b c d e i k n s t A É é ab able the mask [ ] ! . , - # ## ' _ $ 0 1 日 本 가 ᄀ ᅡ ᆫ α ς σ ß ı \
     \u{301} \u{302e} \u{1b44} \u{9c7} \u{9be} \u{212b} \u{fb01} ing ##@";

/// Added tokens: their text, and whether they are lstrip, rstrip, single_word, normalized, special.
type Added = &'static [(&'static str, [bool; 5])];

const BERT: Added = &[
    ("[PAD]", [false, false, false, false, true]),
    ("[UNK]", [false, false, false, false, true]),
    ("[CLS]", [false, false, false, false, true]),
    ("[SEP]", [false, false, false, false, true]),
    ("[MASK]", [true, false, false, false, true]),
];
const OVERLAPPING: Added = &[
    ("[MASK]", [false, true, false, false, true]),
    ("[MASK]]", [false, false, false, false, false]),
    ("MASK", [false, false, false, false, false]),
    ("ab", [true, true, false, false, false]),
    ("b", [false, false, false, false, true]),
    ("é", [false, false, false, false, false]),
    ("日本", [false, false, false, false, true]),
    ("..", [false, false, false, false, false]),
];
const OTHER: Added = &[
    ("[MASK]", [true, false, false, true, true]),
    ("ab", [false, false, true, false, false]),
    ("Éa", [false, true, false, true, false]),
    ("a b", [false, false, false, false, false]),
];
const ADDED: [Added; 4] = [&[], BERT, OVERLAPPING, OTHER];

/// The tokenizer that the four bits of `choice` stand for, ours and the crate's.
fn build(choice: u8) -> (Tokenizer, Library) {
    let lowercase = choice & 1 == 1;
    let strip_accents = if choice >> 1 & 1 == 1 { (!lowercase).to_string() } else { "null".to_owned() };
    let set = usize::from(choice >> 2);
    let mut pieces: Vec<String> = ["[UNK]", "[CLS]", "[SEP]"].map(str::to_owned).to_vec();
    for piece in PIECES.split_whitespace() {
        pieces.extend([piece.to_owned(), format!("##{piece}")]);
    }
    if choice == 5 {
        // More than 16 bits hold.
        pieces.extend((0..70_000).map(|number| format!("filler{number}")));
    }
    let mut ids = HashMap::new();
    for piece in pieces {
        let next = ids.len();
        ids.entry(piece).or_insert(next);
    }
    let vocab: Vec<String> = ids.iter().map(|(piece, id)| format!("{}:{id}", quoted(piece))).collect();
    let mut next = ids.len();
    let mut added = Vec::new();
    for (content, [lstrip, rstrip, single_word, normalized, special]) in ADDED[set] {
        let id = ids.get(*content).copied().unwrap_or_else(|| {
            next += 1;
            next - 1
        });
        added.push(format!(
            r#"{{"id":{id},"content":{},"lstrip":{lstrip},"rstrip":{rstrip},"single_word":{single_word},"normalized":{normalized},"special":{special}}}"#,
            quoted(content)
        ));
    }
    let json = format!(
        r###"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{}],
        "normalizer":{{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":{},"strip_accents":{strip_accents},
            "lowercase":{}}},
        "pre_tokenizer":{{"type":"BertPreTokenizer"}},
        "post_processor":{{"type":"BertProcessing","sep":["[SEP]",2],"cls":["[CLS]",1]}},"decoder":null,
        "model":{{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##",
            "max_input_chars_per_word":12,"vocab":{{{}}}}}}}"###,
        added.join(","),
        choice != 6,
        lowercase,
        vocab.join(","),
    );
    let ours = Tokenizer::from_json(&json).expect("a tokenizer");
    let expected = if set == 3 { "tokenizers" } else { "wordpiece" };
    assert_eq!(ours.engine(), expected);
    (ours, json.parse().expect("a tokenizer"))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

thread_local! {
    static KNOWN: RefCell<HashMap<u8, (Tokenizer, Library)>> = RefCell::default();
}

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, options, max_length, rows_at_once], text)) = data.split_first_chunk::<4>() else { return };
    let choice = choice & 15;
    let rows: Vec<String> =
        text.split(|&byte| byte == 0xFF).map(|row| String::from_utf8_lossy(row).into_owned()).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let options = EncodeOptions {
        add_special_tokens: options & 1 == 1,
        split_special_tokens: options & 2 == 2,
        max_length: (options & 4 == 4).then_some(2 + usize::from(max_length)),
    };
    KNOWN.with_borrow_mut(|known| {
        let (ours, library) = known.entry(choice).or_insert_with(|| build(choice));
        library.set_encode_special_tokens(options.split_special_tokens);
        let truncation = options.max_length.map(|max_length| TruncationParams { max_length, ..Default::default() });
        library.with_truncation(truncation).expect("there is room");
        let expected: Vec<Vec<u32>> = rows
            .iter()
            .map(|&row| {
                library.encode_fast(row, options.add_special_tokens).expect("text can be encoded").get_ids().to_vec()
            })
            .collect();
        let mut found: Vec<Vec<u32>> = Vec::new();
        for some in rows.chunks(usize::from(rows_at_once % 8 + 1)) {
            found.extend(match ours.encode_rows(some, options, 1).expect("text can be encoded") {
                Encoded::Narrow(rows) => split(&rows.ids, &rows.ends),
                Encoded::Wide(rows) => split(&rows.ids, &rows.ends),
            });
        }
        assert!(found.iter().flatten().all(|&id| (id as usize) < ours.vocab_size()));
        assert_eq!(found, expected, "{rows:?}");
    });
});

fn split<I: Copy + Into<u32>>(ids: &[I], ends: &[usize]) -> Vec<Vec<u32>> {
    let starts = std::iter::once(&0).chain(ends);
    starts.zip(ends).map(|(&start, &end)| ids[start..end].iter().map(|&id| id.into()).collect()).collect()
}
