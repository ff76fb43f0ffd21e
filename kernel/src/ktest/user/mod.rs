//! What must hold at users' addresses, whoever fills the page tables.

mod faults;
mod handmade;
mod spaces;
mod tables;
mod users;
