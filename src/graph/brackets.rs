//! Matching brackets in WGSL.

/// The position of the bracket that closes the one at the start of `text`.
pub(super) fn closing(text: &str, [open, close]: [char; 2]) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        depth += (c == open) as i32 - (c == close) as i32;
        if depth == 0 {
            return at;
        }
    }
    panic!("a bracket is not closed");
}
