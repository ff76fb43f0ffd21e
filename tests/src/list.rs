//! What a kernel says it can do: the answer to `run=list`.

use std::time::Duration;

use crate::launch::{Launch, Task};
use crate::run::End;

/// The names, in the order in which the kernel runs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Its tests.
    pub tests: Vec<String>,
    /// Its benchmarks.
    pub benches: Vec<String>,
}

impl Launch<'_> {
    /// Asks the kernel; `patience`: see [`Launch::run`].
    ///
    /// # Errors
    /// It does not answer, or names no test.
    pub fn list(&self, patience: Duration) -> anyhow::Result<List> {
        let run = self.run(&Task::List, patience, |_| ())?;
        let list = read(&run.serial);
        let answered = run.end == End::Success && !list.tests.is_empty();
        anyhow::ensure!(answered, "the kernel does not tell its tests; {}\n{}", run.end, run.serial);
        Ok(list)
    }
}

/// Reads the serial line.
#[must_use]
pub fn read(serial: &str) -> List {
    let names = |kind: &str| {
        let complete = serial.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        complete.filter_map(|line| Some(line.strip_prefix(kind)?.trim_end().to_owned())).collect()
    };
    List { tests: names("test "), benches: names("bench ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_order_and_a_line_cut_off_names_nothing() {
        let list = read("boot: 512 MiB\ntest b/one\r\nbench page/x\ntest a/two\ntests are fun\n test c\ntest a/thr");
        assert_eq!(list.tests, ["b/one", "a/two"]);
        assert_eq!(list.benches, ["page/x"]);
    }
}
