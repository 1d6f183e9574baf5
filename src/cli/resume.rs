//! Resuming a run: the checkpoint to continue from, and whether it belongs to this very run.

use std::path::Path;

use graftling::model::{AdapterExpression, BaseIdentity, Likeness};
use graftling::train::{Checkpoint, Checkpoints, Found, RunState};
use graftling::words::count;
use graftling::{Error, Result};

use super::Common;

/// The checkpoint to resume from; `None` for a run from the beginning.
pub fn newest(common: &Common, out: &Path, checkpoints: &Checkpoints) -> Result<Option<Checkpoint>> {
    checkpoints.clean();
    let Found { newest, torn } = checkpoints.newest();
    let found = torn.len();
    for torn in torn {
        common.warn(format!("passed over a checkpoint: {torn}"));
    }
    match &newest {
        Some(checkpoint) => common.note(format!("resumed    after step {}", checkpoint.state.trainer.step)),
        None if found > 0 => {
            let problem = "has no intact checkpoint; remove it to start the run over";
            return Err(Error::file(out.join("checkpoints"), problem));
        }
        None => common.note("resumed    from the beginning, since there is no checkpoint yet"),
    }
    Ok(newest)
}

/// What a checkpoint has to match.
pub struct ThisRun<'a> {
    /// The adapter's name.
    pub adapter: &'a str,
    /// The state at the beginning.
    pub state: &'a RunState,
    pub grad_accumulation: u32,
    pub steps: u64,
}

impl ThisRun<'_> {
    /// Checks that a checkpoint belongs to this very run.
    pub fn check(&self, checkpoint: &Checkpoint, checkpoints: &Checkpoints) -> Result<()> {
        let Checkpoint { adapter, state, .. } = checkpoint;
        let path = checkpoints.path(state.trainer.step);
        let problem = if adapter.name != self.adapter {
            format!("has the adapter '{}', but this run's is '{}'; do not mix runs", adapter.name, self.adapter)
        } else if state.data != self.state.data {
            "is of a run on other data; restore that data, or begin a new run".into()
        } else if state.seed != self.state.seed {
            format!("is of a run with seed {}, but run.toml says {}; do not mix runs", state.seed, self.state.seed)
        } else if state.position.epoch > state.trainer.step.saturating_mul(u64::from(self.grad_accumulation)) {
            format!("says that {} took {}; use another checkpoint", count(state.trainer.step, "step"), count(state.position.epoch, "epoch"))
        } else if state.trainer.step > self.steps {
            return Err(Error::Usage(format!("the run already has {}; ask for at least that many", count(state.trainer.step, "step"))));
        } else {
            return Ok(());
        };
        Err(Error::file(path, problem))
    }
}

/// Checks that the model, and the adapters under the one that trains, are still those that the run began with: others at their paths would make
/// it another run.
pub fn check_base(checkpoint: &Checkpoint, now: &BaseIdentity, model: &Path, under: Option<&AdapterExpression>) -> Result<()> {
    let made_on = checkpoint.adapter.made_on.as_ref();
    if let (Some(under), Some(then)) = (under, made_on)
        && !then.has_the_same_below(now)
    {
        let problem = "does not have the weights that this run began with; restore that adapter, or begin a new run";
        return Err(Error::file(under.to_string(), problem));
    }
    let changed = match made_on.map(|then| then.likeness(now)) {
        None | Some(Likeness::Same) => return Ok(()),
        Some(Likeness::OtherWeights) => "its weights differ".into(),
        Some(Likeness::OtherForm(difference)) => difference,
    };
    let problem = format!("is not the model that this run began with: {changed}; restore that model, or begin a new run");
    Err(Error::file(model, problem))
}
