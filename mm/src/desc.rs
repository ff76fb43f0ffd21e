//! Page descriptors: what the two words say (`word`), and where a frame's descriptor is (`map`).

pub(crate) mod map;
pub(crate) mod word;
