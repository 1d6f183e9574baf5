//! Training: steps, schedules, and what they report.

mod schedule;
mod trainer;

pub use schedule::{Schedule, Shape};
pub use trainer::{Evaluator, Report, TrainOptions, Trainer};
