//! What stands behind the `=` of a word.

use core::num::{NonZeroU8, NonZeroU16, NonZeroU64};

use mm::boot_map::{Region, RegionKind};
use mm::units::{NodeId, PhysAddr};

use super::{Beside, KmapLocal, Reason, Run};

pub(super) fn kmap_local(value: &str) -> Result<KmapLocal, Reason> {
    match value {
        "always" => Ok(KmapLocal::Always),
        "highmem" => Ok(KmapLocal::Highmem),
        _ => Err(Reason::NoSuchValue),
    }
}

pub(super) fn run(value: &str) -> Result<Run, Reason> {
    match value {
        "list" => Ok(Run::List),
        "test" => Ok(Run::Test),
        "bench" => Ok(Run::Bench),
        "replay" => Ok(Run::Replay),
        _ => Err(Reason::NoSuchValue),
    }
}

pub(super) fn beside(value: &str) -> Result<Beside, Reason> {
    match value {
        "on" => Ok(Beside::Runs),
        "off" => Ok(Beside::IsOff),
        _ => Err(Reason::NoSuchValue),
    }
}

pub(super) fn text(value: &str) -> Result<&str, Reason> {
    if value.is_empty() { Err(Reason::Empty) } else { Ok(value) }
}

pub(super) fn fake_nodes(value: &str) -> Result<NonZeroU8, Reason> {
    let count = value.strip_prefix("fake=").ok_or(Reason::NoSuchValue)?;
    let count = u8::try_from(decimal(count)?).map_err(|_| Reason::NotANumber)?;
    NonZeroU8::new(count).ok_or(Reason::Zero)
}

pub(super) fn cpus(value: &str) -> Result<NonZeroU16, Reason> {
    let count = u16::try_from(decimal(value)?).map_err(|_| Reason::NotANumber)?;
    NonZeroU16::new(count).ok_or(Reason::Zero)
}

pub(super) fn range(value: &str) -> Result<Region, Reason> {
    let (length, start) = value.split_once('$').ok_or(Reason::NoDollar)?;
    let length = non_zero(size(length)?)?;
    let start = size(start)?;
    start.checked_add(length.get()).ok_or(Reason::TooHigh)?;
    Ok(Region { start: PhysAddr(start), len: length.get(), kind: RegionKind::Reserved, node: NodeId(0) })
}

pub(super) fn non_zero(value: u64) -> Result<NonZeroU64, Reason> {
    NonZeroU64::new(value).ok_or(Reason::Zero)
}

pub(super) fn decimal(value: &str) -> Result<u64, Reason> {
    digits(value, 10)
}

/// Decimal, or hexadecimal behind `0x`, with K, M or G for its binary thousands.
pub(super) fn size(value: &str) -> Result<u64, Reason> {
    let (number, shift) = match value.as_bytes().last() {
        Some(b'K' | b'k') => (&value[..value.len() - 1], 10),
        Some(b'M' | b'm') => (&value[..value.len() - 1], 20),
        Some(b'G' | b'g') => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    let number = match number.strip_prefix("0x") {
        Some(number) => digits(number, 16)?,
        None => digits(number, 10)?,
    };
    number.checked_mul(1 << shift).ok_or(Reason::NotANumber)
}

/// `from_str_radix` takes a sign, too; a number of ours has none.
fn digits(value: &str, radix: u32) -> Result<u64, Reason> {
    if value.is_empty() {
        return Err(Reason::Empty);
    }
    if value.starts_with('+') {
        return Err(Reason::NotANumber);
    }
    u64::from_str_radix(value, radix).map_err(|_| Reason::NotANumber)
}
