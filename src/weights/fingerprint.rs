//! A number that stands for some bytes.

/// Sixteen hexadecimal digits that stand for bytes in several parts: FNV-1a over words of eight bytes instead of single ones, since there
/// may be many. It finds accidents, not malice.
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut fingerprint = Fingerprint::default();
    parts.into_iter().for_each(|part| fingerprint.add(part));
    fingerprint.finish()
}

/// The same of parts that come one by one.
pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Fingerprint {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    const PRIME: u64 = 0x0100_0000_01b3;

    /// Adds a part.
    pub fn add(&mut self, part: &[u8]) {
        for chunk in part.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            // A product carries upwards only; turning the word lets its upper bits reach the others.
            self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(Self::PRIME).rotate_left(29);
        }
        self.0 = (self.0 ^ part.len() as u64).wrapping_mul(Self::PRIME);
    }

    /// The digits for all parts so far.
    pub fn finish(&self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::fingerprint;

    #[test]
    fn every_bit_and_every_border_counts() {
        let bytes: Vec<u8> = (0..37).collect();
        let whole = fingerprint([&bytes[..]]);
        assert_eq!((whole.len(), &whole), (16, &fingerprint([&bytes[..]])));
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(whole, fingerprint([&other[..]]), "bit {bit}");
        }
        assert_ne!(whole, fingerprint([&bytes[..8], &bytes[8..]]));
        assert_ne!(fingerprint([&[0u8; 3][..]]), fingerprint([&[0u8; 4][..]]));
    }
}
