//! GGUF files: the header, each metadata value read as every type, and every tensor of moderate size decoded.
#![no_main]

mod limit;

use std::path::Path;
use std::sync::Arc;

use graftling::weights::gguf::Strings;
use graftling::weights::{Gguf, Weights};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = bytes.to_vec();
    let gguf = match limit::limited(bytes.len(), || Gguf::from_bytes(Path::new("input"), file)) {
        Ok(gguf) => Arc::new(gguf),
        Err(error) => return limit::sentence(&error),
    };
    limit::limited(bytes.len(), || {
        for key in gguf.metadata().keys() {
            let _ = (gguf.value::<u32>(key), gguf.value::<f32>(key), gguf.value::<bool>(key), gguf.value::<&str>(key));
            let _ = (gguf.value::<Vec<f32>>(key), gguf.value::<Vec<i32>>(key));
            if let Ok(Some(strings)) = gguf.value::<Strings>(key) {
                assert_eq!(strings.len(), strings.count());
            }
        }
    });
    let weights = Weights::from_gguf(&gguf);
    for (name, weight) in &weights.tensors {
        let finite = weights.get(name, &weight.shape).is_ok();
        if weight.shape.len() <= 1 << 16 {
            assert_eq!(weight.bytes().len() as u64, weight.dtype.bytes(weight.shape.len()));
            let values = weight.to_f32();
            assert!(!finite || values.iter().all(|value| value.is_finite()), "{name} passed the check for finite values");
        }
    }
});
