//! Checkpointing changes how much memory a step needs, and not one bit of its results.

use graftling::graph::{DType, Graph, Role};
use graftling::model::{AdapterConfig, BaseDropout, Biases, Config, Family, Model, NormKind, Positions, Trains};
use graftling::ops::{Activation, RopePairs, RopeScaling};
use graftling::text::Batch;
use graftling::train::{Estimate, TrainOptions, Trainer};

use super::harness::device;
use super::models;

/// A Llama of four layers, with dropout at every site.
pub fn llama() -> Config {
    Config {
        family: Family::Llama,
        vocab_size: 50,
        context: 32,
        hidden_size: 32,
        layers: 4,
        heads: 4,
        key_value_heads: 2,
        head_size: 8,
        intermediate_size: 64,
        activation: Activation::Silu,
        gated: true,
        norm: NormKind::RmsNorm,
        norm_first: true,
        epsilon: 1e-5,
        positions: Positions::Rotary { theta: 1e4, scaling: RopeScaling::None, pairs: RopePairs::Halves },
        head_norm: true,
        biases: Biases::default(),
        tied: true,
        dropout: BaseDropout::all(0.2),
        encoder: None,
    }
}

/// A GPT of four layers, with the same dropout.
pub fn gpt() -> Config {
    Config { layers: 4, context: 32, vocab_size: 50, dropout: BaseDropout::all(0.2), ..models::config() }
}

/// A batch for either model.
pub fn batch() -> Batch {
    let rows: Vec<Vec<u32>> = (0..2).map(|row| (0..17).map(|i| (i * 7 + row * 3) % 50).collect()).collect();
    Batch::new(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

#[test]
fn checkpointing_saves_memory_and_changes_no_bit() {
    let norms = Trains { norms: true, ..Trains::adapters() };
    for (config, adapter, trains) in [
        (llama(), "double_seq_bn[bottleneck=8,dropout=0.1]", Trains::adapters()),
        (llama(), "scaled_par_bn[bottleneck=8]", Trains::everything()),
        (gpt(), "seq_bn[bottleneck=8,ln_after=True]", norms),
        (gpt(), "double_seq_bn[bottleneck=8,leave_out=[0]]", Trains::adapters()),
    ] {
        let adapter = AdapterConfig::parse(adapter).expect("a spec");
        let model = Model::new(&config, &[], Some(&adapter), trains).expect("a model");
        let run = |checkpointing| {
            let memory = model.upload(device(), &[], 5, true).expect("memory");
            let options = TrainOptions { checkpointing, ..models::training(3) };
            let mut trainer = Trainer::new(device(), &model, &memory, options).expect("a trainer");
            let mut losses = Vec::new();
            for _ in 0..3 {
                losses.extend(trainer.step(&[batch()]).expect("a step"));
            }
            while let Some(report) = trainer.finish().expect("a report") {
                losses.push(report);
            }
            let estimate = Estimate::new(&model, device().traits(), 2, 17, checkpointing).expect("an estimate").programs;
            (losses, memory.read(device(), memory.arenas().values).expect("values"), estimate)
        };
        let ((losses, values, bytes), (losses_again, values_again, fewer)) = (run(false), run(true));
        assert_eq!(losses, losses_again, "{adapter}: the losses differ");
        assert!(values == values_again, "{adapter}: the trained values differ");
        assert!((fewer as f64) < 0.75 * bytes as f64, "{adapter}: {fewer} of {bytes} bytes");
    }
}

/// Activations with overlapping lifetimes have different buffers, and the buffers are hardly larger than the live activations' peak.
#[test]
fn the_plan_shares_what_can_be_shared() {
    let adapter = AdapterConfig::parse("double_seq_bn[bottleneck=8]").expect("a spec");
    let model = Model::new(&llama(), &[], Some(&adapter), Trains::adapters()).expect("a model");
    for checkpointing in [false, true] {
        let mut g = Graph::new(device().traits(), &model.parameters, true);
        g.set_checkpointing(checkpointing);
        let inputs = model.inputs(&mut g, 2, 17, 17);
        let targets = g.input("targets", [2, 17], DType::U32);
        let loss = model.loss(&mut g, &inputs, targets);
        g.backward(loss, loss);

        let mut lives: Vec<Option<(usize, usize)>> = vec![None; g.tensors().len()];
        for (at, dispatch) in g.line().iter().enumerate() {
            for argument in &dispatch.arguments {
                let life = &mut lives[g.root(argument.tensor).0.index()];
                *life = Some((life.map_or(at, |(begin, _)| begin), at));
            }
        }
        let (plan, role) = (g.plan(), |i: usize| g.tensors()[i].role);
        let lives: Vec<_> = (0..lives.len()).filter(|&i| role(i) == Role::Activation).filter_map(|i| Some((i, lives[i]?))).collect();
        for (n, &(i, (begin, end))) in lives.iter().enumerate() {
            let buffer = plan.buffer[i].expect("a buffer");
            assert!(plan.sizes[buffer] >= g.tensors()[i].bytes(), "'{}' does not fit", g.tensors()[i].label);
            for &(other, (first, last)) in &lives[n + 1..] {
                let apart = end < first || last < begin;
                let names = [i, other].map(|i| &g.tensors()[i].label);
                assert!(apart || plan.buffer[other] != Some(buffer), "{names:?} share a buffer but overlap");
            }
        }
        let alive =
            |at| lives.iter().filter(|(_, (begin, end))| (*begin..=*end).contains(&at)).map(|(i, _)| g.tensors()[*i].bytes()).sum::<u64>();
        let most = (0..g.line().len()).map(alive).max().expect("a dispatch");
        let planned = plan.sizes.iter().sum::<u64>();
        assert!(planned < most * 5 / 4, "{planned} bytes of buffers for {most} live bytes");
    }
}
