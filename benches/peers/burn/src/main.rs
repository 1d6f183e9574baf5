//! Graftling's workloads on Burn's wgpu backend, for benches/peers/run.py. The last line of standard output is the result as JSON.
//!
//!     matmul [--size 1024]
//!     step [--batch-size 1] [--length 128] [--bottleneck 64] [--warm-up 3] [--steps 5]
//!
//! `matmul` times the three products of a layer in f32 and reports the best of several runs. `step` times whole training steps of adapters in
//! a frozen decoder of SmolLM2-135M's shape, with random weights.

#[path = "../../common.rs"]
mod common;
mod model;

use std::time::Instant;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamConfig, GradientsParams};
use burn::prelude::*;
use burn::tensor::Distribution;
use common::{Options, measure, tokens};
use model::{Decoder, Rotation, VOCABULARY};
use serde_json::{Value, json};

fn main() {
    let started = Instant::now();
    let options = Options::parse();
    let device = if cfg!(feature = "vulkan") { vulkan() } else { Device::wgpu(Default::default()) };
    let mut result = match options.command.as_str() {
        "matmul" => json!({ "matmul": products(&options, &device) }),
        "step" => steps(&options, &device, started),
        _ => panic!("the command must be matmul or step"),
    };
    let compiler = if cfg!(feature = "vulkan") { "SPIR-V" } else { "WGSL" };
    result["peer"] = json!(format!("burn 0.22.1, wgpu, {compiler}"));
    result["device"] = json!(device.identity().map(|identity| identity.name));
    println!("{result}");
}

#[cfg(feature = "vulkan")]
fn vulkan() -> Device {
    Device::vulkan(Default::default())
}

#[cfg(not(feature = "vulkan"))]
fn vulkan() -> Device {
    unreachable!("built without the feature")
}

/// GFLOP/s of a layer's products; the weight is [inputs, outputs], as in Burn's layers: y = x·W, dx = dy·Wᵀ, dW = xᵀ·dy.
fn products(options: &Options, device: &Device) -> Vec<Value> {
    let size = options.get("--size", 1024);
    let random = || Tensor::<2>::random([size, size], Distribution::Uniform(-0.5, 0.5), device);
    let (x, dy, w) = (random(), random(), random());
    let directions: [(&str, &dyn Fn() -> Tensor<2>); 3] = [
        ("forward", &|| x.clone().matmul(w.clone())),
        ("input gradient", &|| dy.clone().matmul(w.clone().transpose())),
        ("weight gradient", &|| x.clone().transpose().matmul(dy.clone())),
    ];
    let time = |product: &dyn Fn() -> Tensor<2>| {
        let begun = Instant::now();
        let output = product();
        device.sync().expect("the device works");
        drop(output);
        begun.elapsed().as_secs_f64()
    };
    directions
        .map(|(direction, product)| {
            // Burn autotunes its kernels in the first rounds.
            (0..options.get("--warm-up", 3)).for_each(|_| _ = time(product));
            let best = (0..options.get("--steps", 5)).map(|_| time(product)).fold(f64::INFINITY, f64::min);
            let gflops = 2.0 * (size as f64).powi(3) / best / 1e9;
            json!({ "m": size, "n": size, "k": size, "format": "f32", "direction": direction, "gflops": gflops })
        })
        .into()
}

/// Adam steps that train only the adapters.
fn steps(options: &Options, device: &Device, started: Instant) -> Value {
    let (batch_size, length) = (options.get("--batch-size", 1), options.get("--length", 128));
    let count = batch_size * length;
    let device = device.clone().autodiff();
    let mut model = Some(Decoder::new(options.get("--bottleneck", 64), &device));
    let rotation = Rotation::new(length, &device);
    let mut optimizer = AdamConfig::new().with_epsilon(1e-8).init();
    let loss = CrossEntropyLossConfig::new().init(&device);

    let numbers: Vec<i32> = tokens(count, VOCABULARY as u32).iter().map(|&token| token as i32).collect();
    let inputs = Tensor::<1, Int>::from_ints(numbers.as_slice(), &device);
    // Each token's target is the next token; the last token's is the first, so that every row of the logits counts.
    let targets: Vec<i32> = (0..count).map(|i| numbers[(i + 1) % count]).collect();
    let targets = Tensor::<1, Int>::from_ints(targets.as_slice(), &device);
    let (trained, trained_tensors) = model.as_ref().map_or((0, 0), Decoder::trained);
    let mut result = measure(options, started, count, || {
        let before = model.take().expect("it is put back after each step");
        let logits = before.forward(inputs.clone().reshape([batch_size, length]), &rotation);
        let loss = loss.forward(logits, targets.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &before);
        assert_eq!(gradients.len(), trained_tensors, "only the adapters have gradients");
        model = Some(optimizer.step(1e-4, before, gradients));
        device.sync().expect("the device works");
        loss.into_scalar::<f32>()
    });
    result["trained"] = json!(trained);
    result["batch_size"] = json!(batch_size);
    result["length"] = json!(length);
    result["gpu_bytes"] = json!(device.memory_pool_usage().map(|usage| usage.bytes_reserved));
    result
}
