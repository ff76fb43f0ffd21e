//! A large machine beside its specification, compared now and then: what small ones cannot show, trees of real nodes and all
//! that CPUs keep at hand.

use std::env;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Instant;

use mm::boot_map::{BootMap, Region, RegionKind};
use mm::cases::Seed;
use mm::cases::beside::Beside;
use mm::host::HostMachine;
use mm::machine::Standard;
use mm::units::{Count, NodeId, PAGE_SIZE, Pfn, PhysAddr};

/// 512 MiB, half of it highmem.
const FRAMES: u32 = 1 << 17;

const COMPARE_EVERY: NonZeroU32 = NonZeroU32::new(1 << 18).unwrap();

#[test]
#[cfg_attr(miri, ignore = "tests of the library compare each operation on small ones")]
fn operations_on_a_large_machine_are_as_specified() {
    let operations = env::var("OPERATIONS").ok().and_then(|number| number.parse().ok()).unwrap_or(1 << 21);
    let machine = HostMachine::<Standard>::new(Pfn::new(FRAMES), Pfn::new(FRAMES / 2), NonZeroU16::MIN);
    let machine = machine.expect("the host has memory for a test").specified();
    let len = u64::from(FRAMES) * PAGE_SIZE as u64;
    let memory = Region { start: PhysAddr(0), len, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[memory]).expect("one region is a map");
    let pages = machine.allocator(&mut map).expect("the tables fit");
    let (began, free) = (Instant::now(), pages.free_pages());
    let mut beside = Beside::new(&pages).expect("the machine has a specification");
    if let Err(failure) = beside.run(Seed(1), Count(operations), COMPARE_EVERY) {
        panic!("{failure}");
    }
    drop(beside);
    assert_eq!(pages.free_pages(), free, "all comes back");
    println!("{free} pages, {operations} operations, {:?}", began.elapsed());
}
