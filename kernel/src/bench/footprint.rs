//! What the allocator costs before it is asked anything: memory for its own, and the time to set it up.

use mm::MetadataBytes;
use mm::units::PAGE_SIZE;

use super::{Sampler, benchmark};
use crate::ktest::Outcome;
use crate::memory;

const PAGES_PER_GIB: u64 = (1 << 30) / PAGE_SIZE as u64;

/// Samples a part of the allocator's own memory, and says what part of the machine's that is.
fn share(sampler: &mut Sampler, part: impl FnOnce(MetadataBytes) -> u64) -> Outcome {
    let (allocator, setup) = memory::allocator().zip(memory::setup()).ok_or("the page allocator is not up")?;
    let bytes = part(allocator.metadata());
    sampler.know(bytes);
    let usable = u64::from(setup.usable_pages) * PAGE_SIZE as u64;
    let millionths = bytes.saturating_mul(1_000_000) / usable.max(1);
    sampler.note(alloc::format!("{}.{:04} % of memory", millionths / 10_000, millionths % 10_000));
    Ok(())
}

benchmark!(Bytes, "page", fn descriptor_bytes(sampler) {
    share(sampler, |metadata| metadata.descriptors)
});

benchmark!(Bytes, "page", fn table_bytes(sampler) {
    share(sampler, |metadata| metadata.tables)
});

benchmark!(Bytes, "page", fn zone_bytes(sampler) {
    share(sampler, |metadata| metadata.zones)
});

benchmark!(Bytes, "page", fn cpu_list_bytes(sampler) {
    share(sampler, |metadata| metadata.cpu_caches)
});

benchmark!("page", fn setup_per_gib(sampler) {
    let setup = memory::setup().ok_or("the page allocator is not up")?;
    sampler.know(setup.ticks.saturating_mul(PAGES_PER_GIB) / u64::from(setup.usable_pages.max(1)));
    sampler.note(alloc::format!("{} in all, at boot", setup.ticks));
    Ok(())
});
