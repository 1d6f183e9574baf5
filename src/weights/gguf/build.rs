//! Builds files byte by byte, for tests.

pub(crate) const U32: u32 = 4;
pub(crate) const F32: u32 = 6;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;

pub(crate) fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

pub(crate) fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key)[..], &kind.to_le_bytes(), value].concat()
}

pub(crate) fn array(key: &str, kind: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    entry(key, ARRAY, &[&kind.to_le_bytes(), &len.to_le_bytes()[..], elements].concat())
}

/// A tensor's header entry, with `axes` in the file's order.
pub(crate) fn described(name: &str, axes: &[u64], id: u32, offset: u64) -> Vec<u8> {
    let axes_bytes: Vec<u8> = axes.iter().flat_map(|axis| axis.to_le_bytes()).collect();
    [&text(name)[..], &(axes.len() as u32).to_le_bytes(), &axes_bytes, &id.to_le_bytes(), &offset.to_le_bytes()].concat()
}

pub(crate) fn counts(tensors: u64, entries: u64) -> Vec<u8> {
    [b"GGUF", &3_u32.to_le_bytes()[..], &tensors.to_le_bytes(), &entries.to_le_bytes()].concat()
}

/// A file with these entries. Its data are the bytes 0, 1, 2, …
pub(crate) fn file(entries: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut file = [counts(tensors.len() as u64, entries.len() as u64), entries.concat(), tensors.concat()].concat();
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend((0..data).map(|i| i as u8));
    file
}
