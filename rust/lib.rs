//! The fast half of distilfast, in the order in which a line of text passes through it:
//!
//! 1. [`text`] splits a file into lines, turns them into token ids, exact to Hugging Face's tokenizers, and cuts or joins
//!    them to the rows that are trained on;
//! 2. [`batches`]: [`batches::plan`] makes batches of a token budget from the lengths of the rows, pure and seeded, and
//!    [`batches::mask`] makes (plan, epoch, batch number) to masked tensors;
//! 3. [`losses`]: student and teacher logits to loss and gradient, on the CPU, in one fused pass;
//! 4. [`cpu`]: what else a model's step on the CPU is helped with, dropout's masks and matrix products.
//!
//! Every random draw of the batches comes from [`random`], a counter-based generator keyed by what is drawn; [`simd`] asks
//! which instructions the processor has. Nothing outside [`python`] knows that Python exists; [`error`] holds the one
//! error enum.

pub mod batches;
pub mod cpu;
pub mod error;
pub mod losses;
#[cfg(any(target_arch = "aarch64", test))]
mod neon;
#[cfg(feature = "python")]
pub mod python;
pub mod random;
pub mod simd;
pub mod text;
