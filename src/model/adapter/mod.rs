//! Adapters: a method that puts small trainable weights into a frozen model. The method here is the bottleneck of the `adapters` library.
//!
//! Whatever the method, a model and its files ask the same questions, and each has one file that answers it:
//!
//! | Question | Answered by |
//! |---|---|
//! | What can be chosen, and does it fit the model? | [`AdapterConfig`] (`config.rs`); `presets.rs` names the usual choices |
//! | Which weights does a layer get, and what are they called in memory and on disk? | [`AdapterConfig::parameters`], `tensors.rs` |
//! | How do they start? | `start.rs` |
//! | Where do they stand in a block, and what do they compute? | `graft.rs`, which the decoder's page calls |
//! | How is it written as a string, and as JSON? | `text.rs`, `json.rs`, both through the table of `keys.rs` |
//! | What is in a saved directory? | [`SavedAdapter`] (`files.rs`) |

mod config;
mod files;
pub(super) mod graft;
mod json;
mod keys;
mod presets;
mod start;
mod tensors;
mod text;

pub use config::{ATTENTION_PLACE, AdapterConfig, FFN_PLACE, Init, Scaling, Width};
pub(crate) use files::BASE_FILE;
pub use files::{SavedAdapter, read_adapter, write_adapter};
pub(crate) use presets::nearest;
pub use tensors::is_adapter;
pub(super) use tensors::{end_of, name_in_memory};
