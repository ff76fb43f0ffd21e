//! One ordering of all those that the models meet, weakened: whoever runs them says which, by its place.
//!
//! An ordering consists of halves, which are taken away one at a time: what it acquires, what it releases, and of a fence
//! that is in one order with all others, that. `WEAKENED` names a place and a half; `ORDERINGS` names a file, to which each
//! that is met is added.

use core::fmt;
use core::panic::Location;
use std::format;
use std::io::Write;
use std::string::String;
use std::sync::{Mutex, OnceLock};
use std::vec::Vec;

use super::Ordering;

/// What can be taken from an ordering.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Half {
    Acquire,
    Release,
    /// That all such fences are in one order.
    Total,
}

impl Half {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 3] = [Self::Acquire, Self::Release, Self::Total];

    const fn of(order: Ordering) -> &'static [Self] {
        match order {
            Ordering::Acquire => &[Self::Acquire],
            Ordering::Release => &[Self::Release],
            Ordering::AcqRel => &[Self::Acquire, Self::Release],
            Ordering::SeqCst => &[Self::Total],
            _ => &[],
        }
    }
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Acquire => "acquire",
            Self::Release => "release",
            Self::Total => "total",
        })
    }
}

/// How a half at a place is named.
fn name(at: &Location<'_>, half: Half) -> String {
    format!("{}:{}:{} {half}", at.file(), at.line(), at.column())
}

/// The half to be taken away, if this is its place.
fn taken(order: Ordering, at: &Location<'_>) -> Option<Half> {
    static WEAKENED: OnceLock<Option<String>> = OnceLock::new();
    let halves = Half::of(order);
    for &half in halves {
        note(at, half);
    }
    let weakened = WEAKENED.get_or_init(|| std::env::var("WEAKENED").ok()).as_ref()?;
    halves.iter().copied().find(|&half| *weakened == name(at, half))
}

/// Adds a half to those that were met.
fn note(at: &Location<'_>, half: Half) {
    static MET: OnceLock<Option<Mutex<(std::fs::File, Vec<String>)>>> = OnceLock::new();
    let open = || {
        let file = std::fs::File::options().create(true).append(true).open(std::env::var_os("ORDERINGS")?);
        Some(Mutex::new((file.expect("the file can be written"), Vec::new())))
    };
    let Some(met) = MET.get_or_init(open) else { return };
    let mut met = met.lock().expect("nobody panics with it held");
    let name = name(at, half);
    if !met.1.contains(&name) {
        writeln!(met.0, "{name}").expect("the file can be written");
        met.1.push(name);
    }
}

/// The ordering that an access at a place has.
pub(super) fn weakened(order: Ordering, at: &Location<'_>) -> Ordering {
    weakened_fence(order, at).unwrap_or(Ordering::Relaxed)
}

/// The ordering that a fence at a place has; `None` if there is none.
pub(super) fn weakened_fence(order: Ordering, at: &Location<'_>) -> Option<Ordering> {
    match (order, taken(order, at)) {
        (_, None) => Some(order),
        (Ordering::AcqRel, Some(Half::Acquire)) => Some(Ordering::Release),
        (Ordering::AcqRel, Some(_)) => Some(Ordering::Acquire),
        (Ordering::SeqCst, Some(_)) => Some(Ordering::AcqRel),
        (_, Some(_)) => None,
    }
}
