//! An address sanitizer for the direct map: whoever touches there what nobody has is stopped, and told what it is.
//!
//! In a build with `cfg(asan)` the compiler puts a call in front of every access, and in place of what copies or fills. Each looks
//! at the *shadow*, which has a byte for each eight of the direct map:
//!
//! ```text
//!   0    all eight may be touched       1 to 7    so many of them, from the first on       0xff    none
//! ```
//!
//! `mm` says what becomes of pages and objects ([`Machine::fence_pages`], [`Machine::fence_object`]); what it never had stays
//! open. Accesses elsewhere are not looked at: the image, stacks where they are mapped, slots of highmem; nor are those of
//! assembly and of the compiled parts of `core`.
//!
//! What the compiler calls is not instrumented, and so calls nothing of `core` but what is inlined for sure. The report of a wrong
//! access is as any other code: it touches nothing that is closed.
//!
//! Cost: an eighth of the direct map, and a call an access.
//! Source: K. Serebryany and others, "AddressSanitizer: A Fast Address Sanity Checker", USENIX ATC 2012; Linux, `mm/kasan`.

use core::ffi::c_void;
use core::fmt;
use core::ptr::NonNull;

use kernel_core::layout::{DIRECT_MAP, Place};
use mm::boot_map::BootMap;
use mm::machine::{Fence, Machine};
use mm::owner::{Reference, Seen};
use mm::slab::PlaceInSlab;
use mm::space::Access;
use mm::units::{Bytes, PAGE_SHIFT, PAGE_SIZE, Pfn, PfnRange, PhysAddr};
use x86_64::VirtAddr;

use crate::memory;
use crate::platform::Platform;
use crate::serial::println;

/// Bytes of memory that one of the shadow stands for.
const GRANULE: usize = 8;

/// Where the direct map starts.
#[expect(clippy::cast_possible_truncation, reason = "addresses of this machine have 64 bits")]
const START: usize = DIRECT_MAP as usize;

/// No byte of a granule may be touched.
const NONE: u8 = 0xff;

/// Where the shadow is.
#[derive(Clone, Copy, Debug)]
struct Shadow {
    start: *mut u8,
    /// Bytes of the direct map that it stands for, from the first one on.
    covered: usize,
}

/// The shadow: of nothing before [`start`].
static mut SHADOW: Shadow = Shadow { start: core::ptr::null_mut(), covered: 0 };

/// Takes memory for the shadow out of the map, and looks at all accesses from then on.
///
/// # Panics
/// If there is no such memory: then this is no machine to look for wrong accesses on.
///
/// # Safety
/// No other CPU runs.
pub(crate) unsafe fn start(platform: &'static Platform, map: &mut BootMap) {
    let end = platform.direct_map_end();
    let pages = end.index().div_ceil(GRANULE);
    let carved = map
        .carve(u32::try_from(pages).unwrap_or(u32::MAX), end, None)
        .unwrap_or_else(|error| panic!("address sanitizer: {error}"));
    let start = platform.direct_map(carved.start).as_ptr();
    // SAFETY: the pages were carved for this, and are neighbours in the direct map.
    unsafe { start.write_bytes(0, pages * PAGE_SIZE) };
    // SAFETY: the caller's promise: nobody else reads it or writes it.
    unsafe { SHADOW = Shadow { start, covered: end.index() << PAGE_SHIFT } };
    println!("address sanitizer: a shadow of {} KiB", pages << PAGE_SHIFT >> 10);
}

/// What the compiler's calls look at.
#[inline(always)]
fn shadow() -> Shadow {
    // SAFETY: it is written while no other CPU runs, and by nobody who looks at it then.
    unsafe { SHADOW }
}

/// Opens the first `open` of the bytes from `start` on, and closes the others.
fn fence(start: NonNull<u8>, Bytes(room): Bytes, Bytes(open): Bytes) {
    let shadow = shadow();
    let offset = start.addr().get().wrapping_sub(START);
    if offset >= shadow.covered {
        return;
    }
    let (all, whole, part) = (room / GRANULE, open / GRANULE, open % GRANULE);
    let first = shadow.start.wrapping_add(offset / GRANULE);
    // SAFETY: memory of the direct map has its bytes in the shadow, and who has it says what becomes of it.
    unsafe { first.write_bytes(0, whole) };
    let behind = first.wrapping_add(whole);
    // SAFETY: as above.
    unsafe { behind.write_bytes(NONE, all - whole) };
    if part > 0 {
        // SAFETY: as above; a part of a granule is less than there is room for.
        unsafe { behind.write(part.to_le_bytes()[0]) };
    }
}

/// What becomes of pages, those of the direct map at least.
pub(crate) fn fence_pages(platform: &Platform, pages: PfnRange, fence: Fence) {
    let pages = pages.intersection(PfnRange::new(Pfn::new(0), platform.direct_map_end()));
    if !pages.is_empty() {
        let room = Bytes((pages.pages() as usize) << PAGE_SHIFT);
        let open = if fence == Fence::Open { room } else { Bytes(0) };
        self::fence(platform.direct_map(pages.start), room, open);
    }
}

/// What becomes of an object.
pub(crate) fn fence_object(place: NonNull<[u8]>, open: Bytes) {
    fence(place.cast(), Bytes(place.len()), open);
}

/// Whether all of the bytes may be touched.
#[inline(always)]
pub(crate) fn is_open(address: usize, len: usize) -> bool {
    let shadow = shadow();
    let first = address.wrapping_sub(START);
    if first >= shadow.covered || len == 0 {
        return true;
    }
    let last = first.wrapping_add(len.wrapping_sub(1));
    let last = if last < shadow.covered { last } else { shadow.covered.wrapping_sub(1) };
    let mut granule = first / GRANULE;
    while granule < last / GRANULE {
        // SAFETY: the direct map has the byte, so the shadow has its granule.
        if unsafe { *shadow.start.wrapping_add(granule) } != 0 {
            return false;
        }
        granule = granule.wrapping_add(1);
    }
    // SAFETY: as above.
    let open = unsafe { *shadow.start.wrapping_add(granule) };
    open == 0 || last % GRANULE < open as usize && open != NONE
}

/// Ends the kernel if not all of the bytes may be touched.
#[inline(always)]
fn look(address: usize, len: usize, access: Access) {
    if !is_open(address, len) {
        report(address, len, access);
    }
}

/// Ends the kernel with what was about to be touched.
#[cold]
#[inline(never)]
fn report(address: usize, len: usize, access: Access) -> ! {
    // Where the first byte is that may not be: what comes before it may be another's.
    let wrong = (address..address.saturating_add(len)).find(|&byte| !is_open(byte, 1)).unwrap_or(address);
    let access = if access == Access::Write { "write" } else { "read" };
    let bytes = if len == 1 { "byte" } else { "bytes" };
    panic!("address sanitizer: {access} of {len} {bytes} at {address:#x}, of which {}", Closed(wrong))
}

/// What an address is that nobody may touch.
struct Closed(usize);

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(address) = *self;
        let physical = PhysAddr((address as u64).wrapping_sub(DIRECT_MAP));
        let Some(pfn) = Pfn::containing(physical) else { return f.write_str("beyond all memory") };
        write!(f, "{address:#x}, in {}, is ", Place::DirectMap(pfn))?;
        let Some(owners) = memory::owners() else { return f.write_str("nobody's") };
        let walk = owners.walk();
        let sighting = walk.look(pfn);
        let place = NonNull::new(VirtAddr::new_truncate(address as u64).as_mut_ptr::<u8>());
        if let (Some(Reference::Slab(slab)), Some(place)) = (sighting.get(), place)
            && let Some(caches) = memory::caches()
            && let Some(PlaceInSlab { cache, offset: Bytes(offset), size: Bytes(size) }) = caches.place_in(&slab, place)
        {
            let start = address - offset;
            return match (start..start + size).take_while(|&byte| is_open(byte, 1)).count() {
                0 => write!(f, "byte {offset} of an object of cache {cache} that is free"),
                open => write!(f, "byte {offset} of an object of cache {cache} that has {open} bytes"),
            };
        }
        let what = match sighting.seen() {
            Seen::Free | Seen::Cached | Seen::Isolated => "free",
            Seen::Allocated(_) => "allocated, behind what was asked for",
            _ => "out of use",
        };
        write!(f, "{what}, in the block of order {} at {:?}", sighting.order().number(), sighting.head())
    }
}

/// What the compiler calls in front of accesses of these many bytes.
macro_rules! accesses {
    ($($load:ident, $store:ident: $bytes:literal;)*) => {$(
        #[sanitize(address = "off")]
        #[unsafe(no_mangle)]
        extern "C" fn $load(address: usize) {
            look(address, $bytes, Access::Read);
        }

        #[sanitize(address = "off")]
        #[unsafe(no_mangle)]
        extern "C" fn $store(address: usize) {
            look(address, $bytes, Access::Write);
        }
    )*};
}

accesses! {
    __asan_load1, __asan_store1: 1;
    __asan_load2, __asan_store2: 2;
    __asan_load4, __asan_store4: 4;
    __asan_load8, __asan_store8: 8;
    __asan_load16, __asan_store16: 16;
}

#[sanitize(address = "off")]
#[unsafe(no_mangle)]
extern "C" fn __asan_loadN(address: usize, len: usize) {
    look(address, len, Access::Read);
}

#[sanitize(address = "off")]
#[unsafe(no_mangle)]
extern "C" fn __asan_storeN(address: usize, len: usize) {
    look(address, len, Access::Write);
}

// SAFETY: the compiler's own library has them.
unsafe extern "C" {
    fn memcpy(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void;
    fn memmove(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void;
    fn memset(to: *mut c_void, byte: i32, len: usize) -> *mut c_void;
}

/// # Safety
/// As for `memcpy`.
#[sanitize(address = "off")]
#[unsafe(no_mangle)]
unsafe extern "C" fn __asan_memcpy(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void {
    look(from as usize, len, Access::Read);
    look(to as usize, len, Access::Write);
    // SAFETY: the caller's promise.
    unsafe { memcpy(to, from, len) }
}

/// # Safety
/// As for `memmove`.
#[sanitize(address = "off")]
#[unsafe(no_mangle)]
unsafe extern "C" fn __asan_memmove(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void {
    look(from as usize, len, Access::Read);
    look(to as usize, len, Access::Write);
    // SAFETY: the caller's promise.
    unsafe { memmove(to, from, len) }
}

/// # Safety
/// As for `memset`.
#[sanitize(address = "off")]
#[unsafe(no_mangle)]
unsafe extern "C" fn __asan_memset(to: *mut c_void, byte: i32, len: usize) -> *mut c_void {
    look(to as usize, len, Access::Write);
    // SAFETY: the caller's promise.
    unsafe { memset(to, byte, len) }
}

/// Called before what does not return; there is nothing on stacks to clean up.
#[sanitize(address = "off")]
#[unsafe(no_mangle)]
extern "C" fn __asan_handle_no_return() {}
