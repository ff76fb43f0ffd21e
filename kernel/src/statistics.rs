//! What a benchmark's samples come to.

use alloc::vec::Vec;

/// The order statistics of a set of samples, and their mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The smallest sample.
    pub min: u64,
    /// The lower median.
    pub median: u64,
    /// The smallest sample that at least 99 of 100 do not exceed.
    pub p99: u64,
    /// The mean, rounded to the nearest. What many cheap operations and a few dear ones cost together stands here.
    pub mean: u64,
}

impl Summary {
    /// What a figure comes to that is known and not sampled.
    pub const fn of_one(value: u64) -> Self {
        Self { min: value, median: value, p99: value, mean: value }
    }
}

/// Samples, counted by value: a million of them take no more memory than the values that differ. Without memory for one
/// more value, a sample counts as the nearest above it, or the largest: samples are taken while memory is used up.
#[derive(Clone, Debug, Default)]
pub struct Distribution {
    /// Values and how often they came, ascending.
    counts: Vec<(u64, u64)>,
    samples: u64,
    sum: u64,
}

/// Values of up to so many bits are kept exactly, larger ones rounded down to so many: a 2048th at most.
const EXACT_BITS: u32 = 12;

impl Distribution {
    /// No samples yet.
    pub const fn new() -> Self {
        Self { counts: Vec::new(), samples: 0, sum: 0 }
    }

    /// Adds a sample.
    pub fn record(&mut self, sample: u64) {
        let surplus = (u64::BITS - sample.leading_zeros()).saturating_sub(EXACT_BITS);
        let value = sample >> surplus << surplus;
        match self.counts.binary_search_by_key(&value, |&(value, _)| value) {
            Ok(at) => self.counts[at].1 += 1,
            Err(at) if self.counts.try_reserve(1).is_ok() => self.counts.insert(at, (value, 1)),
            Err(at) => {
                let last = self.counts.len().saturating_sub(1);
                // Not even one value can be kept: then there is nothing to tell.
                let Some((_, count)) = self.counts.get_mut(at.min(last)) else { return };
                *count += 1;
            }
        }
        self.samples += 1;
        self.sum += sample;
    }

    /// How many there are.
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    /// Sums the samples up; `None` if there are none.
    pub fn summary(&self) -> Option<Summary> {
        let mean = (self.sum + self.samples / 2).checked_div(self.samples)?;
        Some(Summary { min: self.ranked(1)?, median: self.percentile(50)?, p99: self.percentile(99)?, mean })
    }

    fn percentile(&self, percent: u64) -> Option<u64> {
        self.ranked((self.samples * percent).div_ceil(100))
    }

    /// The sample of this rank, from 1.
    fn ranked(&self, rank: u64) -> Option<u64> {
        let mut below = 0;
        self.counts.iter().find_map(|&(value, count)| {
            below += count;
            (below >= rank).then_some(value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(samples: impl IntoIterator<Item = u64>) -> Option<Summary> {
        let mut distribution = Distribution::new();
        samples.into_iter().for_each(|sample| distribution.record(sample));
        distribution.summary()
    }

    #[test]
    fn the_99th_percentile_leaves_out_one_of_a_hundred_outliers_but_not_two() {
        let one = (1..=99).rev().chain([4_000]);
        assert_eq!(summary(one), Some(Summary { min: 1, median: 50, p99: 99, mean: 90 }));
        let two = (1..=98).chain([3_000, 4_000]);
        assert_eq!(summary(two).unwrap().p99, 3_000);
    }

    #[test]
    fn one_sample_is_everything_and_none_is_nothing() {
        assert_eq!(summary([7]), Some(Summary::of_one(7)));
        assert_eq!(summary([]), None);
    }

    #[test]
    fn large_samples_lose_a_2048th_and_their_mean_nothing() {
        assert_eq!(summary([4095]).unwrap().min, 4095);
        for sample in [4097, 1_000_003, u64::MAX / 2] {
            let summary = summary([sample]).unwrap();
            assert_eq!(summary.mean, sample);
            assert!(summary.min <= sample && sample - summary.min <= sample / 2048, "{summary:?}");
        }
    }
}
