//! A machine whose free memory is in single pages everywhere gives back large blocks, and every byte is as before.

use super::*;
use crate::machine::{Geometry, Standard};
use crate::space::UserPages;
use crate::zone::ZoneReport;

use PageProtection::ReadWrite;
use Sharing::{Private, Shared};

/// Everything that is in use on the machine, and what it must hold.
struct World<'w, 'r> {
    rig: &'w Rig<'r>,
    spaces: Vec<UserSpaceRef<'r>>,
    files: Vec<File<'r>>,
    /// Regions of anonymous memory, and whose.
    chunks: Vec<(usize, AddressRange)>,
    /// What each page of each space holds.
    known: BTreeMap<(usize, u64), u64>,
    kernel: Vec<crate::page::Block<'r, HostMachine>>,
    objects: Vec<core::ptr::NonNull<u8>>,
    rng: fastrand::Rng,
}

/// The blocks that are to be made, and the areas in which they are.
const LARGE: Order = scaled(PAGEBLOCK, Order::of(6));

/// Pages of each space's anonymous region, and of each file's.
const SPAN: u64 = scaled(1500, 60);

/// What an interpreter does without: lowmem, most of all, where each access costs it more the more there were.
fn unused<'r>(rig: &Rig<'r>) -> Vec<crate::page::Block<'r, HostMachine>> {
    ballast(rig.pages, Request::new(Order::of(5)), 400)
}

impl<'w, 'r> World<'w, 'r> {
    /// Four spaces with files and anonymous memory, in folios of mixed sizes, that were filled in turn, so that pages of
    /// one stand beside those of another.
    fn new(rig: &'w Rig<'r>, stores: &[Arc<HostFile>], seed: u64) -> Self {
        let spaces: Vec<_> = stores.iter().map(|_| rig.space()).collect();
        let mut files = Vec::new();
        for (number, (space, store)) in spaces.iter().zip(stores).enumerate() {
            let file = rig.cache.file(Arc::clone(store), Order::of(number + 1)).expect("there is memory");
            space.map_file(pages(SPAN, SPAN / 4), &file, PageIndex(0), ReadWrite, Shared).expect("nothing is there");
            // The next one looks on, and has its own of what it writes.
            let next = &spaces[(number + 1) % spaces.len()];
            next.map_file(pages(2 * SPAN, 100), &file, PageIndex(50), ReadWrite, Private).expect("nothing is there");
            files.push(file);
        }
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut chunks = Vec::new();
        for (number, space) in spaces.iter().enumerate() {
            let mut page = 0;
            while page < SPAN {
                let largest = Order::of(rng.usize(0..=2 * number));
                let chunk = pages(page, rng.u64(1..=2 * u64::from(largest.pages())).min(SPAN - page));
                space.map_anonymous(chunk, ReadWrite, Private, largest).expect("nothing is there");
                chunks.push((number, chunk));
                page += chunk.pages();
            }
        }
        let (known, kernel, objects) = Default::default();
        Self { rig, spaces, files, chunks, known, kernel, objects, rng }
    }

    fn write(&mut self, space: usize, page: u64) {
        let word = self.rng.u64(1..);
        let fault = |address, access| self.spaces[space].fault(address, access);
        let root = self.spaces[space].root();
        if self.rig.unit.store(root, at(page), &word.to_le_bytes(), fault).is_ok() {
            self.known.insert((space, page), word);
        }
    }

    /// Writes pages here and there until only so many are free.
    fn fill(&mut self, left: u32) {
        let regions = [(0, SPAN), (SPAN, SPAN / 4), (2 * SPAN, 100)];
        for write in 0..40_000 {
            // Whoever counts looks at every CPU: a third of what an interpreter would do here.
            if write % scaled(1, 16) == 0 && self.rig.pages.free_pages() <= left {
                return;
            }
            let space = self.rng.usize(0..self.spaces.len());
            let (start, len) = regions[self.rng.usize(0..regions.len())];
            let page = start + self.rng.u64(0..len);
            self.write(space, page);
        }
    }

    /// Gives up about every other region of anonymous memory.
    fn riddle(&mut self) {
        let (gone, stay): (Vec<_>, Vec<_>) =
            core::mem::take(&mut self.chunks).into_iter().partition(|_| self.rng.bool());
        for (space, chunk) in gone {
            self.spaces[space].unmap(chunk).expect("there is memory");
            for address in chunk.addresses() {
                self.known.remove(&(space, address.0 >> 12));
            }
        }
        self.chunks = stay;
    }

    /// Memory of the kernel's own, which cannot move.
    fn kernel(&mut self, blocks: usize, objects: usize) {
        for _ in 0..blocks {
            self.kernel.extend(self.rig.pages.alloc(Request::movable(Order::of(self.rng.usize(0..2)))));
        }
        for _ in 0..objects {
            self.objects.extend(self.rig.owners.caches.kmalloc(Bytes(self.rng.usize(1..9000))));
        }
    }

    fn pin(&mut self, count: usize) -> Vec<UserPages<'r, HostMachine>> {
        let mut pinned = Vec::new();
        for _ in 0..count {
            let (&(space, page), _) = self.known.iter().nth(self.rng.usize(0..self.known.len())).expect("in use");
            pinned.extend(self.spaces[space].get_user_pages(at(page), Bytes(8), Access::Write));
        }
        pinned
    }

    /// Which pages stand in page tables.
    fn mapped(&self) -> Vec<(usize, u64)> {
        self.known
            .keys()
            .copied()
            .filter(|&(space, page)| self.rig.mapped(&self.spaces[space], page).is_some())
            .collect()
    }

    fn check(&self) {
        for (&(space, page), &word) in &self.known {
            assert_eq!(self.rig.get(&self.spaces[space], page), Ok(word), "page {page} of space {space}");
        }
        self.rig.verify(&self.spaces);
        self.files.iter().for_each(|file| file.verify().expect("the cache is sound"));
    }
}

impl Drop for World<'_, '_> {
    fn drop(&mut self) {
        for object in self.objects.drain(..) {
            // SAFETY: nobody uses it any more.
            let freed = unsafe { self.rig.owners.caches.kfree(object) };
            assert_eq!(freed, Ok(()));
        }
    }
}

fn stores() -> [Arc<HostFile>; 4] {
    core::array::from_fn(|_| HostFile::pages(usize::try_from(SPAN / 4).expect("small")))
}

/// Areas that are free blocks, of all that there are.
fn whole_areas(rig: &Rig<'_>) -> u32 {
    let orders = LARGE.index()..=Standard::MAX_ORDER.index();
    let of = |zone: &ZoneReport, order| zone.blocks_of(Order::of(order)) << (order - LARGE.index());
    rig.pages.zones().map(|zone| orders.clone().map(|order| of(&zone, order)).sum::<u32>()).sum()
}

fn compacts(lowmem: u32, seed: u64) {
    let stores = stores();
    with_rig(scaled(24, 3), lowmem, |rig| {
        let _unused = unused(rig);
        let mut world = World::new(rig, &stores, seed);
        world.kernel(3, scaled(300, 5));
        world.fill(scaled(120, 260));
        world.riddle();
        world.kernel(4, scaled(50, 10));
        let pinned = world.pin(3);
        // Nothing is to be had but by moving.
        rig.owners.caches.shrink();
        world.check();
        let mapped = world.mapped();
        let (census, whole) = (rig.census(), whole_areas(rig));
        let mut blocks = Vec::new();
        let report = rig.compactor.compact(LARGE, Count(u32::MAX), |block| blocks.push(block));
        assert_eq!(blocks.len(), report.cleared.0 as usize);
        for block in &mut blocks {
            assert!(block.order() == LARGE && block.group().is_root());
            let (first, last) = (block.head(), Pfn::new(block.range().end.number() - 1));
            assert!([first, last].into_iter().all(|pfn| block.with_page(pfn, |bytes| bytes.fill(0xee)).is_some()));
        }
        assert_eq!(world.mapped(), mapped, "an entry was lost or made");
        world.check();
        let free = rig.pages.free_pages() + report.cleared.0 * LARGE.pages();
        let kinds = |census: &[Count]| {
            let moved = OwnerKind::ALL.iter().zip(census).filter(|(kind, _)| **kind != OwnerKind::Plain);
            moved.map(|(kind, pages)| (*kind, *pages)).collect::<Vec<_>>()
        };
        assert_eq!((kinds(&rig.census().0), free), (kinds(&census.0), census.1), "pages were lost");
        drop(blocks);
        assert_eq!(rig.census(), census);
        world.check();
        let possible = (report.areas.0 - report.free.0 - unmovable(&report)).min(census.1 / LARGE.pages());
        std::println!(
            "lowmem {lowmem} MiB, seed {seed}: {whole} large blocks before, {} now, {possible} that free memory and what stays allow\n{report}",
            whole_areas(rig)
        );
        assert!(report.cleared.0 >= possible / 2, "{report}");
        drop(pinned);
    });
}

/// Areas in which something can never move.
fn unmovable(report: &CompactReport) -> u32 {
    let never = |refusal: &Refusal| matches!(refusal, Refusal::NotWhole | Refusal::Unmovable(_));
    Refusal::all().filter(never).map(|refusal| report.refused(refusal).0).sum()
}

#[test]
fn a_machine_that_is_full_of_holes_gives_back_large_blocks_and_every_byte_is_as_before() {
    for seed in 0..scaled(3, 1) {
        for &lowmem in scaled(&[24, 10][..], &[2]) {
            compacts(lowmem, seed);
        }
    }
}

#[test]
fn each_allocation_of_a_compaction_may_fail_once_and_nothing_is_lost() {
    let stores = stores();
    with_rig(scaled(16, 3), scaled(8, 2), |rig| {
        let _unused = unused(rig);
        let mut world = World::new(rig, &stores, 7);
        world.fill(scaled(400, 280));
        world.riddle();
        let faults = rig.pages.machine().faults();
        let (mut failed, mut cleared) = (0, 0);
        for n in (1..200).step_by(scaled(1, 5)) {
            let census = rig.census();
            faults.fail_nth(n);
            let report = rig.compactor.compact(Order::of(6), Count(1), drop);
            let fired = faults.stop();
            world.check();
            assert_eq!(rig.census(), census);
            cleared += report.cleared.0;
            if fired == crate::faults::Fired::No {
                break;
            }
            failed += report.refused(Refusal::Stays(MigrateError::NoMemory)).0;
        }
        assert!(cfg!(miri) || failed > 1 && cleared > 2, "{failed} failed, {cleared} areas were cleared");
    });
}
