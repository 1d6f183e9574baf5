//! From text to batches of tokens.

mod batch;
mod batches;
mod chat;
mod data;
mod masking;
mod task;
mod tokenizer;
mod train_tokenizer;

pub use batch::{Batch, IGNORED, Sequence, cut, order_of, round_length, shuffled};
pub use batches::{Batches, Position};
pub use chat::{ChatTemplate, Message};
pub use data::{DataOptions, Dataset, STANDARD_INPUT, Splits};
pub use masking::Masking;
pub use task::{Labels, Task, TaskKind};
pub use tokenizer::{Decoder, Encoded, Tokenizer};
pub use train_tokenizer::LARGEST_VOCABULARY;
