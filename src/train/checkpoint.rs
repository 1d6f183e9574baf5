//! A checkpoint: a directory with an adapter, the Adam moments, and all other state that the next step depends on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::TrainerState;
use crate::error::{Error, Result};
use crate::files::{CONFIG_BYTES, read_text, replace_directory, replace_file, share_file};
use crate::model::{BASE_FILE, SavedAdapter, read_adapter, write_adapter};
use crate::text::Position;
use crate::weights::{Weights, fingerprint};

const STATE: &str = "state.json";
const MOMENTS: &str = "moments.safetensors";
/// The version of the checkpoint format.
const VERSION: u32 = 1;

/// All the state of a run apart from weights and moments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// The trainer's part.
    pub trainer: TrainerState,
    /// The batch that comes next.
    pub position: Position,
    /// The seed of the data order, the initial weights and dropout.
    pub seed: u64,
    /// A fingerprint of the training sequences.
    pub data: String,
    /// A fingerprint of the adapter before the first step.
    pub start: String,
    /// Tokens so far, without padding.
    pub tokens: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// The loss of the first step.
    pub first_loss: Option<f32>,
    /// The loss of the last step.
    pub last_loss: Option<f32>,
    /// The last validation loss.
    pub eval_loss: Option<f64>,
    /// The number of completed steps when it was measured.
    pub evaluated: Option<u64>,
    /// The best checkpoint so far: by validation loss after a step, or without validation data by mean training loss.
    pub best: Option<Best>,
}

/// The best loss so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// The number of completed steps.
    pub step: u64,
    /// The loss.
    pub loss: f64,
}

/// A run at one moment.
pub struct Checkpoint {
    /// What has been trained so far, in the format of the final adapter.
    pub adapter: SavedAdapter,
    /// An earlier checkpoint with the same base, which then need not be written again; `adapter.base` is then `None`.
    pub base_of: Option<PathBuf>,
    /// The result of [`Trainer::moments`](super::Trainer::moments).
    pub moments: Weights,
    /// The other state.
    pub state: RunState,
}

/// `state.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    /// The length in bytes and the fingerprint of every other file, by name.
    files: BTreeMap<String, (u64, String)>,
    state: RunState,
    /// The fingerprint of all fields above.
    fingerprint: String,
}

impl StateFile {
    fn new(files: BTreeMap<String, (u64, String)>, state: RunState) -> StateFile {
        let mut file = StateFile { version: VERSION, files, state, fingerprint: String::new() };
        file.fingerprint = file.fingerprint_now();
        file
    }

    fn fingerprint_now(&self) -> String {
        let text = serde_json::to_string(&(self.version, &self.files, &self.state)).expect("the state prints as JSON");
        fingerprint([text.as_bytes()])
    }
}

impl Checkpoint {
    /// Writes the directory, whole or not at all. It is also the directory of an adapter.
    ///
    /// # Errors
    /// [`Error::DivergedWeight`] if a weight or a moment is not finite, or [`Error::Write`].
    pub fn write(&self, directory: &Path) -> Result<()> {
        replace_directory(directory, |temporary| {
            write_adapter(temporary, &self.adapter)?;
            if let Some(earlier) = &self.base_of {
                share_file(&earlier.join(BASE_FILE), &temporary.join(BASE_FILE))?;
            }
            self.moments.write(&temporary.join(MOMENTS))?;
            let files = files(temporary).map_err(|e| Error::write(temporary, e))?;
            let json = serde_json::to_vec_pretty(&StateFile::new(files, self.state.clone())).expect("the state prints as JSON");
            replace_file(&temporary.join(STATE), &json)
        })
    }

    /// Reads and checks a checkpoint; its tensors stay in their files.
    ///
    /// # Errors
    /// [`Error::File`], which names what is missing or damaged.
    pub fn read(directory: &Path) -> Result<Checkpoint> {
        let path = directory.join(STATE);
        let damaged = |what: &str| Error::file(&path, format!("is not the complete state of a checkpoint ({what}); use another one"));
        let file: StateFile = serde_json::from_str(&read_text(&path, CONFIG_BYTES)?).map_err(|e| damaged(&e.to_string()))?;
        if file.version != VERSION {
            let problem = format!("is version {}, but this Graftling reads version {VERSION}; use the one that wrote it", file.version);
            return Err(Error::file(&path, problem));
        }
        if file.fingerprint != file.fingerprint_now() {
            return Err(damaged("its fingerprint does not match"));
        }
        let present = files(directory).map_err(|e| Error::file(directory, format!("cannot be read ({e}); use another checkpoint")))?;
        for (name, recorded) in &file.files {
            let problem = match present.get(name) {
                Some(found) if found == recorded => continue,
                Some(found) if found.0 != recorded.0 => format!("has {} bytes, but {} were written", found.0, recorded.0),
                Some(_) => "does not have the bytes that were written".into(),
                None => "is missing".into(),
            };
            return Err(Error::file(directory.join(name), format!("{problem}; use another checkpoint")));
        }
        let adapter = read_adapter(directory)?;
        adapter.weights.check()?;
        let moments = Weights::read(&directory.join(MOMENTS))?;
        moments.check()?;
        Ok(Checkpoint { adapter, base_of: None, moments, state: file.state })
    }
}

/// The length and fingerprint of each file except the state.
fn files(directory: &Path) -> std::io::Result<BTreeMap<String, (u64, String)>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != STATE && entry.file_type()?.is_file() {
            let bytes = fs::read(entry.path())?;
            files.insert(name, (bytes.len() as u64, fingerprint([&bytes[..]])));
        }
    }
    Ok(files)
}
