//! Counter-based random numbers: every draw is a pure function of a key, so any sample's crop, flip or mask
//! can be recomputed on its own, on any thread and after any resume.
//!
//! The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

/// What the numbers are for; part of the key, so that two uses never share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Initial weights.
    Init = 1,
    /// The order of samples.
    Shuffle = 2,
    /// Visible patches.
    Mask = 3,
    /// Crops and other augmentation.
    Crop = 4,
    /// The choice among captions and tags.
    Caption = 5,
    /// Tests and benches.
    Test = 6,
    /// The order of shards.
    Shards = 7,
    /// The order of samples within a group of shards.
    Group = 8,
    /// Which items of a source are visited once more in an epoch.
    Extra = 9,
    /// Samples or shards drawn with replacement.
    Draw = 10,
}

/// One Philox4x32-10 block: four words from a 128-bit counter and a 64-bit key.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let product0 = u64::from(counter[0]) * 0xD251_1F53;
        let product1 = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (product1 >> 32) as u32 ^ counter[1] ^ key[0],
            product1 as u32,
            (product0 >> 32) as u32 ^ counter[3] ^ key[1],
            product0 as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// A short stream of numbers that belongs to one `(seed, purpose, epoch, item)`.
#[derive(Clone, Debug)]
pub struct Random {
    counter: [u32; 4],
    key: [u32; 2],
    block: [u32; 4],
    used: usize,
}

impl Random {
    /// The stream of `item` (a sample, a parameter) in `epoch`. Purpose and epoch share a counter word:
    /// epochs are counted modulo 2^28.
    pub fn new(seed: u64, purpose: Purpose, epoch: u64, item: u64) -> Self {
        let tag = ((purpose as u32) << 28) | (epoch as u32 & 0x0FFF_FFFF);
        Self {
            counter: [0, tag, item as u32, (item >> 32) as u32],
            key: [seed as u32, (seed >> 32) as u32],
            block: [0; 4],
            used: 4,
        }
    }

    /// A uniform 32-bit word.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// Uniform in `[0, 1)`, 24 bits.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in `[low, high)`.
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// Uniform integer in `0..bound`; the bias of the multiplication is below `bound / 2^32`.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// A standard normal number (Box and Muller), the same on every machine: `libm` is portable, while `std` calls the
    /// system's functions.
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * libm::logf(1.0 - self.uniform())).sqrt();
        radius * libm::cosf(std::f32::consts::TAU * self.uniform())
    }

    /// A uniform permutation of `0..len` (Fisher and Yates).
    pub fn permutation(&mut self, len: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..len as u32).collect();
        for i in (1..len).rev() {
            order.swap(i, self.below(i as u32 + 1) as usize);
        }
        order
    }
}

/// A random permutation of `0..len` that needs no memory: a Feistel network over the next power of 4, applied again
/// until the result is below `len` (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    len: u64,
    /// Bits of each half.
    half: u32,
    tag: u32,
    key: [u32; 2],
}

impl Permutation {
    /// Four are the minimum for which the network is pseudorandom; small domains need more.
    const ROUNDS: u32 = 8;
    /// A network over fewer bits could produce only some of the permutations.
    const MIN_HALF: u32 = 4;

    /// The permutation of `(seed, purpose, epoch)`.
    pub fn new(seed: u64, purpose: Purpose, epoch: u64, len: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let Random { counter: [_, tag, ..], key, .. } = Random::new(seed, purpose, epoch, 0);
        Self { len, half: bits.div_ceil(2).max(Self::MIN_HALF), tag, key }
    }

    /// What is at place `index`, which must be below `len`.
    pub fn at(&self, index: u64) -> u64 {
        debug_assert!(index < self.len);
        let mut at = self.network(index);
        // The network permutes its whole domain, so this comes back to `index` if to no other number below `len`.
        while at >= self.len {
            at = self.network(at);
        }
        at
    }

    fn network(&self, at: u64) -> u64 {
        let mask = ((1_u64 << self.half) - 1) as u32;
        let (mut left, mut right) = ((at >> self.half) as u32, at as u32 & mask);
        for round in 0..Self::ROUNDS {
            let [word, ..] = philox([round, self.tag, right, 0], self.key);
            (left, right) = (right, left ^ (word & mask));
        }
        u64::from(left) << self.half | u64::from(right)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzzing::cases;

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn a_permutation_without_a_table_holds_every_index_once(
            seed in any::<u64>(),
            epoch in any::<u64>(),
            len in 1..5000_u64,
        ) {
            let order = Permutation::new(seed, Purpose::Test, epoch, len);
            let mut all: Vec<u64> = (0..len).map(|index| order.at(index)).collect();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..len));
        }

        /// Where not all can be compared: distinct places hold distinct numbers in range.
        #[test]
        fn a_permutation_of_any_length_stays_in_range(
            seed in any::<u64>(),
            len in 2..=u64::MAX,
            places in proptest::collection::hash_set(any::<u64>(), 2..20),
        ) {
            let order = Permutation::new(seed, Purpose::Test, 0, len);
            let places: std::collections::HashSet<u64> = places.into_iter().map(|place| place % len).collect();
            let found: std::collections::HashSet<u64> = places.iter().map(|&place| order.at(place)).collect();
            prop_assert!(found.len() == places.len() && found.iter().all(|&at| at < len));
        }
    }

    /// All 24 permutations of 4, each about as often: the sum of squares follows chi-squared with 23 degrees of
    /// freedom, which is above 49.7 once in a thousand times.
    #[test]
    fn short_permutations_are_uniform() {
        let mut counts = std::collections::HashMap::new();
        for epoch in 0..24_000 {
            let order = Permutation::new(5, Purpose::Test, epoch, 4);
            *counts.entry([0, 1, 2, 3].map(|index| order.at(index))).or_insert(0_i32) += 1;
        }
        let chi: f64 = counts.values().map(|&count| f64::from(count - 1000).powi(2) / 1000.0).sum();
        assert!(counts.len() == 24 && chi < 49.7, "{} {chi}", counts.len());
    }

    /// Computed by another implementation, in Python. A change would alter the order of every run.
    #[test]
    fn permutations_without_a_table_are_the_same_for_ever() {
        let first = |len| [0, 1, 2, 3].map(|index| Permutation::new(1, Purpose::Shards, 2, len).at(index));
        assert_eq!(first(10), [9, 6, 5, 4]);
        assert_eq!(first(231_000), [124_414, 216_850, 186_632, 210_876]);
        assert_eq!(first(400_000_000), [102_661_725, 154_712_782, 129_246_659, 346_507_607]);
    }

    /// Known answers of the Random123 distribution (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn streams_differ_by_each_part_of_the_key() {
        let first = |mut r: Random| r.next_u32();
        let base = first(Random::new(1, Purpose::Mask, 0, 0));
        assert_ne!(base, first(Random::new(2, Purpose::Mask, 0, 0)));
        assert_ne!(base, first(Random::new(1, Purpose::Crop, 0, 0)));
        assert_ne!(base, first(Random::new(1, Purpose::Mask, 1, 0)));
        assert_ne!(base, first(Random::new(1, Purpose::Mask, 0, 1)));
        assert_eq!(base, first(Random::new(1, Purpose::Mask, 0, 0)));
    }

    #[test]
    fn moments_are_those_of_the_distribution() {
        let mut random = Random::new(7, Purpose::Test, 0, 0);
        let draws: Vec<f32> = (0..100_000).map(|_| random.normal()).collect();
        let mean = draws.iter().sum::<f32>() / 1e5;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 1e5;
        assert!(mean.abs() < 0.015 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn permutation_holds_every_index_once() {
        let mut order = Random::new(3, Purpose::Shuffle, 0, 0).permutation(1000);
        assert_ne!(order, (0..1000).collect::<Vec<u32>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<u32>>());
    }
}
