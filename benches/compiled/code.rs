//! The share of multiply-adds in a kernel's innermost loop, from its disassembly.

use std::collections::HashMap;

/// A line of disassembly, as far as loops are concerned.
enum Line<'a> {
    Label(&'a str),
    Branch(&'a str),
    Multiplies,
    Other,
}

/// The share of fused multiply-adds and matrix instructions in the innermost loop that has the most of them.
pub fn useful_share(code: &str) -> Option<f64> {
    let mut labels = HashMap::new();
    let mut useful = vec![0];
    let mut loops: Vec<[usize; 2]> = Vec::new();
    for line in code.lines().filter_map(classify) {
        let (at, before) = (useful.len() - 1, useful[useful.len() - 1]);
        match line {
            Line::Label(label) => {
                labels.insert(label, at);
                continue;
            }
            Line::Branch(label) => loops.extend(labels.get(label).map(|&begin| [begin, at + 1])),
            Line::Multiplies | Line::Other => {}
        }
        useful.push(before + usize::from(matches!(line, Line::Multiplies)));
    }
    let within = |inner: &[usize; 2], outer: &[usize; 2]| inner != outer && outer[0] <= inner[0] && inner[1] <= outer[1];
    let innermost = loops.iter().filter(|outer| !loops.iter().any(|inner| within(inner, outer)));
    let [begin, end] = *innermost.max_by_key(|[begin, end]| useful[*end] - useful[*begin])?;
    Some((useful[end] - useful[begin]) as f64 / (end - begin) as f64).filter(|&share| share > 0.0)
}

/// Classifies a line of RADV's or NVK's disassembly; `None` if it is neither an instruction nor a label.
fn classify(line: &str) -> Option<Line<'_>> {
    let text = line.trim();
    if let Some(label) = text.strip_suffix(':').filter(|label| label.starts_with("BB")) {
        return Some(Line::Label(label));
    }
    if let Some(block) = text.strip_prefix("block") {
        return block.split_whitespace().find(|word| word.starts_with('L')).map(Line::Label);
    }
    if text.is_empty() || text.starts_with('}') || text.starts_with("//") {
        return None;
    }
    let code = text.split([';', '/']).next().unwrap_or("");
    let mut words = code.split_whitespace();
    if words.clone().any(|word| word == "bra" || word.starts_with("s_branch") || word.starts_with("s_cbranch")) {
        return words.next_back().map(Line::Branch);
    }
    let multiplies = |word: &str| {
        let amd = [
            "v_fma_",
            "v_fmac_",
            "v_dual_fmac_",
            "v_dual_fmamk_",
            "v_pk_fma_",
            "v_fmaak_",
            "v_fmamk_",
            "v_wmma_",
            "v_mac_f32",
            "v_mad_f32",
        ];
        let nvidia = ["ffma", "hfma2", "hmma"];
        amd.iter().chain(&nvidia).any(|name| word.starts_with(name))
    };
    Some(if words.any(multiplies) { Line::Multiplies } else { Line::Other })
}
