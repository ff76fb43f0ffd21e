//! A debugger that reads and writes a machine's physical memory, and lets it go on: gdb's remote protocol, of which QEMU's stub
//! speaks more than this.
//!
//! ```text
//!   $ what is meant # sum      answered with +, and then alike
//! ```
//!
//! Source: "Debugging with GDB", appendix E; QEMU, `docs/system/gdb.rst` (`Qqemu.PhyMemMode`).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

/// How long an answer may take on a machine that others keep busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection. The machine stands as long as there is one.
#[derive(Debug)]
pub struct Debugger<S = UnixStream>(S);

impl Debugger {
    /// Stops the machine whose QEMU listens there.
    ///
    /// # Errors
    /// Nobody listens, or nobody who knows about physical memory.
    pub fn attach(socket: &Path) -> anyhow::Result<Debugger> {
        let stream = UnixStream::connect(socket).context("QEMU waits for no debugger")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut debugger = Debugger(stream);
        let answer = debugger.ask("Qqemu.PhyMemMode:1")?;
        anyhow::ensure!(answer == "OK", "QEMU shows no physical memory: {answer}");
        Ok(debugger)
    }
}

impl<S: Read + Write> Debugger<S> {
    /// Reads a byte of physical memory.
    ///
    /// # Errors
    /// There is none, or QEMU is gone.
    pub fn read(&mut self, address: u64) -> anyhow::Result<u8> {
        let answer = self.ask(&format!("m{address:x},1"))?;
        u8::from_str_radix(&answer, 16).with_context(|| format!("nothing to be read at {address:#x}: {answer}"))
    }

    /// Writes a byte of physical memory.
    ///
    /// # Errors
    /// There is none, or QEMU is gone.
    pub fn write(&mut self, address: u64, byte: u8) -> anyhow::Result<()> {
        let answer = self.ask(&format!("M{address:x},1:{byte:02x}"))?;
        anyhow::ensure!(answer == "OK", "nothing to be written at {address:#x}: {answer}");
        Ok(())
    }

    /// Lets the machine go on, and goes.
    ///
    /// # Errors
    /// QEMU is gone.
    pub fn detach(mut self) -> anyhow::Result<()> {
        let answer = self.ask("D")?;
        anyhow::ensure!(answer == "OK", "QEMU does not let go: {answer}");
        Ok(())
    }

    /// Says something, and that what was heard before has arrived, and waits for the answer.
    ///
    /// Says nothing after the answer: a machine that is let go may be over before it could be heard.
    fn ask(&mut self, what: &str) -> anyhow::Result<String> {
        self.0.write_all(format!("+${what}#{:02x}", sum(what.as_bytes())).as_bytes())?;
        loop {
            let said = self.hear()?;
            // That the machine stands is told whenever it comes to stand, and is no answer.
            if !said.starts_with(['T', 'S']) {
                return Ok(said);
            }
        }
    }

    /// Waits for the next packet.
    fn hear(&mut self) -> anyhow::Result<String> {
        // What comes before is that ours has arrived.
        while self.byte()? != b'$' {}
        let mut said = Vec::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => said.push(byte),
            }
        }
        let checksum = String::from_utf8_lossy(&[self.byte()?, self.byte()?]).into_owned();
        anyhow::ensure!(u8::from_str_radix(&checksum, 16) == Ok(sum(&said)), "a packet is garbled");
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    fn byte(&mut self) -> anyhow::Result<u8> {
        let mut byte = [0];
        self.0.read_exact(&mut byte).context("the debugger's connection is gone")?;
        Ok(byte[0])
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stub that gives answers in a row, keeps what it was told, and is gone with its last answer.
    struct Stub {
        answers: std::io::Cursor<Vec<u8>>,
        told: Vec<u8>,
    }

    impl Read for Stub {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.answers.read(buffer)
        }
    }

    impl Write for Stub {
        fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
            let over = self.answers.position() == self.answers.get_ref().len() as u64;
            if over { Err(std::io::ErrorKind::BrokenPipe.into()) } else { self.told.write(buffer) }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn debugger(answers: &str) -> Debugger<Stub> {
        Debugger(Stub { answers: std::io::Cursor::new(answers.into()), told: Vec::new() })
    }

    #[test]
    fn bytes_are_asked_for_and_told_as_the_protocol_wants_it() {
        let mut reader = debugger("+$5a#96");
        assert_eq!(reader.read(0xabc).unwrap(), 0x5a);
        assert_eq!(String::from_utf8(reader.0.told).unwrap(), "+$mabc,1#f0");
        let mut writer = debugger("$T02thread:01;#04+$OK#9a");
        writer.write(0x10, 0xf).unwrap();
        assert_eq!(String::from_utf8(writer.0.told).unwrap(), "+$M10,1:0f#db");
    }

    #[test]
    fn a_machine_that_is_over_as_soon_as_it_is_let_go_was_let_go() {
        debugger("+$OK#9a").detach().unwrap();
    }

    #[test]
    fn an_error_a_garbled_answer_and_none_are_told_apart() {
        assert!(debugger("+$E14#aa").read(0).unwrap_err().to_string().contains("nothing to be read"));
        assert!(debugger("+$5a#97").read(0).unwrap_err().to_string().contains("garbled"));
        assert!(debugger("+$5").read(0).unwrap_err().to_string().contains("gone"));
    }
}
