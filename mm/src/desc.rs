//! Page descriptors: what the two words say (`allocator_word`, `owner_word`, both in `word`), and where a frame's descriptor is (`map`).

pub(crate) mod allocator_word;
pub(crate) mod map;
pub(crate) mod owner_word;
pub(crate) mod word;
