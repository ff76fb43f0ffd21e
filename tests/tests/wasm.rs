//! The WebAssembly module that the kernel runs is what its source says.

use std::fs;
use std::process::Command;

use anyhow::Context as _;
use harness::guest::workspace;

#[test]
fn the_committed_module_is_what_its_source_compiles_to() -> anyhow::Result<()> {
    let committed = workspace().join("kernel/wasm");
    let source = fs::read_to_string(committed.join("answers.rs"))?;
    let (_, behind) = source.split_once("```text\n").context("the source names no command")?;
    let (command, _) = behind.split_once("//! ```").context("the command has no end")?;

    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("answers.rs"), &source)?;
    let status = Command::new("sh").args(["-ec", &command.replace("//! ", "")]).current_dir(&directory).status()?;
    anyhow::ensure!(status.success(), "the source does not compile");
    let [compiled, committed] = [directory.path(), &committed].map(|place| fs::read(place.join("answers.wasm")));
    anyhow::ensure!(compiled? == committed?, "the command in the source makes another module");
    Ok(())
}
