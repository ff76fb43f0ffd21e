//! What is done to free memory where the command line asks for it: who uses it all the same is told of, and nobody finds
//! anything there.

use core::arch::asm;

use kernel_core::layout::{DIRECT_MAP, DIRECT_MAP_LIMIT};
use mm::PageState;
use mm::hardening::Hardening;
use mm::machine::Machine;
use mm::page::Request;
use mm::units::{Bytes, Order, PAGE_SIZE, Pfn, PfnRange, PhysAddr};
use x86_64::VirtAddr;

use super::crash::{read, write};
use super::space::live;
use super::{NotPassed, Outcome, check, diagnostic, ktest, skip};
use crate::paging::live::for_each_leaf;
use crate::platform::{self, Platform};
use crate::{cpu, memory};

/// The test that needs a measure, where it is taken.
fn where_taken(measure: Hardening, test: fn(&'static Platform) -> Outcome) -> Outcome {
    let platform = Platform::get().ok_or("the platform is not up")?;
    if !platform.hardening().intersects(measure) {
        return skip("nobody asked for it", platform.hardening().bits());
    }
    test(platform)
}

/// A page of the direct map that was just freed.
fn just_freed() -> Result<Pfn, NotPassed> {
    let block = live()?.allocator.alloc(Request::new(Order::ZERO))?;
    Ok(block.head())
}

ktest!(
    "hardening",
    fn a_write_to_a_free_page_is_told_of_once_when_it_is_allocated() {
        where_taken(Hardening::PAGE_POISON, |platform| {
            if platform.hardening().contains(Hardening::DEBUG_PAGEALLOC) {
                return skip("nobody can write to a free page", "debug_pagealloc");
            }
            let pfn = just_freed()?;
            let before = platform::reports();
            // SAFETY: the offset is within the page.
            let byte = unsafe { platform.direct_map(pfn).add(0x123) };
            // SAFETY: the page is free, so that is what is not to be done, and this is the test of it; nothing but the pattern is
            // lost. In assembly, which no sanitizer looks at.
            unsafe { asm!("mov byte ptr [{}], 0x41", in(reg) byte.as_ptr(), options(nostack, preserves_flags)) };
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

ktest!(
    "hardening",
    fn exactly_the_pages_that_are_free_are_not_in_the_direct_map() {
        where_taken(Hardening::DEBUG_PAGEALLOC, |platform| {
            let allocator = live()?.allocator;
            let state_of = |pfn| allocator.block_of(pfn).map(|head| allocator.page_state(head).0);
            let in_use = |state| matches!(state, PageState::Allocated | PageState::Node);
            let (mut mapped, mut free) = (0_u32, None);
            for_each_leaf(platform, DIRECT_MAP..DIRECT_MAP_LIMIT, |leaf| {
                let frame = Pfn::containing(PhysAddr(leaf.address - DIRECT_MAP)).map(|pfn| (pfn, state_of(pfn)));
                match frame {
                    Some((_, Some(state))) if in_use(state) => mapped += 1,
                    Some((pfn, Some(PageState::Free))) => free = Some(pfn),
                    _ => {}
                }
            });
            check!(free.is_none(), "{free:?} is free, and can be reached");
            let (mut used, mut hidden, mut at) = (0, 0, Pfn::new(0));
            while at < platform.direct_map_end() {
                let (state, order) = allocator.page_state(at);
                let pages = if matches!(state, PageState::Free | PageState::Allocated) { order.pages() } else { 1 };
                used += if in_use(state) { pages } else { 0 };
                hidden += if state == PageState::Free { pages } else { 0 };
                at = at.plus(pages);
            }
            check!(mapped == used, "{mapped} pages in use can be reached, and {used} are in use");
            check!(hidden > 0, "no page is free, so there was nothing to see");
            diagnostic!("{used} pages in use can be reached, {hidden} free ones cannot");
            Ok(())
        })
    }
);

/// Where the direct map showed a page that was just freed, while this CPU and all others knew it.
fn freed_address() -> Result<u64, NotPassed> {
    let mut block = live()?.allocator.alloc(Request::new(Order::ZERO))?;
    let address = DIRECT_MAP + block.head().address().0;
    block.bytes_mut().ok_or("the page is not in the direct map")?.fill(1);
    // SAFETY: the page is in use, and everybody only looks.
    cpu::on_all(&|_| _ = unsafe { VirtAddr::new_truncate(address).as_ptr::<u8>().read_volatile() });
    Ok(address)
}

ktest!(
    WhenNamed,
    "crash",
    fn free_page_write() {
        write(freed_address()?)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn free_page_read() {
        read(freed_address()?)
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn free_page_write_on_the_last_cpu() {
        let address = freed_address()?;
        let last = cpu::online().last().ok_or("no CPU is online")?;
        cpu::run_on(last, &move || _ = write(address))?;
        Err("the kernel goes on".into())
    }
);
