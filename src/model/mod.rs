//! Models: their configuration, the page on which the forward pass is written, and the adapters that are put into it.

mod adapter;
mod adapter_file;
mod config;
mod decoder;
mod graft;
mod names;
mod parts;
mod toy;
mod values;

pub use adapter::{AdapterConfig, Init, Scaling, Width};
pub use adapter_file::{read_adapter, write_adapter};
pub use config::{BaseDropout, Biases, Config, Family, GptConfig, NormKind, Positions};
pub use decoder::{Cache, Inputs, Model};
pub use parts::{Base, Trains};
pub use toy::ToyLayer;
pub use values::is_adapter;
