//! Graftling fine-tunes language models with bottleneck adapters (Houlsby 2019) on any GPU: WGSL through wgpu, no CUDA.
//!
//! # How one step runs
//!
//! 1. [`model::Model`] records its forward pass into a [`graph::Graph`], once for each (batch, length). Every op in [`ops`] checks its
//!    shapes, records its dispatches, and pushes one closure onto the tape that can record its backward pass.
//! 2. [`graph::Graph::backward`] runs the closures in reverse. An op whose inputs need no gradient pushes nothing, so the backward pass
//!    stops by itself below the lowest trainable tensor.
//! 3. [`graph::Plan`] finds where each activation is last read and reuses its buffer for later ones.
//! 4. [`gpu::Program`] compiles the recording: pipelines, buffers and bind groups, each created once.
//! 5. [`train::Trainer::step`] writes the tokens and a few scalars, replays the program and then the optimizer's, and requests the loss,
//!    which arrives while the next step is already running.
//!
//! ```no_run
//! use graftling::gpu::Device;
//! use graftling::model::{AdapterConfig, Base, Model, SavedAdapter, Trains, write_adapter};
//! use graftling::text::{Batch, cut};
//! use graftling::train::{TrainOptions, Trainer};
//!
//! # fn main() -> graftling::Result<()> {
//! let base = Base::open("assets/base".as_ref())?;
//! let device = Device::open(None)?;
//! let model = Model::new(&base.config, &[&base.weights], Some(&AdapterConfig::default()), Trains::adapters())?;
//! let memory = model.upload(&device, &[&base.weights], 0, true)?;
//!
//! let mut trainer = Trainer::new(&device, &model, &memory, TrainOptions::default())?;
//! let tokens = base.tokenizer.encode(include_str!("lib.rs"))?;
//! for rows in cut(&tokens, 128).chunks(8) {
//!     if let Some(report) = trainer.step(&[Batch::new(rows)])? {
//!         println!("step {} loss {}", report.step, report.loss);
//!     }
//! }
//! let trained = model.download(&device, &memory, |name| model.trains(name))?;
//! write_adapter("my-adapter".as_ref(), &SavedAdapter::of(&model, &trained, "default", &base.identity("assets/base"))?)
//! # }
//! ```
//!
//! Another trainer can resume where one stopped: pass [`train::Trainer::state`] and [`train::Trainer::moments`] of the first to
//! [`train::Trainer::restore`] of the second, along with the weights. [`train::Checkpoint`] keeps all of this on disk.
//!
//! [`doctor::self_check`] compares the kernels that [`train::recordings`] lists with their references, as the commands do on first use,
//! and makes the device avoid those that are wrong.
//!
//! # Invariants
//!
//! 1. Frozen weights are stored in buffers bound `read`. Matrices keep the format of their file and are decoded in the kernel. Training
//!    never changes their bytes.
//! 2. Trainable weights are stored in four flat arenas: values, gradients and the two Adam moments. One Adam dispatch updates them all
//!    (or a few, if an arena exceeds the binding size).
//! 3. One invocation owns each output element, sums have a fixed order, and there are no atomics: the same device, driver and binary
//!    produce the same bits.
//! 4. A recording is in single-assignment form: a second contribution to an activation's gradient creates a new tensor. Weight gradients
//!    accumulate in the arena, which is cleared before each step, so one step can span several micro-batches.
//! 5. No tensor of size tokens × tokens is ever in memory, and at most 32 MiB of a tokens × vocabulary tensor.
//! 6. Dropout masks are a function of (seed, batch, place, element): the backward pass recomputes them.
//! 7. naga reads bindings, workgroup sizes and parameter layouts from the WGSL; recording checks them against the Rust side.
//! 8. Every buffer, pipeline and dispatch has a label, which error messages show.
//! 9. Only [`gpu`] names wgpu; nothing in [`graph`] needs a device; [`weights`] and [`text`] are independent of any model.

#![warn(missing_docs)]

mod adapter_set;
pub mod doctor;
pub mod embed;
pub mod error;
pub mod files;
pub mod generate;
pub mod gpu;
pub mod graph;
mod keyed;
pub mod measure;
pub mod model;
pub mod ops;
pub mod plot;
mod random;
pub mod sampling;
pub mod text;
pub mod train;
pub mod weights;
#[doc(hidden)]
pub mod words;

pub use adapter_set::AdapterSet;
pub use error::{Error, Result};
