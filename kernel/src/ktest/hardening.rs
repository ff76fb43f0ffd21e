//! What is done to free memory where the command line asks for it: who uses it all the same is told of, and nobody finds
//! anything there.

use mm::hardening::Hardening;
use mm::machine::Machine;
use mm::page::Request;
use mm::units::{Bytes, Order, PAGE_SIZE, Pfn, PfnRange};

use super::space::live;
use super::{Outcome, check, ktest, skip};
use crate::memory;
use crate::platform::{self, Platform};

/// The test that needs a measure, where it is taken.
fn where_taken(measure: Hardening, test: fn(&'static Platform) -> Outcome) -> Outcome {
    let platform = Platform::get().ok_or("the platform is not up")?;
    if !platform.hardening().intersects(measure) {
        return skip("nobody asked for it", platform.hardening().bits());
    }
    test(platform)
}

/// A page of the direct map that was just freed.
fn just_freed() -> Result<Pfn, super::NotPassed> {
    let block = live()?.allocator.alloc(Request::new(Order::ZERO))?;
    Ok(block.head())
}

ktest!(
    "hardening",
    fn a_write_to_a_free_page_is_told_of_once_when_it_is_allocated() {
        where_taken(Hardening::PAGE_POISON, |platform| {
            let pfn = just_freed()?;
            let before = platform::reports();
            // SAFETY: the page is free, so that is what is not to be done, and this is the test of it; nothing but the pattern is
            // lost.
            unsafe { platform.direct_map(pfn).add(0x123).write_volatile(0x41) };
            for _ in 0..2 {
                drop(live()?.allocator.alloc_contig(PfnRange::new(pfn, pfn.plus(1)))?);
            }
            let told = platform::reports() - before;
            check!(told == 1, "{told} reports of a byte that was written to {pfn:?}");
            Ok(())
        })
    }
);

ktest!(
    "hardening",
    fn a_fresh_page_is_zero_whatever_was_in_it() {
        where_taken(Hardening::INIT_ON_ALLOC | Hardening::INIT_ON_FREE, |_| {
            for order in (0..=10).map(Order::of) {
                for _ in 0..2 {
                    let mut block = live()?.allocator.alloc(Request::movable(order))?;
                    for pfn in block.range().frames() {
                        let zero = block.with_page(pfn, |bytes| {
                            let zero = *bytes == [0; PAGE_SIZE];
                            bytes.fill(0x5c);
                            zero
                        });
                        check!(zero == Some(true), "something is left in {pfn:?} of {order:?}");
                    }
                }
            }
            Ok(())
        })
    }
);

ktest!(
    "hardening",
    fn a_fresh_object_is_zero_whatever_was_in_it() {
        where_taken(Hardening::INIT_ON_ALLOC | Hardening::INIT_ON_FREE, |_| {
            let caches = memory::caches().ok_or("the caches are not up")?;
            for size in [8, 100, 192, 1024, 8192, 20_000] {
                for _ in 0..3 {
                    let object = caches.kmalloc(Bytes(size))?;
                    // SAFETY: the object is that large, and the test's.
                    let bytes = unsafe { core::slice::from_raw_parts_mut(object.as_ptr(), size) };
                    let zero = bytes.iter().all(|&byte| byte == 0);
                    bytes.fill(0x5c);
                    // SAFETY: nobody uses it any more.
                    unsafe { caches.kfree(object) }?;
                    check!(zero, "something is left in an object of {size} bytes");
                }
            }
            Ok(())
        })
    }
);
