//! Builds what the machine runs: the loader and the kernel.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use object::build::elf::{Builder, SectionData};
use object::elf::SHF_ALLOC;
use serde::Deserialize;
use tempfile::NamedTempFile;

/// What the guest is compiled for.
pub const TARGET: &str = "x86_64-unknown-none";

/// How the guest is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// With every assertion: for tests.
    Dev,
    /// The same, with an address sanitizer in the kernel.
    Sanitized,
    /// As it would be used: for figures.
    Release,
}

/// What is asked of the compiler for the kernel's sanitizer, whose runtime is the kernel's own: a call in front of every access to
/// memory, and in place of what copies it. The core library, which is compiled already, has none.
const SANITIZER: &[&str] = &[
    "--cfg=asan",
    "-Zsanitizer=kernel-address",
    "-Cunsafe-allow-abi-mismatch=sanitizer",
    "-Cllvm-args=-asan-instrumentation-with-call-threshold=0",
    "-Cllvm-args=-asan-kernel-mem-intrinsic-prefix=1",
    "-Cllvm-args=-asan-stack=0",
    "-Cllvm-args=-asan-globals=0",
];

/// The files of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The loader, which QEMU starts.
    pub boot: PathBuf,
    /// The kernel, which the loader starts; only what it loads, for all of the file takes the machine's memory.
    pub kernel: PathBuf,
    /// The kernel as it was linked, with the names of its addresses.
    pub symbols: PathBuf,
}

impl Guest {
    /// Builds all; quick if nothing has changed.
    ///
    /// # Errors
    /// Cargo fails (and has said why), or leaves out a file, or there is no writing beside it.
    pub fn build(profile: Profile) -> anyhow::Result<Guest> {
        let messages = match profile {
            // The sanitizer's runtime is the kernel's alone.
            Profile::Sanitized => cargo(&["--package=boot"], Profile::Dev)? + &cargo(&["--package=kernel"], profile)?,
            Profile::Dev | Profile::Release => cargo(&["--package=boot", "--package=kernel"], profile)?,
        };
        let Programs { boot, kernel: symbols } = Programs::among(&messages)?;
        let kernel = symbols.with_extension("stripped");
        strip(&symbols, &kernel).with_context(|| format!("cannot strip {}", symbols.display()))?;
        Ok(Guest { boot, kernel, symbols })
    }
}

/// Builds packages for the guest, and gives what cargo says of it.
fn cargo(packages: &[&str], profile: Profile) -> anyhow::Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace()).stdin(Stdio::null()).stderr(Stdio::inherit());
    command.args(["build", "--quiet", "--target", TARGET]).args(packages);
    command.arg("--message-format=json-render-diagnostics");
    match profile {
        Profile::Dev => {}
        Profile::Sanitized => {
            // Beside what is asked for anyhow; the other kernel is not to be built anew for it.
            command.arg(format!("--config=target.{TARGET}.rustflags={SANITIZER:?}")).arg("--target-dir=target/asan");
            // Sanitizers are for nightly compilers; so it is the same one.
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        Profile::Release => _ = command.arg("--release"),
    }
    let output = command.output().context("cannot run cargo")?;
    anyhow::ensure!(output.status.success(), "cargo could not build the kernel and its loader");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Writes a program without symbols and debug information.
fn strip(program: &Path, stripped: &Path) -> anyhow::Result<()> {
    let stripped_bytes = loaded_part(&fs::read(program)?)?;
    // Somebody may be starting the one that is there.
    let mut file = NamedTempFile::new_in(stripped.parent().context("a file lies in a directory")?)?;
    file.write_all(&stripped_bytes)?;
    file.persist(stripped)?;
    Ok(())
}

/// An ELF file with the sections alone that are loaded, and their names.
fn loaded_part(elf: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut elf = Builder::read(elf)?;
    for section in &mut elf.sections {
        section.delete = !section.sh_flags.contains(SHF_ALLOC) && !matches!(section.data, SectionData::SectionString);
    }
    for symbol in &mut elf.symbols {
        symbol.delete = true;
    }
    let mut stripped = Vec::new();
    elf.write(&mut stripped)?;
    Ok(stripped)
}

/// What cargo built.
#[derive(Debug, PartialEq, Eq)]
struct Programs {
    boot: PathBuf,
    kernel: PathBuf,
}

impl Programs {
    /// Finds them among cargo's messages, wherever the target directory is.
    fn among(messages: &str) -> anyhow::Result<Programs> {
        let find = |name: &str| {
            messages
                .lines()
                .filter_map(|line| serde_json::from_str::<Artifact>(line).ok())
                .filter(|artifact| artifact.target.name == name)
                .find_map(|artifact| artifact.executable)
                .with_context(|| format!("cargo built no program named '{name}'"))
        };
        Ok(Programs { boot: find("boot")?, kernel: find("kernel")? })
    }
}

/// The project's directory.
///
/// # Panics
/// Never: this crate does not lie in the root.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the project's directory")
}

#[derive(Deserialize)]
struct Artifact {
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[cfg(test)]
mod tests {
    use object::read::elf::ElfFile64;
    use object::{Endianness, Object as _, ObjectSection as _};

    use super::*;

    #[test]
    fn programs_are_told_from_libraries_of_the_same_name() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"kind":["lib"],"name":"boot"},"executable":null}
            {"reason":"compiler-artifact","target":{"kind":["bin"],"name":"boot"},"executable":"/t/boot"}
            warning: not JSON
            {"reason":"compiler-artifact","target":{"kind":["bin"],"name":"kernel"},"executable":"/t/kernel"}
            {"reason":"build-finished","success":true}"#;
        let programs = Programs::among(messages).unwrap();
        assert_eq!(programs, Programs { boot: "/t/boot".into(), kernel: "/t/kernel".into() });
        let error = Programs::among(messages.lines().nth(1).unwrap()).unwrap_err().to_string();
        assert!(error.contains("'boot'"), "{error}");
    }

    #[test]
    fn a_stripped_program_has_what_is_loaded_where_it_was_and_no_symbols() {
        let program = fs::read(std::env::current_exe().unwrap()).unwrap();
        let stripped = loaded_part(&program).unwrap();
        assert!(stripped.len() < program.len() / 2, "{} bytes of {}", stripped.len(), program.len());
        let [before, after] = [&program, &stripped].map(|elf| ElfFile64::<Endianness>::parse(&elf[..]).unwrap());
        for name in [".text", ".rodata", ".data", ".bss"] {
            let [was, is] = [&before, &after].map(|elf| elf.section_by_name(name).expect(name));
            assert_eq!(
                (was.address(), was.size(), was.file_range()),
                (is.address(), is.size(), is.file_range()),
                "{name}"
            );
            assert!(was.data().unwrap() == is.data().unwrap(), "{name}");
        }
        assert!(before.symbols().count() > 0 && after.symbols().count() == 0);
        assert!(after.section_by_name(".debug_info").is_none());
        assert!(loaded_part(&program[..program.len() / 2]).is_err());
    }
}
