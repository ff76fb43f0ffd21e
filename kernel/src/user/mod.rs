//! Users' memory, seen from the kernel: address spaces that come and go below a kernel's half that all of them share.
//!
//! There is no ring 3 here: the kernel itself touches users' addresses, in the space that is live, as a system call
//! does. Its accesses are users' in all that matters: entries that do not allow writing fault in the kernel too (CR0.WP).
//! Outside of the routines that copy, the processor keeps it out.
//!
//! `mmu` is the page tables as the processor reads them, `live` the space that this CPU translates users' addresses in, `access` the copying to and from them that may fail,
//! `fault` what happens when they are not mapped, `prevention` what keeps the kernel from them otherwise.

pub(crate) mod access;
pub(crate) mod fault;
pub(crate) mod live;
pub(crate) mod mmu;
pub(crate) mod prevention;
