//! The LoRA of the `adapters` library itself, which has other names than PEFT's, read into PEFT's terms.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::mlx::named;
use super::tensors::{A, B, PREFIX};
use super::{LoraConfig, Targets};
use crate::model::adapter::json::check_name;
use crate::model::adapter::keys::{number, python, whole};
use crate::weights::{Weight, Weights};
use crate::words::{cut, did_you_mean, shown};

/// Keys that change what is computed, with the only value supported, as JSON, and what they stand for.
const FIXED: [(&str, &str, &str); 5] = [
    ("composition_mode", "\"add\"", "(IA)³"),
    ("use_gating", "false", "gating"),
    ("use_dora", "false", "DoRA"),
    ("vera_d", "null", "VeRA"),
    ("vera_b", "null", "VeRA"),
];
/// Keys that the tensors speak for, or that matter to a new adapter only.
const SILENT: [&str; 9] = [
    "architecture",
    "attn_matrices",
    "dtype",
    "init_weights",
    "init_weights_seed",
    "intermediate_lora",
    "leave_out",
    "output_lora",
    "selfattn_lora",
];
/// GPT-2's layer that is queries, keys and values at once. The library has one update for each of those chosen.
const FUSED: &str = "c_attn";

/// Whether an `adapter_config.json` describes such a LoRA.
pub(in super::super) fn is_hub(json: &Value) -> bool {
    json["config"]["architecture"] == "lora"
}

/// The configuration, and the tensors under PEFT's names.
///
/// # Errors
/// One sentence that names the key or tensor.
pub(in super::super) fn from_hub(json: &Value, weights: &Weights) -> Result<(LoraConfig, Weights), String> {
    let empty = Map::new();
    let config = json["config"].as_object().unwrap_or(&empty);
    let name = json["name"].as_str().ok_or("has no 'name'; save the adapter again")?;
    check_name(name)?;
    let known = FIXED.iter().map(|(key, ..)| *key).chain(SILENT).chain(["r", "alpha", "dropout"]);
    for (key, value) in config {
        if !known.clone().any(|known| known == key) {
            let advice = did_you_mean(key, known).unwrap_or("save the adapter again".into());
            return Err(format!("there is no key '{}' in a LoRA of the adapters library; {advice}", shown(key)));
        }
        if let Some((_, only, what)) = FIXED.iter().find(|(fixed, ..)| fixed == key)
            && *value != serde_json::from_str::<Value>(only).expect("the table holds JSON")
        {
            return Err(format!("{key}={} is {what}, which is not supported; train a plain LoRA", shown(&python(value))));
        }
    }
    let field = |key: &str| config.get(key).ok_or(format!("has no '{key}', which a LoRA needs; save the adapter again"));
    let rank = whole("r", field("r")?)?;
    if rank == 0 {
        return Err("r is 0; it must be at least 1".into());
    }
    // Older versions multiplied by 1 whatever alpha was, and the library loads their files so.
    let alpha = if before_1_1(json["version"].as_str().unwrap_or_default()) { f64::from(rank) } else { number("alpha", field("alpha")?)? };
    let dropout = config.get("dropout").map_or(Ok(0.0), |value| number("dropout", value))? as f32;
    let chosen = chosen(config.get("attn_matrices").unwrap_or(&Value::Null))?;

    let mut modules: BTreeMap<&str, [Option<&Weight>; 2]> = BTreeMap::new();
    let middle = format!(".loras.{name}.");
    for (on_disk, weight) in &weights.tensors {
        let parts =
            on_disk.split_once(&middle).and_then(|(module, end)| Some((module, ["lora_A", "lora_B"].iter().position(|e| *e == end)?)));
        let stray =
            || format!("tensor '{}' is not one of the LoRA '{}'; the file does not match the config", cut(on_disk, 200), shown(name));
        let (module, half) = parts.ok_or_else(stray)?;
        modules.entry(module).or_default()[half] = Some(weight);
    }
    let mut read = Weights { path: weights.path.clone(), ..Weights::default() };
    for (module, halves) in &modules {
        let [Some(a), Some(b)] = halves else { return Err(format!("module '{}' has only one of lora_A and lora_B", cut(module, 200))) };
        let b = if is_fused(module) {
            blocks(a, b, rank, &chosen)
                .ok_or(format!("the shapes of '{}' do not fit r and attn_matrices; save it again", cut(module, 200)))?
        } else {
            (*b).clone()
        };
        read.tensors.insert(format!("{PREFIX}{module}{A}"), (*a).clone());
        read.tensors.insert(format!("{PREFIX}{module}{B}"), b);
    }
    let mut lora = LoraConfig { rank, alpha: alpha as f32, dropout, ..LoraConfig::default() };
    if modules.keys().any(|module| is_fused(module)) {
        // The updates of a fused layer are one of higher rank, with the same s.
        let count = chosen.len() as u32;
        lora.rank_pattern.insert(FUSED.into(), rank.saturating_mul(count));
        lora.alpha_pattern.insert(FUSED.into(), (alpha * f64::from(count)) as f32);
    }
    let (targets, layers) = named(modules.keys().map(|module| module.to_string()).collect());
    (lora.targets, lora.layers) = (Targets::Named(targets), layers);
    lora.check()?;
    Ok((lora, read))
}

fn is_fused(module: &str) -> bool {
    super::targets::short(module) == FUSED
}

/// Which of queries, keys and values have an update.
fn chosen(matrices: &Value) -> Result<BTreeSet<usize>, String> {
    let problem = || format!("attn_matrices is {}, but must be a list of 'q', 'k' and 'v'", shown(&python(matrices)));
    let number = |matrix: &Value| ["q", "k", "v"].iter().position(|name| matrix == name).ok_or_else(problem);
    matrices.as_array().ok_or_else(problem)?.iter().map(number).collect()
}

/// B of the chosen parts, each (outputs, rank), as one of the whole layer (3 · outputs, count · rank). `None` if the shapes do not allow it.
fn blocks(a: &Weight, b: &Weight, rank: u32, chosen: &BTreeSet<usize>) -> Option<Weight> {
    let (rank, count) = (rank as usize, chosen.len());
    let (&[rows, _], &[outputs, columns]) = (a.shape.axes(), b.shape.axes()) else { return None };
    let fits =
        count > 0 && rows as usize == rank.checked_mul(count)? && columns as usize == rank && (outputs as usize).is_multiple_of(count);
    fits.then_some(())?;
    let (each, width, values) = (outputs as usize / count, rank * count, b.to_f32());
    let mut whole = vec![0.0; 3 * each * width];
    for (part, &place) in chosen.iter().enumerate() {
        for row in 0..each {
            let (to, from) = ((place * each + row) * width + part * rank, (part * each + row) * rank);
            whole[to..to + rank].copy_from_slice(&values[from..from + rank]);
        }
    }
    Some(Weight::from_f32([3 * each as u32, width as u32].into(), &whole))
}

/// Whether a version such as `adapters.1.0.1` is older than 1.1.
fn before_1_1(version: &str) -> bool {
    let mut numbers = version.trim_start_matches("adapters.").split('.').map(|part| part.parse::<u32>().unwrap_or(u32::MAX));
    numbers.next().zip(numbers.next()).is_some_and(|version| version < (1, 1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The config and tensors of a LoRA on queries and values of GPT-2's fused layer.
    fn good() -> (Value, Weights) {
        let config = json!({
            "architecture": "lora", "r": 2, "alpha": 6, "dropout": 0.1, "attn_matrices": ["v", "q"], "selfattn_lora": true, "leave_out": [],
            "composition_mode": "add", "use_gating": false, "use_dora": false, "vera_d": null, "vera_b": null, "dtype": null,
        });
        let matrix = |shape: [u32; 2], start: u32| {
            let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| (start + i) as f32).collect();
            Weight::from_f32(shape.into(), &values)
        };
        let at = "transformer.h.0.attn.c_attn.loras.own.";
        let tensors = [(format!("{at}lora_A"), matrix([4, 3], 1)), (format!("{at}lora_B"), matrix([6, 2], 1))].into();
        (json!({ "config": config, "name": "own", "version": "adapters.1.3.0" }), Weights { tensors, ..Weights::default() })
    }

    #[test]
    fn fused_layers_get_one_update() {
        let (json, weights) = good();
        let (config, read) = from_hub(&json, &weights).expect("a LoRA");
        assert_eq!((config.rank, config.alpha, config.rank_pattern[FUSED], config.alpha_pattern[FUSED]), (2, 6.0, 4, 12.0));
        let b = &read.tensors["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"];
        assert_eq!(b.shape, [9, 4].into());
        // Queries take the first two columns, values the last two, keys none.
        let rows = [[1, 2, 0, 0], [3, 4, 0, 0], [5, 6, 0, 0], [0; 4], [0; 4], [0; 4], [0, 0, 7, 8], [0, 0, 9, 10], [0, 0, 11, 12]];
        assert_eq!(b.to_f32(), rows.concat().into_iter().map(|v| v as f32).collect::<Vec<_>>());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        type Change = fn(&mut Value, &mut Weights);
        let cases: [(Change, &str); 14] = [
            (|j, _| j["config"]["composition_mode"] = json!("scale"), "composition_mode='scale' is (IA)³"),
            (|j, _| j["config"]["use_gating"] = json!(true), "use_gating=True is gating"),
            (|j, _| j["config"]["use_dora"] = json!(true), "use_dora=True is DoRA"),
            (|j, _| j["config"]["vera_d"] = json!(0.1), "vera_d=0.1 is VeRA"),
            (|j, _| j["config"]["rank"] = json!(8), "there is no key 'rank'"),
            (|j, _| j["config"]["r"] = json!(0), "r is 0"),
            (|j, _| j["config"]["r"] = json!(4_000_000_000u32), "r"),
            (|j, _| j["config"]["r"] = json!("8"), "r is '8'"),
            (|j, _| drop(j["config"].as_object_mut().expect("a map").remove("alpha")), "has no 'alpha'"),
            (|j, _| j["config"]["attn_matrices"] = json!(["o"]), "attn_matrices is ['o']"),
            (|j, _| j["config"]["attn_matrices"] = json!([]), "do not fit r and attn_matrices"),
            (|j, _| j["name"] = json!("other"), "is not one of the LoRA 'other'"),
            (|_, w| drop(w.tensors.pop_first()), "has only one of lora_A and lora_B"),
            (|_, w| *w.tensors.values_mut().next().expect("A") = Weight::from_f32([5].into(), &[0.0; 5]), "do not fit"),
        ];
        for (change, words) in cases {
            let (mut json, mut weights) = good();
            change(&mut json, &mut weights);
            let problem = from_hub(&json, &weights).err().unwrap_or_else(|| panic!("'{words}' is accepted"));
            assert!(problem.contains(words), "'{problem}' does not say '{words}'");
        }
    }

    #[test]
    fn old_versions_have_no_alpha() {
        for (version, old) in [("adapters.1.0.1", true), ("adapters.0.2.2", true), ("adapters.1.1.0", false), ("adapters.1.3.0", false)] {
            assert_eq!(before_1_1(version), old, "{version}");
        }
        let (mut json, weights) = good();
        json["version"] = "adapters.1.0.1".into();
        assert_eq!(from_hub(&json, &weights).expect("a LoRA").0.alpha, 2.0);
    }
}
