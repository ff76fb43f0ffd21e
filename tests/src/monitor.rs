//! QEMU's monitor (QMP): stops the machine, saves its memory, lets it go on.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

/// A conversation with the monitor.
#[derive(Debug)]
pub struct Monitor {
    replies: BufReader<UnixStream>,
    commands: UnixStream,
}

/// How many instructions QEMU executes between two looks at whether it is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// As many as it translates at a time.
    Blocks,
    /// One: the machine can be stopped before any.
    Single,
}

impl Monitor {
    /// Connects to the monitor at a socket, which QEMU makes when it starts: it is waited for.
    ///
    /// # Errors
    /// There is no QEMU behind it in time, or it says what no monitor does.
    pub fn connect(socket: &Path, patience: Duration) -> anyhow::Result<Monitor> {
        let began = Instant::now();
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if began.elapsed() > patience => return Err(error).context("QEMU's monitor is not there"),
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        };
        stream.set_read_timeout(Some(patience))?;
        let mut monitor = Monitor { replies: BufReader::new(stream.try_clone()?), commands: stream };
        monitor.reply().context("QEMU's monitor does not greet")?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Stops the machine where it is.
    ///
    /// # Errors
    /// QEMU has ended.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.execute("stop", &json!({})).map(drop)
    }

    /// Lets the machine go on.
    ///
    /// # Errors
    /// QEMU has ended.
    pub fn go_on(&mut self) -> anyhow::Result<()> {
        self.execute("cont", &json!({})).map(drop)
    }

    /// Ends QEMU.
    ///
    /// # Errors
    /// It has ended.
    pub fn quit(&mut self) -> anyhow::Result<()> {
        self.execute("quit", &json!({})).map(drop)
    }

    /// Says where the machine can be stopped from now on.
    ///
    /// # Errors
    /// QEMU has ended.
    pub fn set_steps(&mut self, steps: Steps) -> anyhow::Result<()> {
        let word = if steps == Steps::Single { "on" } else { "off" };
        // The older name, and the newer one: the monitor for people answers to one of them.
        for name in ["singlestep", "one-insn-per-tb"] {
            self.execute("human-monitor-command", &json!({ "command-line": format!("{name} {word}") }))?;
        }
        Ok(())
    }

    /// Writes the memory of a machine that stands still to a file, as an ELF core file.
    ///
    /// # Errors
    /// QEMU has ended, or cannot write.
    pub fn save(&mut self, image: &Path) -> anyhow::Result<()> {
        let image = image.to_str().context("QEMU cannot write to such a path")?;
        let arguments = json!({ "paging": false, "protocol": format!("file:{image}") });
        self.execute("dump-guest-memory", &arguments).map(drop)
    }

    /// Whether the machine was reset or switched off, where QEMU does not end with that.
    pub fn is_shut_down(&mut self) -> bool {
        let status = self.execute("query-status", &json!({}));
        status.is_ok_and(|status| status.get("status").and_then(Value::as_str) == Some("shutdown"))
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> anyhow::Result<Value> {
        writeln!(self.commands, "{}", json!({ "execute": command, "arguments": arguments }))?;
        loop {
            let mut reply = self.reply()?;
            if let Some(error) = reply.get("error") {
                anyhow::bail!("QEMU's monitor refuses {command}: {error}");
            }
            // What else comes are events.
            if let Some(result) = reply.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    fn reply(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        anyhow::ensure!(self.replies.read_line(&mut line)? > 0, "QEMU has ended");
        Ok(serde_json::from_str(&line)?)
    }
}
