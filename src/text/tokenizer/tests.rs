use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Tokenizer;
use crate::files::Folder;
use crate::random::Random;
use crate::weights::Gguf;

const KINDS: [&str; 8] = ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "deepseek-coder", "llama", "llama-no-space"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers")
}

fn of(kind: &str) -> Tokenizer {
    let gguf = Gguf::open(&fixtures().join(format!("{kind}.gguf"))).expect("a fixture");
    Tokenizer::from_gguf(&gguf).expect("a tokenizer")
}

#[test]
fn tokens_are_those_of_the_python_package() {
    let expected = std::fs::read(fixtures().join("expected.json")).expect("a fixture");
    let expected: Value = serde_json::from_slice(&expected).expect("JSON");
    let ids = |value: &Value| value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("a number") as u32).collect::<Vec<_>>();
    for kind in KINDS {
        let (tokenizer, expected_of) = (of(kind), &expected[kind]);
        let prefix = ids(&expected_of["prefix"]);
        for (at, text) in expected["strings"].as_array().expect("a list").iter().enumerate() {
            let text = text.as_str().expect("a text");
            let tokens = ids(&expected_of["tokens"][at]);
            assert_eq!(tokenizer.encode(text).expect("tokens"), tokens, "{kind}: {text:?}");
            assert_eq!(tokenizer.encode_document(text).expect("tokens"), [prefix.as_slice(), &tokens].concat(), "{kind}: {text:?}");
            assert_eq!(tokenizer.decode(&tokens), expected_of["decoded"][at].as_str().expect("a text"), "{kind}: {text:?}");
        }
    }
}

#[test]
fn special_tokens_are_known() {
    let gpt = of("gpt-2");
    assert_eq!((gpt.bos(), gpt.end_tokens()), (Some(0), [2].as_slice()));
    assert!(gpt.chat_template().expect("a template").contains("<|user|>"));
    assert_eq!(gpt.encode("<|user|>x<|end|>").expect("tokens"), [&[1], &gpt.encode("x").expect("tokens")[..], &[2]].concat());
    let llama = of("llama");
    assert_eq!((llama.bos(), llama.chat_template()), (Some(1), None));
    assert_eq!(llama.end_tokens(), [2, llama.encode("<|end|>").expect("tokens")[0]]);
    assert_eq!(llama.vocab_size(), llama.len());
}

/// Characters of all lengths in UTF-8, with many spaces and digits.
fn random_text(random: &mut Random) -> String {
    let common: Vec<char> = "  \n\t\r'.1239aeiounsT\u{301}\u{a0}é你😀▁<|>".chars().collect();
    let count = random.below(60);
    let char_of = |random: &mut Random| match random.below(4) {
        0 => char::from_u32(random.below(0x11_0000) as u32).unwrap_or('x'),
        _ => common[random.below(common.len() as u64) as usize],
    };
    (0..count).map(|_| char_of(random)).collect()
}

#[test]
fn random_texts_come_back() {
    let mut random = Random::new(1, 2);
    let kinds: Vec<_> = KINDS.into_iter().map(|kind| (kind, of(kind))).collect();
    for _ in 0..400 {
        let text = random_text(&mut random);
        for (kind, tokenizer) in &kinds {
            let tokens = tokenizer.encode(&text).expect("tokens");
            assert!(tokens.iter().all(|&token| (token as usize) < tokenizer.vocab_size()));
            // Qwen's tokenizer composes characters; SentencePiece reads ▁ as a space.
            if *kind != "qwen2" && !kind.starts_with("llama") || *kind == "llama-bpe" {
                assert_eq!(tokenizer.decode(&tokens), text, "{kind}");
            }
            let mut decoder = tokenizer.decoder();
            let mut streamed: String = tokens.iter().map(|&token| decoder.push(token)).collect();
            streamed += &decoder.finish();
            assert_eq!(streamed, tokenizer.decode(&tokens), "{kind}: {text:?}");
        }
    }
}

#[test]
fn long_runs_of_one_character_are_no_problem() {
    for kind in KINDS {
        let tokenizer = of(kind);
        for run in [" ", "\n", "a", "1", "!", "\u{301}", " \n"] {
            let text = run.repeat(30_000) + "x";
            let tokens = tokenizer.encode(&text).expect("tokens");
            if !kind.starts_with("llama") {
                assert_eq!(tokenizer.decode(&tokens).len(), text.len(), "{kind}: {run:?}");
            }
        }
    }
}

#[test]
fn long_texts_have_the_tokens_of_the_whole() {
    let mut random = Random::new(3, 4);
    let pairs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pairs");
    let encoders = ["uncased", "cased", "roberta"].map(|kind| (kind, Tokenizer::read(&pairs.join(kind)).expect("a tokenizer")));
    for (kind, tokenizer) in KINDS.into_iter().map(|kind| (kind, of(kind))).chain(encoders) {
        assert_eq!(tokenizer.in_chunks, !["deepseek-coder", "llama", "llama-no-space"].contains(&kind), "{kind}");
        let mut text = String::new();
        while text.len() < 150_000 {
            text += &random_text(&mut random);
            text += ["a b", "it's x", "we'll \u{301}", "n\nb  c", "\r\n"][random.below(5) as usize];
        }
        let whole = tokenizer.inner.encode_fast(text.as_str(), false).expect("tokens");
        assert!(tokenizer.encode(&text).expect("tokens") == whole.get_ids(), "{kind}");
        // The same vocabulary from a tokenizer.json.
        let folder = Folder::new("tokenizer-long");
        folder.put("tokenizer.json", tokenizer.inner.to_string(false).expect("JSON"));
        let read = Tokenizer::read(&folder.0).expect("a tokenizer");
        assert_eq!((read.in_chunks, read.adds_space), (tokenizer.in_chunks, tokenizer.adds_space), "{kind}");
        let at = (1000..).find(|&at| text.is_char_boundary(at)).expect("there is one");
        assert_eq!(read.encode(&text[..at]).ok(), tokenizer.encode(&text[..at]).ok());
    }
}

#[test]
fn characters_are_held_back_until_they_are_whole() {
    let tokenizer = of("gpt-2");
    let tokens = tokenizer.encode("a𐍈b").expect("tokens");
    assert_eq!(tokens.len(), 6, "the vocabulary has no such letter");
    let mut decoder = tokenizer.decoder();
    let shown: Vec<String> = tokens.iter().map(|&token| decoder.push(token)).collect();
    assert_eq!(shown, ["a", "", "", "", "𐍈", "b"]);
    let mut decoder = tokenizer.decoder();
    assert_eq!(decoder.push(tokens[0]) + &decoder.push(2) + &decoder.push(tokens[1]), "a");
    assert_eq!(decoder.finish(), "\u{FFFD}");
    // Invalid bytes are not held back forever.
    let mut decoder = tokenizer.decoder();
    assert!((0..100).any(|_| !decoder.push(tokens[2]).is_empty()));
}

#[test]
fn a_continuation_has_no_space_of_its_own() {
    let tokenizer = of("llama");
    let (one, two) = (tokenizer.encode("The gar").expect("tokens"), tokenizer.encode_continuation("den was").expect("tokens"));
    assert_eq!(tokenizer.decode(&[one, two].concat()), "The garden was");
    assert_eq!(of("gpt-2").encode_continuation("den").expect("tokens"), of("gpt-2").encode("den").expect("tokens"));
}

#[test]
fn files_beside_the_vocabulary_name_special_tokens() {
    let mut json: Value = serde_json::from_str(&Tokenizer::bytes_json()).expect("JSON");
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"a": {"id": "a", "ids": [97], "tokens": ["a"]}},
    });
    json["truncation"] = serde_json::json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    let folder = Folder::new("tokenizer-beside");
    folder.put("tokenizer.json", json.to_string());
    let read = || Tokenizer::read(&folder.0).expect("a tokenizer");
    assert_eq!((read().bos(), read().end_tokens(), read().chat_template()), (Some(97), [].as_slice(), None));
    assert_eq!(read().encode_document("xyzxyz").expect("tokens"), [97, 120, 121, 122, 120, 121, 122]);
    assert_eq!(read().encode("x").expect("tokens"), [120]);

    folder.put("config.json", r#"{"eos_token_id": 100, "bos_token_id": 5}"#);
    folder.put("generation_config.json", r#"{"eos_token_id": [101, 100, 70000, -1]}"#);
    folder.put("special_tokens_map.json", r#"{"eos_token": {"content": "f"}, "bos_token": "g"}"#);
    assert_eq!((read().bos(), read().end_tokens()), (Some(103), [102, 101, 100].as_slice()));
    folder.put(
        "tokenizer_config.json",
        r#"{"eos_token": "h", "bos_token": null, "add_bos_token": false,
            "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}"#,
    );
    assert_eq!((read().bos(), read().end_tokens(), read().chat_template()), (None, [104, 102, 101, 100].as_slice(), Some("D")));
    assert_eq!(read().encode_document("x").expect("tokens"), [120]);
    folder.put("chat_template.jinja", "J");
    assert_eq!(read().chat_template(), Some("J"));
    std::fs::remove_file(folder.0.join("chat_template.jinja")).expect("it is there");

    for (name, text, word) in [
        ("tokenizer_config.json", "[]", "JSON object"),
        ("tokenizer_config.json", r#"{"eos_token": 3}"#, "eos_token"),
        ("tokenizer_config.json", r#"{"chat_template": 3}"#, "chat_template"),
        ("tokenizer_config.json", r#"{"add_bos_token": "yes"}"#, "add_bos_token"),
        ("generation_config.json", r#"{"eos_token_id": "x"}"#, "eos_token_id"),
        ("generation_config.json", r#"{"eos_token_id": [[]]}"#, "eos_token_id"),
        ("config.json", "{", "JSON object"),
    ] {
        let before = std::fs::read_to_string(folder.0.join(name)).expect("the file");
        folder.put(name, text);
        let error = Tokenizer::read(&folder.0).err().expect("a bad file");
        assert!(error.exit_code() == 3 && error.to_string().contains(name) && error.to_string().contains(word), "{error}");
        folder.put(name, &before);
    }
}

#[test]
fn a_tokenizer_json_beside_a_gguf_counts() {
    let folder = Folder::new("tokenizer-gguf");
    let gguf = folder.0.join("model.gguf");
    std::fs::copy(fixtures().join("gpt-2.gguf"), &gguf).expect("a copy");
    folder.put("tokenizer.json", Tokenizer::bytes_json());
    let gguf = Gguf::open(&gguf).expect("a file");
    let tokenizer = Tokenizer::from_gguf(&gguf).expect("a tokenizer");
    assert_eq!((tokenizer.len(), tokenizer.bos(), tokenizer.end_tokens()), (256, Some(0), [2].as_slice()));
    assert!(tokenizer.chat_template().is_some() && tokenizer.path().ends_with("tokenizer.json"));
    let larger = Tokenizer::bytes_json().replace("\"!\": 33", "\"!\": 3300");
    folder.put("tokenizer.json", larger);
    let error = Tokenizer::from_gguf(&gguf).err().expect("another model's");
    assert!(error.to_string().contains("replace it with the model's own tokenizer"), "{error}");
}

/// A metadata value of a GGUF file.
enum Field<'a> {
    Text(&'a str),
    Number(u32),
    Flag(bool),
    Texts(&'a [&'a str]),
    Ints(&'a [i32]),
    Floats(&'a [f32]),
}

fn gguf(fields: &[(&str, Field)]) -> Gguf {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let mut out = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend((fields.len() as u64).to_le_bytes());
    for (key, field) in fields {
        let key = if key.contains('.') { (*key).to_owned() } else { format!("tokenizer.ggml.{key}") };
        text(&mut out, &key);
        let array = |out: &mut Vec<u8>, kind: u32, len: usize| {
            out.extend([9, kind].into_iter().flat_map(u32::to_le_bytes));
            out.extend((len as u64).to_le_bytes());
        };
        match field {
            Field::Number(value) => out.extend([4, *value].into_iter().flat_map(u32::to_le_bytes)),
            Field::Flag(value) => out.extend([7, 0, 0, 0, u8::from(*value)]),
            Field::Text(value) => {
                out.extend(8u32.to_le_bytes());
                text(&mut out, value);
            }
            Field::Texts(values) => {
                array(&mut out, 8, values.len());
                values.iter().for_each(|value| text(&mut out, value));
            }
            Field::Ints(values) => {
                array(&mut out, 5, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Field::Floats(values) => {
                array(&mut out, 6, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
    }
    out.resize(out.len().next_multiple_of(32), 0);
    Gguf::from_bytes(Path::new("/nowhere/model.gguf"), out).expect("a GGUF file")
}

#[test]
fn bad_metadata_are_named() {
    use Field::{Flag, Floats, Ints, Number, Text, Texts};
    let tokens = || ("tokens", Texts(&["a", "b", "ab", "<s>"]));
    let bpe = |mut more: Vec<(&'static str, Field<'static>)>| {
        more.extend([("model", Text("gpt2")), ("pre", Text("gpt-2"))]);
        more
    };
    let spm = |mut more: Vec<(&'static str, Field<'static>)>| {
        more.extend([("model", Text("llama")), tokens()]);
        more
    };
    let merges = || ("merges", Texts(&["a b"]));
    let scores = || ("scores", Floats(&[-1.0, -2.0, 0.0, 0.0]));
    for (fields, words) in [
        (vec![], vec!["tokenizer.ggml.model"]),
        (vec![("model", Text("gpt2"))], vec!["tokenizer.ggml.tokens"]),
        (vec![("model", Number(3)), tokens()], vec!["tokenizer.ggml.model", "a string"]),
        (vec![("model", Text("bert")), tokens()], vec!["'bert'", "tokenizer.json"]),
        (vec![("model", Text("t5")), tokens()], vec!["'t5'", "tokenizer.json"]),
        (vec![("model", Text("gpt2")), tokens(), merges()], vec!["tokenizer.ggml.pre", "tokenizer.json"]),
        (vec![("model", Text("gpt2")), ("pre", Text("new\nkind")), tokens(), merges()], vec![r"'new\nkind'", "tokenizer.json"]),
        (bpe(vec![("tokens", Texts(&[])), merges()]), vec!["tokenizer.ggml.tokens"]),
        (bpe(vec![("tokens", Ints(&[1])), merges()]), vec!["tokenizer.ggml.tokens", "an array of strings"]),
        (bpe(vec![tokens()]), vec!["tokenizer.ggml.merges"]),
        (bpe(vec![tokens(), ("merges", Texts(&["a b", "ab"]))]), vec!["tokenizer.ggml.merges", "entry 1"]),
        (bpe(vec![tokens(), ("merges", Texts(&["a c"]))]), vec!["tokenizer.ggml.merges", "entry 0"]),
        (bpe(vec![tokens(), ("merges", Texts(&["b a"]))]), vec!["tokenizer.ggml.merges", "entry 0"]),
        (bpe(vec![tokens(), ("merges", Texts(&["a b b"]))]), vec!["tokenizer.ggml.merges", "entry 0"]),
        (bpe(vec![tokens(), merges(), ("token_type", Ints(&[1]))]), vec!["tokenizer.ggml.token_type", "1 entries", "4 tokens"]),
        (bpe(vec![tokens(), merges(), ("token_type", Texts(&["x"]))]), vec!["tokenizer.ggml.token_type"]),
        (bpe(vec![tokens(), merges(), ("bos_token_id", Number(4))]), vec!["tokenizer.ggml.bos_token_id", "is 4"]),
        (bpe(vec![tokens(), merges(), ("eos_token_id", Number(1 << 31))]), vec!["tokenizer.ggml.eos_token_id"]),
        (bpe(vec![tokens(), merges(), ("eot_token_id", Text("x"))]), vec!["tokenizer.ggml.eot_token_id", "an integer"]),
        (bpe(vec![tokens(), merges(), ("add_bos_token", Flag(true))]), vec!["tokenizer.ggml.add_bos_token"]),
        (bpe(vec![tokens(), merges(), ("add_bos_token", Number(1))]), vec!["tokenizer.ggml.add_bos_token"]),
        (bpe(vec![tokens(), merges(), ("tokenizer.chat_template", Number(1))]), vec!["tokenizer.chat_template"]),
        (spm(vec![]), vec!["tokenizer.ggml.scores"]),
        (spm(vec![("scores", Floats(&[1.0]))]), vec!["tokenizer.ggml.scores", "1 entries"]),
        (spm(vec![("scores", Floats(&[1.0, f32::NAN, 0.0, 0.0]))]), vec!["tokenizer.ggml.scores", "entry 1"]),
        (spm(vec![scores(), ("unknown_token_id", Number(4))]), vec!["tokenizer.ggml.unknown_token_id", "is 4"]),
        (spm(vec![scores(), ("add_space_prefix", Text("no"))]), vec!["tokenizer.ggml.add_space_prefix"]),
    ] {
        let error = Tokenizer::from_gguf(&gguf(&fields)).err().unwrap_or_else(|| panic!("{words:?}"));
        let text = error.to_string();
        assert!(error.exit_code() == 3 && text.starts_with("/nowhere/model.gguf: ") && !text.contains('\n'), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
    }
    // Unusual but valid.
    for fields in [
        bpe(vec![tokens(), merges(), ("token_type", Ints(&[-1, 99, 4, 3])), ("eos_token_id", Number(u32::MAX))]),
        bpe(vec![("tokens", Texts(&["a", "a", "", ""])), ("token_type", Ints(&[3, 3, 3, 3])), ("merges", Texts(&[]))]),
        spm(vec![("scores", Floats(&[f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0]))]),
        vec![("model", Text("gpt2")), ("general.architecture", Text("gpt2")), tokens(), merges()],
    ] {
        let tokenizer = Tokenizer::from_gguf(&gguf(&fields)).expect("a tokenizer");
        let tokens = tokenizer.encode("ab aab\n<s>é").expect("tokens");
        assert!(tokens.iter().all(|&token| (token as usize) < 4), "{tokens:?}");
        tokenizer.decode(&[0, 1, 2, 3, 4, u32::MAX]);
    }
}

#[test]
fn bytes_are_tokens() {
    let folder = Folder::new("tokenizer-bytes");
    folder.put("tokenizer.json", Tokenizer::bytes_json());
    let tokenizer = Tokenizer::read(&folder.0.join("tokenizer.json")).expect("a tokenizer");
    let text = "fn main() {\n\tprintln!(\"Größe ≤ 5\");\r\n}\0";
    let tokens = tokenizer.encode(text).expect("any text is bytes");
    assert_eq!(tokens, text.bytes().map(u32::from).collect::<Vec<_>>());
    assert_eq!(tokenizer.decode(&tokens), text);
    assert_eq!((tokenizer.len(), tokenizer.vocab_size(), tokenizer.encode_document("").expect("tokens").len()), (256, 256, 0));
}

/// One text and two, in every length, as `transformers` frames them.
#[test]
fn encoders_frame_their_texts() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pairs");
    let expected: Value = serde_json::from_slice(&std::fs::read(directory.join("expected.json")).expect("a fixture")).expect("JSON");
    let numbers =
        |value: &Value| value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("a number") as u32).collect::<Vec<_>>();
    for kind in ["uncased", "uncased_json", "cased", "roberta"] {
        let tokenizer = Tokenizer::read(&directory.join(kind)).expect("a tokenizer");
        let mut cases = expected[kind].as_array().expect("a list").iter();
        for texts in expected["texts"].as_array().expect("a list") {
            let text = |at: usize| texts.get(at).map(|text| text.as_str().expect("a text"));
            for length in numbers(&expected["lengths"]) {
                let (case, what) = (cases.next().expect("a case"), format!("{kind}: {texts} in {length}"));
                let encoded = tokenizer.encode_pair(text(0).expect("a text"), text(1), length as usize).expect("tokens");
                assert_eq!((encoded.tokens, encoded.types), (numbers(&case["tokens"]), numbers(&case["types"])), "{what}");
                assert_eq!(encoded.cut, case["cut"] == true, "{what}");
                let frame = if text(1).is_none() { 2 } else { 3 + usize::from(kind == "roberta") };
                assert_eq!(encoded.special.iter().filter(|&&special| special).count(), frame, "{what}");
            }
        }
        let [before, after] = tokenizer.frame().expect("a frame");
        let framed = tokenizer.encode_pair("fox", None, 100).expect("tokens").tokens;
        assert_eq!(framed, [before, tokenizer.encode("fox").expect("tokens"), after].concat(), "{kind}");
        let mask = if kind == "roberta" { "<mask>" } else { "[MASK]" };
        assert_eq!(tokenizer.mask().and_then(|token| tokenizer.token(token)).as_deref(), Some(mask), "{kind}");
        for length in 0..3 {
            let error = tokenizer.encode_pair("fox", None, length).expect_err("no room").to_string();
            assert!(error.contains("the tokenizer adds 2 tokens to a text; use a longer"), "{kind}: {error}");
        }
    }
    // A decoder has no frame.
    let gpt = of("gpt-2");
    assert_eq!((gpt.frame(), gpt.mask()), (None, None));
    assert_eq!(gpt.encode_pair("a b", None, 100).expect("tokens").tokens, gpt.encode_document("a b").expect("tokens"));
    assert!(gpt.encode_pair("a", Some("b"), 100).expect_err("no pairs").to_string().contains("no form for two texts"));
    assert!(gpt.encode_pair("", None, 100).expect_err("no text").to_string().contains("the text is empty"));
}

#[test]
fn a_vocabulary_without_its_special_tokens_is_refused() {
    let folder = Folder::new("tokenizer-vocabulary");
    folder.put("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n");
    let error = Tokenizer::read(&folder.0).err().expect("no mask").to_string();
    assert!(error.contains("vocab.txt: has no line [MASK]"), "{error}");
}
