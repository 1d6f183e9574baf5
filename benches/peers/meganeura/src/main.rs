//! Meganeura's training step of SmolLM2-135M, for benches/peers/run.py. The last line of standard output is the result as JSON.
//!
//!     adapters|full [--length 32] [--bottleneck 64] [--warm-up 3] [--steps 5]
//!
//! `adapters` trains `double_seq_bn` adapters in the frozen model, as Graftling does; `full` trains every weight, with Meganeura's own graph.
//! The model has random weights, and Meganeura's graphs process one sequence, not a batch.

#[path = "../../common.rs"]
mod common;
mod model;

use std::time::Instant;

use common::{Options, measure, tokens};
use meganeura::models::smollm2::{SmolLM2Config, build_training_graph};
use serde_json::json;

fn main() {
    let started = Instant::now();
    let options = Options::parse();
    let length = options.get("--length", 32);
    let config = SmolLM2Config::smollm2_135m();
    let graph = match options.command.as_str() {
        "adapters" => model::training_graph(&config, length, options.get("--bottleneck", 64)),
        "full" => build_training_graph(&config, length),
        _ => panic!("the command must be adapters or full"),
    };
    let mut session = meganeura::build(&graph, meganeura::SessionConfig::from_env()).0;
    for (name, buffer) in session.plan().param_buffers.clone() {
        let count = session.plan().buffers[buffer.0 as usize] / 4;
        session.set_parameter(&name, &values(&name, count));
    }

    // Each token's target is the next token; the last token's is the first. Meganeura's loss expects one-hot rows.
    let tokens = tokens(length, config.vocab_size as u32);
    let mut labels = vec![0.0; length * config.vocab_size];
    for row in 0..length {
        labels[row * config.vocab_size + tokens[(row + 1) % length] as usize] = 1.0;
    }
    session.set_input_u32("token_ids", &tokens);
    session.set_input("labels", &labels);
    session.set_adam(1e-4, 0.9, 0.999, 1e-8);
    let trained: usize = session.plan().param_grad_pairs.iter().map(|(weight, _)| session.plan().buffers[weight.0 as usize] / 4).sum();
    let mut result = measure(&options, started, length, || {
        session.step();
        session.wait();
        session.read_loss()
    });
    let device = session.device_information();
    result["peer"] = json!("meganeura 0.3.0");
    result["device"] = json!(format!("{}, {} {}", device.device_name, device.driver_name, device.driver_info));
    result["trained"] = json!(trained);
    result["batch_size"] = json!(1);
    result["length"] = json!(length);
    result["gpu_bytes"] = json!(session.memory_summary().total_allocated_bytes());
    println!("{result}");
}

/// Norms start at 1, biases at 0, and matrices with pseudo-random values of a realistic size.
fn values(name: &str, count: usize) -> Vec<f32> {
    if name.contains("norm") {
        vec![1.0; count]
    } else if name.ends_with("bias") {
        vec![0.0; count]
    } else {
        (0..count as u32).map(|i| ((i.wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0 - 0.5) * 0.07).collect()
    }
}
