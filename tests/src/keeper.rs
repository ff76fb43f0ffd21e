//! Saves a machine's memory before it is gone: when the kernel says that it has come to its end, when it is silent for too
//! long, when the machine is reset.
//!
//! The device through which a kernel leaves QEMU takes the memory with it. So there is another in its place, which notes what
//! the kernel writes there: the kernel stops then, and is looked at.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

use crate::monitor::Monitor;
use crate::run::End;

/// How long QEMU may take to answer, and to write all of the machine's memory.
const PATIENCE: Duration = Duration::from_secs(300);

/// Saves the memory of the machines of a run to one file: that of the first that comes to a bad end, or else of the last.
#[derive(Debug)]
pub struct Keeper {
    directory: TempDir,
    image: PathBuf,
    /// Whether there is one of a bad end.
    has_worst: AtomicBool,
}

impl Keeper {
    /// One that writes to a file.
    ///
    /// # Errors
    /// There is no place for what QEMU and it say to each other.
    pub fn new(image: &Path) -> anyhow::Result<Keeper> {
        let directory = TempDir::new().context("no temporary directory")?;
        // QEMU runs where this does, and takes no path that is not its own.
        let image = std::path::absolute(image)?;
        Ok(Keeper { directory, image, has_worst: AtomicBool::new(false) })
    }

    /// Where QEMU's monitor listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("monitor")
    }

    /// What the kernel writes where it would leave.
    pub(crate) fn last_words(&self) -> PathBuf {
        self.directory.path().join("exit")
    }

    /// Begins to watch a machine that has just been started.
    pub(crate) fn watch(&self) -> anyhow::Result<Watched<'_>> {
        Ok(Watched { keeper: self, monitor: Monitor::connect(&self.socket(), PATIENCE)? })
    }
}

/// A machine that is watched.
#[derive(Debug)]
pub(crate) struct Watched<'k> {
    keeper: &'k Keeper,
    monitor: Monitor,
}

impl Watched<'_> {
    /// How the machine has come to its end, if it has.
    pub(crate) fn end(&mut self) -> Option<End> {
        match fs::read(self.keeper.last_words()).ok()?.first() {
            Some(0x10) => Some(End::Success),
            Some(_) => Some(End::Failure),
            None => self.monitor.is_shut_down().then(|| End::Qemu(ExitStatus::default(), String::new())),
        }
    }

    /// Saves the memory of a machine that has come to this end.
    pub(crate) fn save(&mut self, end: &End) -> anyhow::Result<()> {
        let Keeper { image, has_worst, .. } = self.keeper;
        // The next machine has not said anything yet.
        fs::write(self.keeper.last_words(), [])?;
        if has_worst.load(Ordering::Relaxed) {
            return Ok(());
        }
        // QEMU writes files that cannot be written again.
        if let Err(error) = fs::remove_file(image)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("cannot write {}", image.display()));
        }
        self.monitor.stop()?;
        self.monitor.save(image).with_context(|| format!("cannot save the machine's memory to {}", image.display()))?;
        has_worst.store(*end != End::Success, Ordering::Relaxed);
        eprintln!("the machine's memory is in {}: ./qemu-run.sh fsck checks it", image.display());
        Ok(())
    }
}
