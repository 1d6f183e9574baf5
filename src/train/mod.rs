//! Training: steps, schedules, and what they report.

mod estimate;
mod schedule;
mod trainer;

pub use estimate::Estimate;
pub use schedule::{Schedule, Shape};
pub use trainer::{Evaluator, Report, TrainOptions, Trainer};
