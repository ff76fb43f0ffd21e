//! What a debugged cache must catch, on the running kernel.

use core::ptr::NonNull;

use mm::slab::{CacheSpec, DebugFlags, FreeObjectError, KmemCache, Part};

use super::{NotPassed, Outcome, check, ktest};
use crate::memory;
use crate::platform::Platform;

type Cache = KmemCache<'static, Platform>;

const SIZE: usize = 100;

/// Gives a test a debugged cache and an object of it; whatever the test does, both are gone afterwards.
fn with_object(test: impl FnOnce(&Cache, NonNull<u8>) -> Outcome) -> Outcome {
    let caches = memory::caches().ok_or("the caches are not up")?;
    let cache = caches.create(CacheSpec::new("watched", 100).debugged(DebugFlags::USUAL))?;
    let object = cache.alloc_raw()?;
    test(&cache, object)?;
    // It may be free already, or isolated.
    let _ = free(&cache, object);
    cache.destroy().map_err(NotPassed::from)
}

fn free(cache: &Cache, object: NonNull<u8>) -> Result<(), FreeObjectError> {
    // SAFETY: every test here is done with the object.
    unsafe { cache.free_raw(object) }
}

/// What the kernel's bugs do: writes a byte where it may not.
fn write(object: NonNull<u8>, offset: isize) {
    // SAFETY: the cache keeps more than that on both sides of an object.
    let byte = unsafe { object.byte_offset(offset) };
    // SAFETY: the byte is in the debugged cache's own memory.
    unsafe { byte.write(0x41) };
}

/// A byte beside the object is written, and the free that finds it says where, and who allocated the object.
fn is_caught(offset: isize, part: Part) -> Outcome {
    with_object(|cache, object| {
        write(object, offset);
        let Err(FreeObjectError::Corrupt(found)) = free(cache, object) else {
            return Err("an object was freed though somebody wrote beside it".into());
        };
        check!(found.part == part && found.offset as isize == offset, "found is {found}");
        let here = found.history.allocated.is_some_and(|track| track.location.file() == file!());
        check!(here && found.byte.is_some_and(|byte| byte.found == 0x41), "found is {found}");
        Ok(())
    })
}

ktest!(
    "slab",
    fn a_byte_written_in_front_of_an_object_is_caught() {
        is_caught(-1, Part::LeftRedzone)
    }
);

ktest!(
    "slab",
    fn a_byte_written_behind_an_object_is_caught() {
        is_caught(SIZE.cast_signed(), Part::RightRedzone)
    }
);

ktest!(
    "slab",
    fn a_free_object_that_is_written_to_is_caught_and_never_allocated_again() {
        with_object(|cache, object| {
            free(cache, object)?;
            write(object, 10);
            let found = cache.validate().err().ok_or("nothing was found")?;
            check!(found.part == Part::Poison && found.offset == 10, "found is {found}");
            check!(found.history.freed.is_some(), "nobody knows who freed it: {found}");
            let other = cache.alloc()?;
            check!(other.address() != object, "{object:p} was allocated again");
            Ok(())
        })
    }
);

ktest!(
    "slab",
    fn an_object_that_is_freed_twice_is_refused_and_both_owners_are_named() {
        with_object(|cache, object| {
            free(cache, object)?;
            match free(cache, object) {
                Err(FreeObjectError::DoubleFree { history, .. }) => {
                    check!(history.allocated.is_some() && history.freed.is_some(), "only{history}");
                    Ok(())
                }
                other => Err(alloc::format!("the second free is {other:?}").into()),
            }
        })
    }
);

ktest!(
    "slab",
    fn every_slab_is_sound_and_no_debugged_one_was_overwritten() {
        Ok(memory::caches().ok_or("the caches are not up")?.verify()?)
    }
);
