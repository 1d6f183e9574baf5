use graftling::doctor::reference;
use graftling::ops::{self, Pooling};

use crate::harness::{Array, Check, Random, all_traits};

#[test]
fn values_and_gradients() {
    let (lengths, length) = ([7u32, 1, 4, 6], 7);
    for traits in all_traits() {
        for pooling in [Pooling::First, Pooling::Last, Pooling::Mean] {
            for hidden in [5, 64, 260] {
                let arrays = [Array::input(&[4, length, hidden], &mut Random(5)), Array::whole(&lengths, &[4])];
                let name = format!("{pooling:?} of 4×{length}×{hidden}");
                let check = Check { name: &name, traits: &traits, arrays: &arrays, tolerance: 1e-6, twice: true };
                check.run(|g, t| ops::pool(g, t[0], t[1], pooling), |v| reference::pool(&v[0], &lengths, length, hidden, pooling));
            }
        }
    }
}
