//! Memory for contenders: address space of this process that takes up what is touched of it; and the heap that some use.
#![expect(unsafe_code, reason = "asks the operating system for memory, and lends it")]

use std::io;
use std::ptr::{self, NonNull};

use mm::units::{Order, PAGE_SIZE};

/// Zeroed memory, aligned to the largest block.
#[derive(Debug)]
pub(crate) struct Memory {
    mapped: NonNull<u8>,
    mapped_len: usize,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it only keeps the mapping; who uses what part of it is the contenders' business.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Address space for so many bytes, in huge pages, as a kernel maps its memory; what is not touched is not there.
    ///
    /// # Errors
    /// The operating system grants none.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let align = PAGE_SIZE << Order::LIMIT.index();
        let mapped_len = len + align;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: asks for new memory anywhere.
        let mapped =
            unsafe { libc::mmap(ptr::null_mut(), mapped_len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapped: NonNull<u8> = NonNull::new(mapped.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: it was mapped just now.
        let advised = unsafe { libc::madvise(mapped.as_ptr().cast(), mapped_len, libc::MADV_HUGEPAGE) };
        if advised != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping is longer by the alignment.
        let start = unsafe { mapped.add(mapped.align_offset(align)) };
        Ok(Self { mapped, mapped_len, start, len })
    }

    /// As much memory, all of it there: nobody is charged for the operating system's first touch.
    ///
    /// # Errors
    /// The operating system grants none.
    pub(crate) fn present(len: usize) -> io::Result<Self> {
        let memory = Self::new(len)?;
        // SAFETY: it was mapped, and nobody uses it yet.
        let populated = unsafe { libc::madvise(memory.start.as_ptr().cast(), len, libc::MADV_POPULATE_WRITE) };
        if populated != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(memory)
    }

    /// Its first byte.
    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Its length in bytes.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and whoever borrowed it is gone.
        let unmapped = unsafe { libc::munmap(self.mapped.as_ptr().cast(), self.mapped_len) };
        debug_assert_eq!(unmapped, 0, "what was mapped can be unmapped");
    }
}

/// Bytes of the process's heap that are allocated, by this thread if it is the first.
pub(crate) fn heap_bytes() -> usize {
    // SAFETY: the call takes no memory.
    let heap = unsafe { libc::mallinfo2() };
    heap.uordblks + heap.hblkhd
}
