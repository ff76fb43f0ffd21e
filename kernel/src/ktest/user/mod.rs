//! What must hold at users' addresses, whoever fills the page tables.

mod cpus;
mod faults;
mod handmade;
mod prevented;
mod spaces;
mod tables;
mod users;
