use std::collections::BTreeMap;

use super::super::keys::FIXED;
use super::super::{AdapterConfig, Init, Scaling};
use super::*;
use crate::ops::Activation;
use crate::random::Random;

/// The bottleneck adapters of a string.
fn parsed(spec: &str) -> crate::error::Result<BottleneckConfig> {
    AdapterConfig::parse(spec).map(|config| config.bottleneck().cloned().expect("bottleneck adapters"))
}

/// A valid configuration with random fields.
fn any(random: &mut Random) -> BottleneckConfig {
    let presets = BottleneckConfig::presets();
    let base = presets[random.below(presets.len() as u64) as usize].1.clone();
    let mut maybe = |chance: u64| random.below(chance) == 0;
    let mut config = base.clone();
    if maybe(2) {
        config.ln_before = maybe(2);
        config.ln_after = maybe(2);
        config.adapter_residual_before_ln = maybe(2);
        config.attention = maybe(2);
        config.ffn = !config.attention || maybe(2);
    }
    if maybe(3) {
        config.original_ln_before = maybe(2);
        config.original_ln_after = true;
        config.residual_before_ln = maybe(2);
        config.parallel = maybe(2);
    }
    if maybe(2) {
        config.activation = Activation::ALL[random.below(11) as usize].0;
        config.init = [Init::Bert, Init::MamAdapter, Init::Houlsby][random.below(3) as usize];
        config.init_seed = [None, Some(0), Some(u64::MAX)][random.below(3) as usize];
        config.scaling = match random.below(5) {
            0 => Scaling::Learned,
            1 => Scaling::Channel,
            2 => Scaling::Fixed(f32::MIN_POSITIVE),
            3 => Scaling::Fixed(-3.0e38),
            _ => Scaling::Fixed((random.uniform() * 8.0 - 4.0) as f32),
        };
        config.dropout = (random.uniform() * 0.99) as f32;
        config.stochastic_depth = (random.uniform() * 0.99) as f32;
        config.leave_out = (0..random.below(4)).map(|_| random.below(1 << 32) as u32).collect();
    }
    let mut factor = || match random.below(4) {
        0 => random.below(64) as f64 + 1.0,
        1 => 1e300 * (random.uniform() + 0.1),
        2 => 1e-300 * (random.uniform() + 0.1),
        _ => random.uniform() * 64.0 + 0.01,
    };
    let drawn = (factor(), factor(), factor());
    config.width = match random.below(5) {
        0 => Width::Bottleneck(1 + random.below(512) as u32),
        1 => Width::Reduction(drawn.0),
        2 => Width::Reductions(BTreeMap::from([(0, drawn.0), (random.below(1 << 32) as u32, drawn.1)]), None),
        3 => Width::Reductions(BTreeMap::from([(11, drawn.0)]), Some(drawn.2)),
        _ => base.width,
    };
    config
}

#[test]
fn every_config_comes_back_from_its_string() {
    let mut random = Random::new(1, 0);
    for (name, preset) in BottleneckConfig::presets() {
        assert_eq!(preset.to_string(), name);
    }
    for _ in 0..20_000 {
        let config = any(&mut random);
        assert_eq!(config.check(), Ok(()), "{config:?}");
        let spec = config.to_string();
        assert_eq!(parsed(&spec).expect(&spec), config, "{spec}");
    }
}

#[test]
fn strings_are_short() {
    let cases = [
        ("identity_bn[bottleneck=64]", "identity_bn"),
        ("identity_bn[bottleneck=8]", "identity_bn[bottleneck=8]"),
        ("houlsby", "double_seq_bn"),
        (" seq_bn [ ] ", "seq_bn"),
        ("par_bn[scaling=learned]", "scaled_par_bn"),
        ("par_bn[scaling=2]", "par_bn[scaling=2.0]"),
        ("seq_bn[dropout=0.1,non_linearity=silu]", "seq_bn[non_linearity='swish',dropout=0.1]"),
        ("seq_bn[reduction_factor={'default':16.0,3:4.5}]", "seq_bn[reduction_factor={'3': 4.5, 'default': 16}]"),
        ("seq_bn[leave_out = [0 , 1,], init_weights_seed=null]", "seq_bn[leave_out=[0, 1]]"),
        ("seq_bn[leave_out=(1,)]", "seq_bn[leave_out=[1]]"),
        ("double_seq_bn[init_weights_seed=7,ln_after=true]", "double_seq_bn[ln_after=True,init_weights_seed=7]"),
    ];
    for (spec, canonical) in cases {
        assert_eq!(parsed(spec).expect(spec).to_string(), canonical);
    }
}

#[test]
fn presets_and_strings_mean_what_the_library_says() {
    let text = include_str!("../../../tests/fixtures/adapters/configs.json");
    let library: BTreeMap<String, Map<String, Value>> = serde_json::from_str(text).expect("the library's configs");
    assert_eq!(library.len(), 21);
    for (spec, keys) in library {
        if keys.contains_key("phm_layer") {
            let problem = parsed(&spec).expect_err(&spec).to_string();
            assert!(problem.contains("phm_layer, which is not supported"), "{problem}");
            continue;
        }
        let mut expected = BottleneckConfig::bn(true, true, Activation::Relu, 1.0);
        for (key, value) in &keys {
            expected.set(key, value).expect(&spec);
        }
        assert_eq!(parsed(&spec).expect(&spec), expected, "{spec}");
        // Every field that the file lacks has the library's default.
        let default = BottleneckConfig::bn(true, true, Activation::Relu, 1.0);
        for key in KEYS.into_iter().filter(|key| !keys.contains_key(*key)) {
            assert_eq!(expected.value(key, None), default.value(key, None), "{spec}: {key}");
        }
    }
}

/// Strings that the library rejects, or does not add to a model, but whose meaning is clear.
const CLEARER_HERE: [&str; 9] = [
    " seq_bn[ ln_before = True ] ",
    "double_seq_bn[reduction_factor={0:4,'default':16}]",
    "double_seq_bn[reduction_factor={'0':4}]",
    "par_bn[scaling=2]",
    "seq_bn[non_linearity=gelu]",
    "seq_bn[ln_before=true]",
    "seq_bn[inv_adapter=null]",
    "identity_bn",
    "adapter_plus",
];

/// Strings that the library accepts, with a word of the message that rejects them here.
const REFUSED_HERE: [(&str, &str); 6] = [
    ("", "the preset is missing"),
    ("seq_bn[reduction_factor=8,reduction_factor=4]", "twice"),
    ("seq_bn[residual_before_ln='post_add']", "post_add"),
    ("seq_bn[reduction_factor=-2]", "reduction_factor"),
    ("compacter", "phm_layer"),
    ("compacter++", "phm_layer"),
];

#[test]
fn strings_give_the_librarys_configs_and_widths() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models/presets.json");
    let Ok(text) = std::fs::read_to_string(path) else {
        return;
    };
    let library: BTreeMap<String, Value> = serde_json::from_str(&text).expect("the library's configs");
    for (spec, said) in library {
        let parsed = parsed(if spec == "AdapterPlusConfig()" { "adapter_plus" } else { &spec });
        if let Some((_, word)) = REFUSED_HERE.iter().find(|(refused, _)| *refused == spec) {
            let problem = parsed.expect_err(&spec).to_string();
            assert!(problem.contains(word), "{problem}");
            continue;
        }
        if CLEARER_HERE.contains(&spec.as_str()) {
            parsed.expect(&spec);
            continue;
        }
        if said.get("error").is_some() || said.get("add_error").is_some() {
            parsed.expect_err(&spec);
            continue;
        }
        let config = parsed.expect(&spec);
        let mut theirs = BottleneckConfig::bn(false, false, Activation::Relu, 1.0);
        for (key, value) in said["config"].as_object().expect("a map") {
            theirs.set(key, value).expect(&spec);
        }
        assert_eq!(config, theirs, "{spec}");
        // Their model has two layers of width 32.
        let place = |layer| config.places(layer).map(move |place| (layer, place));
        let widths = (0..2).flat_map(place).map(|(layer, place)| {
            let width = config.bottleneck(layer, 32).expect(&spec);
            (format!("h.{layer}.{place}"), Value::from(width))
        });
        if let Some(theirs) = said.get("widths") {
            assert_eq!(widths.collect::<Map<_, _>>(), *theirs.as_object().expect("a map"), "{spec}");
        }
    }
}

#[test]
fn bad_strings_are_refused_in_one_sentence() {
    let example = "write it as in double_seq_bn[reduction_factor=8,non_linearity='gelu']";
    let cases = [
        ("", format!("the preset is missing; {example}")),
        (
            "seqbn",
            "there is no preset 'seqbn'; the presets are identity_bn, double_seq_bn, double_seq_bn_inv, seq_bn, seq_bn_inv, par_bn, \
             scaled_par_bn, adapter_plus; did you mean 'seq_bn'?"
                .into(),
        ),
        ("seq_bn|lora", "'|' combines several methods, but Graftling trains one; name one preset".into()),
        ("seq_bn[dropout=0]|lora", "'|' combines several methods, but Graftling trains one; name one preset".into()),
        ("seq_bn[dropuot=0.1]", "there is no key 'dropuot'; did you mean 'dropout'?".into()),
        ("seq_bn[dropout]", format!("unexpected ']' after the key 'dropout', expected '='; {example}")),
        ("seq_bn[dropout=]", format!("unexpected ']', expected a value; {example}")),
        ("seq_bn[dropout=0.1", format!("unexpected end after the value of 'dropout', expected ',' or ']'; {example}")),
        ("seq_bn[", format!("unexpected end, expected a key; {example}")),
        ("seq_bn[=1]", format!("unexpected '=', expected a key; {example}")),
        ("seq_bn[,]", format!("unexpected ',', expected a key; {example}")),
        ("seq_bn[dropout=0.1]x", format!("unexpected 'x' after the last ']'; {example}")),
        ("seq_bn[dropout=0.1 0.2]", format!("unexpected '0' after the value of 'dropout', expected ',' or ']'; {example}")),
        ("seq_bn[dropout=0.1.2]", format!("'0.1.2' is neither a number nor a word; {example}")),
        ("seq_bn[dropout=1e999]", format!("'1e999' is too large; {example}")),
        ("seq_bn[dropout=-inf]", format!("'-inf' is neither a number nor a word; {example}")),
        ("seq_bn[dropout=nan]", "dropout is 'nan', but must be a number".into()),
        ("seq_bn[dropout=1]", "dropout is 1; it must be from 0 to below 1".into()),
        ("seq_bn[dropout=0.1,dropout=0.2]", "'dropout' appears twice; remove one".into()),
        ("seq_bn[non_linearity='relu]", format!("the quote ' is not closed; {example}")),
        ("seq_bn[non_linearity='a\\'b']", format!("a backslash in quotes is not supported; {example}")),
        (
            "seq_bn[non_linearity=relu6]",
            "non_linearity is 'relu6', but must be one of relu, gelu, gelu_new, gelu_fast, quick_gelu, silu, \
                                          leakyrelu, mish, sigmoid, tanh, linear and swish"
                .into(),
        ),
        ("seq_bn[mh_adapter=1]", "mh_adapter is 1, but must be True or False".into()),
        ("seq_bn[leave_out=1]", "leave_out is 1, but must be a list of layers such as [0, 1]".into()),
        ("seq_bn[leave_out=[-1]]", "leave_out is -1, but must be a whole number from 0 up".into()),
        ("seq_bn[leave_out=[4294967296]]", "leave_out is 4294967296, but must be a whole number from 0 up".into()),
        ("seq_bn[leave_out=[0]", format!("unexpected end after the value of 'leave_out', expected ',' or ']'; {example}")),
        ("seq_bn[leave_out=[0 1]]", format!("unexpected '1' in a list or map, expected ',' or ']'; {example}")),
        ("seq_bn[reduction_factor={1:2,'1':3}]", "'1' appears twice in a map; remove one".into()),
        ("seq_bn[reduction_factor={x:2}]", "reduction_factor has an entry for 'x', which is neither a layer number nor \"default\"".into()),
        (
            "seq_bn[reduction_factor={01:2}]",
            "reduction_factor has an entry for '01', which is neither a layer number nor \"default\"".into(),
        ),
        ("seq_bn[reduction_factor={1=2}]", format!("unexpected '=' after a map's key '1', expected ':'; {example}")),
        ("seq_bn[reduction_factor={}]", "reduction_factor is an empty map; give it a factor for each layer or a \"default\"".into()),
        ("seq_bn[reduction_factor=-2]", "reduction_factor is -2; it must be a number above 0".into()),
        ("seq_bn[reduction_factor=[[[[[[[[[[1]]]]]]]]]]]", format!("lists and maps are nested too deeply; {example}")),
        ("seq_bn[bottleneck=8,reduction_factor=2]", "bottleneck and reduction_factor both set the width; use one of them".into()),
        ("seq_bn[bottleneck=0]", "bottleneck is 0; it must be from 1 to 512".into()),
        ("seq_bn[bottleneck=1.5]", "bottleneck is 1.5, but must be a whole number from 0 up".into()),
        ("seq_bn[init_weights_seed=-1]", "init_weights_seed is -1, but must be None or a whole number from 0 up".into()),
        ("seq_bn[init_weights=zero]", "init_weights is 'zero', but must be 'bert', 'mam_adapter' or 'houlsby'".into()),
        ("seq_bn[scaling=fast]", "scaling is 'fast', but must be a number, 'learned' or 'channel'".into()),
        ("seq_bn[phm_layer=True]", "phm_layer=True is not supported; leave it at False".into()),
        ("seq_bn[phm_dim=8]", "phm_dim=8 is not supported, because phm_layer is not; leave it at 4".into()),
        ("seq_bn[inv_adapter='nice']", "inv_adapter='nice' has no inv_adapter_reduction_factor; set it, for example to 2".into()),
        ("seq_bn_inv[inv_adapter_reduction_factor=0]", "inv_adapter_reduction_factor is 0; it must be a number above 0".into()),
        (
            "seq_bn_inv[inv_adapter='glow']",
            "inv_adapter='glow' is not supported, and the adapters library fails to run it; use 'nice'".into(),
        ),
        ("seq_bn_inv[inv_adapter=True]", "inv_adapter is True, but must be 'nice' or None".into()),
        ("seq_bn[cross_adapter=True]", "cross_adapter=True is not supported; leave it at False".into()),
        ("seq_bn[use_gating=True]", "use_gating=True is not supported; leave it at False".into()),
        (
            "seq_bn[residual_before_ln='post_add']",
            "residual_before_ln='post_add' is not supported, since it needs a norm after the residual sum; use True or False".into(),
        ),
        (
            "seq_bn[output_adapter=False]",
            "mh_adapter and output_adapter are both False, so there is no adapter; set one of them to True".into(),
        ),
        (
            "par_bn[original_ln_after=False]",
            "original_ln_after=False with is_parallel=True loses the residual stream; leave original_ln_after at True".into(),
        ),
        (
            "seq_bn[original_ln_after=False]",
            "original_ln_after=False loses the residual stream unless original_ln_before=True and \
         residual_before_ln=False; set both, or leave original_ln_after at True"
                .into(),
        ),
    ];
    for (spec, sentence) in cases {
        let error = parsed(spec).expect_err(spec);
        assert_eq!(error.to_string(), format!("adapter '{}': {sentence}", shown(spec)));
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn default_values_of_what_is_not_supported_are_accepted() {
    for (key, value) in FIXED {
        let spec = format!("seq_bn[{key}={value}]");
        assert_eq!(parsed(&spec).expect(&spec), BottleneckConfig::seq_bn());
    }
}

#[test]
fn no_string_is_a_panic() {
    let mut random = Random::new(2, 0);
    let signs: Vec<char> = "[]{}(),:=|'\"\\ \t\n-+.0123456789eaxé_€".chars().collect();
    let good = "double_seq_bn[reduction_factor={'1': 8, 'default': 16.5},leave_out=[0, 2],non_linearity=\"gelu\",dropout=1e-1]";
    for _ in 0..20_000 {
        let mut spec: Vec<char> = good.chars().collect();
        for _ in 0..=random.below(4) {
            let at = random.below(spec.len() as u64) as usize;
            let sign = signs[random.below(signs.len() as u64) as usize];
            match random.below(3) {
                0 => spec[at] = sign,
                1 => spec.insert(at, sign),
                _ => drop(spec.remove(at)),
            }
        }
        let spec: String = spec.into_iter().collect();
        match parsed(&spec) {
            Ok(config) => assert_eq!(config.check(), Ok(())),
            Err(error) => assert!(!error.to_string().contains('\n'), "more than a line: {error}"),
        }
    }
}
