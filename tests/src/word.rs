//! A value on the kernel's command line.

use std::fmt;
use std::str::FromStr;

/// Text that the kernel's command line can carry as (part of) one word: a test's name, a filter.
///
/// # Invariants
/// Not empty, and printable ASCII without spaces: the command line is split at them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word(String);

impl Word {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Word {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Word, anyhow::Error> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            anyhow::bail!(
                "{text:?} cannot stand on the kernel's command line: it takes printable ASCII without spaces"
            );
        }
        Ok(Word(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_survives_splitting_at_spaces_is_a_word() {
        assert_eq!("page/order0_pair".parse::<Word>().unwrap().as_str(), "page/order0_pair");
        for text in ["", " ", "a b", "a\n", "tab\t", "größe", "nul\0"] {
            assert!(text.parse::<Word>().is_err(), "{text:?}");
        }
    }
}
