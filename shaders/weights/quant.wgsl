// What the block formats of GGUF share. `src/weights/repack.rs` has the layout of each in device memory, where a buffer is a row of
// groups of whole words. Groups of four elements are counted from the beginning of the matrix; four neighbours never leave a block.

// The f16 in the low half of a word. By hand: a device may take subnormal numbers for zero in `unpack2x16float`, and subnormal is what the
// scales of small weights are in formats that multiply them by two whole numbers.
fn half_to_single(bits: u32) -> f32 {
    let size = bits & 0x7fffu;
    let normal = bitcast<f32>((size << 13u) + (112u << 23u));
    let subnormal = f32(i32(size)) * 0x1p-24f;
    let sign = (bits & 0x8000u) << 16u;
    return bitcast<f32>(bitcast<u32>(select(normal, subnormal, size < 0x400u)) | sign);
}

// Both f16 of a word, the low half first.
fn halves(word: u32) -> vec2<f32> {
    return vec2(half_to_single(word), half_to_single(word >> 16u));
}

// Four whole numbers of a word, the lowest byte first: signed, as devices convert those fastest. Of the formats, only Q8_0 sets the sign.
fn four(bytes: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(bytes));
}

// The low four bits of each byte, or the high ones where `high` is 4 and not 0.
fn nibbles(word: u32, high: u32) -> u32 {
    return (word >> high) & 0x0f0f0f0fu;
}

// The low four of `bits`, each as the fifth bit of a byte. The product puts bit k at 8k, and no two bits meet.
fn fifth_bits(bits: u32) -> u32 {
    return (((bits & 15u) * 0x00204081u) & 0x01010101u) << 4u;
}

// Scale and minimum of a sub-block of Q4_K and Q5_K, from the four words that a block begins with.
fn scale_and_min(head: vec4<u32>, sub: u32) -> vec2<f32> {
    let shift = sub % 4u * 8u;
    let first = vec2(head.y, head.z) >> vec2(shift);
    let last = vec2(head.w, head.w >> 4u) >> vec2(shift);
    let numbers = select((last & vec2(15u)) | ((first >> vec2(2u)) & vec2(48u)), first & vec2(63u), sub < 4u);
    return halves(head.x) * vec2<f32>(vec2<i32>(numbers));
}

// Of groups i of four neighbours, a format says how many in a row have their `scales` in common (SHARED, from a multiple of it on), and
// what they are with those (`scaled`).

// Elements 4i to 4i + 3.
fn weight4(i: u32) -> vec4<f32> {
    return scaled(i, scales(i));
}

// Element i.
fn weight1(i: u32) -> f32 {
    return weight4(i / 4u)[i % 4u];
}
