use graftling::doctor::reference;
use graftling::gpu::{Memory, Program};
use graftling::graph::{DType, Graph, Parameters};
use graftling::ops::{self, Activation};

use crate::harness::{Array, Check, Random, all_traits, builds, close_to, device};

#[test]
fn values_and_gradients() {
    for (kind, name) in Activation::ALL {
        for len in [257, 516] {
            let mut x = Array::input(&[len], &mut Random(1));
            x.values.iter_mut().for_each(|v| *v *= 5.0);
            let check = Check { name, traits: &all_traits()[0], arrays: &[x], tolerance: 2e-6, twice: true };
            check.run(|g, t| ops::activation(g, t[0], kind), |v| v[0].iter().map(|&x| reference::activation(kind, x)).collect());
        }
    }
}

/// Against PyTorch's values, including those far from zero.
#[test]
fn pytorch() {
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/activations.safetensors")).expect("the fixture");
    let file = safetensors::SafeTensors::deserialize(&file).expect("a safetensors file");
    let read = |name: &str| bytemuck::pod_collect_to_vec::<u8, f32>(file.tensor(name).expect(name).data());
    for (kind, name) in Activation::ALL {
        let want: Vec<f64> = read(&format!("{name}.y")).iter().map(|&v| f64::from(v)).collect();
        let got: Vec<f32> = read("x").iter().map(|&x| reference::activation(kind, f64::from(x)) as f32).collect();
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
            |v| v[0].iter().map(|&x| if kind == Activation::Mish && x > 100.0 { x } else { reference::activation(kind, x) }).collect(),
        );
    }
}

/// Enough elements that the workgroups of an elementwise kernel need a second dimension.
#[test]
fn more_workgroups_than_one_dimension_takes() {
    let len = 64 * 32_768 + 257;
    let parameters = Parameters::default();
    let mut g = Graph::new(device().traits(), &parameters, false);
    let x = g.input("x", [len], DType::F32);
    let y = ops::activation(&mut g, x, Activation::Linear);
    g.keep(y);
    let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
    for device in builds() {
        let memory = Memory::new(device, &parameters, false).expect("memory");
        let mut program = Program::with_canaries(device, &memory, &g).expect("a program");
        program.write(device, x, &values);
        program.run(device).expect("a run");
        assert!(program.read(device, &memory, y).expect("a read") == values);
        assert_eq!(program.damaged_canary(device).expect("a read"), None);
    }
}
