//! Who gives memory back when there is too little.
//!
//! Whoever holds memory that it can do without is entered with the page allocator, which calls it when zones run low: in
//! the time of whoever asks for pages, and so with as little in hand as that one promises to have.
//!
//! Invariants: SHRINK-1 (who is entered lives until it is taken out, and is in nobody's call then).
//! Cost: a compare-and-swap each way for each that is called.
//! Source: Linux's `struct shrinker`.
#![expect(unsafe_code, reason = "who is entered need not live as long as the allocator")]

use core::fmt;
use core::ptr::NonNull;

use spin::RwLock;
use thiserror::Error;

use crate::units::{Count, NodeId};
use crate::zone::ZoneKind;

/// Something that holds memory which it can do without.
pub trait Shrinker: Sync + fmt::Debug {
    /// About how many pages could be given back.
    fn reclaimable(&self) -> Count;

    /// Gives pages back that help, about as many as are lacking. Says how many. It may be slow. What it allocates itself
    /// comes from the reserves, and calls nobody; it should do without. It takes no lock that a caller of the page
    /// allocator may hold, but by trying.
    fn shrink(&self, shortage: &Shortage) -> Count;
}

/// Pages that are lacking. Linux's `struct shrink_control`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shortage {
    /// How many.
    pub wanted: Count,
    /// Those of this kind help, and those of the kinds below.
    pub highest: ZoneKind,
    /// Only those of this node help, if there is one.
    pub node: Option<NodeId>,
}

impl Shortage {
    /// Any pages help.
    pub const fn of(wanted: Count) -> Self {
        Self { wanted, highest: ZoneKind::Highmem, node: None }
    }

    /// Whether memory of this kind and node helps.
    pub(crate) fn is_helped_by(&self, kind: ZoneKind, node: NodeId) -> bool {
        kind <= self.highest && self.node.is_none_or(|wanted| wanted == node)
    }
}

/// There is no place to enter another shrinker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("no more than {SHRINKERS} shrinkers can be entered")]
pub struct TooManyShrinkers;

/// How many can be entered at once.
const SHRINKERS: usize = 16;

/// A shrinker that is entered.
struct Entered(NonNull<dyn Shrinker>);

// SAFETY: shrinkers may be shared among CPUs.
unsafe impl Send for Entered {}
// SAFETY: as above.
unsafe impl Sync for Entered {}

/// Those that are entered, in the order in which they are asked.
pub(crate) struct Shrinkers {
    /// Read while one is called, written while it comes or goes.
    places: [RwLock<Option<Entered>>; SHRINKERS],
}

impl Shrinkers {
    pub(crate) const fn new() -> Self {
        Self { places: [const { RwLock::new(None) }; SHRINKERS] }
    }

    /// Enters a shrinker; it is asked after those that were entered before.
    ///
    /// # Errors
    /// All places are taken.
    ///
    /// # Safety
    /// The shrinker lives as long as the registration, which is dropped before `self` goes if the shrinker goes before.
    pub(crate) unsafe fn enter<'s>(
        &'s self,
        shrinker: &'s (dyn Shrinker + 's),
    ) -> Result<ShrinkerRegistration<'s>, TooManyShrinkers> {
        let erased: NonNull<dyn Shrinker + 's> = NonNull::from(shrinker);
        // SAFETY: only the lifetime changes; SHRINK-1, the caller answers for it.
        let erased: NonNull<dyn Shrinker> = unsafe { core::mem::transmute(erased) };
        for place in &self.places {
            // A place that is being looked at has one, or is about to.
            if let Some(mut entry) = place.try_write()
                && entry.is_none()
            {
                *entry = Some(Entered(erased));
                return Ok(ShrinkerRegistration { place });
            }
        }
        Err(TooManyShrinkers)
    }

    /// Shows each of them to `visit`, until that has enough.
    pub(crate) fn visit(&self, mut visit: impl FnMut(&dyn Shrinker) -> core::ops::ControlFlow<()>) {
        for place in &self.places {
            let entry = place.read();
            if let Some(Entered(shrinker)) = &*entry {
                // SAFETY: SHRINK-1, it lives until it is taken out, for which the place is written.
                let shrinker = unsafe { shrinker.as_ref() };
                if visit(shrinker).is_break() {
                    return;
                }
            }
        }
    }
}

impl fmt::Debug for Shrinkers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.places.iter().filter_map(RwLock::try_read);
        let entered = entries.filter(|entry| entry.is_some()).count();
        write!(f, "Shrinkers({entered} entered)")
    }
}

/// A shrinker is entered as long as this lives. Dropping it waits until nobody is in the shrinker's call.
#[must_use = "dropping it takes the shrinker out"]
pub struct ShrinkerRegistration<'s> {
    place: &'s RwLock<Option<Entered>>,
}

impl fmt::Debug for ShrinkerRegistration<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShrinkerRegistration")
    }
}

impl Drop for ShrinkerRegistration<'_> {
    fn drop(&mut self) {
        *self.place.write() = None;
    }
}
