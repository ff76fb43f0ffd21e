//! Page descriptors: what the two words say (`word`, `owner_word`), and where a frame's descriptor is (`map`).

pub(crate) mod map;
pub(crate) mod owner_word;
pub(crate) mod word;
