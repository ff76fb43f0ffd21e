//! Folios: one owner for 2^k pages, in one piece of state whatever k is.
//!
//! What a folio keeps stands with the other owners (`owner::folio`); here is what is done with it: `lock` who may,
//! `contents` its bytes, `split` one folio made many, and many one.
//!
//! Invariants: FOLIO-2 (`contents`), DESC-1 (`split`).

mod contents;
mod lock;
mod split;

pub(crate) use contents::copy_frames;
pub(crate) use lock::FrozenFolio;
pub use lock::LockedFolio;
pub use split::{FolioRow, JoinError, SplitError, SplitTo};
