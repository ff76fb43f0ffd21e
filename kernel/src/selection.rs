//! Which of the registered tests and benchmarks the command line asks for.

use alloc::string::String;

/// The words that choose by name; without any, everything is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only names that contain this.
    pub filter: Option<String>,
    /// Only the name that is this.
    pub exact: Option<String>,
    /// Only names behind this one in the order of names, whether or not it exists.
    pub after: Option<String>,
}

impl Selection {
    /// Whether `name` is chosen.
    pub fn admits(&self, name: &str) -> bool {
        self.filter.as_deref().is_none_or(|part| name.contains(part))
            && self.exact.as_deref().is_none_or(|whole| name == whole)
            && self.after.as_deref().is_none_or(|before| name > before)
    }

    /// Whether `name` is chosen by its own full name.
    pub fn names(&self, name: &str) -> bool {
        self.exact.as_deref() == Some(name) && self.admits(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_words_must_agree() {
        let everything = Selection::default();
        assert!(everything.admits("heap/grows") && !everything.names("heap/grows"));
        let some = Selection { filter: Some("heap".into()), after: Some("heap/b".into()), exact: None };
        assert!(some.admits("heap/c") && !some.admits("heap/b") && !some.admits("heap/a") && !some.admits("kmap/c"));
        let one = Selection { exact: Some("heap/c".into()), ..some };
        assert!(one.admits("heap/c") && one.names("heap/c") && !one.admits("heap/cc"));
    }
}
