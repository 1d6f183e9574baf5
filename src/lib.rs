//! Graftling fine-tunes language models with bottleneck adapters (Houlsby 2019) on whatever GPU there is: WGSL through wgpu, no CUDA.
//!
//! # How one step runs
//!
//! 1. [`model::Model`] writes its forward pass into a [`graph::Graph`], once for each (batch, length). Every op of [`ops`] checks its
//!    shapes, records its dispatches, and pushes one closure that can record its backward.
//! 2. [`graph::Graph::backward`] runs the closures in reverse. An op whose inputs need no gradient has pushed nothing, so backward stops by
//!    itself below the lowest trainable tensor.
//! 3. [`graph::Plan`] sees from the line when each activation is last read and lets later ones have its buffer.
//! 4. [`gpu::Program`] compiles the line: pipelines, buffers, bind groups, all made once.
//! 5. [`train::Trainer::step`] writes tokens and a few numbers, replays the program, then the optimizer's, and asks for the loss, which
//!    comes back while the next step already runs.
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
//! write_adapter("my-adapter".as_ref(), &SavedAdapter::of(&model, &trained, "default", "assets/base")?)
//! # }
//! ```
//!
//! A trainer stops and another goes on: [`train::Trainer::state`] and [`train::Trainer::moments`] are what the second one's
//! [`train::Trainer::restore`] takes, beside the weights themselves, and [`train::Checkpoint`] has all of it on disk.
//!
//! # Invariants
//!
//! 1. Frozen weights lie in storage buffers bound `read`, matrices in the format of their file, decoded in the kernel. Their bytes are
//!    the same after training as before.
//! 2. Trainable weights lie in one flat arena each for values, gradients and the two Adam moments; one Adam dispatch (a few, past a
//!    binding's size) updates all.
//! 3. One invocation owns each output element, sums have a fixed order, and there are no atomics: the same device, driver and binary give
//!    the same bits.
//! 4. A recording is in single-assignment form: a second contribution to an activation's gradient makes a new tensor. Gradients of weights
//!    add up in the arena, which is cleared before each step, so that several batches can make one step.
//! 5. Nothing of size tokens × tokens is ever in memory, and of tokens × vocabulary at most 32 MiB.
//! 6. Dropout masks are a function of (seed, batch, place, element): backward computes them again.
//! 7. Bindings, workgroup sizes and parameter layouts are read from the WGSL by naga; recording compares them with the Rust side.
//! 8. Every buffer, pipeline and dispatch has a label, which errors show.
//! 9. Nothing outside [`gpu`] names wgpu; nothing in [`graph`] needs a device; [`weights`] and [`text`] know no model.

#![warn(missing_docs)]

pub mod doctor;
pub mod error;
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

pub use error::{Error, Result};
