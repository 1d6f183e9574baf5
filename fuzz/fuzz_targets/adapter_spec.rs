//! Config strings of adapters, parsed and printed again.
#![no_main]

mod limit;

use graftling::model::AdapterConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|spec: &str| {
    match limit::limited(16 * spec.len(), || AdapterConfig::parse(spec)) {
        Ok(config) => {
            config.check().expect("reading validates the config");
            assert_eq!(AdapterConfig::parse(&config.to_string()).expect("a printed config can be parsed"), config);
        }
        Err(error) => {
            let message = error.to_string();
            assert!(error.exit_code() == 2 && !message.chars().any(char::is_control) && message.len() < 2000, "{message:?}");
        }
    }
});
