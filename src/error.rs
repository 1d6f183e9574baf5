//! Everything that can go wrong outside the program's own logic. Each message is one sentence that names the thing and says what to do.

use std::path::{Path, PathBuf};

/// A failure that a person can do something about. [`Error::exit_code`] has the code of the command for each.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Options that do not fit together or are out of range.
    #[error("{0}")]
    Usage(String),

    /// A file that is missing, cut short, or not what it should be.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        problem: String,
    },

    /// Writing a result failed.
    #[error("cannot write {}: {source}; free some space or choose another place", path.display())]
    Write {
        /// The file that was being written.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// There is no device that can do the work.
    #[error("{0}")]
    NoDevice(String),

    /// The work needs more of something than the device has.
    #[error("{what} needs {needed} {unit}, but the device allows {limit}; {advice}")]
    Limit {
        /// What needs it.
        what: String,
        /// How much it needs.
        needed: u64,
        /// Of what.
        unit: &'static str,
        /// How much the device has.
        limit: u64,
        /// What to change.
        advice: String,
    },

    /// The device ran out of memory.
    #[error("{device} ran out of memory while allocating {what}; {advice}")]
    OutOfMemory {
        /// The device.
        device: String,
        /// What was being allocated.
        what: String,
        /// What to change.
        advice: String,
    },

    /// The device went away.
    #[error("{device} was lost ({reason}); check its driver, then run again")]
    DeviceLost {
        /// The device.
        device: String,
        /// What the driver said.
        reason: String,
    },

    /// The device did something that neither the driver nor the validation should let happen.
    #[error("{device} failed: {reason}; this is a defect of Graftling or of the driver, please report it")]
    Device {
        /// The device.
        device: String,
        /// What was said.
        reason: String,
    },

    /// A model gave numbers that nothing can be made of.
    #[error("{what} is not finite; the model's weights are damaged or past the range of numbers, use others")]
    NotFinite {
        /// What came out.
        what: String,
    },

    /// Training left the range of numbers.
    #[error(
        "training diverged: the gradients of {count} steps in a row, up to step {step}, were not finite at learning rate {learning_rate}; \
         use a lower learning rate, warm-up or gradient clipping, and --precision f32 if it was f16"
    )]
    Diverged {
        /// How many steps in a row.
        count: u32,
        /// The last of them.
        step: u64,
        /// Its learning rate.
        learning_rate: f32,
    },

    /// Training took a weight past the range of numbers.
    #[error("training diverged: the weight '{name}' is not finite any more; use a lower learning rate, warm-up or gradient clipping")]
    DivergedWeight {
        /// The weight.
        name: String,
    },

    /// A person or the system asked the command to stop.
    #[error("interrupted after step {step}; {} has it all, and the same command with --resume goes on from there", checkpoint.display())]
    Interrupted {
        /// How many steps are done.
        step: u64,
        /// The checkpoint that was saved.
        checkpoint: PathBuf,
    },
}

impl Error {
    /// A [`Error::File`] from a path and a sentence.
    pub fn file(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().into(), problem: problem.into() }
    }

    /// A [`Error::Write`] from a path and what the system said.
    pub fn write(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Write { path: path.as_ref().into(), source }
    }

    /// The same error, but with this advice where memory ran out: whoever asked for the memory knows what else could be tried.
    pub fn advised(self, advice: impl FnOnce() -> String) -> Self {
        match self {
            Error::OutOfMemory { device, what, .. } => Error::OutOfMemory { device, what, advice: advice() },
            other => other,
        }
    }

    /// The exit code of the command: 1 runtime, 2 usage, 3 a bad or missing file, 4 no usable device or a limit exceeded, 5 device
    /// lost or out of memory, 6 training diverged, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Write { .. } | Error::Device { .. } | Error::NotFinite { .. } => 1,
            Error::Usage(_) => 2,
            Error::File { .. } => 3,
            Error::NoDevice(_) | Error::Limit { .. } => 4,
            Error::OutOfMemory { .. } | Error::DeviceLost { .. } => 5,
            Error::Diverged { .. } | Error::DivergedWeight { .. } => 6,
            Error::Interrupted { .. } => 130,
        }
    }
}

/// What a fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;
