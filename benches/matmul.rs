//! The three products of a linear layer by shape, format and kernel: `cargo bench --bench matmul`. Each figure is the best of several
//! rounds, since benchmark machines are often shared; `benches/peers` runs the same products in other projects.

use clap::{Parser, ValueEnum};
use graftling::Result;
use graftling::gpu::Device;
use graftling::graph::Traits;
use graftling::measure::Product;
use graftling::weights::GgmlType;

#[derive(Parser)]
struct Options {
    /// ROWSxINPUTSxOUTPUTS
    #[arg(long, value_delimiter = ',', value_parser = shape, default_value = "1024x1024x1024,2048x576x1536,128x576x1536,128x1536x576,64x576x1536")]
    shapes: Vec<[u32; 3]>,
    /// Weight formats
    #[arg(long, value_delimiter = ',', default_value = "f32,f16,q4_1,q8_0,q4_k,q6_k")]
    formats: Vec<GgmlType>,
    /// Which kernels to run, regardless of the device
    #[arg(long, value_enum, default_value_t = Variant::Own)]
    variant: Variant,
    #[arg(long)]
    device: Option<String>,
    /// Passed by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Variant {
    /// Those of this device
    Own,
    /// Those of a GPU
    Gpu,
    /// Those of a CPU device without subgroups, which accept any size
    Any,
}

fn shape(text: &str) -> std::result::Result<[u32; 3], String> {
    let numbers: Option<Vec<u32>> = text.split('x').map(|n| n.parse().ok()).collect();
    numbers.and_then(|n| n.try_into().ok()).ok_or_else(|| "expected ROWSxINPUTSxOUTPUTS".into())
}

fn main() -> Result<()> {
    let options = Options::parse();
    let device = Device::open(options.device.as_deref())?;
    let own = device.traits().clone();
    let traits = match options.variant {
        Variant::Own => own,
        Variant::Gpu => Traits { cpu: false, ..own },
        Variant::Any => Traits { cpu: true, subgroup: None, ..own },
    };
    println!("{}", device.info());
    println!("{:>19} {:>6} {:>10} {:>15} {:>15}  GFLOP/s", "rows×inputs×outputs", "format", "forward", "input gradient", "weight gradient");
    for &shape in &options.shapes {
        let [rows, inputs, outputs] = shape;
        for format in options.formats.iter().filter(|f| (inputs as usize).is_multiple_of(f.block_len())) {
            let format = format.dtype();
            let mut line = format!("{:>19} {:>6}", format!("{rows}×{inputs}×{outputs}"), format.word());
            for (product, width) in Product::ALL.into_iter().zip([10, 15, 15]) {
                let figure = match product.takes(format) {
                    true => format!("{:.1}", product.speed(&device, &traits, shape, format)? / 1e9),
                    false => "-".into(),
                };
                line += &format!(" {figure:>width$}");
            }
            println!("{line}");
        }
    }
    Ok(())
}
