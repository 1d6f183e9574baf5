//! How byte-level tokenizers split a text before BPE. GGUF files name the method in the key `tokenizer.ggml.pre`.
//!
//! The names come from llama.cpp (`llama-vocab.cpp`); the regular expressions from the models' own `tokenizer.json`: GPT-2, SmolLM2,
//! Llama 3, Qwen2, Mistral NeMo and DeepSeek Coder.

use tokenizers::SplitDelimiterBehavior::Isolated;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::pre_tokenizers::{PreTokenizerWrapper, byte_level::ByteLevel, digits::Digits, sequence::Sequence, split::Split};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Applied in order, each to the pieces that the previous ones left.
const DEEPSEEK_CODER: [&str; 4] = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\u{D7FF}]+"];

/// Whether the regular expression is one of those here that never match a letter and the space after it together.
pub(super) fn is_known(expression: &str) -> bool {
    [LLAMA3, QWEN2, TEKKEN].contains(&expression)
}

/// A known pre-tokenizer, with the other settings that its name implies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pre {
    Gpt2,
    SmolLm,
    Llama3,
    Qwen2,
    Tekken,
    DeepSeekCoder,
}

impl Pre {
    /// The pre-tokenizer called `name`, if it is known for certain.
    pub(super) fn named(name: &str) -> Option<Pre> {
        Some(match name {
            "default" | "gpt-2" | "gpt2" | "phi-2" => Pre::Gpt2,
            "smollm" | "starcoder" => Pre::SmolLm,
            "llama-bpe" | "llama3" | "llama-v3" => Pre::Llama3,
            "qwen2" => Pre::Qwen2,
            "tekken" => Pre::Tekken,
            "deepseek-coder" => Pre::DeepSeekCoder,
            _ => return None,
        })
    }

    pub(super) fn normalizer(self) -> Option<NFC> {
        (self == Pre::Qwen2).then_some(NFC)
    }

    pub(super) fn pre_tokenizer(self) -> PreTokenizerWrapper {
        let byte_level = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, use_regex));
        let split = |expression: &str| {
            let pattern = SplitPattern::Regex(expression.into());
            PreTokenizerWrapper::from(Split::new(pattern, Isolated, false).expect("the expressions here are valid"))
        };
        let parts = match self {
            Pre::Gpt2 => return byte_level(true),
            Pre::SmolLm => vec![Digits::new(true).into(), byte_level(true)],
            Pre::Llama3 => vec![split(LLAMA3), byte_level(false)],
            Pre::Qwen2 => vec![split(QWEN2), byte_level(false)],
            Pre::Tekken => vec![split(TEKKEN), byte_level(false)],
            Pre::DeepSeekCoder => {
                let splits = DEEPSEEK_CODER.into_iter().map(split);
                splits.chain([Digits::new(true).into(), byte_level(false)]).collect()
            }
        };
        Sequence::new(parts).into()
    }

    /// Whether a piece that is itself a token skips the merges.
    pub(super) fn ignores_merges(self) -> bool {
        matches!(self, Pre::Llama3 | Pre::Tekken)
    }

    /// Whether a text begins with BOS if the file does not specify it.
    pub(super) fn adds_bos(self) -> bool {
        matches!(self, Pre::Llama3 | Pre::Tekken)
    }
}
