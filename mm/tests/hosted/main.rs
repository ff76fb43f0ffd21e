//! What whole allocators on hosted machines go through, in one program: what they consist of is compiled once.

mod beside;
mod cases;
mod forgotten;
mod readme;
mod reports;
mod soak;
mod unwinding;
