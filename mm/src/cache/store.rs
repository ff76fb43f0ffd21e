//! Where contents come from and go to: what stands behind a memory object.
#![expect(unsafe_code, reason = "of a counted store no more is known than that it is one")]

use thiserror::Error;

use crate::machine::Machine;
use crate::slab::{Counted, KmemCaches, NoMemory};
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
/// must not need any. It is dropped by whoever has the last reference to what it stands behind.
pub trait Store: Send + Sync {
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

/// One store may stand behind several mappings, and be asked by others.
impl<M: Machine, S: Store> Store for Counted<'_, M, S> {
    fn size(&self) -> FileOffset {
        (**self).size()
    }

    fn read(&self, offset: FileOffset, bytes: &mut [u8]) -> Result<(), StoreError> {
        (**self).read(offset, bytes)
    }

    fn write(&self, offset: FileOffset, bytes: &[u8]) -> Result<(), StoreError> {
        (**self).write(offset, bytes)
    }
}

/// A store of whatever kind, which stays as long as it is referred to.
pub(crate) type StoreRef<'a, M> = Counted<'a, M, dyn Store>;

/// A reference to a store, of which no more is known than that it is one.
pub(crate) fn any_store<'a, M: Machine>(
    caches: &'a KmemCaches<'a, M>,
    store: impl Store + 'static,
) -> Result<StoreRef<'a, M>, NoMemory> {
    let store = Counted::new(caches, store).map_err(|(_, error)| error)?;
    // SAFETY: it gives back what it gets.
    Ok(unsafe { store.unsized_by::<dyn Store>(|store| store) })
}
