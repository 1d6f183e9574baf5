//! The config in a GGUF file's metadata.
#![no_main]

mod limit;

use std::path::Path;

use graftling::model::Config;
use graftling::weights::Gguf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes(Path::new("input"), bytes.to_vec()) else { return };
    match limit::limited(bytes.len(), || Config::from_gguf(&gguf)) {
        Ok(config) => config.check().expect("reading validates the config"),
        Err(error) => limit::sentence(&error),
    }
});
