//! Objects: a pair of each kind, four thousand in a row, and the way from an address to its slab.

use alloc::vec::Vec;

use mm::slab::{CacheSpec, KmemCache};
use mm::units::Bytes;

use super::{Sampler, benchmark};
use crate::ktest::{NotPassed, Outcome};
use crate::memory::{self, Caches};
use crate::platform::Platform;

const PAIRS: usize = 1000;
const OBJECTS: usize = 4096;

fn caches() -> Result<&'static Caches, NotPassed> {
    memory::caches().ok_or_else(|| "the caches are not up".into())
}

fn cache(size: u32) -> Result<KmemCache<'static, Platform>, NotPassed> {
    Ok(caches()?.create(CacheSpec::new("bench", size))?)
}

/// Allocates and frees an object, again and again; a sample is one pair.
fn pairs(sampler: &mut Sampler, size: u32) -> Outcome {
    let cache = cache(size)?;
    // The first ones fill the sheaf.
    drop(cache.alloc()?);
    for _ in 0..PAIRS {
        sampler.sample(|| cache.alloc().map(drop))?;
    }
    Ok(())
}

benchmark!("slab", fn cache64_pair(sampler) {
    pairs(sampler, 64)
});

benchmark!("slab", fn cache256_pair(sampler) {
    pairs(sampler, 256)
});

benchmark!("slab", fn kmalloc64_pair(sampler) {
    let caches = caches()?;
    fill_sheaf(caches)?;
    for _ in 0..PAIRS {
        sampler.sample(|| {
            let object = caches.kmalloc(Bytes(64))?;
            // SAFETY: nobody else knows the object.
            unsafe { caches.kfree(object) }.map_err(NotPassed::from)
        })?;
    }
    Ok(())
});

/// Brings what the first pair fills to hand. Not inlined, so that the pair that is measured is.
#[inline(never)]
fn fill_sheaf(caches: &Caches) -> Outcome {
    let object = caches.kmalloc(Bytes(64))?;
    // SAFETY: nobody else knows the object.
    Ok(unsafe { caches.kfree(object) }?)
}

benchmark!("slab", fn bulk4096_alloc(sampler) {
    let cache = cache(64)?;
    let mut objects = Vec::with_capacity(OBJECTS);
    for _ in 0..OBJECTS {
        objects.push(sampler.sample(|| cache.alloc())?);
    }
    drop(objects);
    Ok(())
});

benchmark!("slab", fn bulk4096_free(sampler) {
    let cache = cache(64)?;
    let objects: Result<Vec<_>, _> = (0..OBJECTS).map(|_| cache.alloc()).collect();
    for object in objects? {
        sampler.sample(|| drop(object));
    }
    Ok(())
});

benchmark!("slab", fn lookup(sampler) {
    let caches = caches()?;
    let object = caches.kmalloc(Bytes(64))?;
    for _ in 0..PAIRS {
        sampler.sample(|| caches.slab_pages(object));
    }
    // SAFETY: nobody else knows the object.
    Ok(unsafe { caches.kfree(object) }?)
});
