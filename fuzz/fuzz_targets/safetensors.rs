//! safetensors files, through a file of this process, since the reader memory-maps it.
#![no_main]

mod limit;

use std::path::PathBuf;
use std::sync::LazyLock;

use graftling::weights::Weights;
use libfuzzer_sys::fuzz_target;

static PATH: LazyLock<PathBuf> = LazyLock::new(|| std::env::temp_dir().join(format!("graftling-fuzz-{}.safetensors", std::process::id())));

fuzz_target!(|bytes: &[u8]| {
    std::fs::write(&*PATH, bytes).expect("a file can be written");
    // A list of axes needs 8 bytes for every two bytes of the header, and its capacity doubles as it grows.
    let weights = match limit::limited(16 * bytes.len(), || Weights::read(&PATH)) {
        Ok(weights) => weights,
        Err(error) => return limit::sentence(&error),
    };
    for (name, weight) in &weights.tensors {
        if weights.get(name, &weight.shape).is_ok() {
            assert!(weight.to_f32().iter().all(|value| value.is_finite()), "{name} passed the check for finite values");
        }
    }
    for name in weights.unsupported.keys() {
        limit::sentence(&weights.get(name, &[1].into()).expect_err("an unsupported tensor"));
    }
});
