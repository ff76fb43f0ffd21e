//! What stays though no model fails without it, by the reason.

use super::Kept;
use crate::sync::weaken::Half;

/// A group's number may be given away while others count under it. The counts are the group's own words, and who finds the
/// number unused would have to find older counts behind newer ones: loom has two writes to one word in no other order than they ran in.
const COUNTS: &str = "a new group's peak is not to be the last one's; loom writes a word in the order of time";

/// As in any counted reference; the value stands in an object of `kmalloc`, for which a model would need all of the allocator.
const COUNTED: &str = "as in the standard library's Arc; a model would need caches and pages";

/// A space's tables are said once, and found with the registry's lock, which who says them does not take.
const TABLES: &str = "the tables are made before they are found; a model would need tables, which need pages";

/// Entries of page tables are read by the processor too.
const ENTRIES: &str = "the processor follows them, which loom is not";

pub(super) const KEPT: &[Kept] = &[
    Kept {
        place: ("descriptor.rs", "try_get"),
        text: "self.state.compare_exchange_weak",
        half: Some(Half::Acquire),
        why: "what is asked of a descriptor once it is referred to (where does it stand?) is not to be answered from before",
    },
    unmet(
        "charge.rs",
        "claim",
        "let claimed = self.balance.compare_exchange(unused, new, Ordering::Acquire, Ordering::Relaxed).is_ok();",
        COUNTS,
    ),
    unmet(
        "charge.rs",
        "uncharge",
        "let _ = self.slot(group).balance.fetch_update(Ordering::Release, Ordering::Relaxed, fewer);",
        COUNTS,
    ),
    unmet(
        "charge.rs",
        "destroy",
        "match self.groups.slot(self.id).balance.fetch_update(Ordering::Release, Ordering::Relaxed, empty) {",
        COUNTS,
    ),
    unmet(
        "charge.rs",
        "drop",
        "self.groups.slot(self.id).balance.fetch_and(Balance::USAGE, Ordering::Release);",
        COUNTS,
    ),
    unmet("slab/counted.rs", "is_only", "self.inside().references.load(Ordering::Acquire) == 1", COUNTED),
    unmet("slab/counted.rs", "drop", "if self.inside().references.fetch_sub(1, Ordering::Release) != 1 {", COUNTED),
    unmet("slab/counted.rs", "drop", "self.inside().references.load(Ordering::Acquire);", COUNTED),
    unmet(
        "space/registry.rs",
        "set_tables",
        "space.tables.store(tables.as_raw().as_ptr(), Ordering::Release);",
        TABLES,
    ),
    unmet(
        "space/registry.rs",
        "find",
        "let tables = ptr::NonNull::new(space.tables.load(Ordering::Acquire))?;",
        TABLES,
    ),
    unmet(
        "space/registry.rs",
        "try_for_each",
        "if let Some(tables) = ptr::NonNull::new(space.tables.load(Ordering::Acquire)) {",
        TABLES,
    ),
    unmet(
        "space/walk.rs",
        "entry",
        "self.tables.mmu().decode(self.slot(address).load(Ordering::Acquire), self.level)",
        ENTRIES,
    ),
    unmet("space/walk.rs", "change", "let mut bits = slot.load(Ordering::Acquire);", ENTRIES),
    unmet(
        "space/walk.rs",
        "change",
        "slot.compare_exchange(bits, self.tables.mmu().encode(new, level), Ordering::AcqRel, Ordering::Acquire);",
        ENTRIES,
    ),
    unmet(
        "specification.rs",
        "turn",
        "let turned = entry.0.compare_exchange(from.byte(), to.byte(), Ordering::AcqRel, Ordering::Relaxed);",
        "a check of the allocator, which is not to depend on what it checks; loom has no bytes for it",
    ),
];

const fn unmet(file: &'static str, function: &'static str, text: &'static str, why: &'static str) -> Kept {
    Kept { place: (file, function), text, half: None, why }
}
