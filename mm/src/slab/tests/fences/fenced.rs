//! A machine that keeps in mind what of its memory is open, as a sanitizer does, and sees what was written where it was shut.

use spin::Mutex;

use super::*;
use crate::arena::passed_on_to_its_machine;
use crate::host::{HostMachine, InterruptsOff};
use crate::lock_order::{Context, HeldLocks};
use crate::machine::{Fence, Machine, Standard};
use crate::units::{CpuId, Pfn, PfnRange};

/// One past the last frame.
pub(super) const MEMORY: Pfn = Pfn::new(0x400);

/// Bytes that are fenced together: the first so many of them are open.
const TOGETHER: usize = 8;

/// So many bytes.
#[derive(Clone, Copy)]
struct Granule {
    open: usize,
    /// What stood there when it was shut, unless its whole page was.
    was: Option<u64>,
}

pub(super) struct Fenced {
    machine: HostMachine,
    granules: Mutex<Vec<Granule>>,
}

impl Fenced {
    pub(super) fn new(cpus: NonZeroU16) -> Self {
        let machine = HostMachine::new(MEMORY, MEMORY, cpus).expect("the host lends memory");
        let bytes = usize::try_from(MEMORY.address().0).expect("it is little");
        Self { machine, granules: Mutex::new(vec![Granule { open: TOGETHER, was: None }; bytes / TOGETHER]) }
    }

    fn granule(&self, address: PhysAddr) -> usize {
        usize::try_from(address.0).expect("it is little") / TOGETHER
    }

    /// So many frames from an address on.
    pub(super) fn pages(&self, start: NonNull<u8>, pages: u32) -> PfnRange {
        let start = Pfn::containing(self.machine.physical(start)).expect("it is in memory");
        PfnRange::new(start, start.plus(pages))
    }

    /// The stretches of some pages that are open: how far from an address they begin, and how long they are.
    pub(super) fn open(&self, pages: PfnRange, from: NonNull<u8>) -> Vec<(i64, u64)> {
        let granules = self.granules.lock();
        let from = self.machine.physical(from).0.cast_signed();
        let mut stretches: Vec<(i64, u64)> = Vec::new();
        for granule in self.granule(pages.start.address())..self.granule(pages.end.address()) {
            let start = i64::try_from(granule * TOGETHER).expect("it is little") - from;
            let open = granules[granule].open as u64;
            match stretches.last_mut() {
                Some((first, long)) if *first + long.cast_signed() == start => *long += open,
                _ if open > 0 => stretches.push((start, open)),
                _ => {}
            }
        }
        stretches
    }
}

// SAFETY: passes everything on to a machine that keeps the promise.
unsafe impl Machine for Fenced {
    type Geometry = Standard;
    type InterruptGuard<'a> = InterruptsOff<'a>;

    passed_on_to_its_machine!();

    fn kmap_local(&self, frame: Pfn) -> NonNull<u8> {
        self.machine.kmap_local(frame)
    }

    unsafe fn kunmap_local(&self, address: NonNull<u8>) {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.machine.kunmap_local(address) };
    }

    fn report(&self, report: &dyn fmt::Display) {
        panic!("nothing is wrong, but reported was {report}");
    }

    fn fence_pages(&self, pages: PfnRange, fence: Fence) {
        let open = if fence == Fence::Open { TOGETHER } else { 0 };
        let range = self.granule(pages.start.address())..self.granule(pages.end.address());
        self.granules.lock()[range].fill(Granule { open, was: None });
    }

    fn fence_object(&self, place: NonNull<[u8]>, Bytes(open): Bytes) {
        let start = place.cast::<u8>();
        assert!(place.len() >= open && place.len().is_multiple_of(TOGETHER), "{open} of {} bytes", place.len());
        assert!(start.addr().get().is_multiple_of(TOGETHER), "{start:p}");
        let first = self.granule(self.machine.physical(start));
        let mut granules = self.granules.lock();
        for at in 0..place.len() / TOGETHER {
            // SAFETY: it is in the place, which is memory of the machine.
            let address = unsafe { start.cast::<u64>().add(at) };
            // SAFETY: as above, and whoever has it is the caller.
            let now = unsafe { address.read() };
            let granule = &mut granules[first + at];
            assert!(granule.was.is_none_or(|was| was == now), "{address:p} was written while it was shut");
            let open = open.saturating_sub(at * TOGETHER).min(TOGETHER);
            *granule = Granule { open, was: (open == 0).then_some(now) };
        }
    }
}
