//! From a shader file to the WGSL of one kernel: six small steps on text, so that the files in `shaders/` stay plain WGSL.
//!
//! 1. `//! use a, b` puts `a.wgsl` and `b.wgsl` in front. `{NAME}` in such a line stands for a constant's value as a word
//!    (`//! use weight_{FORMAT}`). Comments go.
//! 2. `override NAME: u32 = 4u;` becomes a `const` with the kernel's value, so it can size arrays and be folded everywhere.
//! 3. Lines between `//! if NAME` and `//! else` or `//! end` stay only where that constant (or a sum) is not zero.
//! 4. `//! image a, b` in the kernel's own file makes images of the buffers `a` and `b`, so that `a[i]` reads texel `i`. The program copies
//!    the tensors there.
//! 5. Buffers whose tensors are f16 are declared so, with a conversion where they are read or written: kernels compute in f32.
//! 6. `@unroll for (var i = 0u; i < ROWS; i++) { … }` is written out once for each `i`, as `{ const i = 0u; … }`. No driver is
//!    told by naga to unroll a loop, and register tiles need it.

use std::collections::BTreeMap;

macro_rules! shaders {
    ($($stem:literal)*) => { &[$(($stem, include_str!(concat!("../../shaders/", $stem, ".wgsl")))),*] };
}

/// Every file of `shaders/`, by its stem.
pub const FILES: &[(&str, &str)] = shaders! {
    "activation" "adapter" "attention" "attention_cpu" "attention_params" "cached_attention" "elementwise" "embedding" "epilogue_act"
    "epilogue_plain" "gated" "grid" "head_norm" "loss" "matmul_any" "matmul_cpu" "matmul_gpu" "matmul_params" "matmul_row" "metrics"
    "norm" "optimizer" "quant" "random" "reduce" "rope" "row_sum" "scale" "step" "value" "weight_bf16" "weight_f16" "weight_f32"
    "weight_q4_0" "weight_q4_1" "weight_q4_k" "weight_q5_0" "weight_q5_1" "weight_q5_k" "weight_q6_k" "weight_q8_0"
};

/// The value of a constant that a kernel is specialised on.
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

/// The bytes in a row of an image whose texels are counted through all rows.
pub const IMAGE_ROW: u32 = 16 << 10;

/// The WGSL of `file` (a stem in `shaders/`) with its constants set. Bit b of `half` says that the tensor bound at b is f16.
///
/// # Panics
/// On a file, a constant or an unroll bound that does not exist: a mistake in the project's own shaders.
pub fn expand(file: &str, constants: &[(&'static str, Constant)], half: u32) -> String {
    let mut parts = Vec::new();
    collect(file, constants, &mut parts);
    let text = parts.iter().map(|name| source(name)).collect::<Vec<_>>().join("\n");

    let mut values = BTreeMap::new();
    let mut numbers: BTreeMap<_, _> =
        constants.iter().filter_map(|(name, c)| if let Constant::Number(n) = c { Some((*name, *n)) } else { None }).collect();
    let mut out = String::new();
    let mut kept: Vec<bool> = Vec::new();
    for line in text.lines() {
        if let Some(directive) = line.trim().strip_prefix("//! ") {
            match directive {
                "else" => kept.last_mut().map(|k| *k = !*k).expect("an `else` behind an `if`"),
                "end" => drop(kept.pop().expect("an `end` behind an `if`")),
                other => kept.extend(other.strip_prefix("if ").map(|condition| evaluate(condition, &values) != 0)),
            }
            continue;
        }
        if kept.contains(&false) {
            continue;
        }
        let line = line.split("//").next().unwrap_or("").trim_end();
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
    let images: Vec<_> =
        source(file).lines().filter_map(|line| line.strip_prefix("//! image ")).flat_map(|names| names.split(", ")).collect();
    for buffer in buffers(&out, &values) {
        let half = half & (1 << buffer.binding) != 0;
        if images.contains(&buffer.name.as_str()) {
            out = image(&out, &buffer, half);
        } else if half {
            out = halved(&out, &buffer);
        }
    }
    let extension = if half != 0 { "enable f16;\n" } else { "" };
    out.insert_str(0, extension);
    unroll(&out, &values)
}

/// The text of one file of `shaders/`.
fn source(name: &str) -> &'static str {
    FILES.iter().find(|(stem, _)| *stem == name).unwrap_or_else(|| panic!("there is no shader file '{name}.wgsl'")).1
}

/// Lists `file` behind all that it uses, each once.
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

/// `NAME` and the expression of a line `keyword NAME: u32 = expression;`.
fn declaration<'a>(line: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (name, expression) = line.strip_prefix(keyword)?.split_once('=')?;
    Some((name.split(':').next()?.trim(), expression.split(';').next()?.trim()))
}

fn evaluate(expression: &str, values: &BTreeMap<String, u32>) -> u32 {
    try_evaluate(expression, values).unwrap_or_else(|| panic!("'{expression}' is not a constant of this shader"))
}

/// Numbers, known names, and `* / + -` in the usual order without parentheses.
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

/// A storage buffer of numbers as it is declared.
struct Buffer {
    binding: u32,
    name: String,
    /// From `var` to the semicolon.
    declaration: String,
    element: String,
    /// How many numbers an element is, where they are f32; else 0.
    floats: u32,
}

/// The storage buffers of group 0.
fn buffers(text: &str, values: &BTreeMap<String, u32>) -> Vec<Buffer> {
    let declared = text.lines().filter_map(|line| line.strip_prefix("@group(0) @binding(")?.split_once(") "));
    let buffer = |(binding, declaration): (&str, &str)| {
        let declaration = &declaration[..=declaration.find(';')?];
        let (space, rest) = declaration.split_once("> ")?;
        let (name, element) = rest.strip_suffix(">;")?.split_once(": array<")?;
        let floats = match element {
            "f32" => 1,
            "vec4<f32>" => 4,
            "Value" => values["VECTOR"],
            _ => 0,
        };
        let binding = binding.parse().ok().filter(|_| space.starts_with("var<storage"))?;
        Some(Buffer { binding, name: name.into(), declaration: declaration.into(), element: element.into(), floats })
    };
    declared.filter_map(buffer).collect()
}

/// Declares a buffer as an image and reads it texel by texel.
fn image(text: &str, buffer: &Buffer, half: bool) -> String {
    let Buffer { name, element, declaration, .. } = buffer;
    let (format, texel, value) = match (element.as_str(), half) {
        ("u32", _) => ("r32uint", 4, "texel.x"),
        ("vec2<u32>", _) => ("rg32uint", 8, "texel.xy"),
        ("vec4<u32>", _) => ("rgba32uint", 16, "texel"),
        ("vec4<f32>", false) => ("rgba32float", 16, "texel"),
        ("vec4<f32>", true) => ("rg32uint", 8, "vec4(unpack2x16float(texel.x), unpack2x16float(texel.y))"),
        _ => panic!("no image has elements of {element}"),
    };
    let width = IMAGE_ROW / texel;
    let load = format!("let texel = textureLoad({name}, vec2(i % {width}u, i / {width}u)); return {value};");
    let declared = format!("var {name}: texture_storage_2d<{format}, read>; fn load_{name}(i: u32) -> {element} {{ {load} }}");
    accesses(&text.replace(declaration, &declared), name, &|index| format!("load_{name}({index})"), None)
}

/// Declares a buffer of f32 as one of f16.
fn halved(text: &str, buffer: &Buffer) -> String {
    let Buffer { name, element, declaration, .. } = buffer;
    let half = match buffer.floats {
        0 => return text.into(),
        1 => "f16",
        _ => "vec4<f16>",
    };
    let declared = declaration.replace(&format!("array<{element}>"), &format!("array<{half}>"));
    let load = |index: &str| format!("{element}({name}[{index}])");
    accesses(&text.replace(declaration, &declared), name, &load, Some(half))
}

/// Writes `load` of the index for each element of `name` that is read. What is written is converted to `stored`.
fn accesses(text: &str, name: &str, load: &dyn Fn(&str) -> String, stored: Option<&str>) -> String {
    let (mut out, mut rest) = (String::new(), text);
    let indexed = format!("{name}[");
    while let Some(at) = rest.find(&indexed) {
        let open = at + name.len();
        out += &rest[..at];
        if rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.') {
            out += &indexed;
            rest = &rest[open + 1..];
            continue;
        }
        let close = open + closing(&rest[open..], ['[', ']']);
        let index = &rest[open + 1..close];
        rest = &rest[close + 1..];
        match (rest.strip_prefix(" = "), stored) {
            (Some(written), Some(stored)) => {
                let (value, after) = written.split_once(';').expect("the end of a statement");
                out += &format!("{indexed}{index}] = {stored}({});", accesses(value, name, load, None));
                rest = after;
            }
            _ => out += &load(index),
        }
    }
    out + rest
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

/// The place of the bracket that closes the one `text` begins with.
fn closing(text: &str, [open, close]: [char; 2]) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        depth += (c == open) as i32 - (c == close) as i32;
        if depth == 0 {
            return at;
        }
    }
    panic!("a bracket is not closed");
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
    fn buffers_become_images_and_halves() {
        let text = "@group(0) @binding(3) var<storage, read_write> x: array<vec4<f32>>; // (rows)\nx[i + left[0]] = max[0] + x[left[i]].x;";
        let found = buffers(text, &BTreeMap::new());
        let [x] = found.as_slice() else { panic!("not one buffer") };
        assert_eq!((x.binding, x.name.as_str(), x.floats), (3, "x", 4));
        let halves =
            "var<storage, read_write> x: array<vec4<f16>>; // (rows)\nx[i + left[0]] = vec4<f16>(max[0] + vec4<f32>(x[left[i]]).x);";
        assert_eq!(halved(text, x), text[..22].to_string() + halves);
        let read = image(&text.replace("x[i + left[0]]", "let v"), x, false);
        assert!(read.contains(" var x: texture_storage_2d<rgba32float, read>; fn load_x(i: u32) -> vec4<f32> {"), "{read}");
        assert!(read.ends_with("let v = max[0] + load_x(left[i]).x;"), "{read}");
    }

    #[test]
    fn loops_are_written_out_and_nest() {
        let values = BTreeMap::from([("N".to_string(), 2)]);
        let text = unroll("a @unroll for (var i = 0u; i < N; i++) { @unroll for (var j = i; j < N; j++) { f(i, j); } } b", &values);
        assert_eq!(text.matches("f(i, j)").count(), 3);
        assert!(text.starts_with("a { const i = 0u;") && text.ends_with(" b"));
    }
}
