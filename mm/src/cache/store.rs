//! Where contents come from and go to: what stands behind a memory object.

use thiserror::Error;

use crate::units::FileOffset;

/// Why bytes were not read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum StoreError {
    /// The device has failed.
    #[error("the store has failed at {:#x}", .0.0)]
    Failed(FileOffset),
    /// The bytes lie behind the store's end.
    #[error("the store ends before {:#x}", .0.0)]
    Beyond(FileOffset),
    /// There is no room left.
    #[error("the store is full")]
    Full,
}

/// A file, a device, a place for what is swapped out: bytes that are read and written in runs.
///
/// It is called with a folio's lock held and must not come back to the cache; to write is to make memory free, so it
/// must not need any.
pub trait Store: Sync {
    /// How many bytes there are.
    fn size(&self) -> FileOffset;

    /// Reads bytes.
    ///
    /// # Errors
    /// See [`StoreError`]; what `bytes` holds then does not matter.
    fn read(&self, offset: FileOffset, bytes: &mut [u8]) -> Result<(), StoreError>;

    /// Writes bytes. Reading gives them back from then on.
    ///
    /// # Errors
    /// See [`StoreError`]; what the store holds there then does not matter: they will be written again.
    fn write(&self, offset: FileOffset, bytes: &[u8]) -> Result<(), StoreError>;
}
