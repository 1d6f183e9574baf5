//! Models: their configuration, the decoder's forward pass, and the adapters inserted into it. `README.md` in this directory explains how
//! to add an architecture.

mod adapter;
mod config;
mod decoder;
mod identity;
mod merge;
mod names;
mod order;
mod parts;
mod toy;
mod values;

pub(crate) use adapter::BASE_FILE;
pub use adapter::{
    ATTENTION_PLACE, AdapterConfig, AdapterExpression, AdapterSetup, BottleneckConfig, ExportForm, FFN_PLACE, FusionConfig, Init,
    LoraConfig, MADE_ON, NamedAdapter, SavedAdapter, SavedSetup, Scaling, Targets, Width, average, is_adapter, read_adapter, write_adapter,
};
pub(crate) use config::LARGEST;
pub use config::{BaseDropout, Biases, Config, Family, NormKind, Positions};
pub use decoder::{Cache, Inputs, Model};
pub use identity::{BaseIdentity, Likeness};
pub use merge::{Merged, merge};
pub use parts::{BUILTIN, Base, Trains};
pub use toy::ToyLayer;
