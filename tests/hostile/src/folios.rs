//! Folios that are split and joined, against sets of pages: each page is in the folio that it has to be in, and keeps what was
//! written to it.
//!
//! Three bytes for each operation: what, one that is held, and a size or a page.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use mm::OwnerKind;
use mm::boot_map::{BootMap, Region, RegionKind};
use mm::folio::{FolioRow, SplitError, SplitTo};
use mm::host::HostMachine;
use mm::machine::Standard;
use mm::owner::{Folio, Owned, Owners, Seen};
use mm::page::Request;
use mm::slab::KmemCaches;
use mm::units::{Count, NodeId, Order, PAGE_SIZE, Pfn, PhysAddr};

use crate::holds;

const FRAMES: u32 = 2048;

/// Where highmem starts.
const LOWMEM: u32 = 1024;

/// The most pages that are held.
const MOST: usize = 300;

type Held<'a> = BTreeMap<Pfn, Owned<'a, HostMachine, Folio>>;

/// Runs the operations.
///
/// # Panics
/// If a page is in another folio than it has to be in, or does not hold what was written to it.
pub fn check(bytes: &[u8]) {
    let machine = HostMachine::<Standard>::new(Pfn::new(FRAMES), Pfn::new(LOWMEM), NonZeroU16::MIN);
    let machine = machine.expect("the host has memory for a test").specified();
    let len = u64::from(FRAMES) * PAGE_SIZE as u64;
    let memory = Region { start: PhysAddr(0), len, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[memory]).expect("one region is a map");
    let pages = machine.allocator(&mut map).expect("the tables fit");
    let caches = KmemCaches::new(&pages).expect("there is memory for caches");
    let owners = Owners::new(&caches).expect("there is memory for owners");
    caches.shrink();
    let free = pages.free_pages();
    let mut held = Held::new();
    for &[what, which, how] in bytes.as_chunks::<3>().0 {
        step(&owners, &mut held, what, usize::from(which), how);
        look(&owners, &held);
    }
    held.values_mut().for_each(check_contents);
    holds(owners.verify());
    held.clear();
    holds(owners.verify());
    caches.shrink();
    holds(pages.verify());
    holds(pages.verify_specified());
    assert_eq!(pages.free_pages(), free, "all comes back");
}

fn step<'a>(owners: &'a Owners<'a, HostMachine>, held: &mut Held<'a>, what: u8, which: usize, how: u8) {
    let order = Order::new(how % 8).unwrap_or(Order::ZERO);
    let picked = which.checked_rem(held.len()).and_then(|nth| held.keys().nth(nth).copied());
    let picked = picked.and_then(|head| held.remove(&head));
    match (what % 8, picked) {
        (0..3, picked) => {
            held.extend(picked.map(|folio| (folio.head(), folio)));
            let have: u32 = held.values().map(|folio| folio.order().pages()).sum();
            if have as usize + order.pages() as usize <= MOST
                && let Ok(mut folio) = owners.alloc(Request::movable(order), Folio::new())
            {
                write_contents(&mut folio);
                held.insert(folio.head(), folio);
            }
        }
        (_, None) => {}
        (3, Some(mut folio)) => check_contents(&mut folio),
        (4..6, Some(folio)) => {
            let page = folio.head().plus(u32::from(how / 8) % folio.order().pages());
            let to = if what.is_multiple_of(2) { SplitTo::Uniform(order) } else { SplitTo::Around(page, order) };
            split(folio, to, held);
        }
        (6, Some(folio)) => join(folio, held),
        (_, Some(folio)) => {
            // Whoever is referred to stays whole.
            let (head, old) = (folio.head(), folio.order());
            let shared = folio.into_shared();
            let reference = shared.get();
            assert!(shared.order() == old && reference.head() == head, "a reference leads to the folio");
            drop(shared);
            // The last reference frees it.
            drop(reference);
        }
    }
}

fn split<'a>(folio: Owned<'a, HostMachine, Folio>, to: SplitTo, held: &mut Held<'a>) {
    let (range, order) = (folio.range(), folio.order());
    let pieces = to.pieces(folio.head(), order);
    match folio.split(to) {
        Ok(row) => {
            let before = held.len();
            held.extend(row.map(|piece| (piece.head(), piece)));
            let (there, now) = (held.range(range.start..range.end).count(), held.len() - before);
            let expected = pieces.map(|Count(pieces)| pieces as usize);
            assert!(there == now && Some(now) == expected, "{order:?} was cut into {now}");
        }
        Err((folio, error)) => {
            let expected = pieces.is_none() == (error == SplitError::NoSuchPieces);
            assert!(expected && folio.range() == range, "{order:?} to {to:?}: {error}");
            held.insert(folio.head(), folio);
        }
    }
}

fn join<'a>(folio: Owned<'a, HostMachine, Folio>, held: &mut Held<'a>) {
    let (head, order) = (folio.head(), folio.order());
    let Some(other) = held.remove(&head.buddy(order)) else {
        held.insert(head, folio);
        return;
    };
    // INVARIANT: ZONE-1, no largest block straddles the end of lowmem, so buddies are of one zone.
    let joins = other.order() == order && order < Order::LIMIT;
    let (low, high) = if other.head() < head { (other, folio) } else { (folio, other) };
    let whole = match FolioRow::of(low).with(high) {
        Ok(row) => row.join(),
        Err((row, high)) => {
            assert!(!joins, "{row:?} and {high:?} are side by side");
            held.extend(row.map(|piece| (piece.head(), piece)));
            held.insert(high.head(), high);
            return;
        }
    };
    match whole {
        Ok(whole) => {
            assert!(joins && Some(whole.order()) == order.up(), "{whole:?} is no two halves");
            held.insert(whole.head(), whole);
        }
        Err((row, error)) => {
            assert!(!joins, "{order:?} at {head:?}: {error}");
            held.extend(row.map(|piece| (piece.head(), piece)));
        }
    }
}

/// Whether a walk finds each page in its folio.
fn look(owners: &Owners<'_, HostMachine>, held: &Held<'_>) {
    let walker = owners.walk();
    for (&head, folio) in held {
        for pfn in folio.range().frames() {
            let sighting = walker.look(pfn);
            let found = (sighting.seen(), sighting.head(), sighting.order());
            assert_eq!(found, (Seen::Allocated(OwnerKind::Folio), head, folio.order()), "at {pfn:?}");
        }
    }
}

fn mark(pfn: Pfn) -> [u8; 4] {
    pfn.number().wrapping_mul(0x9e37_79b1).to_le_bytes()
}

fn write_contents(folio: &mut Owned<'_, HostMachine, Folio>) {
    for pfn in folio.range().frames() {
        let written = folio.with_page(pfn, |bytes| bytes[..4].copy_from_slice(&mark(pfn)));
        written.expect("the page is the folio's");
    }
}

fn check_contents(folio: &mut Owned<'_, HostMachine, Folio>) {
    for pfn in folio.range().frames() {
        let found = folio.with_page(pfn, |bytes| [bytes[0], bytes[1], bytes[2], bytes[3]]);
        assert_eq!(found, Some(mark(pfn)), "{pfn:?} lost what it held");
    }
}
