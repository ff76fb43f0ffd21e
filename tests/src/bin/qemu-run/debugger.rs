//! The kernel under gdb.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use bootloader_api::BootloaderConfig;
use bootloader_api::config::Mapping;
use harness::guest::Profile;
use harness::launch::{Launch, QEMU, Select, Task};
use object::{Object as _, ObjectSection as _};

use crate::options::{MachineOptions, Turns};
use crate::session::build;

/// Becomes a gdb that has started QEMU, stopped before the first instruction, and ends it when it goes.
pub(crate) fn attach(options: &MachineOptions, turns: Turns) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(options.image.is_none(), "gdb saves the machine's memory itself: monitor dump-guest-memory FILE");
    let guest = build(Profile::Dev)?;
    let launch = Launch {
        accel: options.accel(turns)?,
        seed: options.seed,
        dump: options.dump.as_ref(),
        ..Launch::new(&guest, options.machine())
    };
    let task = Task::Test { select: Select::All, after: None };

    // gdb talks to QEMU through a pipe, so there is no port to collide on. The serial line goes where gdb writes, too.
    let mut remote = format!("target remote | exec {QEMU}");
    let arguments = launch.arguments(&task).into_iter().map(OsString::into_string);
    for argument in arguments {
        let argument = argument.map_err(|argument| anyhow::anyhow!("gdb cannot pass on {}", argument.display()))?;
        remote.push(' ');
        remote.push_str(&quoted(&argument));
    }
    remote.push_str(" -S -gdb stdio -chardev file,id=serial,path=/proc/$PPID/fd/1,append=on -serial chardev:serial");

    let kernel = guest.symbols.to_str().context("gdb cannot read the kernel at such a path")?;
    let symbols = format!("symbol-file -o {:#x} {}", slide(&guest.symbols)?, quoted(kernel));
    println!("The machine stands before its first instruction. The kernel is not mapped yet, so stop it with\n");
    println!("  hbreak kernel::main\n  continue\n");
    let arguments = ["--quiet", "-ex", &symbols, "-ex", &remote];
    let error = Command::new("gdb").args(arguments).exec();
    let by_hand = arguments.map(quoted).join(" ");
    Err(error)
        .with_context(|| format!("cannot start gdb (apt-get install gdb); this is how it attaches:\n  gdb {by_hand}\n"))
}

/// How far from where it was linked the kernel runs: the loader puts it where its configuration says, or else first
/// into the range for all that has no fixed place.
fn slide(kernel: &Path) -> anyhow::Result<u64> {
    let file = fs::read(kernel)?;
    let elf = object::File::parse(&file[..])?;
    let section = elf.section_by_name(".bootloader-config").context("the kernel has no .bootloader-config")?;
    let config = BootloaderConfig::deserialize(section.data()?).map_err(anyhow::Error::msg)?;
    Ok(match (config.mappings.kernel_base, config.mappings.dynamic_range_start) {
        (Mapping::FixedAddress(address), _) => address,
        (Mapping::Dynamic, start) => start.unwrap_or_default(),
    })
}

/// One word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_gives_a_quoted_word_back() {
        for word in ["run=test seed=1", "4K$16M", "it's", "a\"b`c`", "'"] {
            let output = Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output().unwrap();
            assert_eq!(output.stdout, word.as_bytes());
        }
    }
}
