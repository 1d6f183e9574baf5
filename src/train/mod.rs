//! Training: steps, schedules, reports, and checkpoints to resume from.

mod checkpoint;
mod checkpoints;
mod estimate;
mod evaluation;
mod evaluator;
#[cfg(test)]
pub(crate) mod extremes;
mod health;
mod loss_scale;
mod micro_batch;
mod programs;
mod recipe;
mod schedule;
mod state;
mod trainer;

pub use checkpoint::{Best, Checkpoint, RunState};
pub use checkpoints::{Checkpoints, Found};
pub use estimate::Estimate;
pub use evaluation::{Classes, Evaluation, Measured, Measures, OfLabel, Scores, Spans, best};
pub use evaluator::Evaluator;
pub use health::{Health, Rise, Warning};
pub use loss_scale::LossScaler;
pub use programs::recordings;
pub use recipe::{Recipe, Vocabulary};
pub use schedule::{Schedule, Shape};
pub use state::TrainerState;
pub use trainer::{Report, TrainOptions, Trainer};
