//! How the kernel is booted in QEMU, and the command line that makes it happen.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;
use std::path::Path;

use crate::accel::Accel;
use crate::faults::Faults;
use crate::guest::Guest;
use crate::keeper::Keeper;
use crate::machine::Machine;
use crate::word::Word;

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";

/// What runs where.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The loader's ELF file.
    pub boot: &'a Path,
    /// The kernel's ELF file; `None` leaves the loader without one.
    pub kernel: Option<&'a Path>,
    /// The machine.
    pub machine: Machine,
    /// Who executes the instructions.
    pub accel: Accel,
    /// Where the kernel's random numbers start; `None`: where the kernel likes.
    pub seed: Option<u64>,
    /// Which allocations fail where a test has some fail.
    pub faults: Faults,
    /// The reports on memory to print in the end, with commas between them, or `all`; `None`: those that the kernel
    /// likes.
    pub dump: Option<&'a Word>,
    /// Tables that firmware lists behind its own.
    pub tables: &'a [FirmwareTable<'a>],
    /// Where QEMU's monitor listens, if it is to have one.
    pub monitor: Option<&'a Path>,
    /// Who saves the machine's memory in the end, if anybody does; then the monitor is theirs.
    pub keeper: Option<&'a Keeper>,
    /// The socket on which a debugger is waited for, while the machine runs.
    pub debugger: Option<&'a Path>,
}

/// One of ACPI's tables, with a header that is right.
#[derive(Clone, Copy, Debug)]
pub struct FirmwareTable<'a> {
    /// Its name: four letters.
    pub signature: &'a str,
    /// Its revision.
    pub revision: u8,
    /// The file with all that stands behind its header.
    pub body: &'a Path,
}

/// What the kernel is to do.
#[derive(Clone, Debug)]
pub enum Task<'a> {
    /// Name its tests and benchmarks.
    List,
    /// Run tests.
    Test {
        /// Which ones.
        select: Select,
        /// Start behind this one.
        after: Option<Word>,
    },
    /// Run the benchmarks whose names contain the word.
    Bench(Option<Word>),
    /// Replay a recorded trace.
    Replay {
        /// The trace, unpacked.
        trace: &'a Path,
        /// Check all invariants every so many operations.
        check: Option<NonZeroU32>,
    },
    /// Nothing but print reports, of which there must be some to print.
    Dump,
    /// Whatever the file says: it is the command line, and there are no other words.
    Verbatim(&'a Path),
}

/// Which tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// All that the list names.
    All,
    /// Those whose names contain the word.
    Containing(Word),
    /// This one, also if the list does not name it.
    Exact(Word),
}

impl<'a> Launch<'a> {
    /// Translated by QEMU, with the kernel's own seed.
    #[must_use]
    pub fn new(guest: &'a Guest, machine: Machine) -> Launch<'a> {
        Launch {
            boot: &guest.boot,
            kernel: Some(&guest.kernel),
            machine,
            accel: Accel::Tcg,
            seed: None,
            faults: Faults::default(),
            dump: None,
            tables: &[],
            monitor: None,
            keeper: None,
            debugger: None,
        }
    }

    /// The kernel's command line, unless it is in a file.
    #[must_use]
    pub fn cmdline(&self, task: &Task<'_>) -> String {
        let mut words = Vec::new();
        match task {
            Task::List => words.push("run=list".to_owned()),
            Task::Test { select, after } => {
                words.push("run=test".to_owned());
                match select {
                    Select::All => {}
                    Select::Containing(part) => words.push(format!("filter={part}")),
                    Select::Exact(name) => words.push(format!("exact={name}")),
                }
                words.extend(after.as_ref().map(|name| format!("after={name}")));
            }
            Task::Bench(filter) => {
                words.push("run=bench".to_owned());
                words.extend(filter.as_ref().map(|part| format!("filter={part}")));
            }
            Task::Replay { check, .. } => {
                words.push("run=replay".to_owned());
                words.extend(check.map(|every| format!("check={every}")));
            }
            Task::Dump | Task::Verbatim(_) => {}
        }
        words.extend(self.dump.map(|reports| format!("dump={reports}")));
        words.extend(self.seed.map(|seed| format!("seed={seed}")));
        words.extend(self.faults.words());
        words.extend(self.machine.words());
        words.join(" ")
    }

    /// QEMU's arguments, but for where the serial line goes.
    #[must_use]
    pub fn arguments(&self, task: &Task<'_>) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |option: &str, value: &OsStr| arguments.extend([option.into(), value.into()]);
        for (option, value) in self.machine.arguments().into_iter().chain(self.accel.arguments()) {
            add(option, value.as_ref());
        }
        add("-display", "none".as_ref());
        match self.keeper {
            None => add("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04".as_ref()),
            Some(keeper) => {
                add("-chardev", &with_value("file,id=exit,path=".to_owned(), keeper.last_words().as_ref()));
                add("-device", "isa-debugcon,iobase=0xf4,chardev=exit".as_ref());
                add("-action", "shutdown=pause".as_ref());
            }
        }
        add("-kernel", self.boot.as_ref());
        if let Some(kernel) = self.kernel {
            add("-initrd", kernel.as_ref());
        }
        for FirmwareTable { signature, revision, body } in self.tables {
            let option = format!("sig={signature},rev={revision},data=");
            add("-acpitable", &with_value(option, body.as_ref()));
        }
        add(
            "-fw_cfg",
            &match task {
                Task::Verbatim(file) => fw_cfg("opt/mm/cmdline", "file", file.as_ref()),
                _ => fw_cfg("opt/mm/cmdline", "string", self.cmdline(task).as_ref()),
            },
        );
        if let Some(socket) = self.debugger {
            let listening = String::from("socket,id=debugger,server=on,wait=off,path=");
            add("-chardev", &with_value(listening, socket.as_ref()));
            add("-gdb", "chardev:debugger".as_ref());
        }
        if let Task::Replay { trace, .. } = task {
            add("-fw_cfg", &fw_cfg("opt/mm/trace", "file", trace.as_ref()));
        }
        let socket = self.keeper.map(Keeper::socket).or_else(|| self.monitor.map(Path::to_owned));
        if let Some(socket) = socket {
            add("-chardev", &with_value("socket,id=monitor,server=on,wait=off,path=".to_owned(), socket.as_ref()));
            add("-mon", "chardev=monitor,mode=control".as_ref());
        }
        arguments.extend(["-nodefaults".into(), "-no-reboot".into()]);
        arguments
    }
}

/// The value of an `-fw_cfg` option.
fn fw_cfg(name: &str, source: &str, value: &OsStr) -> OsString {
    with_value(format!("name={name},{source}="), value)
}

/// An option's value up to its last key, and that key's; in QEMU's values a comma inside is written twice.
fn with_value(option: String, value: &OsStr) -> OsString {
    let mut option = OsString::from(option);
    for (index, piece) in value.as_encoded_bytes().split(|byte| *byte == b',').enumerate() {
        if index > 0 {
            option.push(",,");
        }
        option.push(std::os::unix::ffi::OsStrExt::from_bytes(piece) as &OsStr);
    }
    option
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use super::*;
    use crate::machine::Reserved;
    use crate::size::Size;

    const RESERVED: &[Reserved] = &[
        Reserved { start: Size::mib(16), size: Size::bytes(0x1000) },
        Reserved { start: Size::mib(32), size: Size::bytes(3) },
    ];

    fn launch() -> Launch<'static> {
        let machine = Machine {
            fake_nodes: NonZeroU8::new(2),
            reserved: RESERVED,
            ..Machine::with_memory(Size::mib(512)).with_lowmem(Size::mib(64))
        };
        Launch {
            boot: Path::new("boot"),
            kernel: Some(Path::new("kernel")),
            machine,
            accel: Accel::Tcg,
            seed: None,
            faults: Faults::default(),
            dump: None,
            tables: &[],
            monitor: None,
            keeper: None,
            debugger: None,
        }
    }

    fn value_of(launch: &Launch<'_>, task: &Task<'_>, option: &str) -> Vec<String> {
        let text: Vec<_> = launch.arguments(task).iter().map(|word| word.to_str().unwrap().to_owned()).collect();
        text.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].clone()).collect()
    }

    #[test]
    fn the_kernel_reads_its_task_first_and_then_how_its_machine_is_bent() {
        let select = Select::Exact("page/order0".parse().unwrap());
        let task = Task::Test { select, after: Some("page/a".parse().unwrap()) };
        assert_eq!(
            Launch { seed: Some(u64::MAX), ..launch() }.cmdline(&task),
            "run=test exact=page/order0 after=page/a seed=18446744073709551615 lowmem=64M numa=fake=2 memmap=4K$16M,3$32M"
        );
    }

    #[test]
    fn commas_inside_a_fw_cfg_value_are_doubled_for_qemu() {
        let task = Task::Replay { trace: Path::new("/tmp/a,b"), check: NonZeroU32::new(5) };
        assert_eq!(
            value_of(&launch(), &task, "-fw_cfg"),
            [
                "name=opt/mm/cmdline,string=run=replay check=5 lowmem=64M numa=fake=2 memmap=4K$16M,,3$32M",
                "name=opt/mm/trace,file=/tmp/a,,b"
            ]
        );
    }

    #[test]
    fn reports_are_asked_for_behind_the_task_or_by_themselves() {
        let reports: Word = "meminfo,vmstat".parse().unwrap();
        let machine = Machine::with_memory(Size::mib(512));
        let launch = Launch { dump: Some(&reports), machine, ..launch() };
        assert_eq!(launch.cmdline(&Task::Bench(None)), "run=bench dump=meminfo,vmstat");
        assert_eq!(value_of(&launch, &Task::Dump, "-fw_cfg"), ["name=opt/mm/cmdline,string=dump=meminfo,,vmstat"]);
    }

    #[test]
    fn a_command_line_in_a_file_and_tables_go_to_qemu_as_they_are() {
        let tables = [FirmwareTable { signature: "SRAT", revision: 3, body: Path::new("/tmp/a,b") }];
        let launch = Launch { tables: &tables, ..launch() };
        let task = Task::Verbatim(Path::new("/tmp/words"));
        assert_eq!(value_of(&launch, &task, "-fw_cfg"), ["name=opt/mm/cmdline,file=/tmp/words"]);
        assert_eq!(value_of(&launch, &task, "-acpitable"), ["sig=SRAT,rev=3,data=/tmp/a,,b"]);
    }

    #[test]
    fn where_memory_is_to_be_saved_the_kernel_cannot_take_the_machine_with_it() {
        let keeper = Keeper::new(Path::new("image")).unwrap();
        let kept = Launch { keeper: Some(&keeper), ..launch() };
        let devices = |launch: &Launch<'_>| value_of(launch, &Task::Bench(None), "-device").join(" ");
        assert_eq!(devices(&launch()), "isa-debug-exit,iobase=0xf4,iosize=0x04");
        assert_eq!(devices(&kept), "isa-debugcon,iobase=0xf4,chardev=exit");
        assert_eq!(value_of(&kept, &Task::Bench(None), "-action"), ["shutdown=pause"]);
        let sockets = value_of(&kept, &Task::Bench(None), "-chardev");
        assert!(sockets[1].ends_with(keeper.socket().to_str().unwrap()), "{sockets:?}");
    }

    #[test]
    fn a_missing_kernel_is_no_initrd() {
        let (mut launch, task) = (launch(), Task::Bench(None));
        assert_eq!(value_of(&launch, &task, "-initrd"), ["kernel"]);
        launch.kernel = None;
        assert!(value_of(&launch, &task, "-initrd").is_empty());
    }
}
