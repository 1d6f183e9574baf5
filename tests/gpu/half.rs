//! Activations in f16: every family of kernels on them, and training that goes as it does in f32.

use graftling::doctor::examine;
use graftling::graph::Traits;
use graftling::model::{AdapterConfig, Model, Trains};
use graftling::train::{Estimate, TrainOptions, Trainer};

use crate::checkpointing::{batch, gpt, llama};
use crate::harness::{all_traits, device};
use crate::models;

fn all_right(traits: &Traits, wanted: impl Fn(&str) -> bool) {
    assert!(traits.half, "these tests need a device with 16-bit floats");
    let findings = examine(device(), traits, true, wanted, |_| ()).expect("a working device");
    let wrong: Vec<_> = findings.iter().filter_map(|finding| finding.wrong.as_ref()).collect();
    assert!(wrong.is_empty() && !findings.is_empty(), "{wrong:#?}");
}

/// The kernels of this device, then those of others that differ. The formats of frozen weights have nothing to do with it.
#[test]
fn values_and_gradients() {
    for traits in all_traits() {
        all_right(&traits, |name| !name.contains("matmul") || ["matmul f32", "matmul q4_k"].contains(&name));
    }
}

/// The gradient of a model's first step is that in f32 but for roundings, whose share of it is small only where the loss is scaled; and what
/// holds in f32 of memory and of checkpointing does in f16.
#[test]
fn training() {
    let norms = Trains { norms: true, ..Trains::adapters() };
    for (config, adapter, trains) in [
        (llama(), "double_seq_bn[bottleneck=8,dropout=0.1]", Trains::adapters()),
        (llama(), "scaled_par_bn[bottleneck=8]", Trains::everything()),
        (llama(), "seq_bn[bottleneck=8,scaling=0.0001]", Trains::adapters()),
        (gpt(), "seq_bn[bottleneck=8,ln_after=True]", norms),
    ] {
        let adapter = AdapterConfig::parse(adapter).expect("a spec");
        let run = |half, checkpointing| {
            let model = Model::new(&config, &[], Some(&adapter), trains).expect("a model").with_half_activations(half);
            let memory = model.upload(device(), &[], 5, true).expect("memory");
            let options = TrainOptions { checkpointing, ..models::training(3) };
            let mut trainer = Trainer::new(device(), &model, &memory, options).expect("a trainer");
            let reports = trainer.step(&[batch()]).expect("a step");
            let report = reports.or_else(|| trainer.finish().expect("a report")).expect("a report");
            assert!(!report.skipped);
            let gradient = memory.read(device(), memory.arenas().gradients).expect("gradients");
            let gradient: Vec<f64> = bytemuck::pod_collect_to_vec::<_, f32>(&gradient).into_iter().map(f64::from).collect();
            (report, gradient, Estimate::new(&model, device().traits(), 2, 17, checkpointing).expect("an estimate").programs)
        };
        let ((single, want, bytes), (half, got, fewer)) = (run(false, false), run(true, false));
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        // The loss goes back multiplied, and the report's norm is without that.
        let factor = f64::from(half.gradient_norm) / norm(&got);
        let off: Vec<f64> = got.iter().zip(&want).map(|(got, want)| got * factor - want).collect();
        let share = norm(&off) / norm(&want);
        assert!((half.loss - single.loss).abs() < 1e-3 * single.loss, "{adapter}: a loss of {} and not {}", half.loss, single.loss);
        assert!(share < 1.0 / 512.0, "{adapter}: the gradient is off by {share} of itself");
        assert!((fewer as f64) < 0.8 * bytes as f64, "{adapter}: {fewer} of {bytes} bytes");
        let (again, gradient, _) = run(true, true);
        assert!(again == half && gradient == got, "{adapter}: checkpointing changes it");
    }
}
