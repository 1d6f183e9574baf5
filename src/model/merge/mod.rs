//! A LoRA folded into the weights of its base: a model that needs no adapter, for programs that load none. Tensors go from the base's files to the new
//! ones one by one, so that memory holds only one of them.
//!
//! | | into a GGUF file (`gguf.rs`) | into a directory (`directory.rs`) |
//! |---|---|---|
//! | a GGUF base | metadata and untouched tensors as they are | config and tokenizer from the metadata |
//! | a directory | metadata from the config and the tokenizer | the other files, and untouched tensors, as they are |

mod directory;
mod fold;
mod gguf;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::SavedAdapter;
use super::parts::{Source, read};
use crate::error::{Error, Result};
use crate::weights::{GgmlType, Weight};
use fold::Folded;

/// What [`merge`] has done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Merged {
    /// The number of linear layers into which a LoRA was folded.
    pub modules: usize,
    /// The number of tensors written.
    pub tensors: usize,
    /// How many tensors changed their format, by the old and the new one.
    pub converted: BTreeMap<[&'static str; 2], usize>,
}

/// Writes the model at `model` with the LoRA folded into its weights: to a GGUF file if `out` ends with `.gguf`, otherwise to a directory in Hugging
/// Face's form, which must not exist. Products are summed in f32 and rounded once. Matrices get the format `wanted`, or each keeps its own if that is
/// `None`. Then tensors without a LoRA keep their bytes, and a changed one in a format that cannot be written becomes [`GgmlType::writable`].
///
/// # Errors
/// [`Error::Usage`] if the files cannot hold the model, [`Error::File`] if the adapter is no LoRA or does not fit the base, or if a tensor of either is
/// damaged; [`Error::Write`].
pub fn merge(model: &Path, adapter: &SavedAdapter, out: &Path, wanted: Option<GgmlType>) -> Result<Merged> {
    let same = |path: &Path| std::fs::canonicalize(path).ok();
    if same(out).is_some_and(|out| same(model) == Some(out)) {
        return Err(Error::Usage(format!("{} is the model itself; choose another place for the result", out.display())));
    }
    if let Some(format) = wanted.filter(|format| !GgmlType::WRITABLE.contains(format)) {
        let writable = GgmlType::WRITABLE.map(|format| format.dtype().word()).join(", ");
        return Err(Error::Usage(format!("tensors in {format} cannot be written; choose one of {writable}, or keep each tensor's format")));
    }
    let (config, weights, source) = read(model)?;
    let folded = Folded::new(config, weights, adapter)?;
    let is_gguf = out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    match (&source, is_gguf) {
        (Source::Builtin, _) => {
            Err(Error::Usage("the built-in model has no files to merge into; give the directory assets/base of the source code".into()))
        }
        (Source::Gguf(file), true) => gguf::from_gguf(&folded, file, out, wanted),
        (Source::Directory, true) => gguf::from_directory(&folded, model, out, wanted),
        (Source::Gguf(file), false) => directory::from_gguf(&folded, file, out, wanted),
        (Source::Directory, false) => directory::from_directory(&folded, model, out, wanted),
    }
}

impl Merged {
    /// Counts a tensor.
    fn add(&mut self, from: GgmlType, to: GgmlType) {
        self.tensors += 1;
        if from != to {
            *self.converted.entry([from.dtype().word(), to.dtype().word()]).or_default() += 1;
        }
    }
}

/// The bytes of a tensor in a format, all finite. `name` and `path` are for messages.
fn encoded<'a>(weight: &'a Weight, format: GgmlType, name: &str, path: &Path) -> Result<Cow<'a, [u8]>> {
    let bytes = weight.in_blocks(format);
    match format.first_non_finite(&bytes) {
        None => Ok(bytes),
        Some(_) => {
            let problem = format!("tensor '{name}' has a number too large for {format}; use --type bf16 or f32");
            Err(Error::file(path, problem))
        }
    }
}
