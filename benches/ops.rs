//! Attention by length, the adapter both fused and composed of smaller ops, and the loss by vocabulary, each forward and backward:
//! `cargo bench --bench ops`. Times are the best of several rounds.

use clap::Parser;
use graftling::Result;
use graftling::gpu::Device;
use graftling::graph::{DType, Graph, Parameters, Tensor};
use graftling::measure::{NUMBERS, recording};
use graftling::ops::{self, Activation, Adapter, Attention, Linear};

#[derive(Parser)]
struct Options {
    /// Tokens in the batch of the adapter and of the loss
    #[arg(long, default_value_t = 512)]
    tokens: u32,
    #[arg(long, default_value_t = 576)]
    hidden: u32,
    #[arg(long, default_value_t = 64)]
    bottleneck: u32,
    /// Query heads; there are a third as many key and value heads
    #[arg(long, default_value_t = 9)]
    heads: u32,
    #[arg(long, value_delimiter = ',', default_value = "128,256,512,1024")]
    lengths: Vec<u32>,
    #[arg(long, value_delimiter = ',', default_value = "5000,50000,150000")]
    vocabularies: Vec<u32>,
    #[arg(long)]
    device: Option<String>,
    /// Passed by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let device = Device::open(options.device.as_deref())?;
    println!("{}", device.info());
    println!("\nattention, {} heads of 64, causal: ms forward and backward, and per token", options.heads);
    for &length in &options.lengths {
        let seconds = attention(&device, options.heads, length)?;
        println!("{length:>8} {:>10.2} {:>10.4}", seconds * 1e3, seconds * 1e3 / f64::from(length));
    }
    let Options { tokens, hidden, bottleneck, .. } = options;
    println!("\nadapter, {tokens} tokens, {hidden} → {bottleneck} → {hidden}: ms forward and backward");
    let (fused, written_out) = (adapter(&device, &options, true)?, adapter(&device, &options, false)?);
    println!("   fused {:>10.2}", fused * 1e3);
    println!(" unfused {:>10.2}, {:.2} times the fused time", written_out * 1e3, written_out / fused);
    println!("\nloss, {tokens} tokens of {hidden}, f32 head: ms forward and backward, and per thousand tokens of the vocabulary");
    for &vocabulary in &options.vocabularies {
        let seconds = loss(&device, &options, vocabulary)?;
        println!("{vocabulary:>8} {:>10.2} {:>10.3}", seconds * 1e3, seconds * 1e6 / f64::from(vocabulary));
    }
    Ok(())
}

/// Records the backward pass of `y`, whose gradient is another input.
fn backward(g: &mut Graph, y: Tensor) -> (Tensor, u32) {
    let shape = g.shape(y).clone();
    let dy = g.input("dy", shape, DType::F32);
    g.backward(y, dy);
    (dy, NUMBERS)
}

fn attention(device: &Device, heads: u32, length: u32) -> Result<f64> {
    let form = Attention { heads, key_value_heads: heads.div_ceil(3), head_size: 64, causal: true, dropout: 0.0 };
    recording(device, device.traits(), &Parameters::default(), |g| {
        let qkv = g.input("qkv", [1, length, (heads + 2 * form.key_value_heads) * 64], DType::F32);
        let lengths = g.input("lengths", [1], DType::U32);
        g.track(qkv);
        let y = ops::attention(g, qkv, lengths, form);
        vec![(qkv, NUMBERS), (lengths, length), backward(g, y)]
    })
}

fn adapter(device: &Device, options: &Options, fused: bool) -> Result<f64> {
    let &Options { tokens, hidden, bottleneck, .. } = options;
    let mut p = Parameters::default();
    let mut add = |name: &str, shape: &[usize]| p.add(name, shape, DType::F32, true);
    let down = add("down", &[bottleneck as usize, hidden as usize]);
    let up = add("up", &[hidden as usize, bottleneck as usize]);
    let (down_bias, up_bias) = (add("down.bias", &[bottleneck as usize]), add("up.bias", &[hidden as usize]));
    let layer = Adapter { down, up, biases: Some((down_bias, up_bias)), activation: Activation::Silu, scaling: 1.0, dropout: 0.0 };
    recording(device, device.traits(), &p, |g| {
        let x = g.input("x", [tokens, hidden], DType::F32);
        g.track(x);
        let y = if fused { ops::adapter::fused(g, x, &layer) } else { ops::adapter::written_out(g, x, &layer) };
        vec![(x, NUMBERS), backward(g, y)]
    })
}

fn loss(device: &Device, options: &Options, vocabulary: u32) -> Result<f64> {
    let mut p = Parameters::default();
    let head = Linear::new(p.add("head", [vocabulary, options.hidden], DType::F32, false), None);
    recording(device, device.traits(), &p, |g| {
        let x = g.input("x", [options.tokens, options.hidden], DType::F32);
        let targets = g.input("targets", [options.tokens], DType::U32);
        g.track(x);
        let loss = ops::cross_entropy(g, x, &head, targets);
        g.backward(loss, loss);
        vec![(x, NUMBERS), (targets, 7)]
    })
}
