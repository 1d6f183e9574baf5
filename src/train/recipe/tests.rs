use super::*;
use crate::random::Random;

const SMALL: &str = "layers = 2\nhidden = 64\nheads = 4\ncontext = 32\n";

/// The text of a random config file, and the config that it must yield.
fn any(random: &mut Random) -> (String, Config) {
    let mut text = String::new();
    let key_value_heads = 1 + random.below(3) as u32;
    let mut size = |most: u64| 1 + random.below(most) as u32;
    let (layers, heads, head_size, intermediate_size) = (size(12), key_value_heads * size(3), 4 * size(8), 4 * size(100));
    let (context, hidden_size, bpe) = (1 + size(500), heads * head_size, 255 + size(5000));
    let mut line = |key: &str, value: &dyn std::fmt::Display| text += &format!("{key} = {value}\n");
    let sizes = [("layers", layers), ("hidden", hidden_size), ("heads", heads), ("key_value_heads", key_value_heads), ("context", context)];
    sizes.iter().for_each(|(key, value)| line(key, value));
    line("feed-forward", &intermediate_size);
    let mut flag = || random.below(2) == 1;
    let (gated, norm_first, rms, rotary, head_norm, tied, bytes) = (flag(), flag(), flag(), flag(), flag(), flag(), flag());
    let biases = Biases { qkv: flag(), attention_output: flag(), ffn: flag(), head: flag() };
    let (activation, name) = Activation::ALL[random.below(Activation::ALL.len() as u64) as usize];
    let theta = 1.0 + 1e5 * random.uniform();
    let mut share = || (random.below(10) as f64 / 10.0) as f32;
    let (embedding, attention, attention_output, ffn_output) = (share(), share(), share(), share());
    let dropout = BaseDropout { embedding, attention, attention_output, ffn_output, head: ffn_output };
    line("gated", &gated);
    line("norm-position", &if norm_first { "\"pre\"" } else { "'post'" });
    line("norm", &if rms { "\"rms\"" } else { "\"layer\"" });
    line("activation", &format!("\"{name}\""));
    line("head-norm", &head_norm);
    line("tied-head", &tied);
    line("tokenizer", &if bytes { "\"bytes\"".into() } else { format!("{{ bpe = {bpe} }}") });
    if rotary {
        line("positions", &"\"rotary\"");
        line("rope-theta", &theta);
    } else {
        line("positions", &"\"learned\"");
    }
    line("format", &"\"f32\"");
    let Biases { qkv, attention_output, ffn, head } = biases;
    text += &format!("[biases]\nqkv = {qkv}\nattention-output = {attention_output}\nfeed-forward = {ffn}\nhead = {head}\n");
    let BaseDropout { embedding, attention, attention_output, ffn_output, .. } = dropout;
    text += &format!("[dropout]\nembedding = {embedding}\nattention = {attention}\n");
    text += &format!("attention-output = {attention_output}\nfeed-forward = {ffn_output}\n");
    let config = Config {
        family: Family::Graftling,
        vocab_size: if bytes { 256 } else { bpe },
        context,
        hidden_size,
        layers,
        heads,
        key_value_heads,
        head_size,
        intermediate_size,
        activation,
        gated,
        norm: if rms { NormKind::RmsNorm } else { NormKind::LayerNorm },
        norm_first,
        epsilon: 1e-5,
        positions: match rotary {
            true => Positions::Rotary { theta, scaling: RopeScaling::None, pairs: RopePairs::Halves },
            false => Positions::Learned,
        },
        head_norm,
        biases,
        tied,
        dropout,
        encoder: None,
    };
    (text, config)
}

#[test]
fn files_to_configs_and_back() {
    let mut random = Random::new(3, 0);
    for _ in 0..300 {
        let (text, config) = any(&mut random);
        let recipe = Recipe::parse(&text).unwrap_or_else(|problem| panic!("{problem}: {text}"));
        assert_eq!(recipe.config, config, "{text}");
        assert_eq!((recipe.vocabulary.size(), recipe.format), (config.vocab_size, DType::F32));
        let json = recipe.config.to_json();
        assert_eq!(Config::from_json(&json).as_ref(), Ok(&config), "{json}");
    }
}

#[test]
fn defaults() {
    let recipe = Recipe::parse(SMALL).expect("a config");
    let c = &recipe.config;
    assert_eq!((c.key_value_heads, c.head_size, c.intermediate_size, c.vocab_size), (4, 16, 192, 256));
    assert!(c.gated && c.tied && c.norm_first && c.norm == NormKind::RmsNorm && c.activation == Activation::Silu);
    assert_eq!((recipe.steps, recipe.batch_size, recipe.schedule().warmup_steps), (1000, 8, 100));
    assert_eq!((recipe.adam.clip_norm, recipe.format), (Some(1.0), DType::F16));
    let plain = Recipe::parse(&format!("{SMALL}gated = false\nbiases = true\ndropout = 0.1\nsteps = 20\nclip-norm = 0")).expect("a config");
    assert_eq!((plain.config.intermediate_size, plain.config.activation), (256, Activation::Gelu));
    assert_eq!((plain.config.dropout, plain.config.biases.head), (BaseDropout::all(0.1), true));
    assert_eq!((plain.schedule().warmup_steps, plain.adam.clip_norm), (2, None));
}

#[test]
fn the_base_has_its_file() {
    let recipe = Recipe::parse(include_str!("../../../assets/base.toml")).expect("a config");
    let json = include_str!("../../../assets/base/config.json");
    assert_eq!(Ok(&recipe.config), Config::from_json(json).as_ref());
    assert_eq!(recipe.vocabulary, Vocabulary::Bytes);
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        ("hiden = 3", "has an unknown key hiden; did you mean 'hidden'?"),
        ("learning_rat = 3", "has an unknown key learning-rat; did you mean 'learning-rate'?"),
        ("head-size = 16\nhead_size = 16", "has head-size twice; remove one"),
        ("steps = \"many\"", "has steps = \"many\", expected a whole number from 1 up; correct it"),
        ("steps = 0", "has steps = 0, expected a whole number from 1 up; correct it"),
        ("feed-forward = -1", "has feed-forward = -1, expected a whole number from 1 to 16777216; correct it"),
        ("feed-forward = 16777216\nbatch-size = 65536\n[dropout]\nhead = 1", "has an unknown key dropout.head"),
        ("key-value-heads = 3", "has heads = 4, which is not divisible by key-value-heads = 3; change one"),
        ("head-size = 6", "has a head-size of 6"),
        ("norm = \"batch\"", "has norm = \"batch\", expected \"layer\" or \"rms\"; correct it"),
        ("positions = \"learned\"\nrope-theta = 10", "has a rope-theta, but its positions are learned"),
        ("tokenizer = \"words\"", "has tokenizer = \"words\", expected \"bytes\""),
        ("tokenizer = { bpe = 255 }", "has tokenizer.bpe = 255, expected a whole number from 256 to 1048576"),
        ("tokenizer = { size = 300 }", "has an unknown key tokenizer.size; the keys are bpe"),
        ("tokenizer = {}", "has no tokenizer.bpe; add it"),
        ("dropout = 1", "has dropout = 1, expected a number from 0 to below 1"),
        ("learning-rate = nan", "has learning-rate = nan, expected a finite number; correct it"),
        ("biases = 1", "has biases = 1, expected true or false"),
        ("gated =", "line 5 is not TOML ("),
        ("batch-size = 65536\ncontext = 7", "line 6 is not TOML (duplicate key"),
    ];
    for (lines, sentence) in cases {
        let problem = Recipe::parse(&format!("{SMALL}{lines}")).expect_err(lines);
        assert!(problem.starts_with(sentence) && !problem.contains('\n'), "{problem}");
    }
    let replaced = [
        ("heads = 4", "", "has no heads; add it"),
        ("context = 32", "context = 1", "has context = 1, expected a whole number from 2"),
        ("hidden = 64", "hidden = 66", "has hidden = 66, which is not divisible by heads = 4; change one"),
        ("layers = 2", "layers = 5000", "has layers = 5000, but 4096 is the maximum"),
        ("hidden = 64", "hidden = 16777216\nhead-size = 128", "asks for a model of"),
        ("context = 32", "context = 16777216", "asks for 134217728 tokens a batch"),
    ];
    for (good, bad, sentence) in replaced {
        let problem = Recipe::parse(&SMALL.replace(good, bad)).expect_err(bad);
        assert!(problem.starts_with(sentence), "{problem}");
    }
}

#[test]
fn damaged_files_are_told_in_a_sentence() {
    let whole = include_str!("../../../fuzz/seeds/recipe/all.toml");
    assert_eq!(Recipe::parse(whole).map(|recipe| recipe.vocabulary), Ok(Vocabulary::Bpe(512)));
    let mut random = Random::new(11, 0);
    let mut good = 0;
    for _ in 0..5000 {
        let mut bytes = whole.as_bytes().to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(3) {
                0 => bytes[at] = random.below(128) as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"0123456789\"=.-_[]{}\n\x1b"[random.below(21) as usize]),
            }
        }
        let text = String::from_utf8(bytes).expect("ASCII");
        match Recipe::parse(&text) {
            Ok(recipe) => {
                good += 1;
                assert_eq!(Config::from_json(&recipe.config.to_json()), Ok(recipe.config));
            }
            Err(problem) => assert!(!problem.chars().any(char::is_control) && problem.len() < 400, "{problem:?}"),
        }
    }
    assert!(good > 20, "only {good} were good");
}
