//! Adapters: small trainable weights inserted into a frozen model. The method here is the bottleneck adapter of the `adapters` library.
//!
//! Every method has to answer the same questions, each in its own file:
//!
//! | Question | Answered by |
//! |---|---|
//! | What can be configured, and does it fit the model? | [`AdapterConfig`] (`config.rs`); `presets.rs` names the usual choices |
//! | Which weights does a layer get, and what are they called in memory and on disk? | [`AdapterConfig::parameters`], `tensors.rs` |
//! | How are they initialised? | `start.rs` |
//! | Where in a block are they inserted, and what do they compute? | `graft.rs`, called by the decoder |
//! | How is the configuration written as a string and as JSON? | `text.rs`, `json.rs`, both through the table in `keys.rs` |
//! | What does a saved directory contain? | [`SavedAdapter`] (`files.rs`) |

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
pub use files::{MADE_ON, SavedAdapter, read_adapter, write_adapter};
pub use tensors::is_adapter;
pub(super) use tensors::{end_of, name_in_memory};
