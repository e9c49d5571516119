//! The fast half of distilfast, in the order in which a line of text passes through it:
//!
//! 1. [`lines`] splits a file, [`wordpiece`] and [`tokenizer`] turn text into token ids, exact to Hugging Face's
//!    tokenizers, and [`rows`] cuts or joins them to the rows that are trained on;
//! 2. [`plan`]: the lengths of the tokenised rows to batches of a token budget, pure and seeded;
//! 3. [`mask`], [`batch`]: (plan, epoch, batch number) to masked tensors, every random draw from [`random`], a
//!    counter-based generator keyed by what is drawn;
//! 4. [`losses`]: student and teacher logits to loss and gradient, on the CPU, in one fused pass; [`dropout`]: its masks;
//!    `products`: the linear layers' matrix products, on processors with instructions for them.
//!
//! Nothing outside [`python`] knows that Python exists; [`error`] holds the one error enum.

pub mod batch;
pub mod batch_check;
pub mod batch_rows;
pub mod batch_simd;
#[cfg(test)]
mod batch_tests;
pub mod dropout;
pub mod error;
mod large_pages;
pub mod lines;
pub mod losses;
pub mod mask;
pub mod mask_bits;
pub mod mask_bounds;
mod mask_exponential;
mod mask_uniform;
mod mask_weighted;
mod mask_words;
pub mod plan;
pub mod plan_packed;
pub mod plan_padded;
pub mod plan_widths;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod products;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod products_amx;
#[cfg(feature = "python")]
pub mod python;
pub mod random;
pub mod rows;
pub mod segment;
#[cfg(target_arch = "aarch64")]
mod segment_neon;
#[cfg(target_arch = "x86_64")]
mod segment_x86;
pub mod token_id;
pub mod tokenizer;
pub mod tokenizer_library;
mod tokenizer_parallel;
pub mod unicode;
mod unicode_tables_hf_0_23;
mod unicode_tables_hf_1_0;
pub mod wordpiece;
mod wordpiece_added;
pub mod wordpiece_cache;
pub mod wordpiece_key;
mod wordpiece_long;
pub mod wordpiece_lookup;
#[cfg(target_arch = "x86_64")]
mod wordpiece_lookup_x86;
mod wordpiece_settings;
pub mod wordpiece_trie;
mod wordpiece_words;
