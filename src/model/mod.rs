//! Models: their configuration, the transformer's forward pass, and the adapters inserted into it. `README.md` in this directory explains how
//! to add an architecture.

mod adapter;
mod config;
mod declared;
mod heads;
mod identity;
mod inputs;
mod merge;
mod names;
mod order;
mod parts;
mod toy;
mod transformer;
mod values;

pub(crate) use adapter::BASE_FILE;
pub use adapter::{
    ATTENTION_PLACE, AdapterConfig, AdapterExpression, AdapterSetup, BottleneckConfig, ExportForm, FFN_PLACE, Init, LoraConfig, MADE_ON,
    NamedAdapter, SavedAdapter, SavedSetup, Scaling, Targets, Width, average, is_adapter, read_adapter, write_adapter,
};
pub(crate) use config::LARGEST;
pub use config::{BaseDropout, Biases, Config, Encoder, Family, NormKind, Positions};
pub use heads::{HeadConfig, HeadForm};
pub use identity::{BaseIdentity, Likeness};
pub use inputs::{Cache, Inputs};
pub use merge::{Merged, merge};
pub use parts::{BUILTIN, Base, Trains};
pub use toy::ToyLayer;
pub use transformer::Model;
