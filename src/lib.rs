//! Graftling.
#![warn(missing_docs)]
pub mod error;
pub mod generate;
pub mod gpu;
pub mod graph;
pub mod model;
pub mod ops;
mod random;
pub mod text;
pub mod train;
pub mod weights;
pub use error::{Error, Result};
