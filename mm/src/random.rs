//! Choices that nobody is to foresee, and that anybody can repeat who knows the seed.
//!
//! Source: G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.

/// What random choices start from: from the same, the same come.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RandomSeed(pub u64);

/// A sequence of random numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(u64);

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The n-th number of those that start from a seed, counted from 0: for who draws them on several CPUs.
pub(crate) fn nth(RandomSeed(seed): RandomSeed, n: u64) -> u64 {
    mixed(seed.wrapping_add(n.wrapping_add(1).wrapping_mul(ODD)))
}

fn mixed(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

impl Random {
    /// The sequence of this name that starts from a seed: others have others.
    pub(crate) fn of(RandomSeed(seed): RandomSeed, name: &[u8]) -> Self {
        let mix = |mixed: Self, &byte: &u8| Self(Self(mixed.0 ^ u64::from(byte)).next());
        name.iter().fold(Self(seed), mix)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(ODD);
        mixed(self.0)
    }

    /// A number below `end`, which is not zero.
    #[expect(clippy::cast_possible_truncation, reason = "the upper half of a product is below `end`")]
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        ((u64::from(self.next() as u32) * u64::from(end)) >> 32) as u32
    }
}
