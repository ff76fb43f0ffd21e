//! What is forgotten goes on leading where it led, safely, and ends the process rather than lead to what has gone.
//!
//! Each test's deed runs in a process of its own, which does not survive it.

use std::mem::forget;
use std::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::{env, thread};

use mm::boot_map::{BootMap, Region, RegionKind};
use mm::cache::{PageCache, Store, StoreError};
use mm::host::{HostMachine, HostMmu, on_cpu};
use mm::machine::Standard;
use mm::owner::Owners;
use mm::slab::KmemCaches;
use mm::space::{AddressRange, PageProtection, Sharing, Spaces};
use mm::subpage::{BufferCache, BufferSize};
use mm::units::{Count, CpuId, FileOffset, NodeId, Order, PageIndex, Pfn, PhysAddr, VirtualAddress};

type Caches<'a> = KmemCaches<'a, HostMachine>;
type Cache<'a> = Pin<&'a PageCache<'a, HostMachine>>;

/// What the process that does the deed is told: which one.
const DEED: &str = "MM_FORGOTTEN_DEED";
/// What it says if it gets as far as where it must end.
const SO_FAR: &str = "what was forgotten is still sound";

/// Does what must not be survived in a process of its own, which has to say `says` at its end, and no `catch_unwind` helps.
fn ends(test: &str, says: &str, deed: impl FnOnce()) {
    if env::var_os(DEED).is_some() {
        let _ = catch_unwind(AssertUnwindSafe(deed));
        println!("it goes on");
        return;
    }
    let mut alone = Command::new(env::current_exe().expect("a test has a program"));
    alone.args(["--exact", &format!("forgotten::{test}"), "--nocapture"]).env(DEED, test);
    let output = alone.output().expect("it ran before");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(SO_FAR) && said.contains(says), "{said}");
    assert!(!output.status.success() && !said.contains("it goes on"), "{said}");
}

/// A machine of 16 MiB and five CPUs.
fn machine() -> HostMachine {
    let cpus = NonZeroU16::new(5).expect("a machine has a CPU");
    HostMachine::new(Pfn::new(0x1000), Pfn::new(0x800), cpus).expect("the host lends memory")
}

/// Its memory.
fn memory() -> BootMap {
    let memory = Region { start: PhysAddr(0), len: 16 << 20, kind: RegionKind::Usable, node: NodeId(0) };
    BootMap::new(&[memory]).expect("the map is sound")
}

fn with_caches(work: impl FnOnce(&HostMachine, &Caches<'_>)) {
    let (machine, mut map) = (machine(), memory());
    let pages = machine.allocator(&mut map).expect("the tables fit");
    let caches = KmemCaches::new(&pages).expect("there is memory");
    work(&machine, &caches);
}

fn with_cache(work: impl FnOnce(&HostMachine, Cache<'_>)) {
    with_caches(|machine, caches| {
        let owners = Owners::new(caches).expect("there is memory");
        PageCache::with(&owners, None, |cache| work(machine, cache)).expect("there is memory");
    });
}

/// A page in memory of the process.
#[derive(Clone)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(vec![0; 4096])))
    }

    fn with<R>(&self, offset: FileOffset, len: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = usize::try_from(offset.0).expect("small");
        work(&mut self.0.lock().expect("nobody fails with it")[start..start + len])
    }
}

impl Store for Kept {
    fn size(&self) -> FileOffset {
        FileOffset(4096)
    }

    fn read(&self, offset: FileOffset, bytes: &mut [u8]) -> Result<(), StoreError> {
        self.with(offset, bytes.len(), |kept| bytes.copy_from_slice(kept));
        Ok(())
    }

    fn write(&self, offset: FileOffset, bytes: &[u8]) -> Result<(), StoreError> {
        self.with(offset, bytes.len(), |kept| kept.copy_from_slice(bytes));
        Ok(())
    }
}

#[test]
#[cfg_attr(miri, ignore = "an interpreter starts no processes")]
fn a_forgotten_mapping_is_written_back_and_no_cache_goes_before_it() {
    ends("a_forgotten_mapping_is_written_back_and_no_cache_goes_before_it", "invariant CACHE-5 broken", || {
        with_cache(|_, cache| {
            let kept = Kept::new();
            let seen = Arc::downgrade(&kept.0);
            let file = cache.file(kept, Order::ZERO).expect("there is memory");
            file.write(FileOffset(7), &[9]).expect("there is memory");
            forget(file);
            cache.reclaim(Count(1));
            let seen = seen.upgrade().expect("the store is the mapping's");
            assert_eq!(seen.lock().expect("nobody fails with it")[7], 9);
            println!("{SO_FAR}");
        });
    });
}

#[test]
#[cfg_attr(miri, ignore = "an interpreter starts no processes")]
fn a_forgotten_space_is_unmapped_by_reclaim_and_what_spaces_share_does_not_go_before_it() {
    let name = "a_forgotten_space_is_unmapped_by_reclaim_and_what_spaces_share_does_not_go_before_it";
    ends(name, "invariant SPACE-3 broken", || {
        with_cache(|machine, cache| {
            let unit = HostMmu::<Standard>::new(machine);
            Spaces::with(cache, &unit, |spaces| {
                let kept = Kept::new();
                let file = cache.file(kept.clone(), Order::ZERO).expect("there is memory");
                let space = spaces.create().expect("there is memory");
                let address = VirtualAddress(1 << 20);
                let range = AddressRange::of_pages(address, 1);
                let mapped = space.map_file(range, &file, PageIndex(0), PageProtection::ReadWrite, Sharing::Shared);
                mapped.expect("it is free");
                let root = space.root();
                let fault = |at, access| space.fault(at, access);
                unit.store(root, address, &[9], fault).expect("it is mapped");
                forget(space);
                assert_eq!(cache.reclaim(Count(1)), Count(1));
                assert_eq!(kept.with(FileOffset(0), 1, |kept| kept[0]), 9);
                let left = unit.load(root, address, &mut [0], |_, _| Err(()));
                assert_eq!(left, Err(()), "it is still mapped");
                println!("{SO_FAR}");
            });
        });
    });
}

#[test]
#[cfg_attr(miri, ignore = "an interpreter starts no processes")]
fn a_forgotten_mapping_of_buffers_is_written_back_and_no_cache_goes_before_it() {
    let name = "a_forgotten_mapping_of_buffers_is_written_back_and_no_cache_goes_before_it";
    ends(name, "invariant BUF-4 broken", || {
        with_caches(|_, caches| {
            let cache = pin!(BufferCache::new(caches, BufferSize::Bytes512).expect("there is memory"));
            let kept = Kept::new();
            let mapping = cache.as_ref().mapping(kept.clone()).expect("there is memory");
            mapping.write(FileOffset(7), &[9]).expect("there is memory");
            forget(mapping);
            cache.reclaim(Count(1));
            assert_eq!(kept.with(FileOffset(7), 1, |kept| kept[0]), 9);
            println!("{SO_FAR}");
        });
    });
}

/// Mappings that one CPU's last reference takes along are gone for whoever drops the cache on another.
#[test]
fn a_cache_goes_once_mappings_have_gone_wherever_that_was() {
    with_cache(|_, cache| {
        let files = (1..5).map(|cpu| (CpuId(cpu), cache.file(Kept::new(), Order::ZERO).expect("there is memory")));
        let files: Vec<_> = files.collect();
        thread::scope(|scope| {
            for (cpu, file) in files {
                scope.spawn(move || on_cpu(cpu, || drop(file)));
            }
        });
    });
}

/// A kernel's are: they live in statics.
#[test]
#[cfg_attr(miri, ignore = "it leaks on purpose")]
fn what_lives_for_ever_is_had_by_value_and_may_be_forgotten() {
    let machine = Box::leak(Box::new(machine()));
    let mut map = memory();
    let pages = Box::leak(Box::new(machine.allocator(&mut map).expect("the tables fit")));
    let caches = Box::leak(Box::new(KmemCaches::new(pages).expect("there is memory")));
    let owners = Box::leak(Box::new(Owners::new(caches).expect("there is memory")));
    let cache = Pin::static_ref(Box::leak(Box::new(PageCache::new(owners, None).expect("there is memory"))));
    let unit = Box::leak(Box::new(HostMmu::<Standard>::new(machine)));
    let spaces = Pin::static_ref(Box::leak(Box::new(Spaces::new(cache, unit))));
    let file = cache.file(Kept::new(), Order::ZERO).expect("there is memory");
    let range = AddressRange::of_pages(VirtualAddress(1 << 20), 1);
    let space = spaces.create().expect("there is memory");
    space.map_file(range, &file, PageIndex(0), PageProtection::ReadWrite, Sharing::Shared).expect("it is free");
    unit.store(space.root(), range.start(), &[9], |at, access| space.fault(at, access)).expect("it is mapped");
    forget((space, file));
    assert_eq!(cache.reclaim(Count(1)), Count(1));
}
