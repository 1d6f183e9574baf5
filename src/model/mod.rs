//! Models: their configuration, the page on which the forward pass is written, and the adapters that are put into it. `README.md` beside
//! this file says how to add an architecture.

mod adapter;
mod adapter_file;
mod adapter_json;
mod adapter_keys;
mod adapter_presets;
mod adapter_spec;
mod adapter_start;
mod adapter_tensors;
mod config;
mod decoder;
mod graft;
mod names;
mod parts;
mod toy;
mod values;

pub use adapter::{ATTENTION_PLACE, AdapterConfig, FFN_PLACE, Init, Scaling, Width};
pub(crate) use adapter_file::BASE_FILE;
pub use adapter_file::{SavedAdapter, read_adapter, write_adapter};
pub(crate) use adapter_presets::nearest;
pub(crate) use config::LARGEST;
pub use config::{BaseDropout, Biases, Config, Family, NormKind, Positions};
pub use decoder::{Cache, Inputs, Model};
pub use parts::{BUILTIN, Base, Trains};
pub use toy::ToyLayer;
pub use values::is_adapter;
