//! Everything that can go wrong outside the program's own logic. Each message is one sentence that names the cause and says what to do.

use std::path::{Path, PathBuf};

/// A failure that the user can do something about. [`Error::exit_code`] maps each to the command's exit code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Options that are incompatible or out of range.
    #[error("{0}")]
    Usage(String),

    /// A file that is missing, truncated or invalid.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        problem: String,
    },

    /// Writing a result failed.
    #[error("cannot write {}: {source}; {}", path.display(), way_out(source))]
    Write {
        /// The file that was being written.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },

    /// No device can do the work.
    #[error("{0}")]
    NoDevice(String),

    /// The work exceeds one of the device's limits.
    #[error("{what} needs {needed} {unit}, but the device allows {limit}; {advice}")]
    Limit {
        /// What needs it.
        what: String,
        /// The amount needed.
        needed: u64,
        /// The unit of both amounts.
        unit: &'static str,
        /// The most that the device allows.
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

    /// The device was lost.
    #[error("{device} was lost ({reason}); check its driver, then run again")]
    DeviceLost {
        /// The device.
        device: String,
        /// The driver's reason.
        reason: String,
    },

    /// The device did something that neither the driver nor validation should allow.
    #[error("{device} failed: {reason}; this is a bug in Graftling or in the driver; please report it")]
    Device {
        /// The device.
        device: String,
        /// What went wrong.
        reason: String,
    },

    /// A model produced a value that is not finite.
    #[error("{what} is not finite; the model's weights are damaged or out of range; use another model")]
    NotFinite {
        /// The value.
        what: String,
    },

    /// The gradients of too many steps in a row were not finite.
    #[error(
        "training diverged: the gradients of {count} steps in a row, up to step {step}, were not finite at learning rate {learning_rate:.1e}; \
         use a lower learning rate, warm-up or gradient clipping, and --precision f32 if it was f16"
    )]
    Diverged {
        /// The number of steps in a row.
        count: u32,
        /// The last of them, counted from 1.
        step: u64,
        /// Its learning rate.
        learning_rate: f32,
    },

    /// Training made a weight, or one of its Adam moments, infinite or NaN.
    #[error("training diverged: '{name}' is no longer finite; use a lower learning rate, warm-up or gradient clipping")]
    DivergedWeight {
        /// The weight's name, prefixed with `first.` or `second.` for a moment.
        name: String,
    },

    /// The user or the system asked the command to stop.
    #[error("interrupted after step {step} and saved as {}; run the same command with --resume to continue", checkpoint.display())]
    Interrupted {
        /// The number of completed steps.
        step: u64,
        /// The checkpoint that was saved.
        checkpoint: PathBuf,
    },
}

impl Error {
    /// An [`Error::File`] from a path and a problem, which completes a sentence that begins with the path.
    pub fn file(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().into(), problem: problem.into() }
    }

    /// An [`Error::Write`] from a path and the system's error.
    pub fn write(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Write { path: path.as_ref().into(), source }
    }

    /// Replaces the advice if the device ran out of memory: the caller knows what else to try. Other errors are unchanged.
    pub fn advised(self, advice: impl FnOnce() -> String) -> Self {
        match self {
            Error::OutOfMemory { device, what, .. } => Error::OutOfMemory { device, what, advice: advice() },
            other => other,
        }
    }

    /// The command's exit code: 1 runtime failure, 2 usage, 3 bad or missing file, 4 no usable device or a limit exceeded, 5
    /// device lost or out of memory, 6 training diverged, 130 interrupted.
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

/// What to do when writing fails.
fn way_out(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::*;
    match source.kind() {
        StorageFull | QuotaExceeded => "free some space or choose another place",
        PermissionDenied => "choose a place that you can write to",
        ReadOnlyFilesystem => "choose a place on another file system",
        NotADirectory => "part of this path is a file, so choose another place",
        AlreadyExists => "a file with that name exists, so remove it or choose another place",
        IsADirectory | DirectoryNotEmpty => "a directory with that name exists, so remove it or choose another place",
        NotFound => "check the path",
        _ => "choose another place",
    }
}

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::Error;

    #[test]
    fn advice_fits_what_the_system_said() {
        let cases = [
            (ErrorKind::StorageFull, "free some space"),
            (ErrorKind::QuotaExceeded, "free some space"),
            (ErrorKind::PermissionDenied, "that you can write to"),
            (ErrorKind::ReadOnlyFilesystem, "another file system"),
            (ErrorKind::AlreadyExists, "a file with that name"),
            (ErrorKind::NotADirectory, "is a file"),
            (ErrorKind::NotFound, "check the path"),
            (ErrorKind::Other, "choose another place"),
        ];
        for (kind, advice) in cases {
            let message = Error::write("run/metrics.jsonl", kind.into()).to_string();
            assert!(message.starts_with("cannot write run/metrics.jsonl: ") && message.contains(advice), "{message}");
        }
    }
}
