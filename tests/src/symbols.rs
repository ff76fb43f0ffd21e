//! Names for the addresses in the kernel's file.

use std::fmt;
use std::path::Path;

use addr2line::Loader;
use anyhow::anyhow;

use crate::guest::workspace;

/// A kernel's debug information.
pub struct Symbols(Loader);

impl fmt::Debug for Symbols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Symbols")
    }
}

impl Symbols {
    /// Reads a kernel's file.
    ///
    /// # Errors
    /// It is no ELF file.
    pub fn load(elf: &Path) -> anyhow::Result<Symbols> {
        Loader::new(elf).map(Symbols).map_err(|error| anyhow!("no symbols in {}: {error}", elf.display()))
    }

    /// The function at an address with its file and line, and those that it was inlined into; innermost first.
    #[must_use]
    pub fn describe(&self, address: u64) -> Vec<String> {
        let mut names = Vec::new();
        // The library reckons with the byte behind it.
        if address == u64::MAX {
            return names;
        }
        if let Ok(mut frames) = self.0.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let function =
                    frame.function.as_ref().and_then(|function| Some(function.demangle().ok()?.into_owned()));
                let location =
                    frame.location.and_then(|place| Some(format!(" ({}:{})", shorten(place.file?), place.line?)));
                if let Some(function) = function {
                    names.push(function + &location.unwrap_or_default());
                }
            }
        }
        if names.is_empty() {
            names.extend(
                self.0.find_symbol(address).map(|symbol| addr2line::demangle_auto(symbol.into(), None).into_owned()),
            );
        }
        names
    }
}

/// A source file's path from the project's directory, or from the one that its library came in.
fn shorten(file: &str) -> &str {
    if let Some((_, library)) = file.split_once("/registry/src/") {
        return library.split_once('/').map_or(library, |(_registry, library)| library);
    }
    if let Some((_, library)) = file.split_once("/library/").filter(|_| file.starts_with("/rustc/")) {
        return library;
    }
    workspace().to_str().and_then(|root| file.strip_prefix(root)).map_or(file, |rest| rest.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn a_function_with_a_name() -> u32 {
        std::hint::black_box(line!())
    }

    #[test]
    fn an_address_in_a_program_gets_its_function_file_and_line() {
        let program = std::env::current_exe().unwrap();
        let symbols = Symbols::load(&program).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let base = maps.lines().find(|line| line.ends_with(program.to_str().unwrap())).unwrap();
        let base = u64::from_str_radix(base.split_once('-').unwrap().0, 16).unwrap();
        let address = a_function_with_a_name as *const () as u64 - base + symbols.0.relative_address_base();

        let names = symbols.describe(address);
        // Last, for the names begin with what was inlined into it.
        let expected = "harness::symbols::tests::a_function_with_a_name (tests/src/symbols.rs:";
        assert!(names.last().unwrap().starts_with(expected), "{names:?}");
        for nowhere in [u64::MAX, u64::MAX - 1, 1 << 63] {
            assert_eq!(symbols.describe(nowhere), [] as [String; 0]);
        }
    }

    #[test]
    fn a_librarys_files_lose_the_place_where_it_was_put() {
        let file = "/home/me/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/spin-0.12.2/src/once.rs";
        assert_eq!(shorten(file), "spin-0.12.2/src/once.rs");
        assert_eq!(shorten("/rustc/59807616/library/core/src/panicking.rs"), "core/src/panicking.rs");
        assert_eq!(shorten("/elsewhere/library/a.rs"), "/elsewhere/library/a.rs");
    }

    #[test]
    fn what_is_no_elf_file_has_no_symbols() {
        let text = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        assert!(Symbols::load(text).is_err());
    }
}
