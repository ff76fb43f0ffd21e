//! How much a test does. An interpreter takes some thousand times as long, and finds undefined behaviour wherever it is
//! done once: there a test does less of the same.

/// The first, or the second where an interpreter runs the test.
pub const fn scaled<T: Copy>(native: T, interpreted: T) -> T {
    if cfg!(miri) { interpreted } else { native }
}
