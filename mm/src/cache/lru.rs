//! Which folio goes next: for each kind of zone two generations, each in the order in which it was entered.
//!
//! A folio begins in the inactive one. Used a second time while it is there it becomes active; active ones that have not
//! been used since they were last looked at are made inactive again when those are few; and who reaches the end of the
//! inactive ones without having been used is reclaimed. So what is read once passes through without displacing what is
//! used again and again. Whoever lacks memory of some kinds looks at no others' folios: most are highmem's, and whoever lacks
//! lowmem would look at them all in vain.
//!
//! A folio is on a list as long as it stands in a mapping; the lists have no references, and whoever takes a folio out of
//! its mapping takes it off first.
//!
//! Invariants: LRU-1 (on the list of its generation, and counted with its pages, is exactly who stands in a mapping).
//! Source: Linux's active and inactive lists, which stood in each zone as long as there was highmem to care about;
//! T. Johnson, D. Shasha, "2Q", VLDB 1994.
#![expect(unsafe_code, reason = "links folios that a mapping keeps")]

use core::fmt;

use intrusive_collections::{LinkedList, LinkedListAtomicLink, UnsafeRef, intrusive_adapter};

use crate::folio::FrozenFolio;
use crate::lock::Mutex;
use crate::lock_order::class;
use crate::machine::Machine;
use crate::owner::{Folio, FolioFlags, FolioRef, Owners};
use crate::units::{Count, Order};
use crate::zone::ZoneKind;

intrusive_adapter!(ByAge = UnsafeRef<Folio>: Folio { lru: LinkedListAtomicLink });

/// How well a folio has proved itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Generation {
    /// Used once, or not lately.
    Inactive,
    /// Used again and again.
    Active,
}

impl Generation {
    fn of(folio: &Folio) -> Self {
        if folio.flags().contains(FolioFlags::ACTIVE) { Self::Active } else { Self::Inactive }
    }
}

const KINDS: usize = ZoneKind::ALL.len();

/// Where a kind's number stands among the flags.
const KIND_SHIFT: u32 = FolioFlags::KIND.bits().trailing_zeros();
const _: () = assert!((FolioFlags::KIND.bits() >> KIND_SHIFT) as usize >= KINDS - 1);

/// The two generations of all kinds.
pub(super) struct Lru {
    lists: Mutex<class::FolioAges, Lists>,
}

struct Lists {
    inactive: Ages,
    active: Ages,
}

/// One generation.
struct Ages {
    kinds: [Age; KINDS],
    /// Pages that were looked at, since ever: so that all kinds have their turn, each as long as it has pages.
    looked_at: u32,
}

/// One generation of one kind: the youngest in front.
struct Age {
    list: LinkedList<ByAge>,
    pages: u32,
}

// SAFETY: the links are atomic, and folios are `Send` and `Sync`.
unsafe impl Send for Age {}

impl Age {
    fn new() -> Self {
        Self { list: LinkedList::new(ByAge::NEW), pages: 0 }
    }
}

impl Ages {
    fn new() -> Self {
        Self { kinds: core::array::from_fn(|_| Age::new()), looked_at: 0 }
    }

    /// The list that a folio is on, or is to be put on.
    fn listing(&mut self, folio: &Folio) -> &mut Age {
        &mut self.kinds[((folio.flags() & FolioFlags::KIND).bits() >> KIND_SHIFT) as usize]
    }

    /// Pages of a kind, and of those below.
    fn pages(&self, highest: ZoneKind) -> u32 {
        self.kinds[..=highest as usize].iter().map(|age| age.pages).sum()
    }

    /// The list whose turn it is, of a kind and those below; `None` if they are empty.
    fn next(&mut self, highest: ZoneKind) -> Option<&mut Age> {
        let mut at = self.looked_at.checked_rem(self.pages(highest))?;
        self.kinds[..=highest as usize].iter_mut().find(|age| {
            let here = at < age.pages;
            at = at.wrapping_sub(age.pages);
            here
        })
    }
}

impl Lists {
    fn of(&mut self, generation: Generation) -> &mut Ages {
        match generation {
            Generation::Inactive => &mut self.inactive,
            Generation::Active => &mut self.active,
        }
    }

    /// Has a folio that is on no list listed under the kind of zone that it lies in.
    fn enter<M: Machine>(&mut self, folio: &FolioRef<'_, M>) {
        let kind = folio.owners().pages().kind_at(folio.head());
        let kind = FolioFlags::from_bits_retain((kind as u32) << KIND_SHIFT);
        if folio.flags() & FolioFlags::KIND != kind {
            folio.clear(FolioFlags::KIND);
            folio.set(kind);
        }
        self.push(folio);
    }

    fn push<M: Machine>(&mut self, folio: &FolioRef<'_, M>) {
        let age = self.of(Generation::of(folio)).listing(folio);
        age.pages += folio.order().pages();
        // SAFETY: LRU-1, the folio stands in a mapping, which keeps it until it is taken off.
        age.list.push_front(unsafe { folio.linked() });
    }

    /// Takes a folio off that is on a list.
    fn unlink(&mut self, folio: &Folio, order: Order) {
        let age = self.of(Generation::of(folio)).listing(folio);
        // SAFETY: the folio is linked, and its flags say in which list.
        let mut cursor = unsafe { age.list.cursor_mut_from_ptr(folio) };
        if cursor.remove().is_some() {
            age.pages -= order.pages();
        }
    }
}

impl Lru {
    pub(super) fn new() -> Self {
        Self { lists: Mutex::new(Lists { inactive: Ages::new(), active: Ages::new() }) }
    }

    /// Enters a folio that has just been put into a mapping.
    pub(super) fn add<M: Machine>(&self, folio: &FolioRef<'_, M>) {
        self.lists.lock(folio.owners().machine()).enter(folio);
    }

    /// Takes off a folio that leaves its mapping.
    pub(super) fn remove<M: Machine>(&self, folio: &FolioRef<'_, M>) {
        self.take_off(folio.owners().machine(), folio, folio.order());
    }

    /// Takes off a frozen folio that leaves its mapping, or is to change its size.
    pub(super) fn remove_frozen<M: Machine>(&self, folio: &FrozenFolio<'_, M>) {
        self.take_off(folio.owners().machine(), folio, folio.order());
    }

    fn take_off<M: Machine>(&self, machine: &M, folio: &Folio, order: Order) {
        let mut lists = self.lists.lock(machine);
        if folio.lru.is_linked() {
            lists.unlink(folio, order);
        }
    }

    /// Lists a folio anew that lies elsewhere by now.
    pub(super) fn relist<M: Machine>(&self, folio: &FolioRef<'_, M>) {
        let mut lists = self.lists.lock(folio.owners().machine());
        if folio.lru.is_linked() {
            lists.unlink(folio, folio.order());
            lists.enter(folio);
        }
    }

    /// Moves a folio to the front of a generation, if it is in one.
    pub(super) fn move_to<M: Machine>(&self, folio: &FolioRef<'_, M>, generation: Generation) {
        let mut lists = self.lists.lock(folio.owners().machine());
        if !folio.lru.is_linked() {
            return;
        }
        lists.unlink(folio, folio.order());
        match generation {
            Generation::Inactive => folio.clear(FolioFlags::ACTIVE),
            Generation::Active => folio.set(FolioFlags::ACTIVE),
        };
        lists.push(folio);
    }

    /// The oldest folio of a generation, listed under a kind of zone or those below, which becomes the youngest, so that the next
    /// call gives another.
    pub(super) fn oldest<'a, M: Machine>(
        &self,
        owners: &'a Owners<'a, M>,
        generation: Generation,
        highest: ZoneKind,
    ) -> Option<FolioRef<'a, M>> {
        let mut lists = self.lists.lock(owners.machine());
        let ages = lists.of(generation);
        // Those that are frozen just now are passed over.
        let mut left = ages.pages(highest);
        while left > 0 {
            let age = ages.next(highest)?;
            let oldest = age.list.pop_back()?;
            let address = UnsafeRef::into_raw(oldest.clone());
            age.list.push_front(oldest);
            // SAFETY: LRU-1, whoever is on the list is in a descriptor of these owners.
            let found = unsafe { FolioRef::find_linked(owners, address) };
            let pages = found.as_ref().map_or(1, |folio| folio.order().pages());
            ages.looked_at = ages.looked_at.wrapping_add(pages);
            if found.is_some() {
                return found;
            }
            left -= 1;
        }
        None
    }

    /// Pages in a generation, listed under a kind of zone or those below.
    pub(super) fn pages(&self, machine: &impl Machine, generation: Generation, highest: ZoneKind) -> Count {
        Count(self.lists.lock(machine).of(generation).pages(highest))
    }
}

impl fmt::Debug for Lru {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lru").finish_non_exhaustive()
    }
}
