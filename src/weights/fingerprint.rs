//! A 64-bit hash of bytes.

/// Hashes the bytes of several parts to sixteen hexadecimal digits: FNV-1a over words of eight bytes rather than single bytes, for speed.
/// It detects accidental changes, not malicious ones.
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut fingerprint = Fingerprint::default();
    parts.into_iter().for_each(|part| fingerprint.add(part));
    fingerprint.finish()
}

/// A [`fingerprint()`] of parts that are added one by one.
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
            // Carries of a product only move upwards; the rotation lets the upper bits affect the lower ones.
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
