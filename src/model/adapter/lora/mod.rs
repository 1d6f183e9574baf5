//! LoRA as the PEFT library trains and saves it: low-rank updates of a model's linear layers.

mod config;
mod export;
mod json;
mod keys;
mod mlx;
mod targets;
mod tensors;
#[cfg(test)]
mod tests;
mod text;
mod updates;

pub use config::{LoraConfig, Targets};
pub use export::ExportForm;
pub(super) use json::PeftJson;
pub(super) use mlx::{from_mlx, is_mlx};
pub(in crate::model) use targets::Target;
pub(in crate::model) use tensors::{A, B};
pub(super) use tensors::{is_lora, module, to_disk, to_memory};
pub(in crate::model::adapter) use updates::updates;
