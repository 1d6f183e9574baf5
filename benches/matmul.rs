//! The three products of a linear layer by shape and format: `cargo bench --bench matmul`. A figure is the best of several rounds, as the
//! machines that this runs on are shared; `benches/peers/matmul.py` runs PyTorch on the same shapes for the ratio.

use std::time::Instant;

use graftling::Result;
use graftling::gpu::{Device, Memory, Program};
use graftling::graph::{DType, Graph, Parameters};
use graftling::ops::{Linear, matmul};

const SHAPES: [[u32; 3]; 4] = [[1024, 1024, 1024], [2048, 128, 512], [2048, 576, 1536], [64, 576, 1536]];

fn main() -> Result<()> {
    let device = Device::open(None)?;
    println!("{}", device.info());
    println!("{:>18} {:>6} {:>10} {:>15} {:>15}  GFLOP/s", "rows×inputs×outputs", "format", "forward", "input gradient", "weight gradient");
    for [rows, inputs, outputs] in SHAPES {
        for format in [DType::F32, DType::F16, DType::Bf16] {
            let mut figures = Vec::new();
            for direction in 0..3 {
                if direction == 2 && format != DType::F32 {
                    break; // only f32 weights have gradients
                }
                figures.push(format!("{:.1}", measure(&device, [rows, inputs, outputs], format, direction)?));
            }
            figures.resize(3, "-".into());
            let shape = format!("{rows}×{inputs}×{outputs}");
            println!("{shape:>19} {:>6} {:>10} {:>15} {:>15}", format.word(), figures[0], figures[1], figures[2]);
        }
    }
    Ok(())
}

/// GFLOP/s of one direction.
fn measure(device: &Device, [rows, inputs, outputs]: [u32; 3], format: DType, direction: u32) -> Result<f64> {
    const TIMES: u32 = 4;
    let mut parameters = Parameters::default();
    let weight = parameters.add("weight", [outputs, inputs], format, direction == 2);
    let mut g = Graph::new(device.traits(), &parameters, true);
    let x = g.input("x", [rows, inputs], DType::F32);
    let dy = g.input("dy", [rows, outputs], DType::F32);
    let layer = Linear::new(weight, None);
    for _ in 0..TIMES {
        match direction {
            0 => drop(matmul::forward(&mut g, x, &layer, outputs, None)),
            1 => drop(matmul::input_gradient(&mut g, dy, &layer, None)),
            _ => matmul::layer_gradients(&mut g, dy, x, &layer),
        }
    }
    let memory = Memory::new(device, &parameters, true)?;
    let mut program = Program::new(device, &memory, &g)?;
    let values = |len: u32| (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0 - 0.5).collect::<Vec<_>>();
    program.write(device, x, &values(rows * inputs));
    program.write(device, dy, &values(rows * outputs));
    let bytes = values(outputs * inputs);
    match format {
        DType::F16 => {
            memory.write(device, weight, bytemuck::cast_slice(&bytes.iter().map(|&v| half::f16::from_f32(v)).collect::<Vec<_>>()))
        }
        DType::Bf16 => {
            memory.write(device, weight, bytemuck::cast_slice(&bytes.iter().map(|&v| half::bf16::from_f32(v)).collect::<Vec<_>>()))
        }
        _ => memory.write(device, weight, bytemuck::cast_slice(&bytes)),
    }
    let metrics = memory.arenas().metrics;
    let mut best = f64::INFINITY;
    for round in 0..10 {
        let started = Instant::now();
        program.run(device)?;
        memory.read(device, metrics)?; // waits
        if round > 2 {
            best = best.min(started.elapsed().as_secs_f64());
        }
    }
    Ok(2.0 * f64::from(TIMES) * f64::from(rows) * f64::from(inputs) * f64::from(outputs) / best / 1e9)
}
