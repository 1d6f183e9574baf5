//! Models: their configuration, the decoder's forward pass, and the adapters inserted into it. `README.md` in this directory explains how
//! to add an architecture.

mod adapter;
mod config;
mod decoder;
mod names;
mod parts;
mod toy;
mod values;

pub use adapter::{ATTENTION_PLACE, AdapterConfig, FFN_PLACE, Init, SavedAdapter, Scaling, Width, is_adapter, read_adapter, write_adapter};
pub(crate) use adapter::{BASE_FILE, nearest};
pub(crate) use config::LARGEST;
pub use config::{BaseDropout, Biases, Config, Family, NormKind, Positions};
pub use decoder::{Cache, Inputs, Model};
pub use parts::{BUILTIN, Base, Trains};
pub use toy::ToyLayer;
