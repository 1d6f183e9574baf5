//! The storage of a kernel's tensors, which its WGSL need not specify. A tensor is in a buffer of f32, as declared; in a buffer of f16,
//! with conversions at each read and write, since kernels compute in f32; or in an image, where `a[i]` reads texel `i` and to which the
//! program copies the tensor beforehand.

use std::collections::BTreeMap;

use super::brackets::closing;

/// The size in bytes of an image row. Texels are numbered consecutively through all rows.
pub const IMAGE_ROW: u32 = 16 << 10;

/// The declaration of a storage buffer.
struct Buffer {
    binding: u32,
    name: String,
    /// From `var` to the semicolon.
    declaration: String,
    element: String,
    /// The number of f32 values in an element; 0 for other types.
    floats: u32,
}

/// Rewrites the WGSL: the buffers named in `images` become images, and a buffer at binding b becomes f16 if bit b of `half` is set.
pub(super) fn declared(mut text: String, images: Vec<&str>, half: u32, values: &BTreeMap<String, u32>) -> String {
    for buffer in buffers(&text, values) {
        let half = half & (1 << buffer.binding) != 0;
        if images.contains(&buffer.name.as_str()) {
            text = image(&text, &buffer, half);
        } else if half {
            text = halved(&text, &buffer);
        }
    }
    if half != 0 { format!("enable f16;\n{text}") } else { text }
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

/// Declares a buffer as an image that is read texel by texel.
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

/// Replaces each read of an element of `name` with `load` of its index, and converts each value written to `stored`.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
