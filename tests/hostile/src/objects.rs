//! The caches of objects against a list of who has which bytes: no two share any, all keep what was written to them, and what is
//! nobody's is turned away.
//!
//! The first byte says whether the caches are debugged; then there are four for each operation: what, one that is held, and
//! a size.
#![expect(unsafe_code, reason = "uses what it allocates, and frees what it must not")]

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::ptr::NonNull;

use mm::boot_map::{BootMap, Region, RegionKind};
use mm::host::HostMachine;
use mm::machine::Standard;
use mm::owner::Owners;
use mm::slab::{KmemCaches, SlabDebug};
use mm::units::{Bytes, NodeId, PAGE_SIZE, Pfn, PhysAddr};

use crate::holds;

const FRAMES: u32 = 1024;

/// Operations between two looks at every invariant.
const VERIFY_EVERY: usize = 16;

/// Who has what.
struct Held<'c, 'a> {
    caches: &'c KmemCaches<'a, HostMachine>,
    /// By address: where, how long, and the byte that all of it holds.
    objects: BTreeMap<usize, (NonNull<u8>, usize, u8)>,
    /// Where something was freed.
    freed: Vec<NonNull<u8>>,
    marks: u8,
}

/// Runs the operations.
///
/// # Panics
/// If what is given is somebody's, does not keep what it holds, or nobody's is taken.
pub fn check(bytes: &[u8]) {
    let Some((&first, operations)) = bytes.split_first() else { return };
    let end = Pfn::new(FRAMES);
    let machine = HostMachine::<Standard>::new(end, end, NonZeroU16::MIN).expect("the host has memory for a test");
    let machine = machine.specified();
    let len = u64::from(FRAMES) * PAGE_SIZE as u64;
    let memory = Region { start: PhysAddr(0), len, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[memory]).expect("one region is a map");
    let pages = machine.allocator(&mut map).expect("the tables fit");
    let debug = if first % 2 == 0 { SlabDebug::NONE } else { SlabDebug::parse("FZPU").expect("four flags") };
    let caches = KmemCaches::new_with(&pages, debug).expect("there is memory for caches");
    // Nobody owns anything but the caches; they see to it that no page names a slab that is gone.
    let owners = Owners::new(&caches).expect("there is memory for owners");
    caches.shrink();
    // Slabs less what is allocated of their descriptors.
    let undescribed = || {
        let mut slabs = 0_i64;
        caches.for_each_report(|report| {
            slabs += i64::from(report.slabs.0);
            slabs -= if report.name.as_str() == "slab" { i64::from(report.active.0) } else { 0 };
        });
        slabs
    };
    let described_else = undescribed();
    let (free, census) = (pages.free_pages(), caches.census());
    let mut held = Held { caches: &caches, objects: BTreeMap::new(), freed: Vec::new(), marks: 0 };
    for (nth, &[what, which, low, high]) in (1..).zip(operations.as_chunks::<4>().0) {
        held.step(what, usize::from(which), usize::from(u16::from_le_bytes([low, high])));
        if nth % VERIFY_EVERY == 0 {
            holds(owners.verify());
        }
    }
    while let Some(&address) = held.objects.keys().next() {
        held.free(address);
    }
    holds(owners.verify());
    assert_eq!(caches.census(), census, "all comes back");
    caches.shrink();
    assert_eq!(pages.free_pages(), free, "and so do the pages");
    assert_eq!(undescribed(), described_else, "there are as many descriptors as slabs");
    holds(pages.verify());
    holds(pages.verify_specified());
}

impl Held<'_, '_> {
    fn step(&mut self, what: u8, which: usize, size: usize) {
        // Small ones mostly.
        let size = if what < 192 { size % 600 } else { size };
        let picked = which.checked_rem(self.objects.len()).and_then(|nth| self.objects.keys().nth(nth).copied());
        match (what % 16, picked) {
            (0..7, _) | (_, None) => {
                if let Ok(address) = self.caches.kmalloc(Bytes(size)) {
                    self.take(address, size);
                }
            }
            (7..11, Some(address)) => self.free(address),
            (11..13, Some(address)) => self.resize(address, size),
            (13, Some(address)) => self.free_inside(address, size),
            (14, _) => self.free_again(which),
            (_, _) => _ = self.caches.shrink(),
        }
    }

    /// Notes what was given, and fills it.
    fn take(&mut self, address: NonNull<u8>, size: usize) {
        // SAFETY: it was just given, and is nobody else's.
        let usable = unsafe { self.caches.ksize(address) }.expect("what was given is an object").0;
        assert!(usable >= size && address.addr().get().is_multiple_of(8), "{size} bytes at {address:?} are {usable}");
        let at = address.addr().get();
        let below = self.objects.range(..at + usable.max(1)).next_back();
        assert!(below.is_none_or(|(&other, &(_, len, _))| other + len.max(1) <= at), "{address:?} is somebody's");
        self.marks = self.marks.wrapping_add(1);
        // SAFETY: so long is what was just given.
        unsafe { address.write_bytes(self.marks, usable) };
        self.objects.insert(at, (address, usable, self.marks));
    }

    /// Looks whether an object holds what was written to it, up to a length, and forgets it.
    fn give_up(&mut self, at: usize, len: usize) -> (NonNull<u8>, u8) {
        let (address, usable, mark) = self.objects.remove(&at).expect("it was picked");
        // SAFETY: so long is what is held, and all of it was written.
        let bytes = unsafe { std::slice::from_raw_parts(address.as_ptr(), len.min(usable)) };
        assert!(bytes.iter().all(|&byte| byte == mark), "the object at {address:?} lost what it held");
        (address, mark)
    }

    fn free(&mut self, at: usize) {
        let (address, _) = self.give_up(at, usize::MAX);
        // SAFETY: it was held, and is forgotten.
        unsafe { self.caches.kfree(address) }.expect("what is held can be freed");
        self.freed.push(address);
    }

    fn resize(&mut self, at: usize, size: usize) {
        let (address, usable, mark) = self.objects[&at];
        // SAFETY: it is held, and forgotten if it moves.
        let Ok(new) = (unsafe { self.caches.krealloc(address, Bytes(size)) }) else { return };
        // SAFETY: so much of it was kept, and is initialized.
        let kept = unsafe { std::slice::from_raw_parts(new.as_ptr(), usable.min(size)) };
        assert!(kept.iter().all(|&byte| byte == mark), "what stood at {address:?} was lost on the way to {new:?}");
        self.objects.remove(&at);
        if new != address {
            self.freed.push(address);
        }
        self.take(new, size);
    }

    /// Frees what is inside an object.
    fn free_inside(&self, at: usize, offset: usize) {
        let (address, usable, _) = self.objects[&at];
        if usable < 2 {
            return;
        }
        // SAFETY: it is inside.
        let inside = unsafe { address.add(1 + offset % (usable - 1)) };
        // SAFETY: nothing starts there, which is what is to be found out.
        unsafe { self.caches.kfree(inside) }.expect_err("no object starts inside another");
    }

    /// Frees what was freed, unless it is somebody's again. What is in no slab of ours may be an object that the caches
    /// themselves need by now.
    fn free_again(&self, which: usize) {
        let Some(&address) = which.checked_rem(self.freed.len()).and_then(|nth| self.freed.get(nth)) else { return };
        let slab = self.caches.slab_pages(address);
        let is_ours = |&(other, ..): &(NonNull<u8>, usize, u8)| self.caches.slab_pages(other) == slab;
        if slab.is_some() && self.objects.values().any(is_ours) && !self.objects.contains_key(&address.addr().get()) {
            // SAFETY: it is nobody's, which is what is to be found out.
            unsafe { self.caches.kfree(address) }.expect_err("it was freed before");
        }
    }
}
