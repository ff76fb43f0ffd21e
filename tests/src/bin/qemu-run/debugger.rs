//! The kernel under gdb.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use harness::guest::Profile;
use harness::launch::{Launch, QEMU, Select, Task};

use crate::options::MachineOptions;
use crate::session::build;

/// Becomes a gdb that has started QEMU, stopped before the first instruction, and ends it when it goes.
pub(crate) fn attach(options: &MachineOptions) -> anyhow::Result<ExitCode> {
    let guest = build(Profile::Dev)?;
    let launch = Launch { accel: options.accel()?, seed: options.seed, ..Launch::new(&guest, options.machine()) };
    let task = Task::Test { select: Select::All, after: None };

    // gdb talks to QEMU through a pipe, so there is no port to collide on, and shows what comes on standard error.
    let mut remote = format!("target remote | exec {QEMU}");
    let arguments = launch.arguments(&task).into_iter().map(OsString::into_string);
    for argument in arguments {
        let argument = argument.map_err(|argument| anyhow::anyhow!("gdb cannot pass on {}", argument.display()))?;
        remote.push(' ');
        remote.push_str(&quoted(&argument));
    }
    remote.push_str(" -S -gdb stdio -chardev file,id=serial,path=/dev/stderr -serial chardev:serial");

    let mut gdb = Command::new("gdb");
    gdb.arg("--quiet").arg(&guest.kernel).args(["-ex", &remote]);
    eprintln!("the machine waits; nothing is mapped yet, so stop it with: hbreak FUNCTION, continue");
    let error = gdb.exec();
    anyhow::bail!(
        "cannot start gdb: {error}; with it installed (apt-get install gdb), this attaches it by hand:\n\n  gdb --quiet {} -ex {}\n",
        guest.kernel.display(),
        quoted(&remote)
    );
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
