//! From hidden states to a step: pooling, losses and the optimizer.

use super::array::{Array, Kind, Random};
use super::reference;
use super::small::cases as small;
use super::special::{Loss, adam_steps, head_loss, loss_scaling, pull, skipped_steps};
use super::{Bench, Family};
use crate::error::Result;
use crate::graph::DType;
use crate::ops::optimizer::Adam;
use crate::ops::{Pointwise, Pooling};

const FROZEN: Kind = Kind::Frozen(DType::F32);

pub(super) fn families() -> Vec<Family> {
    vec![
        Family::new("pooling", 1e-6, pooling),
        Family::new("loss", 2e-5, loss),
        Family::new("pointwise_loss", 1e-5, pointwise),
        Family::new("optimizer", 5e-6, optimizer),
    ]
}

/// The loss over a whole vocabulary and in slices, with a trainable head and a frozen one.
fn loss(bench: &mut Bench) -> Result<()> {
    for (rows, hidden, vocabulary, max_binding, head) in
        [(7, 8, 67, None, Kind::Weight), (5, 12, 259, Some(128 * 12 * 4), Kind::Weight), (70, 12, 130, None, FROZEN)]
    {
        let mut random = Random(14);
        let mut targets: Vec<u32> = (0..rows).map(|_| random.below(vocabulary)).collect();
        targets[rows / 2] = crate::text::IGNORED;
        targets[0] = vocabulary - 1;
        let hidden = hidden as usize;
        let arrays = [
            Array::input(&[rows, hidden], &mut random),
            Array::new(head, &[vocabulary as usize, hidden], &mut random),
            Array::new(head, &[vocabulary as usize], &mut random),
        ];
        let name = format!("{rows}×{hidden}, {vocabulary} tokens");
        let case = Loss { name: &name, arrays: &arrays, targets: &targets, tolerance: [bench.tolerance; 2], half: bench.half };
        let mut traits = bench.traits.clone();
        traits.max_binding = max_binding.unwrap_or(traits.max_binding);
        let want = |v: &[Vec<f64>]| reference::cross_entropy(&v[0], &v[1], Some(&v[2]), hidden, &targets);
        let outcome = case.run(bench.device, &traits, head_loss, want)?;
        bench.add(outcome);
    }
    Ok(())
}

/// Scores and logits, more than a workgroup takes at once, with logits far from zero and targets that are ignored.
fn pointwise(bench: &mut Bench) -> Result<()> {
    for len in [3, 257] {
        for kind in [Pointwise::SquaredError, Pointwise::Logistic] {
            small::pointwise(bench, len, kind)?;
        }
    }
    Ok(())
}

/// All kinds, over sequences of several lengths, with whole vectors of four and without.
fn pooling(bench: &mut Bench) -> Result<()> {
    for pooling in Pooling::ALL {
        for hidden in [67, 68] {
            small::pooling(bench, hidden, pooling)?;
        }
    }
    Ok(())
}

/// Adam and AdamW, with and without clipping; the pull of a matrix towards the identity; steps that are not finite, and the loss scale that they change.
fn optimizer(bench: &mut Bench) -> Result<()> {
    let adam = Adam { weight_decay: 0.1, ..Adam::default() };
    for (config, len) in [(adam, 257), (Adam { decoupled: true, clip_norm: Some(0.05), ..adam }, 20_000)] {
        let outcome = adam_steps(bench.device, bench.traits, &config, len, bench.tolerance)?;
        bench.add(outcome);
    }
    let outcome = skipped_steps(bench.device, bench.traits)?;
    bench.add(outcome);
    let outcome = pull(bench.device, bench.traits, 17, bench.tolerance)?;
    bench.add(outcome);
    let outcome = loss_scaling(bench.device, bench.traits, bench.tolerance)?;
    bench.add(outcome);
    Ok(())
}
