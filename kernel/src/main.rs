//! The kernel around `mm`.
fn main() {}
