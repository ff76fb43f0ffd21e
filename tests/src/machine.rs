//! The machine a kernel is to run on.

use std::fmt;
use std::num::NonZeroU8;

use crate::size::Size;
use crate::topology::{Cpus, Topology, Uneven};

/// A machine: what QEMU is to build, and how the kernel's command line bends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// How much memory; QEMU gives each page backing when the guest first touches it.
    pub memory: Size,
    /// How many CPUs.
    pub cpus: Cpus,
    /// Which nodes firmware tells of.
    pub topology: Topology,
    /// Where the direct map ends and highmem starts; `None`: no highmem.
    pub lowmem: Option<Size>,
    /// Which memory is looked at through `kmap_local` slots, in a kernel with checks.
    pub kmap_local: KmapLocal,
    /// Into how many nodes the kernel cuts the memory itself, whatever firmware says; `None`: it does not.
    pub fake_nodes: Option<NonZeroU8>,
    /// What the kernel has to keep its hands off.
    pub reserved: &'static [Reserved],
    /// Which caches of objects the kernel debugs, and how; `None`: none.
    pub slab_debug: Option<&'static str>,
    /// What the kernel does to free memory, each measure as its command line has it.
    pub hardening: &'static [&'static str],
    /// Whether the page allocator's specification runs along, in a kernel with checks.
    pub specification: Beside,
    /// What sends interrupts.
    pub local_apic: LocalApic,
}

/// Which memory is looked at through slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KmapLocal {
    /// What the direct map does not reach.
    Highmem,
    /// All, page by page.
    Always,
}

/// Whether the CPU has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalApic {
    /// As any since 1995.
    Present,
    /// There are no ticks, and no other CPU.
    Absent,
}

/// Whether something runs beside what it watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// It does.
    Runs,
    /// It does not.
    IsOff,
}

/// A physical range that is nobody's memory, wherever it starts and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Its first byte.
    pub start: Size,
    /// Its length.
    pub size: Size,
}

impl Machine {
    /// One CPU and this much memory, all of it in the direct map.
    #[must_use]
    pub const fn with_memory(memory: Size) -> Machine {
        Machine {
            memory,
            cpus: Cpus::ONE,
            topology: Topology::Flat,
            lowmem: None,
            kmap_local: KmapLocal::Highmem,
            fake_nodes: None,
            reserved: &[],
            slab_debug: None,
            hardening: &[],
            specification: Beside::IsOff,
            local_apic: LocalApic::Present,
        }
    }

    /// The machine that consists of these nodes.
    #[must_use]
    pub const fn with_nodes(nodes: &'static Uneven) -> Machine {
        let (cpus, topology) = (nodes.cpus(), Topology::Uneven(nodes));
        Machine { cpus, topology, ..Machine::with_memory(nodes.memory()) }
    }

    /// The same machine with so many CPUs.
    #[must_use]
    pub const fn with_cpus(self, cpus: Cpus) -> Machine {
        Machine { cpus, ..self }
    }

    /// The same machine with highmem from `lowmem` on.
    #[must_use]
    pub const fn with_lowmem(self, lowmem: Size) -> Machine {
        Machine { lowmem: Some(lowmem), ..self }
    }

    /// The same machine, with this done to its free memory.
    #[must_use]
    pub const fn hardened(self, hardening: &'static [&'static str]) -> Machine {
        Machine { hardening, ..self }
    }

    /// The same machine, of whose CPU nothing sends interrupts, and firmware's old controllers are as it leaves them.
    #[must_use]
    pub const fn without_local_apic(self) -> Machine {
        Machine { local_apic: LocalApic::Absent, ..self }
    }

    /// The same machine, its page allocator beside the specification.
    #[must_use]
    pub const fn specified(self) -> Machine {
        Machine { specification: Beside::Runs, ..self }
    }

    /// The options, each with its value, that have QEMU build this machine.
    #[must_use]
    pub fn arguments(&self) -> Vec<(&'static str, String)> {
        let cpu = match self.local_apic {
            LocalApic::Present => "max",
            LocalApic::Absent => "max,-apic",
        };
        let mut arguments = vec![("-machine", "q35".to_owned()), ("-cpu", cpu.to_owned())];
        arguments.push(("-m", self.memory.to_string()));
        arguments.extend(self.topology.arguments(self.memory, self.cpus));
        arguments
    }

    /// The words of the kernel's command line that make this machine.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        words.extend(self.lowmem.map(|end| format!("lowmem={end}")));
        words.extend((self.kmap_local == KmapLocal::Always).then(|| "kmap_local=always".to_owned()));
        words.extend(self.fake_nodes.map(|nodes| format!("numa=fake={nodes}")));
        if !self.reserved.is_empty() {
            let ranges: Vec<_> = self.reserved.iter().map(|range| format!("{}${}", range.size, range.start)).collect();
            words.push(format!("memmap={}", ranges.join(",")));
        }
        words.extend(self.slab_debug.map(|debug| format!("slub_debug={debug}")));
        words.extend(self.hardening.iter().map(|&measure| measure.to_owned()));
        words.extend((self.specification == Beside::Runs).then(|| "specification=on".to_owned()));
        words
    }
}

/// For people: `8G lowmem=64M`.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.memory)?;
        if self.cpus > Cpus::ONE {
            write!(f, " smp={}", self.cpus)?;
        }
        self.topology.fmt(f)?;
        self.words().iter().try_for_each(|word| write!(f, " {word}"))
    }
}
