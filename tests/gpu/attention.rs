use graftling::doctor::reference;
use graftling::ops::{self, Attention};

use crate::harness::{Array, Check, Random, all_traits};

fn check(form: Attention, lengths: &[usize], length: usize) {
    for traits in all_traits() {
        let mut random = Random(10);
        let width = (form.heads + 2 * form.key_value_heads) * form.head_size;
        let mut qkv = Array::input(&[lengths.len(), length, width as usize], &mut random);
        qkv.values.iter_mut().for_each(|v| *v *= 2.0);
        let ends: Vec<u32> = lengths.iter().map(|&l| l as u32).collect();
        let name = format!("attention {form:?}, lengths {lengths:?} of {length}, cpu {}, subgroup {:?}", traits.cpu, traits.subgroup);
        let arrays = [qkv, Array::whole(&ends, &[ends.len()])];
        let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 1e-5, twice: form.dropout == 0.0 };
        check.run(|g, t| ops::attention(g, t[0], t[1], form), |v| reference::attention(&v[0], lengths, length, &form, 1));
    }
}

/// Few configurations, since a driver takes seconds to compile each head size, mask and dropout; more lengths and heads cost nothing.
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
    let form = Attention { heads: 2, key_value_heads: 1, head_size: 256, causal: true, dropout: 0.0 };
    check(form, &[11], 11);
}

#[test]
fn a_row_without_keys_gives_zeros() {
    let form = Attention { heads: 1, key_value_heads: 1, head_size: 16, causal: true, dropout: 0.0 };
    check(form, &[0, 3], 3);
}
