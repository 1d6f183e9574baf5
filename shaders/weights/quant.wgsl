// Shared by GGUF's block formats. `src/weights/repack.rs` documents each format's layout in device memory, where a buffer is a sequence
// of groups of whole words. Groups of four elements are counted from the start of the matrix; such a group never straddles two blocks.

// The f16 in the low half of a word. Decoded by hand: a device's `unpack2x16float` may flush subnormals to zero, and the scales of small
// weights are subnormal in formats that multiply them by two integers.
fn half_to_single(bits: u32) -> f32 {
    let size = bits & 0x7fffu;
    let normal = bitcast<f32>((size << 13u) + (112u << 23u));
    let subnormal = f32(i32(size)) * 0x1p-24f;
    let sign = (bits & 0x8000u) << 16u;
    return bitcast<f32>(bitcast<u32>(select(normal, subnormal, size < 0x400u)) | sign);
}

// Both f16 values of a word, the low half first.
fn halves(word: u32) -> vec2<f32> {
    return vec2(half_to_single(word), half_to_single(word >> 16u));
}

// The four bytes of a word as integers, the lowest first. They are read as signed, which devices convert fastest; only Q8_0 uses the sign.
fn four(bytes: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(bytes));
}

// The low nibble of each byte if `high` is 0, the high nibble if it is 4.
fn nibbles(word: u32, high: u32) -> u32 {
    return (word >> high) & 0x0f0f0f0fu;
}

// Spreads the low four of `bits` over four bytes, each as the byte's fifth bit. The multiplication moves bit k to 8k without collisions.
fn fifth_bits(bits: u32) -> u32 {
    return (((bits & 15u) * 0x00204081u) & 0x01010101u) << 4u;
}

// The 16 values that four bits stand for, as signed bytes: those of IQ4_NL and IQ4_XS, and twice those of MXFP4.
const IQ4 = vec4<u32>(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);
const FP4 = vec4<u32>(0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu);

// The values of a table for the low four bits of each byte. Two choices and a shift, all in registers: devices keep arrays in memory.
fn looked_up(bytes: u32, table: vec4<u32>) -> vec4<f32> {
    let q = (vec4(bytes) >> vec4(0u, 8u, 16u, 24u)) & vec4(15u);
    let odd = (q & vec4(4u)) != vec4(0u);
    let words = select(select(vec4(table.x), vec4(table.y), odd), select(vec4(table.z), vec4(table.w), odd), q >= vec4(8u));
    return vec4<f32>(bitcast<vec4<i32>>(words << (vec4(24u) - (q & vec4(3u)) * 8u)) >> vec4(24u));
}

// Scale and minimum of a sub-block of Q4_K or Q5_K, from the first four words of its block.
fn scale_and_min(head: vec4<u32>, sub: u32) -> vec2<f32> {
    let shift = sub % 4u * 8u;
    let first = vec2(head.y, head.z) >> vec2(shift);
    let last = vec2(head.w, head.w >> 4u) >> vec2(shift);
    let numbers = select((last & vec2(15u)) | ((first >> vec2(2u)) & vec2(48u)), first & vec2(63u), sub < 4u);
    return halves(head.x) * vec2<f32>(vec2<i32>(numbers));
}

// For group i of four elements, each format defines the `scales` and the values (`scaled`). SHARED consecutive groups, starting at a
// multiple of SHARED, have the same scales.

// Elements 4i to 4i + 3.
fn weight4(i: u32) -> vec4<f32> {
    return scaled(i, scales(i));
}

// Element i.
fn weight1(i: u32) -> f32 {
    return weight4(i / 4u)[i % 4u];
}
