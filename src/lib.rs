//! Graftling.
pub mod error;
pub mod gpu;
pub mod graph;
pub mod ops;
pub use error::{Error, Result};
