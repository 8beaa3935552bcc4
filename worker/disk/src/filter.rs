//! Which keys a run may have: a Bloom filter whose bits of one key lie in one line of the
//! processor's cache. Putze, Sanders, Singler, "Cache-, hash- and space-efficient Bloom
//! filters", 2007.

/// Bits that are set for a key.
const PROBES: u32 = 6;
/// Bits of a line.
const LINE: u64 = 512;

#[derive(Clone)]
#[repr(align(64))]
struct Line([u64; 8]);

/// Says of some keys that they are not there; of those that are, never.
pub(crate) struct Filter(Vec<Line>);

impl Filter {
    /// For so many keys, with `bits` for each.
    pub fn new(keys: usize, bits: usize) -> Self {
        Self(vec![Line([0; 8]); (keys * bits).div_ceil(LINE as usize)])
    }

    /// The line of a hash, and the bits within it.
    fn place(&self, hash: u64) -> (usize, u64) {
        let line = (u128::from(hash) * self.0.len() as u128) >> 64;
        // Of a line all have the same upper bits.
        (line as usize, hash.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn add(&mut self, hash: u64) {
        let (line, mut bits) = self.place(hash);
        let Some(Line(line)) = self.0.get_mut(line) else { return };
        for _ in 0..PROBES {
            line[(bits >> 6 & 7) as usize] |= 1 << (bits & 63);
            bits >>= 9;
        }
    }

    /// Whether a key of that hash may be there. A filter without bits knows nothing.
    pub fn may_have(&self, hash: u64) -> bool {
        let (line, mut bits) = self.place(hash);
        let Some(Line(line)) = self.0.get(line) else { return true };
        let mut all = 1;
        for _ in 0..PROBES {
            all &= line[(bits >> 6 & 7) as usize] >> (bits & 63);
            bits >>= 9;
        }
        all & 1 == 1
    }

    pub fn bytes(&self) -> usize {
        self.0.len() * size_of::<Line>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_may_be_there_and_little_else() {
        for keys in [1, 1000, 50_000] {
            let hash = |i: u64| xxhash_rust::xxh3::xxh3_64(&i.to_be_bytes());
            let mut filter = Filter::new(keys, 10);
            (0..keys as u64).for_each(|i| filter.add(hash(i)));
            assert!((0..keys as u64).all(|i| filter.may_have(hash(i))));
            let wrong = (0..100_000).filter(|i| filter.may_have(hash(i + 1_000_000))).count();
            assert!(wrong < 2_500, "{wrong} of 100,000 at {keys} keys");
        }
        assert!(Filter::new(0, 10).may_have(7) && Filter::new(9, 0).may_have(7));
    }
}
