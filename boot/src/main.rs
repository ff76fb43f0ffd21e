//! The loader's program: everything that touches the machine. What can be decided without it is in the library.
//!
//! On a host this is an empty program, so that the workspace builds there as a whole.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod bare;

#[cfg(not(target_os = "none"))]
fn main() {}
