//! FREE-3 on many CPUs: wherever free pages are, any CPU gets all of them.

use arrayvec::ArrayVec;

use super::Failure;
use super::crew::Crew;
use super::footprint::Footprint;
use super::holdings::Holdings;
use crate::machine::Machine;
use crate::page::{Block, PageAllocator, Request};
use crate::units::{CpuId, Order};

/// Pages that each CPU leaves at hand, if it may.
const AT_HAND: usize = 48;

/// Has each CPU in turn drain memory to the last page, while the others have some of it at hand, and give all of it back.
/// About `pages` are left to drain. Nobody else may use the allocator meanwhile.
///
/// # Errors
/// A CPU was refused while there was a page, or got more than there were; or memory is not as whole as before.
pub fn every_cpu_can_have_the_last_page<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    crew: &dyn Crew,
    pages: u32,
) -> Result<(), Failure> {
    let before = Footprint::settled(allocator);
    let mut rest = Holdings::new(allocator)?;
    rest.leave_free(pages)?;
    for cpu in (0..allocator.machine().cpus().get()).map(CpuId) {
        let fill = || {
            let mut blocks: ArrayVec<Block<'_, M>, AT_HAND> = ArrayVec::new();
            blocks.extend((0..AT_HAND).map_while(|_| allocator.alloc(Request::movable(Order::ZERO)).ok()));
        };
        crew.everywhere(&fill, None);
        let mut outcome = Ok(());
        crew.on(cpu, &mut || outcome = drain(allocator));
        outcome?;
    }
    drop(rest);
    allocator.drain();
    before.check_restored(allocator)?;
    Ok(allocator.verify()?)
}

/// Takes every page that is free, and frees them all.
fn drain<M: Machine>(allocator: &PageAllocator<'_, M>) -> Result<(), Failure> {
    let mut taken = Holdings::new(allocator)?;
    let free = allocator.free_pages();
    let count = taken.alloc_all(Request::movable(Order::ZERO))?;
    Failure::unless_equal(free, count, "pages that one CPU gets of those that are free (FREE-3)")?;
    Failure::unless_equal(0, allocator.free_pages(), "free pages once all are taken")?;
    drop(taken);
    Failure::unless(allocator.free_pages() > free, "all that was taken is free again, and what it was noted in")
}
