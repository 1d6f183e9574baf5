use graftling::graph::DType;
use graftling::ops::{self, Attention};

use crate::harness::{Array, Check, Kind, Random, all_traits};

/// softmax(q·kᵀ/√size)·v with masks and dropout factors, element by element.
fn reference(qkv: &[f64], lengths: &[usize], length: usize, form: &Attention, site: u32) -> Vec<f64> {
    let (heads, shared, size) = (form.heads as usize, form.key_value_heads as usize, form.head_size as usize);
    let width = (heads + 2 * shared) * size;
    let mut y = vec![0.0; lengths.len() * length * heads * size];
    for (b, &keys) in lengths.iter().enumerate() {
        for h in 0..heads {
            let s = h * shared / heads;
            let at = |t: usize, part: usize, d: usize| qkv[(b * length + t) * width + part * size + d];
            for i in 0..length {
                let end = if form.causal { keys.min(i + 1) } else { keys };
                let scores: Vec<f64> =
                    (0..end).map(|j| (0..size).map(|d| at(i, h, d) * at(j, heads + s, d)).sum::<f64>() / (size as f64).sqrt()).collect();
                let largest = scores.iter().fold(f64::MIN, |m, &v| m.max(v));
                let total: f64 = scores.iter().map(|v| (v - largest).exp()).sum();
                for (j, score) in scores.iter().enumerate() {
                    let keep = match form.dropout {
                        0.0 => 1.0,
                        p => crate::dropout::factor(((b * heads + h) * length + i) as u32, j as u32, site, f64::from(p)),
                    };
                    let p = (score - largest).exp() / total * keep;
                    for d in 0..size {
                        y[((b * length + i) * heads + h) * size + d] += p * at(j, heads + shared + s, d);
                    }
                }
            }
        }
    }
    y
}

fn check(form: Attention, lengths: &[usize], length: usize) {
    for traits in all_traits() {
        let mut random = Random(10);
        let width = (form.heads + 2 * form.key_value_heads) * form.head_size;
        let mut qkv = Array::input(&[lengths.len(), length, width as usize], &mut random);
        qkv.values.iter_mut().for_each(|v| *v *= 2.0);
        let ends = Array {
            shape: vec![lengths.len()],
            kind: Kind::Frozen(DType::F32),
            values: lengths.iter().map(|&l| f32::from_bits(l as u32)).collect(),
        };
        let name = format!("attention {form:?}, lengths {lengths:?} of {length}, cpu {}, subgroup {:?}", traits.cpu, traits.subgroup);
        let arrays = [qkv, ends];
        let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 1e-5, twice: form.dropout == 0.0 };
        check.run(|g, t| ops::attention(g, t[0], t[1], form), |v| reference(&v[0], lengths, length, &form, 1));
    }
}

/// Few forms, since a driver takes seconds to compile each head size, mask and dropout; lengths and heads cost nothing more.
#[test]
fn values_and_gradients() {
    let form = Attention { heads: 2, key_value_heads: 2, head_size: 16, causal: true, dropout: 0.0 };
    check(form, &[9, 5], 9);
    check(Attention { heads: 4, key_value_heads: 2, ..form }, &[19], 19);
    check(Attention { heads: 3, key_value_heads: 1, ..form }, &[1], 1);
    check(Attention { heads: 1, key_value_heads: 1, ..form }, &[131, 70], 131);
    let full = Attention { heads: 4, key_value_heads: 2, head_size: 20, causal: false, dropout: 0.2 };
    check(full, &[11, 8, 1], 11);
    check(full, &[71, 66], 71);
}

#[test]
fn wide_heads() {
    let form = Attention { heads: 1, key_value_heads: 1, head_size: 128, causal: true, dropout: 0.0 };
    check(form, &[7], 7);
}

#[test]
fn a_row_without_keys_gives_zeros() {
    let form = Attention { heads: 1, key_value_heads: 1, head_size: 16, causal: true, dropout: 0.0 };
    check(form, &[0, 3], 3);
}
