//! From text to batches of tokens.

mod batch;
mod tokenizer;

pub use batch::{Batch, cut, order_of, shuffled};
pub use tokenizer::Tokenizer;
