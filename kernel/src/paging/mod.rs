//! The kernel's own page tables: built from early frames while the loader's still stand, walked when live, owned once
//! there is an allocator, and from then on changed a page at a time; what is not written any more is protected for good.
//!
//! They map, and nothing else: the image with its segments' protections, the kernel's stack, the direct map, the
//! `kmap_local` window, and what is mapped in the vmap area. No page is writable and executable.

pub(crate) mod entry;

pub(crate) mod build;
pub(crate) mod direct_map;
pub(crate) mod live;
pub(crate) mod tables;

pub(crate) mod space;

pub(crate) mod protect;

pub(crate) mod adopt;
pub(crate) mod retire;
