//! Runs QEMU to its end, or to the end of our patience, and keeps every byte that came until then.

use std::fmt;
use std::fs;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

use crate::keeper::{Keeper, Watched};
use crate::launch::{Launch, QEMU, Task};

/// What a boot left behind.
#[derive(Debug)]
pub struct Run {
    /// All that came over the serial line; bytes that are no UTF-8 are replaced.
    pub serial: String,
    /// How it ended.
    pub end: End,
}

/// How a boot ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The kernel said that all is well.
    Success,
    /// The kernel said that something failed.
    Failure,
    /// Nothing came for so long, in which QEMU could have done much; it was killed.
    Silent(Duration),
    /// More came than any kernel in its senses writes; QEMU was killed.
    Flood,
    /// QEMU ended by itself; with its last words.
    Qemu(ExitStatus, String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Success => write!(f, "the kernel exited with success"),
            End::Failure => write!(f, "the kernel exited with failure"),
            End::Silent(patience) => write!(f, "the kernel hung: no sign of life for {} s", patience.as_secs()),
            End::Flood => write!(f, "the kernel wrote more than {} MiB and was stopped", FLOOD >> 20),
            End::Qemu(status, words) if status.success() => {
                write!(f, "the machine was reset or switched off (a triple fault resets it) {words}")
            }
            End::Qemu(status, words) => write!(f, "QEMU ended with {status}: {words}"),
        }
    }
}

/// What `isa-debug-exit` makes of the kernel's 0x10 and 0x11.
const SUCCESS: i32 = 0x10 << 1 | 1;
const FAILURE: i32 = 0x11 << 1 | 1;

const FLOOD: usize = 64 << 20;

/// How often to look whether a machine that is watched has come to its end.
const LOOK: Duration = Duration::from_millis(100);

/// How often patience may run out for a QEMU that has not yet computed for so long.
const STARVED: u32 = 4;

impl Launch<'_> {
    /// Boots, and waits for the end. `watch` sees the serial line's bytes as they come; `patience` is how long the
    /// line may be silent while QEMU computes. A machine that others keep busy, so that QEMU gets little of it, is
    /// waited for four times as long.
    ///
    /// # Errors
    /// QEMU cannot be started.
    pub fn run(&self, task: &Task<'_>, patience: Duration, mut watch: impl FnMut(&[u8])) -> anyhow::Result<Run> {
        let mut qemu = Command::new(QEMU);
        qemu.args(self.arguments(task)).args(["-serial", "stdio"]);
        follow(&mut qemu, patience, self.keeper, &mut watch)
            .with_context(|| format!("cannot run {QEMU} (./qemu-run.sh installs what is missing)"))
    }
}

/// QEMU, which must not outlive us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn follow(
    command: &mut Command,
    patience: Duration,
    keeper: Option<&Keeper>,
    watch: &mut dyn FnMut(&[u8]),
) -> anyhow::Result<Run> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut running = Running(child);
    let mut stdout = running.0.stdout.take().context("no pipe from QEMU")?;
    let mut stderr = running.0.stderr.take().context("no pipe from QEMU")?;

    let (sender, chunks) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stdout.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    let words = thread::spawn(move || {
        let mut words = Vec::new();
        // What was read before an error is still worth showing.
        let _ = stderr.read_to_end(&mut words);
        String::from_utf8_lossy(&words).trim().to_owned()
    });

    let mut watched = keeper.map(Keeper::watch).transpose()?;
    let step = if watched.is_some() { LOOK.min(patience) } else { patience };
    let mut serial = Vec::new();
    let (mut silences, mut silent) = (0, Duration::ZERO);
    let mut computed = computed_by(running.0.id());
    let stopped = loop {
        match chunks.recv_timeout(step) {
            Ok(chunk) => {
                watch(&chunk);
                (silences, silent) = (0, Duration::ZERO);
                computed = computed_by(running.0.id());
                serial.extend(chunk);
                if serial.len() > FLOOD {
                    break Some(End::Flood);
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(end) = watched.as_mut().and_then(Watched::end) {
                    break Some(end);
                }
                silent += step;
                if silent < patience {
                    continue;
                }
                (silences, silent) = (silences + 1, Duration::ZERO);
                let enough = computed_by(running.0.id()).saturating_sub(computed) >= patience;
                if enough || silences == STARVED {
                    break Some(End::Silent(patience * silences));
                }
            }
            Err(RecvTimeoutError::Disconnected) => break None,
        }
    };
    if let (Some(watched), Some(end)) = (&mut watched, &stopped) {
        watched.save(end)?;
    }
    let end = match stopped {
        Some(end) => end,
        None => {
            let status = running.0.wait()?;
            match status.code() {
                Some(SUCCESS) => End::Success,
                Some(FAILURE) => End::Failure,
                _ => End::Qemu(status, words.join().unwrap_or_default()),
            }
        }
    };
    Ok(Run { serial: String::from_utf8_lossy(&serial).into_owned(), end })
}

/// How long a process has been executed, on all its threads together; no time, if it is gone.
fn computed_by(process: u32) -> Duration {
    /// `USER_HZ`: what Linux counts the time of processes in, whatever its own clock does.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Behind the name, which may have anything in it, stand utime and stime as the 12th and the 13th.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok()).map(|ticks| TICK * ticks).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, patience: Duration) -> (Run, Vec<u8>) {
        let mut seen = Vec::new();
        let run =
            follow(Command::new("sh").args(["-c", script]), patience, None, &mut |chunk| seen.extend(chunk)).unwrap();
        (run, seen)
    }

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn the_exit_device_tells_success_from_failure_and_all_else_is_qemus_own_end() {
        assert_eq!(shell("exit 33", LONG).0.end, End::Success);
        assert_eq!(shell("exit 35", LONG).0.end, End::Failure);
        let (run, _) = shell("echo 'no such machine' >&2; exit 1", LONG);
        assert_eq!(run.end.to_string(), "QEMU ended with exit status: 1: no such machine");
        assert!(shell("exit 0", LONG).0.end.to_string().contains("triple fault"));
        assert!(shell("kill -9 $$", LONG).0.end.to_string().contains("signal: 9"));
    }

    #[test]
    fn a_silent_kernel_is_killed_and_what_it_said_is_kept() {
        let (run, seen) = shell("printf 'KTAP version 1\\n1..2\\n# run a'; exec sleep 600", Duration::from_millis(300));
        assert_eq!(run.serial, "KTAP version 1\n1..2\n# run a");
        assert_eq!(seen, run.serial.as_bytes());
        assert_eq!(run.end, End::Silent(Duration::from_millis(300) * STARVED));
    }

    #[test]
    fn a_kernel_that_computes_without_a_word_is_killed_and_one_that_sleeps_has_computed_nothing() {
        let (run, _) = shell("while :; do :; done", Duration::from_millis(300));
        assert!(matches!(run.end, End::Silent(_)), "{:?}", run.end);
        let mut sleeper = Running(Command::new("sleep").arg("600").spawn().unwrap());
        let before = computed_by(std::process::id());
        while computed_by(std::process::id()) < before + Duration::from_millis(200) {
            std::hint::spin_loop();
        }
        assert!(computed_by(sleeper.0.id()) < Duration::from_millis(200));
        sleeper.0.kill().unwrap();
        sleeper.0.wait().unwrap();
        assert_eq!(computed_by(sleeper.0.id()), Duration::ZERO);
    }

    #[test]
    fn bytes_that_are_no_text_do_not_lose_the_text_around_them() {
        let (run, _) = shell("printf 'ok\\n\\377\\300\\nend\\n'; exit 33", LONG);
        assert_eq!(run.serial, "ok\n\u{fffd}\u{fffd}\nend\n");
    }

    #[test]
    fn a_kernel_that_never_stops_talking_is_stopped() {
        assert_eq!(shell("exec yes", LONG).0.end, End::Flood);
    }
}
