//! What a benchmark's samples come to.

/// The order statistics of a set of samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The smallest sample.
    pub min: u64,
    /// The lower median.
    pub median: u64,
    /// The smallest sample that at least 99 of 100 do not exceed.
    pub p99: u64,
}

impl Summary {
    /// Sums `samples` up, sorting them; `None` if there are none.
    pub fn of(samples: &mut [u64]) -> Option<Self> {
        samples.sort_unstable();
        let rank = |percent: usize| samples.get((samples.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Some(Self { min: *samples.first()?, median: rank(50)?, p99: rank(99)? })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn the_99th_percentile_leaves_out_one_of_a_hundred_outliers_but_not_two() {
        let mut one: Vec<u64> = (1..=99).rev().chain([1_000_000]).collect();
        assert_eq!(Summary::of(&mut one), Some(Summary { min: 1, median: 50, p99: 99 }));
        let mut two: Vec<u64> = (1..=98).chain([7_000, 8_000]).collect();
        assert_eq!(Summary::of(&mut two).unwrap().p99, 7_000);
    }

    #[test]
    fn one_sample_is_everything_and_none_is_nothing() {
        assert_eq!(Summary::of(&mut [7]), Some(Summary { min: 7, median: 7, p99: 7 }));
        assert_eq!(Summary::of(&mut []), None);
    }
}
