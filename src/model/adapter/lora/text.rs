//! Config strings such as `lora[r=8,alpha=16,target_modules=[q_proj,v_proj]]`.

use std::fmt;

use super::super::text::keys_of;
use super::LoraConfig;
use super::keys::{KEYS, literal};

impl LoraConfig {
    /// Parses a config string that begins with `lora`.
    ///
    /// # Errors
    /// One sentence that names the problem.
    pub(in super::super) fn parse(spec: &str) -> Result<LoraConfig, String> {
        let mut config = LoraConfig::default();
        for (key, value) in keys_of(spec)?.1 {
            config.set(&key, &value)?;
        }
        config.check()?;
        Ok(config)
    }
}

impl fmt::Display for LoraConfig {
    /// Writes the config string with the keys that differ from their defaults, and always the rank.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = LoraConfig::default();
        write!(f, "lora[r={}", self.rank)?;
        for (key, short) in KEYS.into_iter().filter(|&(key, _)| key != "r" && self.value(key) != usual.value(key)) {
            write!(f, ",{short}={}", literal(&self.value(key)))?;
        }
        f.write_str("]")
    }
}
