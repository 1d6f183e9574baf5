use graftling::ops::{self, Norm};

use crate::harness::{Array, Check, Random, all_traits};

fn reference(x: &[f64], residual: Option<&[f64]>, weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let n = weight.len();
    let mut y = Vec::new();
    for (r, row) in x.chunks(n).enumerate() {
        let s: Vec<f64> = row.iter().enumerate().map(|(c, v)| v + residual.map_or(0.0, |res| res[r * n + c])).collect();
        let mean = s.iter().sum::<f64>() / n as f64;
        let variance = s.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        y.extend(s.iter().enumerate().map(|(c, v)| (v - mean) / (variance + f64::from(1e-5f32)).sqrt() * weight[c] + bias[c]));
    }
    y
}

#[test]
fn values_and_gradients() {
    for traits in all_traits() {
        for (rows, hidden) in [(1, 4), (3, 257), (130, 12), (257, 8)] {
            let mut random = Random(6);
            let arrays = [
                Array::input(&[rows, hidden], &mut random),
                Array::input(&[rows, hidden], &mut random),
                Array::weight(&[hidden], &mut random),
                Array::weight(&[hidden], &mut random),
            ];
            let name = format!("norm {rows}×{hidden}, cpu {}", traits.cpu);
            let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 1e-5, twice: true };
            check.run(
                |g, t| ops::add_norm(g, t[0], t[1], &Norm { weight: t[2], bias: t[3], epsilon: 1e-5 }),
                |v| reference(&v[0], Some(&v[1]), &v[2], &v[3]),
            );
            let arrays = [arrays[0].clone(), arrays[2].clone(), arrays[3].clone()];
            let check = Check { arrays: &arrays, ..check };
            check.run(
                |g, t| ops::norm(g, t[0], &Norm { weight: t[1], bias: t[2], epsilon: 1e-5 }),
                |v| reference(&v[0], None, &v[1], &v[2]),
            );
        }
    }
}
