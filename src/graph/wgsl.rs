//! Expanding a shader file to the WGSL of one kernel: six small text transformations, so that the files in `shaders/` stay plain WGSL.
//!
//! 1. `//! use a, b` inserts `a.wgsl` and `b.wgsl` before the file. `{NAME}` in such a line is replaced by a constant's word
//!    (`//! use weight_{FORMAT}`). Comments are removed.
//! 2. `override NAME: u32 = 4u;` becomes a `const` with the kernel's value, so it can size arrays and be folded everywhere.
//! 3. Lines between `//! if NAME` and `//! else` or `//! end` are kept only if the constant (or a sum) is not zero.
//! 4. Buffers are declared to match their tensors: as images if `//! image a, b` in the kernel's own file names them, as f16 if the tensors
//!    are f16 (`storage.rs`).
//! 5. If a grid exceeds the device's limit along a dimension, its workgroups are folded into x and y, and each computes the
//!    `@builtin(workgroup_id)` that it would have without the limit.
//! 6. `@unroll for (var i = 0u; i < ROWS; i++) { … }` is unrolled: the body is repeated for each `i`, as `{ const i = 0u; … }`. naga
//!    cannot ask a driver to unroll a loop, and register tiles need it.

use std::collections::BTreeMap;

use super::brackets::closing;
use super::storage;

/// The unique stem and the text of each file in `shaders/`.
macro_rules! shaders {
    ($($family:literal: $($stem:literal)*;)*) => {
        &[$($(($stem, include_str!(concat!("../../shaders/", $family, "/", $stem, ".wgsl"))),)*)*]
    };
}

/// Every shader by its stem; the left column is its folder.
pub const FILES: &[(&str, &str)] = shaders! {
    "adapter": "adapter" "adapter_params" "adapter_weights" "fusion";
    "attention": "attention" "attention_cpu" "attention_params" "cached_attention" "rope";
    "elementwise": "elementwise" "gated" "halves" "pointwise_loss" "pooling" "scale";
    "norms": "head_norm" "norm";
    "optimizer": "identity" "optimizer";
    "products": "epilogue_act" "epilogue_derivative" "epilogue_gated" "epilogue_plain" "epilogue_rope" "lora" "matmul_any" "matmul_cpu" "matmul_gpu"
                "matmul_matrix" "matmul_params" "matmul_row" "reduce";
    "shared": "activation" "grid" "loss_sum" "metrics" "random" "row_sum" "step" "value";
    "vocabulary": "embedding" "loss";
    "weights": "quant" "weight_bf16" "weight_f16" "weight_f32" "weight_iq4_nl" "weight_iq4_xs" "weight_mxfp4" "weight_q2_k" "weight_q3_k"
               "weight_q4_0" "weight_q4_1" "weight_q4_k" "weight_q5_0" "weight_q5_1" "weight_q5_k" "weight_q6_k" "weight_q8_0";
};

/// The value of a constant that specialises a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Constant {
    /// Replaces the default of an `override`.
    Number(u32),
    /// Names a file to use.
    Word(&'static str),
}

impl From<u32> for Constant {
    fn from(value: u32) -> Self {
        Constant::Number(value)
    }
}

impl From<bool> for Constant {
    fn from(value: bool) -> Self {
        Constant::Number(value as u32)
    }
}

impl From<&'static str> for Constant {
    fn from(value: &'static str) -> Self {
        Constant::Word(value)
    }
}

/// The WGSL of `file` (a stem in `shaders/`) with its constants set. Bit b of `half` is set if the tensor at binding b is f16. `folded`
/// is [`Kernel::folded`](super::Kernel::folded).
///
/// # Panics
/// On a file, a constant or an unroll bound that does not exist: a bug in the project's own shaders.
pub fn expand(file: &str, constants: &[(&'static str, Constant)], half: u32, folded: Option<[u32; 3]>) -> String {
    let mut parts = Vec::new();
    collect(file, constants, &mut parts);
    let text = parts.iter().map(|name| source(name)).collect::<Vec<_>>().join("\n");

    let mut values = BTreeMap::new();
    let mut numbers: BTreeMap<_, _> =
        constants.iter().filter_map(|(name, c)| if let Constant::Number(n) = c { Some((*name, *n)) } else { None }).collect();
    let (mut directives, mut out) = (String::new(), String::new());
    let mut kept: Vec<bool> = Vec::new();
    for line in text.lines() {
        if let Some(directive) = line.trim().strip_prefix("//! ") {
            match directive {
                "else" => kept.last_mut().map(|k| *k = !*k).expect("an `else` after an `if`"),
                "end" => drop(kept.pop().expect("an `end` after an `if`")),
                other => kept.extend(other.strip_prefix("if ").map(|condition| evaluate(condition, &values) != 0)),
            }
            continue;
        }
        if kept.contains(&false) {
            continue;
        }
        let line = line.split("//").next().unwrap_or("").trim_end();
        // Directives precede everything else. naga supports subgroups without theirs, which it does not know yet (gfx-rs/wgpu#5555); browsers
        // require it.
        if line.starts_with("enable ") {
            if line != "enable subgroups;" {
                directives = directives + line + "\n";
            }
            continue;
        }
        if let Some((name, default)) = declaration(line, "override ") {
            let value = numbers.remove(name).unwrap_or_else(|| evaluate(default, &values));
            values.insert(name.to_string(), value);
            out += &format!("const {name}: u32 = {value}u;");
        } else {
            if let Some((name, expression)) = declaration(line, "const ")
                && let Some(value) = try_evaluate(expression, &values)
            {
                values.insert(name.to_string(), value);
            }
            out += line;
        }
        out.push('\n');
    }
    assert!(numbers.is_empty(), "shader '{file}' has no override named {:?}", numbers.keys());
    let images = source(file).lines().filter_map(|line| line.strip_prefix("//! image ")).flat_map(|names| names.split(", ")).collect();
    let out = storage::declared(out, images, half, &values);
    let out = match folded {
        Some(extents) => unfolded(&out, extents),
        None => out,
    };
    directives + &unroll(&out, &values)
}

/// The WGSL with workgroups numbered through x and y, from `params.first` on if that field exists. In a one-dimensional grid, the kernel
/// itself must ignore workgroups past the end, so that one pipeline serves every length.
fn unfolded(text: &str, [across, down, deep]: [u32; 3]) -> String {
    let first = if text.contains("    first: u32,") { "params.first + " } else { "" };
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("@builtin(workgroup_id) ") {
        let (name, after) = after.split_once(": vec3<u32>").expect("the type of a workgroup's number");
        let (arguments, body) = after.split_once('{').expect("a body after the arguments");
        let meant = match [down, deep] {
            [1, 1] => format!("let {name} = vec3(folded_number, 0u, 0u);"),
            _ => format!(
                "if (folded_number >= {}u) {{ return; }} \
                 let {name} = vec3(folded_number % {across}u, folded_number / {across}u % {down}u, folded_number / {}u);",
                across * down * deep,
                across * down
            ),
        };
        out += before;
        out += "@builtin(workgroup_id) folded: vec3<u32>, @builtin(num_workgroups) folds: vec3<u32>";
        out += &format!("{arguments}{{ let folded_number = {first}folded.y * folds.x + folded.x; {meant}");
        rest = body;
    }
    out + rest
}

/// The text of a file in `shaders/`.
fn source(name: &str) -> &'static str {
    FILES.iter().find(|(stem, _)| *stem == name).unwrap_or_else(|| panic!("there is no shader file '{name}.wgsl'")).1
}

/// Lists all files that `file` uses and then `file` itself, each once.
fn collect(file: &str, constants: &[(&'static str, Constant)], parts: &mut Vec<String>) {
    if parts.iter().any(|p| p == file) {
        return;
    }
    for line in source(file).lines() {
        let Some(uses) = line.strip_prefix("//! use ") else { continue };
        for name in uses.split(',') {
            let mut name = name.trim().to_string();
            for (constant, value) in constants {
                if let Constant::Word(word) = value {
                    name = name.replace(&format!("{{{constant}}}"), word);
                }
            }
            collect(&name, constants, parts);
        }
    }
    parts.push(file.to_string());
}

/// Parses `NAME` and the expression of a line `keyword NAME: u32 = expression;`.
fn declaration<'a>(line: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (name, expression) = line.strip_prefix(keyword)?.split_once('=')?;
    Some((name.split(':').next()?.trim(), expression.split(';').next()?.trim()))
}

fn evaluate(expression: &str, values: &BTreeMap<String, u32>) -> u32 {
    try_evaluate(expression, values).unwrap_or_else(|| panic!("'{expression}' is not a constant of this shader"))
}

/// Evaluates numbers, known names, and `* / + -` with the usual precedence, without parentheses.
fn try_evaluate(expression: &str, values: &BTreeMap<String, u32>) -> Option<u32> {
    for operators in [['+', '-'], ['*', '/']] {
        let Some(at) = expression.rfind(operators) else { continue };
        let (left, right) = (try_evaluate(&expression[..at], values)?, try_evaluate(&expression[at + 1..], values)?);
        return match &expression[at..=at] {
            "+" => left.checked_add(right),
            "-" => left.checked_sub(right),
            "*" => left.checked_mul(right),
            _ => left.checked_div(right),
        };
    }
    let word = expression.trim();
    values.get(word).copied().or_else(|| word.strip_suffix('u').unwrap_or(word).parse().ok())
}

fn unroll(text: &str, values: &BTreeMap<String, u32>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("@unroll for (") {
        out += &rest[..at];
        let header_end = at + rest[at..].find('{').expect("an unrolled loop has a body");
        let header = &rest[at + "@unroll for (".len()..header_end];
        let body_end = header_end + closing(&rest[header_end..], ['{', '}']);
        let body = &rest[header_end + 1..body_end];

        let mut clauses = header.trim().trim_end_matches(')').split(';');
        let (name, start) = clauses.next().and_then(|c| c.trim().strip_prefix("var ")?.split_once('=')).expect("`var i = 0u`");
        let bound = clauses.next().and_then(|c| c.split_once('<')).expect("`i < N`").1;
        let name = name.trim();
        for i in evaluate(start.trim(), values)..evaluate(bound.trim(), values) {
            let mut inner = values.clone();
            inner.insert(name.to_string(), i);
            out += &format!("{{ const {name} = {i}u;{}}}\n", unroll(body, &inner));
        }
        rest = &rest[body_end + 1..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_follow_the_usual_order() {
        let values = BTreeMap::from([("ROWS".to_string(), 12)]);
        assert_eq!(evaluate("ROWS * 2u + 3u * 2u / 4u - 1u", &values), 24);
        assert_eq!(try_evaluate("ROWS / 0u", &values), None);
        assert_eq!(try_evaluate("COLUMNS", &values), None);
    }

    #[test]
    fn workgroups_are_counted() {
        let text = "fn f(@builtin(workgroup_id) tile: vec3<u32>, @builtin(local_invocation_index) lane: u32) {\n y[tile.x] = 0.0;\n}";
        let line = unfolded(text, [9, 1, 1]);
        assert!(line.contains("folds: vec3<u32>, @builtin(local_invocation_index) lane: u32) {"), "{line}");
        assert!(line.contains("let tile = vec3(folded_number, 0u, 0u);\n y[tile.x] = 0.0;\n}"), "{line}");
        let block = unfolded(text, [9, 5, 2]);
        assert!(block.contains("if (folded_number >= 90u) { return; }"), "{block}");
        assert!(block.contains("let tile = vec3(folded_number % 9u, folded_number / 9u % 5u, folded_number / 45u);"), "{block}");
        let parts = unfolded(&format!("struct Params {{\n    first: u32,\n}}\n{text}"), [9, 5, 2]);
        assert!(parts.contains("let folded_number = params.first + folded.y * folds.x + folded.x;"), "{parts}");
    }

    #[test]
    fn loops_are_written_out_and_nest() {
        let values = BTreeMap::from([("N".to_string(), 2)]);
        let text = unroll("a @unroll for (var i = 0u; i < N; i++) { @unroll for (var j = i; j < N; j++) { f(i, j); } } b", &values);
        assert_eq!(text.matches("f(i, j)").count(), 3);
        assert!(text.starts_with("a { const i = 0u;") && text.ends_with(" b"));
    }
}
