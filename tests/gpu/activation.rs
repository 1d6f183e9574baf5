use graftling::gpu::{Memory, Program};
use graftling::graph::{DType, Graph, Parameters};
use graftling::ops::{self, Activation};

use crate::harness::{Array, Check, Random, all_traits, close_to, device};

fn erf(x: f64) -> f64 {
    // Abramowitz and Stegun 7.1.5 near zero, the continued fraction 7.1.14 of erfc elsewhere.
    if x.abs() < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..80 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let a = x.abs();
    let mut f = 0.0;
    for n in (1..=80).rev() {
        f = n as f64 / 2.0 / (a + f);
    }
    x.signum() * (1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / (a + f))
}

/// The activations in f64.
pub fn reference(kind: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match kind {
        Activation::Relu => x.max(0.0),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Activation::GeluNew | Activation::GeluFast => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Silu => x * sigmoid(x),
        Activation::LeakyRelu => {
            if x > 0.0 {
                x
            } else {
                0.01 * x
            }
        }
        Activation::Mish => x * x.exp().ln_1p().tanh(),
        Activation::Sigmoid => sigmoid(x),
        Activation::Tanh => x.tanh(),
        Activation::Linear => x,
    }
}

#[test]
fn values_and_gradients() {
    for (kind, name) in Activation::ALL {
        let mut x = Array::input(&[257], &mut Random(1));
        x.values.iter_mut().for_each(|v| *v *= 5.0);
        let check = Check { name, traits: &all_traits()[0], arrays: &[x], tolerance: 2e-6, twice: true };
        check.run(|g, t| ops::activation(g, t[0], kind), |v| v[0].iter().map(|&x| reference(kind, x)).collect());
    }
}

/// Against PyTorch's own values, far from zero too.
#[test]
fn pytorch() {
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/activations.safetensors")).expect("the fixture");
    let file = safetensors::SafeTensors::deserialize(&file).expect("a safetensors file");
    let read = |name: &str| bytemuck::pod_collect_to_vec::<u8, f32>(file.tensor(name).expect(name).data());
    for (kind, name) in Activation::ALL {
        let want: Vec<f64> = read(&format!("{name}.y")).iter().map(|&v| f64::from(v)).collect();
        let got: Vec<f32> = read("x").iter().map(|&x| reference(kind, f64::from(x)) as f32).collect();
        close_to(name, &got, &want, 1e-6);
    }
}

#[test]
fn extremes_stay_finite() {
    for (kind, name) in Activation::ALL {
        let x = Array { shape: vec![4], kind: crate::harness::Kind::Input, values: vec![-200.0, -30.0, 30.0, 200.0] };
        let check = Check { name, traits: &all_traits()[0], arrays: &[x], tolerance: 2e-6, twice: false };
        check.run(
            |g, t| ops::activation(g, t[0], kind),
            |v| v[0].iter().map(|&x| if kind == Activation::Mish && x > 100.0 { x } else { reference(kind, x) }).collect(),
        );
    }
}

/// So many elements that the workgroups of an elementwise kernel fold into a second dimension.
#[test]
fn more_workgroups_than_one_dimension_takes() {
    let len = 64 * 32_768 + 257;
    let parameters = Parameters::default();
    let mut g = Graph::new(device().traits(), &parameters, false);
    let x = g.input("x", [len], DType::F32);
    let y = ops::activation(&mut g, x, Activation::Linear);
    g.keep(y);
    let memory = Memory::new(device(), &parameters, false).expect("memory");
    let mut program = Program::with_canaries(device(), &memory, &g).expect("a program");
    let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
    program.write(device(), x, &values);
    program.run(device()).expect("a run");
    assert!(program.read(device(), &memory, y).expect("a read") == values);
    assert_eq!(program.damaged_canary(device()).expect("a read"), None);
}
