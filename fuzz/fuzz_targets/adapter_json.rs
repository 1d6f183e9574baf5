//! `adapter_config.json`, in a directory of this process, next to an `adapter.safetensors` without tensors.
#![no_main]

mod limit;

use std::path::PathBuf;
use std::sync::LazyLock;

use graftling::model::{SavedAdapter, read_adapter, write_adapter};
use graftling::weights::Weights;
use libfuzzer_sys::fuzz_target;

static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let place = std::env::temp_dir().join(format!("graftling-fuzz-{}", std::process::id()));
    Weights::default().write(&place.join("adapter.safetensors")).expect("a file can be written");
    place
});

fuzz_target!(|bytes: &[u8]| {
    std::fs::write(PLACE.join("adapter_config.json"), bytes).expect("a file can be written");
    let read = match limit::limited(16 * bytes.len(), || read_adapter(&PLACE)) {
        Ok(read) => read,
        Err(error) => return limit::sentence(&error),
    };
    read.config.check().expect("reading validates the config");
    // A round trip preserves the contents.
    let copy = PLACE.join("copy");
    let without_tensors = SavedAdapter { weights: Weights::default(), ..read.clone() };
    write_adapter(&copy, &without_tensors).expect("an adapter that was read can be written");
    let again = read_adapter(&copy).expect("a written adapter can be read");
    assert_eq!((again.name, again.config, again.model_type), (read.name, read.config, read.model_type));
});
