//! Models: their configuration, the page on which the forward pass is written, and the adapters that are put into it. `README.md` beside
//! this file says how to add an architecture.

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
