//! `config.json` of every architecture.
#![no_main]

mod limit;

use graftling::model::{Config, Family};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // A list of short values needs 32 bytes for every two bytes of text.
    match limit::limited(16 * text.len(), || Config::from_json(text)) {
        Ok(config) => {
            config.check().expect("reading validates the config");
            if config.family == Family::Graftling {
                assert_eq!(Config::from_json(&config.to_json()), Ok(config));
            }
        }
        Err(problem) => assert!(!problem.chars().any(char::is_control) && problem.len() < 2000, "{problem:?}"),
    }
});
