//! Which calls are to fail, as Linux's command line says it: `<interval>,<probability>,<space>,<times>`.
//!
//! Source: Linux, `Documentation/fault-injection/fault-injection.rst`; `setup_fault_attr` in `lib/fault-inject.c`.

use core::fmt;
use core::str::FromStr;

use thiserror::Error;

use crate::units::Count;

/// Which calls are to fail: Linux's `fault_attr`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultAttr {
    /// Of so many calls one is asked the next question; 0 and 1 are every call.
    pub(super) interval: u64,
    /// Of a hundred calls that are asked so many fail.
    pub(super) probability: u32,
    /// So much is to be had before the first failure: pages, or bytes of objects.
    pub(super) space: u64,
    /// So many fail; [`ALWAYS`] if there is no end of it.
    pub(super) times: u32,
}

/// Failures without an end: what is -1 in Linux's text.
pub(super) const ALWAYS: u32 = u32::MAX;

/// Of which every call fails that is asked.
pub(super) const CERTAIN: u32 = 100;

/// Why a text does not say which calls are to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FaultAttrError {
    /// There are more values than four, or fewer.
    #[error("is <interval>,<probability>,<space>,<times>")]
    NotFour,
    /// A value is not a number, or none that fits.
    #[error("{0} is not a number that fits")]
    NotANumber(FaultField),
    /// The probability is above 100.
    #[error("a probability is at most 100 of 100")]
    TooProbable,
}

/// The values of a [`FaultAttr`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultField {
    /// The first one.
    Interval,
    /// The second one.
    Probability,
    /// The third one.
    Space,
    /// The last one.
    Times,
}

impl fmt::Display for FaultField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interval => "the interval",
            Self::Probability => "the probability",
            Self::Space => "the space",
            Self::Times => "the times",
        })
    }
}

impl FaultAttr {
    /// No call fails.
    pub const NONE: Self = Self { interval: 1, probability: 0, space: 0, times: 0 };

    /// Of a hundred calls so many fail, if it is at most a hundred.
    pub const fn of_a_hundred(Count(calls): Count) -> Self {
        Self { interval: 1, probability: calls, space: 0, times: ALWAYS }
    }

    /// The n-th call fails, counted from 1, and no other.
    pub const fn nth(Count(n): Count) -> Self {
        Self { interval: n as u64, probability: CERTAIN, space: 0, times: 1 }
    }
}

impl FromStr for FaultAttr {
    type Err = FaultAttrError;

    fn from_str(text: &str) -> Result<Self, FaultAttrError> {
        let mut values = text.split(',');
        let mut value = || values.next().ok_or(FaultAttrError::NotFour);
        let (interval, probability, space, times) = (value()?, value()?, value()?, value()?);
        if values.next().is_some() {
            return Err(FaultAttrError::NotFour);
        }
        let probability = number(probability, FaultField::Probability)?;
        let probability = u32::try_from(probability).ok().filter(|&of_a_hundred| of_a_hundred <= CERTAIN);
        Ok(Self {
            interval: number(interval, FaultField::Interval)?,
            probability: probability.ok_or(FaultAttrError::TooProbable)?,
            space: number(space, FaultField::Space)?,
            times: match times {
                "-1" => ALWAYS,
                _ => u32::try_from(number(times, FaultField::Times)?)
                    .ok()
                    .filter(|&times| times < ALWAYS)
                    .ok_or(FaultAttrError::NotANumber(FaultField::Times))?,
            },
        })
    }
}

/// A number without a sign: `parse` takes one.
fn number(text: &str, field: FaultField) -> Result<u64, FaultAttrError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let value = if plain { text.parse().ok() } else { None };
    value.ok_or(FaultAttrError::NotANumber(field))
}

/// As it is read.
impl fmt::Display for FaultAttr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interval, probability, space, times } = self;
        write!(f, "{interval},{probability},{space},")?;
        if *times == ALWAYS { f.write_str("-1") } else { times.fmt(f) }
    }
}
