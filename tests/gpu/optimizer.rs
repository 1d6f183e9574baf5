use graftling::gpu::{Memory, Program, Step};
use graftling::graph::{DType, Graph, Parameters};
use graftling::ops::optimizer::{Adam, adam};

use crate::harness::{Random, close, device};

struct Reference {
    values: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    t: i32,
}

impl Reference {
    fn step(&mut self, config: &Adam, gradient: &[f32], learning_rate: f64) -> f64 {
        let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let scale = config.clip_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        self.t += 1;
        for (i, &g) in gradient.iter().enumerate() {
            let mut g = f64::from(g) * scale;
            if config.decoupled {
                self.values[i] *= 1.0 - learning_rate * config.weight_decay;
            } else {
                g += config.weight_decay * self.values[i];
            }
            self.m[i] = config.beta1 * self.m[i] + (1.0 - config.beta1) * g;
            self.v[i] = config.beta2 * self.v[i] + (1.0 - config.beta2) * g * g;
            let m = self.m[i] / (1.0 - config.beta1.powi(self.t));
            let v = self.v[i] / (1.0 - config.beta2.powi(self.t));
            self.values[i] -= learning_rate * m / (v.sqrt() + config.epsilon);
        }
        norm
    }
}

fn words(memory: &Memory) -> Vec<u32> {
    bytemuck::pod_collect_to_vec(&memory.read(device(), memory.arenas().metrics).expect("metrics"))
}

fn check(config: Adam, len: u32) {
    let device = device();
    let mut parameters = Parameters::default();
    let weight = parameters.add("weight", [len], DType::F32, true);
    let mut traits = device.traits().clone();
    traits.max_binding = 4096 * 4 * 2; // so that a longer arena is taken in ranges
    let mut g = Graph::new(&traits, &parameters, true);
    adam(&mut g, &config);
    let memory = Memory::new(device, &parameters, true).expect("memory");
    let mut program = Program::with_canaries(device, &memory, &g).expect("a program");

    let mut random = Random(20);
    let start = random.values(len as usize);
    memory.write(device, weight, bytemuck::cast_slice(&start));
    let exact: Vec<f64> = start.iter().map(|&v| f64::from(v)).collect();
    let mut reference = Reference { m: vec![0.0; exact.len()], v: vec![0.0; exact.len()], values: exact, t: 0 };
    for step in 0..40 {
        let learning_rate = 0.01 / (step + 1) as f32;
        let mut gradient = random.values(len as usize);
        gradient.iter_mut().for_each(|g| *g *= 0.1);
        let mut arena = gradient.clone();
        arena.resize(parameters.arena_len() as usize, 0.0);
        memory.write(device, memory.arenas().gradients, bytemuck::cast_slice(&arena));
        memory.set_step(device, Step { learning_rate, ..Step::default() });
        program.run(device).expect("a run");
        let norm = reference.step(&config, &gradient, f64::from(learning_rate));
        close("norm", &[f32::from_bits(words(&memory)[1])], &[norm], 2e-6);
    }
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(&memory.read(device, weight).expect("values"));
    close(&format!("{config:?}"), &values, &reference.values, 2e-6);
    assert_eq!(words(&memory)[3..7], [1, 40, 0, 0]);
}

#[test]
fn follows_the_formulas() {
    check(Adam::default(), 257);
    check(Adam { weight_decay: 0.1, ..Adam::default() }, 64);
    check(Adam { weight_decay: 0.1, decoupled: true, clip_norm: Some(0.05), ..Adam::default() }, 20_000);
}

#[test]
fn a_step_that_is_not_finite_changes_nothing_and_is_counted() {
    let device = device();
    let mut parameters = Parameters::default();
    let weight = parameters.add("weight", [100], DType::F32, true);
    let mut g = Graph::new(device.traits(), &parameters, true);
    adam(&mut g, &Adam::default());
    let memory = Memory::new(device, &parameters, true).expect("memory");
    let mut program = Program::new(device, &memory, &g).expect("a program");
    memory.set_step(device, Step { learning_rate: 0.1, ..Step::default() });
    let run = |program: &mut Program, bad: Option<f32>| {
        let mut gradient = vec![0.5f32; parameters.arena_len() as usize];
        if let Some(bad) = bad {
            gradient[63] = bad;
        }
        memory.write(device, memory.arenas().gradients, bytemuck::cast_slice(&gradient));
        program.run(device).expect("a run");
        (memory.read(device, weight).expect("values"), words(&memory)[3..7].to_vec())
    };
    let (after_one, counted) = run(&mut program, None);
    assert_eq!(counted, [1, 1, 0, 0]);
    for (i, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
        let (values, counted) = run(&mut program, Some(bad));
        assert_eq!(values, after_one, "a gradient of {bad} moved a weight");
        assert_eq!(counted, [0, 1, i as u32 + 1, i as u32 + 1]);
    }
    let set_loss = |loss: f32| {
        let mut metrics = words(&memory);
        metrics[0] = loss.to_bits();
        memory.write(device, memory.arenas().metrics, bytemuck::cast_slice(&metrics));
    };
    set_loss(f32::NAN);
    let (values, counted) = run(&mut program, None);
    assert_eq!(values, after_one, "a loss that is no number moved a weight");
    assert_eq!(counted, [0, 1, 4, 4]);
    set_loss(0.0);
    let (values, counted) = run(&mut program, None);
    assert_ne!(values, after_one);
    assert_eq!(counted, [1, 2, 4, 0]);
}
