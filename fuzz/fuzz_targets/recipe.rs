//! The TOML config of `pretrain`.
#![no_main]

mod limit;

use graftling::model::Config;
use graftling::train::Recipe;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // A table of short keys needs some hundred bytes per key.
    match limit::limited(64 * text.len(), || Recipe::parse(text)) {
        Ok(recipe) => {
            recipe.check().expect("reading validates the recipe");
            assert_eq!(Config::from_json(&recipe.config.to_json()), Ok(recipe.config));
        }
        Err(problem) => assert!(!problem.chars().any(char::is_control) && problem.len() < 2000, "{problem:?}"),
    }
});
