//! The kernel's own page tables: built from early frames while the loader's still stand, and walked when live.
//!
//! They map, and nothing else: the image with its segments' protections, the kernel's stack, the direct map, the
//! `kmap_local` window. No page is writable and executable.

pub(crate) mod build;
pub(crate) mod live;
