//! What is done half is undone, however it ends: shrinkers, stores and constructors are others' code, may panic, and somebody may
//! catch that.
//!
//! Cost: none beyond what it undoes.

/// Does something when it drops, unless it is [forgotten](Self::forget) before.
#[must_use = "what is to be undone later is undone at once if this drops"]
pub(crate) struct Undo<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Undo<F> {
    pub(crate) const fn new(undo: F) -> Self {
        Self(Some(undo))
    }

    /// All is done: nothing is to be undone any more.
    pub(crate) fn forget(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for Undo<F> {
    fn drop(&mut self) {
        if let Some(undo) = self.0.take() {
            undo();
        }
    }
}
