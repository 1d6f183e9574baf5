//! Building a tokenizer from the metadata of a GGUF file.

use std::fmt;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence};
use tokenizers::{AddedToken, DecoderWrapper, decoders, pre_tokenizers::byte_level::ByteLevel};

use super::Special;
use super::split::Pre;
use crate::error::{Error, Result};
use crate::weights::{Gguf, Strings};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";

// Values of `tokenizer.ggml.token_type`.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// The longest token, in bytes, that is considered for merges. SentencePiece produces none longer than a few dozen characters.
const LONGEST_MERGED: usize = 1024;

/// Reads the vocabulary of a file and its special tokens.
pub(super) fn read(gguf: &Gguf) -> Result<(tokenizers::Tokenizer, Special)> {
    let kind: &str = gguf.required(MODEL)?;
    let tokens: Vec<&str> = gguf.required::<Strings>(TOKENS)?.collect();
    if tokens.is_empty() {
        return fail(gguf, TOKENS, "has no tokens");
    }
    let types: Option<Vec<i32>> = gguf.value(TYPES)?;
    if let Some(types) = &types {
        same_length(gguf, TYPES, types.len(), tokens.len())?;
    }
    // The last of several equal tokens wins, as in other readers.
    let vocabulary: Vocab = tokens.iter().zip(0..).map(|(&token, id)| (token.to_owned(), id)).collect();
    let (mut tokenizer, adds_bos) = match kind {
        "gpt2" => byte_level(gguf, vocabulary)?,
        "llama" => (sentence_piece(gguf, &tokens, types.as_deref(), vocabulary)?, true),
        _ => return unknown(gguf, MODEL, kind),
    };

    let of_type = |wanted: &[i32]| {
        let typed = tokens.iter().zip(types.iter().flatten());
        typed.filter(|&(_, kind)| wanted.contains(kind)).map(|(&token, _)| token).collect::<Vec<_>>()
    };
    let added = |token: &str, special| AddedToken::from(token, special).normalized(false);
    let control: Vec<_> = of_type(&[UNKNOWN, CONTROL]).into_iter().map(|token| added(token, true)).collect();
    let user: Vec<_> = of_type(&[USER_DEFINED]).into_iter().map(|token| added(token, false)).collect();
    tokenizer.add_special_tokens(&control);
    tokenizer.add_tokens(&user);

    let mut special = Special::default();
    complete(gguf, &mut special)?;
    if gguf.value::<bool>(ADD_BOS)?.is_none() && adds_bos {
        special.prefix = special.bos.into_iter().collect();
    }
    Ok((tokenizer, special))
}

/// The number of tokens in the file, if it has a vocabulary.
pub(super) fn token_count(gguf: &Gguf) -> Result<Option<usize>> {
    Ok(gguf.value::<Strings>(TOKENS)?.map(|tokens| tokens.len()))
}

/// Fills in special tokens from the file where they are not set yet.
pub(super) fn complete(gguf: &Gguf, special: &mut Special) -> Result<()> {
    let count = token_count(gguf)?.unwrap_or(0);
    let token = |key: &str| match gguf.value::<u32>(key)? {
        // The largest number means none.
        None | Some(u32::MAX) => Ok(None),
        Some(id) if (id as usize) < count => Ok(Some(id)),
        Some(id) => fail(gguf, key, format_args!("is {id}, but there are only {count} tokens")),
    };
    let bos = token("tokenizer.ggml.bos_token_id")?;
    special.bos = special.bos.or(bos);
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        token(key)?.into_iter().for_each(|token| special.add_end(token));
    }
    if gguf.value::<bool>(ADD_BOS)? == Some(true) && special.prefix.is_empty() {
        let Some(bos) = special.bos else { return fail(gguf, ADD_BOS, "asks for a BOS token, but the file names none") };
        special.prefix = vec![bos];
    }
    if special.chat_template.is_none() {
        special.chat_template = gguf.value::<&str>("tokenizer.chat_template")?.map(str::to_owned);
    }
    Ok(())
}

/// Builds byte-level BPE. Also returns whether a text begins with BOS if the file does not specify it.
fn byte_level(gguf: &Gguf, vocabulary: Vocab) -> Result<(tokenizers::Tokenizer, bool)> {
    // Files older than the key use GPT-2's splitting only if they contain a GPT-2.
    let is_gpt2 = gguf.value::<&str>("general.architecture")? == Some("gpt2");
    let name = gguf.value::<&str>(PRE)?.unwrap_or(if is_gpt2 { "gpt-2" } else { "" });
    let Some(pre) = Pre::named(name) else { return unknown(gguf, PRE, name) };

    let mut merges = Merges::new();
    for (index, merge) in gguf.required::<Strings>(MERGES)?.enumerate() {
        let Some((left, right)) = merge.split_once(' ') else {
            return fail(gguf, MERGES, format_args!("has an entry {index} that is not two pieces separated by a space"));
        };
        if [left, right, &[left, right].concat()].iter().any(|&piece| !vocabulary.contains_key(piece)) {
            return fail(gguf, MERGES, format_args!("has an entry {index} with pieces that are not tokens"));
        }
        merges.push((left.to_owned(), right.to_owned()));
    }
    let model = BPE::builder().vocab_and_merges(vocabulary, merges).ignore_merges(pre.ignores_merges()).build();
    let mut tokenizer = tokenizers::Tokenizer::new(model.or_else(|e| fail(gguf, MERGES, format_args!("does not match the tokens ({e})")))?);
    tokenizer.with_normalizer(pre.normalizer()).with_pre_tokenizer(Some(pre.pre_tokenizer())).with_decoder(Some(ByteLevel::default()));
    Ok((tokenizer, pre.adds_bos()))
}

/// Builds SentencePiece BPE, which does not split texts first. Merges are ordered by the score of the token they produce.
fn sentence_piece(gguf: &Gguf, tokens: &[&str], types: Option<&[i32]>, vocabulary: Vocab) -> Result<tokenizers::Tokenizer> {
    let scores: Vec<f32> = gguf.required(SCORES)?;
    same_length(gguf, SCORES, scores.len(), tokens.len())?;
    if let Some(at) = scores.iter().position(|score| score.is_nan()) {
        return fail(gguf, SCORES, format_args!("has an entry {at} that is not a number"));
    }
    let merges = merges(tokens, &scores, &vocabulary);
    let unknown = match gguf.value::<u32>("tokenizer.ggml.unknown_token_id")? {
        Some(id) => tokens.get(id as usize).map(|&token| Some(token.to_owned())).map_or_else(
            || fail(gguf, "tokenizer.ggml.unknown_token_id", format_args!("is {id}, but there are only {} tokens", tokens.len())),
            Ok,
        )?,
        None => types.and_then(|types| types.iter().position(|&kind| kind == UNKNOWN)).map(|at| tokens[at].to_owned()),
    };
    let mut model = BPE::builder().vocab_and_merges(vocabulary, merges).byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = unknown {
        model = model.unk_token(unknown);
    }
    let model = model.build().or_else(|e| fail(gguf, TOKENS, format_args!("is not a valid vocabulary ({e})")))?;

    let adds_space = gguf.value::<bool>("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let spaces = Replace::new(" ", "▁").expect("a plain text is a valid pattern");
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if adds_space {
        normalizers.push(Prepend::new("▁".into()).into());
    }
    normalizers.push(spaces.into());
    let underscores = Replace::new("▁", " ").expect("a plain text is a valid pattern");
    let mut decoders: Vec<DecoderWrapper> =
        vec![underscores.into(), decoders::byte_fallback::ByteFallback::new().into(), decoders::fuse::Fuse::new().into()];
    if adds_space {
        decoders.push(decoders::strip::Strip::new(' ', 1, 0).into());
    }
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_normalizer(Some(Sequence::new(normalizers))).with_decoder(Some(decoders::sequence::Sequence::new(decoders)));
    Ok(tokenizer)
}

/// All ways to merge two tokens into a third, the best result first. Merges with equal scores are in the order of `transformers`'
/// converter: the longer left piece first.
fn merges(tokens: &[&str], scores: &[f32], vocabulary: &Vocab) -> Merges {
    struct Merge {
        score: f32,
        chars: (usize, usize),
        left: u32,
        right: u32,
    }
    let mut merges = Vec::new();
    for (token, &score) in tokens.iter().zip(scores).filter(|(token, _)| token.len() <= LONGEST_MERGED) {
        let from = merges.len();
        let count = token.chars().count();
        for (nth, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&left), Some(&right)) = (vocabulary.get(left), vocabulary.get(right)) {
                merges.push(Merge { score, chars: (nth, count - nth), left, right });
            }
        }
        merges[from..].sort_by_key(|merge| (merge.left, merge.right));
    }
    merges.sort_by(|a, b| b.score.partial_cmp(&a.score).expect("no score is NaN").then(b.chars.cmp(&a.chars)));
    merges.into_iter().map(|merge| (tokens[merge.left as usize].to_owned(), tokens[merge.right as usize].to_owned())).collect()
}

fn same_length(gguf: &Gguf, key: &str, len: usize, tokens: usize) -> Result<()> {
    if len == tokens { Ok(()) } else { fail(gguf, key, format_args!("has {len} entries for {tokens} tokens")) }
}

fn unknown<T>(gguf: &Gguf, key: &str, name: &str) -> Result<T> {
    let name: String = name.chars().take(40).flat_map(char::escape_debug).collect();
    let problem = format!("key '{key}' is '{name}', an unknown kind of tokenizer; put the model's tokenizer.json beside the file");
    Err(Error::file(gguf.path(), problem))
}

fn fail<T>(gguf: &Gguf, key: &str, problem: impl fmt::Display) -> Result<T> {
    let advice = "convert the model again, or put its tokenizer.json beside the file";
    Err(Error::file(gguf.path(), format!("key '{key}' {problem}; {advice}")))
}
