use graftling::doctor::reference;
use graftling::ops::{self, Half};

use crate::harness::{Array, Check, Random, all_traits};

/// Every half is taken and added to, at widths of both vector sizes; the input also reaches the output around it, so that its gradient has two
/// contributions.
#[test]
fn values_and_gradients() {
    for traits in all_traits() {
        for (rows, width) in [(1, 1), (3, 257), (257, 5), (13, 64)] {
            for (half, other, sign) in
                [(Half::First, Half::Second, 1.0), (Half::Second, Half::First, -1.0), (Half::First, Half::First, -0.5)]
            {
                let x = Array::input(&[rows, 2 * width], &mut Random(12));
                let name = format!("halves {rows}×{width} {half:?} {other:?}");
                let check = Check { name: &name, traits: &traits, arrays: &[x], tolerance: 2e-6, twice: true };
                check.run(
                    |g, t| {
                        let taken = ops::half_of(g, t[0], other);
                        ops::add_to_half(g, t[0], taken, half, sign)
                    },
                    |v| reference::add_halves(&v[0], width, [half, other], f64::from(sign)),
                );
            }
        }
    }
}
