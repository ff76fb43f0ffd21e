//! Users' memory, seen from the kernel: address spaces that come and go below a kernel's half that all of them share.
//!
//! There is no ring 3 here: the kernel itself touches users' addresses, in the space that is live, as a system call
//! does. Its accesses are users' in all that matters: entries that do not allow writing fault in the kernel too (CR0.WP),
//! and supervisor access and execution prevention are off.
//!
//! `mmu` is the page tables as the processor reads them, `live` the space that this CPU translates users' addresses in, `access` the copying to and from them that may fail,
//! `fault` what happens when they are not mapped.

pub(crate) mod access;
pub(crate) mod fault;
pub(crate) mod live;
pub(crate) mod mmu;
