//! How fast the stages of the tokeniser are: `DISTILFAST_DATA=folder cargo bench --no-default-features`.
//!
//! Reads `vocab/bert-base-uncased.tokenizer.json` and some real text from the folder. One thread; the best and the median
//! of several runs, in MB of UTF-8 a second.

#![allow(clippy::print_stdout, missing_docs)]

use std::hint::black_box;
use std::time::Instant;

use distilfast::segment::{TextSimd, segment};
use distilfast::tokenizer::{EncodeOptions, Tokenizer};
use distilfast::unicode::Profile;

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
    for simd in TextSimd::available() {
        time(&format!("segmentation, {simd:?}"), bytes, || {
            for block in &mut blocks {
                segment(simd, block, true, &mut starts, &mut ends);
                black_box(&starts);
            }
        });
    }
    let tokenizer = Tokenizer::from_json(&json, Profile::Hf023).expect("the file is a tokenizer");
    let options = EncodeOptions::default();
    for (name, rows) in [("documents", &documents), ("sentences", &sentences)] {
        println!("{name}: {} of {} bytes on average", rows.len(), bytes / rows.len());
        let mut cold: Vec<Tokenizer> =
            (0..RUNS).map(|_| Tokenizer::from_json(&json, Profile::Hf023).expect("the file is a tokenizer")).collect();
        time("  encode, cold", bytes, || {
            let tokenizer = cold.pop().expect("one a run");
            black_box(tokenizer.encode_rows(rows.as_slice(), options, 1).expect("text can be encoded"));
        });
        time("  encode, warm", bytes, || {
            black_box(tokenizer.encode_rows(rows.as_slice(), options, 1).expect("text can be encoded"));
        });
    }
}
