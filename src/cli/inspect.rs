//! `graftling inspect`: what a model consists of, and how much memory training it will take.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use graftling::Result;
use graftling::gpu::Device;
use graftling::graph::Traits;
use graftling::model::{AdapterConfig, Base, HeadConfig, Model, Trains};
use graftling::text::Task;
use graftling::train::Estimate;
use graftling::words::count;
use indicatif::{BinaryBytes, HumanCount};
use serde_json::json;

use super::Common;
use super::setup::{cut_batch, max_length};

/// Shows a model's architecture, parameters and formats, and the GPU memory that training will take
#[derive(Args)]
#[command(
    after_help = "Example:\n  graftling inspect SmolLM2-135M-Instruct.Q4_1.gguf --adapter double_seq_bn --batch-size 1 --max-length 128"
)]
pub struct Inspect {
    /// A directory in Hugging Face format, a .gguf file, or builtin: a small byte-level GPT to try things out
    model: PathBuf,
    /// The adapter that would be trained: PRESET[key=value,…]
    #[arg(long, value_name = "SPEC", default_value = "identity_bn")]
    adapter: String,
    /// Sequences per batch
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// As in `train`: recompute the activations inside each block in the backward pass
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    gradient_checkpointing: bool,
    /// Maximum tokens per sequence [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<u32>,
}

impl Inspect {
    pub fn run(&self, common: &Common) -> Result<()> {
        let adapter = AdapterConfig::parse(&self.adapter)?;
        let (config, weights) = Base::open_weights(&self.model)?;
        let weights = common.in_precision(weights);
        let length = max_length(&config, self.max_length)?;
        let model = Model::new(&config, &[&weights], Some(&adapter), Trains::adapters())?;
        // All devices need about the same, so without one here the estimate is for a typical desktop GPU.
        let traits = Device::open(common.device.as_deref()).map_or_else(|_| Traits::desktop(), |device| device.traits().clone());
        // An encoder without a head trains with one for a task.
        let head = (!config.has_head()).then(|| HeadConfig::new(&Task::Regression, &config));
        let trained = Model::with_head(&config, &[&weights], Some(&adapter), head.as_ref(), Trains::adapters())?;
        let estimate =
            Estimate::new(&trained.with_half_activations(common.half()), &traits, self.batch_size, length, self.gradient_checkpointing)?;
        let cut = cut_batch([self.batch_size, length], estimate.micro_batch);

        let mut formats: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, parameter) in model.parameters.iter().filter(|(_, p)| p.arena_offset.is_none()) {
            *formats.entry(parameter.dtype.word()).or_default() += parameter.shape.len();
        }
        let (total, trainable) = (model.parameters.total(), model.parameters.trainable());
        let architecture = config.family.model_type();
        let heads = match config.heads == config.key_value_heads {
            true => format!("{} of {}", count(config.heads, "head"), config.head_size),
            false => format!("{} of {} ({} for keys and values)", count(config.heads, "head"), config.head_size, config.key_value_heads),
        };
        let shares = formats.iter().map(|(format, len)| format!("{} in {format}", HumanCount(*len))).collect::<Vec<_>>().join(", ");
        let percent = 100.0 * trainable as f64 / total as f64;
        let text = format!(
            "architecture  {architecture}: {}, hidden {}, {heads}, feed-forward {}, vocabulary {}, context {}\n\
             parameters    {} in all, {} of them ({percent:.1} %) in the adapter {adapter}\n\
             base          {} on the device: {shares}\n\
             training      {} of GPU memory for batches of {} × {length} tokens{}",
            count(config.layers, "layer"),
            config.hidden_size,
            config.intermediate_size,
            config.vocab_size,
            config.context,
            HumanCount(total),
            HumanCount(trainable),
            BinaryBytes(estimate.weights),
            BinaryBytes(estimate.total()),
            self.batch_size,
            cut.map_or(String::new(), |cut| format!("\n              {cut}")),
        );
        let json = json!({
            "architecture": architecture, "total_params": total, "trainable_params": trainable,
            "trains": Trains::adapters().parts(&model), "weight_bytes": estimate.weights,
            "gpu_bytes": estimate.total(), "formats": formats, "layers": config.layers, "hidden_size": config.hidden_size,
            "heads": config.heads, "key_value_heads": config.key_value_heads, "vocab_size": config.vocab_size, "context": config.context,
            "adapter": adapter.to_string(), "batch_size": self.batch_size, "micro_batch_size": estimate.micro_batch,
            "max_length": length,
        });
        common.result(text, json);
        Ok(())
    }
}
