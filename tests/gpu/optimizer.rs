use graftling::doctor::special::{adam_steps, skipped_steps};
use graftling::ops::optimizer::Adam;

use crate::harness::{builds, expect_right};

fn check(config: Adam, len: u32) {
    for device in builds() {
        expect_right(&adam_steps(device, device.traits(), &config, len, 2e-6).expect("a working device"));
    }
}

#[test]
fn follows_the_formulas() {
    check(Adam::default(), 257);
    check(Adam { weight_decay: 0.1, ..Adam::default() }, 64);
    check(Adam { weight_decay: 0.1, decoupled: true, clip_norm: Some(0.05), ..Adam::default() }, 20_000);
}

#[test]
fn a_step_that_is_not_finite_changes_nothing_and_is_counted() {
    for device in builds() {
        expect_right(&skipped_steps(device, device.traits()).expect("a working device"));
    }
}
