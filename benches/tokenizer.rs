//! How fast the stages of the tokeniser are: `DISTILFAST_DATA=folder cargo bench --no-default-features --bench tokenizer`.
//!
//! Reads `vocab/bert-base-uncased.tokenizer.json` and some real text from the folder. One thread; the best and the median
//! of several runs, in MB of UTF-8 a second.

#![allow(clippy::print_stdout, missing_docs)]

use std::hint::black_box;
use std::time::Instant;

use distilfast::simd::Level;
use distilfast::text::wordpiece::cache::WordCache;
use distilfast::text::wordpiece::cache::{KEY_BYTES, WordKey};
use distilfast::text::wordpiece::ids::PackedIds;
use distilfast::text::wordpiece::lookup::{WORDS_PER_BATCH, WordBatch};
use distilfast::text::wordpiece::segment::segment;
use distilfast::text::wordpiece::trie::Trie;
use distilfast::text::{EncodeOptions, EncodedRows, Tokenizer};

const RUNS: usize = 7;

fn time(name: &str, bytes: usize, mut work: impl FnMut()) {
    let mut rates: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            work();
            bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_unstable_by(f64::total_cmp);
    println!("{name:32} best {:8.0} MB/s, median {:8.0} MB/s", rates[RUNS - 1], rates[RUNS / 2]);
}

fn main() {
    let folder = std::env::var("DISTILFAST_DATA").expect("DISTILFAST_DATA names the folder of real text");
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).expect("the file is there");
    let json = read("vocab/bert-base-uncased.tokenizer.json");
    let mut text = read("enwiki2015/articles.txt");
    text.truncate((0..=32_000_000.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0));
    let documents: Vec<&str> = text.split('\n').filter(|line| !line.is_empty()).collect();
    let sentences: Vec<&str> = text.split_inclusive(". ").collect();
    let bytes = text.len();

    time("UTF-8 validation", bytes, || assert!(std::str::from_utf8(black_box(text.as_bytes())).is_ok()));
    let mut blocks: Vec<Vec<u8>> = text.as_bytes().chunks(16 << 10).map(<[u8]>::to_vec).collect();
    for block in &mut blocks {
        block.resize((block.len() / 64 + 1) * 64, b' ');
    }
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for level in Level::available() {
        time(&format!("segmentation, {level:?}"), bytes, || {
            for block in &mut blocks {
                segment(level, block, true, &mut starts, &mut ends);
                black_box(&starts);
            }
        });
    }
    let tokenizer = Tokenizer::from_json(&json).expect("the file is a tokenizer");
    stages(&tokenizer, &blocks, bytes);
    let options = EncodeOptions::default();
    for (name, rows) in [("documents", &documents), ("sentences", &sentences)] {
        println!("{name}: {} of {} bytes on average", rows.len(), bytes / rows.len());
        let mut cold: Vec<Tokenizer> =
            (0..RUNS).map(|_| Tokenizer::from_json(&json).expect("the file is a tokenizer")).collect();
        time("  encode, cold", bytes, || {
            let tokenizer = cold.pop().expect("one a run");
            black_box(tokenizer.encode_rows(rows.as_slice(), options, 1).expect("text can be encoded"));
        });
        time("  encode, warm", bytes, || {
            black_box(tokenizer.encode_rows(rows.as_slice(), options, 1).expect("text can be encoded"));
        });
    }
}

/// A text, where its words start and end, and how many there are.
type Words = (Vec<u8>, Vec<u32>, Vec<u32>, usize);

/// Words looked up in a table that holds all of them, and one by one in the trie.
fn stages(tokenizer: &Tokenizer, blocks: &[Vec<u8>], bytes: usize) {
    let tokens = tokenizer.tokens();
    let entries = tokens.iter().zip(0..).filter_map(|(token, id)| Some((token.as_ref()?.as_bytes(), id))).collect();
    let trie = Trie::new(entries).expect("a small vocabulary");
    let continuation = trie.walk(b"##");
    let pieces = |word: &[u8], ids: &mut Vec<u32>| {
        let (mut rest, mut root) = (word, Some(Trie::ROOT));
        while let Some((length, id)) = root.and_then(|root| trie.longest(root, rest)) {
            ids.push(id);
            rest = &rest[length..];
            root = continuation;
        }
    };
    let mut cache = WordCache::new();
    let mut texts: Vec<Words> = Vec::new();
    for block in blocks {
        let (mut text, mut starts, mut ends) = (block.clone(), Vec::new(), Vec::new());
        segment(Level::best(), &mut text, true, &mut starts, &mut ends);
        let count = starts.len();
        for (&start, &end) in starts.iter().zip(&ends).filter(|(start, end)| (*end - *start) as usize <= KEY_BYTES) {
            let (word, mut ids) = (&text[start as usize..end as usize], Vec::new());
            pieces(word, &mut ids);
            if let Some(packed) = PackedIds::new::<u16>(&ids, 0) {
                cache.insert(WordKey::of(word), packed);
            }
        }
        text.extend([b' '; KEY_BYTES]);
        starts.resize(count.next_multiple_of(WORDS_PER_BATCH), 0);
        ends.resize(count.next_multiple_of(WORDS_PER_BATCH), 0);
        texts.push((text, starts, ends, count));
    }
    for level in Level::available() {
        let mut batch = WordBatch::new();
        let mut each_batch = |resolve: bool| {
            let mut out = EncodedRows::<u16>::default();
            for (text, starts, ends, count) in &texts {
                let chunks = starts.as_chunks::<WORDS_PER_BATCH>().0.iter().zip(ends.as_chunks::<WORDS_PER_BATCH>().0);
                for (number, (starts, ends)) in chunks.enumerate() {
                    // SAFETY: `segment` gives positions in the text, which 16 more bytes come after.
                    unsafe { batch.prepare(level, text, starts, ends, &cache) };
                    let (mut word, words) = (0, WORDS_PER_BATCH.min(count - number * WORDS_PER_BATCH));
                    while resolve && word < words {
                        // One past what is too long for the table.
                        word = batch.resolve(level, &cache, word, words, &mut out) + 1;
                    }
                }
                out.ids.clear();
            }
            black_box(&batch);
        };
        time(&format!("keys made, {level:?}"), bytes, || each_batch(false));
        time(&format!("keys made and looked up, {level:?}"), bytes, || each_batch(true));
    }
    let mut ids = Vec::new();
    time("pieces from the trie", bytes, || {
        for (text, starts, ends, count) in &texts {
            ids.clear();
            for (&start, &end) in starts[..*count].iter().zip(ends) {
                pieces(&text[start as usize..end as usize], &mut ids);
            }
        }
    });
    let (from, mut to) = (vec![1_u16; bytes / 4], vec![0_u16; bytes / 4]);
    time("ids copied to their place", bytes, || black_box(&mut to).copy_from_slice(black_box(&from)));
}
