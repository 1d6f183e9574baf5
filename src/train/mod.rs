//! Training: steps, schedules, what they report, and checkpoints to go on from.

mod checkpoint;
mod checkpoints;
mod estimate;
mod micro_batch;
mod recipe;
mod schedule;
mod state;
mod trainer;

pub use checkpoint::{Best, Checkpoint, RunState};
pub use checkpoints::{Checkpoints, Found};
pub use estimate::Estimate;
pub use recipe::{Recipe, Vocabulary};
pub use schedule::{Schedule, Shape};
pub use state::TrainerState;
pub use trainer::{Evaluator, Report, TrainOptions, Trainer};
