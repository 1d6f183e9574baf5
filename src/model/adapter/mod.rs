//! Adapters: small trainable weights inserted into a frozen model. The methods are the bottleneck adapter of the `adapters` library, in this
//! directory, and the LoRA of PEFT, in `lora/`.
//!
//! Every method has to answer the same questions, each in its own file:
//!
//! | Question | Bottleneck | LoRA |
//! |---|---|---|
//! | What can be configured, and does it fit the model? | [`BottleneckConfig`] (`config.rs`); `presets.rs` names the usual choices | [`LoraConfig`] (`lora/config.rs`, `lora/targets.rs`) |
//! | Which weights does a layer get, and what are they called in memory and on disk? | [`BottleneckConfig::parameters`], `tensors.rs` | `lora/tensors.rs` |
//! | How are they initialised? | `start.rs` | `lora/tensors.rs` |
//! | Where in a block are they inserted, and what do they compute? | `graft.rs`, called by the transformer | `lora/updates.rs`, likewise |
//! | How is the configuration written as a string and as JSON? | `text.rs`, `json.rs`, both through the table in `keys.rs` | `lora/text.rs`, `lora/json.rs`, both through `lora/keys.rs` |
//!
//! A third method, AdapterFusion, mixes the outputs of frozen bottleneck adapters: all of it is in `fusion.rs`, and where it applies in `graft.rs`.
//! The invertible adapter of MAD-X, which some bottleneck configurations have in addition, is in `invertible.rs`. A model can have several adapters:
//! [`AdapterSetup`] (`setup.rs`) is their order, [`AdapterExpression`] (`expression.rs`) what a command says of it.
//!
//! [`AdapterConfig`] (`method.rs`) is any of them, and [`SavedAdapter`] (`files.rs`) what a saved directory contains.

mod average;
mod config;
mod expression;
mod files;
mod fusion;
pub(super) mod graft;
pub(super) mod invertible;
mod json;
mod keys;
mod lora;
mod method;
mod presets;
mod saved;
pub(super) mod setup;
mod start;
mod tensors;
mod text;

pub use average::average;
pub use config::{ATTENTION_PLACE, BottleneckConfig, FFN_PLACE, Init, Scaling, Width};
pub use expression::AdapterExpression;
pub(crate) use files::BASE_FILE;
pub use files::{MADE_ON, SavedAdapter, read_adapter, write_adapter};
pub use fusion::FusionConfig;
pub(super) use fusion::is_value;
pub(super) use lora::{A as LORA_A, B as LORA_B, Target};
pub use lora::{ExportForm, LoraConfig, Targets};
pub use method::AdapterConfig;
pub use saved::SavedSetup;
pub(super) use setup::FittedAdapters;
pub use setup::{AdapterSetup, NamedAdapter};
use tensors::{end_of, is_bottleneck, name_in_memory};

/// Whether the tensor called `name`, on disk or in memory, belongs to an adapter.
pub fn is_adapter(name: &str) -> bool {
    is_bottleneck(name) || lora::is_lora(name) || fusion::is_fusion(name)
}
