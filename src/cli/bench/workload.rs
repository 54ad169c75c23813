//! Workload: the keys and values of operations.
//!
//! Why: the key distribution decides what a benchmark measures. Uniform keys miss every cache; zipf keys hit a few hot
//! keys, as real traffic does. Both must cost the generator almost nothing.
//!
//! Invariants: the same seed gives the same sequence. Hot keys are spread over the whole range.
//!
//! See also: `systems_under_test` for the requests.

/// The skew of zipf keys; the default of YCSB.
const THETA: f64 = 0.99;

/// A prime above any number of keys: multiplying ranks by it modulo the number of keys is a permutation.
const SPREAD: u64 = 2_654_435_761;

/// The maximum number of keys; below [`SPREAD`].
pub(crate) const MAX_KEYS: u64 = 1_000_000_000;

/// The size of the random text that values are slices of, without the length of one value.
const POOL_BYTES: usize = 64 << 10;

/// A small, fast random number generator (splitmix64, Steele and others 2014).
pub(crate) struct Random(u64);

impl Random {
    /// Creates a generator with `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // The high half of a 64 x 64 bit product: uniform without a division (Lemire 2019); the bias is below 2^-32.
        let wide = u128::from(self.next()) * u128::from(bound);
        (wide >> 64) as u64
    }

    /// A number in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The distribution of keys, with their number.
#[derive(Debug, Clone)]
pub(crate) enum Keys {
    /// Each key is equally likely.
    Uniform(u64),
    /// Few keys are hot.
    Zipf(Zipf),
}

/// The constants of a zipf distribution (Gray and others, "Quickly generating billion-record synthetic databases", 1994).
#[derive(Debug, Clone)]
pub(crate) struct Zipf {
    count: u64,
    zeta: f64,
    second: f64,
    alpha: f64,
    eta: f64,
}

impl Keys {
    /// Creates the zipf distribution of `count` keys, in time linear in `count`.
    pub(crate) fn zipf(count: u64) -> Self {
        let zeta = |count: u64| (1..=count).map(|rank| (rank as f64).powf(-THETA)).sum::<f64>();
        let all = zeta(count);
        // The constants of Gray's approximation; `zeta(2)` is that of the two hottest keys.
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - THETA)) / (1.0 - zeta(2) / all);
        Self::Zipf(Zipf { count, zeta: all, second: 1.0 + 0.5_f64.powf(THETA), alpha: 1.0 / (1.0 - THETA), eta })
    }

    /// Draws a key.
    pub(crate) fn pick(&self, random: &mut Random) -> u64 {
        match self {
            Self::Uniform(count) => random.below(*count),
            Self::Zipf(zipf) => {
                let rank = zipf.rank(random.unit());
                // Both factors are below 2^32, so the product does not overflow.
                rank * SPREAD % zipf.count
            }
        }
    }
}

impl Zipf {
    fn rank(&self, unit: f64) -> u64 {
        // Inverse transform: the ranks 0 and 1 exactly, the others by Gray's approximation, in constant time.
        // For 1 000 keys zeta is about 7.7, so the hottest key gets 1 / 7.7 = 13 % of the operations.
        let place = unit * self.zeta;
        if place < 1.0 || self.count == 1 {
            return 0;
        }
        if place < self.second {
            return 1;
        }
        let rank = self.count as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.count - 1)
    }
}

/// Random values, as slices of a pool of text.
pub(crate) struct Values {
    pool: Vec<u8>,
    length: usize,
}

impl Values {
    /// Values of `length` letters and digits.
    pub(crate) fn new(length: usize, random: &mut Random) -> Self {
        const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
        let pool = (0..POOL_BYTES + length).map(|_| LETTERS[(random.next() >> 58) as usize]).collect();
        Self { pool, length }
    }

    /// Draws a value.
    pub(crate) fn pick(&self, random: &mut Random) -> &[u8] {
        let from = random.below(POOL_BYTES as u64) as usize;
        &self.pool[from..from + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_sequence() {
        let draw =
            |seed| (0..5).map(|_| 0).scan(Random::new(seed), |random, _: i32| Some(random.next())).collect::<Vec<_>>();
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert_eq!(Random::new(1).below(0), 0);
    }

    fn counts(keys: &Keys, count: usize) -> Vec<u32> {
        let mut random = Random::new(1);
        let mut seen = vec![0; count];
        for _ in 0..100_000 {
            seen[keys.pick(&mut random) as usize] += 1;
        }
        seen
    }

    #[test]
    fn uniform_keys_are_equally_frequent() {
        let seen = counts(&Keys::Uniform(100), 100);
        assert!(seen.iter().all(|times| (800..1200).contains(times)), "{seen:?}");
    }

    #[test]
    fn zipf_keys_are_skewed_as_the_distribution_says_and_spread_over_the_range() {
        let mut seen = counts(&Keys::zipf(1000), 1000);
        // 1 / zeta(1000, 0.99) of them are the first.
        assert!((12_000..14_500).contains(&seen[0]), "{}", seen[0]);
        assert!(seen[1] < 2_000, "the second hottest key is elsewhere");
        seen.sort_unstable();
        assert!(seen[999 - 1] > 5_000 && seen[500] < 100, "{:?}", &seen[990..]);
        assert_eq!(counts(&Keys::zipf(1), 1), [100_000]);
        assert_eq!(counts(&Keys::zipf(2), 2).iter().sum::<u32>(), 100_000);
    }

    #[test]
    fn values_have_the_given_length_and_differ() {
        let mut random = Random::new(3);
        let values = Values::new(256, &mut random);
        let first = values.pick(&mut random).to_vec();
        assert_eq!(first.len(), 256);
        assert_ne!(first, values.pick(&mut random));
        assert!(Values::new(0, &mut random).pick(&mut random).is_empty());
    }
}
