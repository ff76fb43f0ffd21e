//! A store that its test looks at, too.

use std::sync::Arc;

use crate::cache::{Store, StoreError};
use crate::units::FileOffset;

impl<S: Store + ?Sized> Store for Arc<S> {
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
