//! Readers for what several families' files have in common: extents, dropout, activations.

use super::LARGEST;
use crate::keyed::{Checked, Keyed};
use crate::ops::Activation;
use crate::words::shown;

impl Keyed {
    /// An extent, if the file has it: a whole number from 1 to [`LARGEST`].
    pub(crate) fn extent(&mut self, key: &str) -> Checked<Option<u32>> {
        self.count(key, LARGEST)
    }

    /// An extent that the file must have.
    pub(crate) fn required(&mut self, key: &str) -> Checked<u32> {
        self.extent(key)?.ok_or_else(|| self.missing(key))
    }

    /// A dropout rate.
    pub(super) fn dropout(&mut self, key: &str, default: f32) -> Checked<f32> {
        Ok(self.share(key)?.map_or(default, |share| share as f32))
    }

    /// An activation by the name that `transformers` has for it.
    pub(super) fn activation(&mut self, key: &str) -> Checked<Option<Activation>> {
        let Some(name) = self.text(key)? else { return Ok(None) };
        let known = match &name[..] {
            "gelu_python" => Some(Activation::Gelu),
            "gelu_pytorch_tanh" | "gelu_python_tanh" => Some(Activation::GeluNew),
            "leaky_relu" => Some(Activation::LeakyRelu),
            name => Activation::from_name(name),
        };
        known.map(Some).ok_or_else(|| {
            let names = Activation::ALL.map(|(_, name)| name).join(", ");
            format!("has {} = \"{}\", which is not supported; {names} are", self.name(key), shown(&name))
        })
    }
}

/// The size of a head if the heads divide the hidden size evenly; the keys are for messages.
pub(super) fn head_size(hidden_size: u32, heads: u32, [hidden_key, heads_key]: [&str; 2]) -> Checked<u32> {
    if hidden_size.is_multiple_of(heads) {
        return Ok(hidden_size / heads);
    }
    Err(format!("has {hidden_key} = {hidden_size}, which is not a multiple of {heads_key} = {heads}; fetch the file again"))
}
