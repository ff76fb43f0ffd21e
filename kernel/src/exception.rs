//! What the processor's exceptions are called, and what their error codes say.
//!
//! Source: Intel SDM volume 3, chapter 7, "Interrupt and exception handling"; AMD APM volume 2, chapter 8.

use core::fmt;

use bitflags::bitflags;
use mm::space::Access;

/// An exception's number: 0 to 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector(pub u8);

/// What a vector's error code means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// The processor pushes none.
    None,
    /// Always zero.
    Zero,
    /// Names a descriptor.
    Selector,
    /// A page fault's flags.
    PageFault,
    /// A control-protection fault's cause.
    ControlProtection,
    /// The guest exit that a hypervisor reports.
    GuestExit,
}

/// Exceptions that the processor or this kernel treats apart.
impl Vector {
    /// A non-maskable interrupt.
    pub const NMI: Self = Self(2);
    /// An exception while another was delivered.
    pub const DOUBLE_FAULT: Self = Self(8);
    /// An access that the page tables forbid.
    pub const PAGE_FAULT: Self = Self(14);
    /// The hardware has failed.
    pub const MACHINE_CHECK: Self = Self(18);

    /// Its short name and its full one.
    pub const fn names(self) -> (&'static str, &'static str) {
        match self.0 {
            0 => ("#DE", "divide error"),
            1 => ("#DB", "debug"),
            2 => ("NMI", "non-maskable interrupt"),
            3 => ("#BP", "breakpoint"),
            4 => ("#OF", "overflow"),
            5 => ("#BR", "bound range exceeded"),
            6 => ("#UD", "invalid opcode"),
            7 => ("#NM", "device not available"),
            8 => ("#DF", "double fault"),
            9 => ("#MF", "coprocessor segment overrun"),
            10 => ("#TS", "invalid task state segment"),
            11 => ("#NP", "segment not present"),
            12 => ("#SS", "stack-segment fault"),
            13 => ("#GP", "general protection fault"),
            14 => ("#PF", "page fault"),
            16 => ("#MF", "x87 floating-point error"),
            17 => ("#AC", "alignment check"),
            18 => ("#MC", "machine check"),
            19 => ("#XM", "SIMD floating-point exception"),
            20 => ("#VE", "virtualization exception"),
            21 => ("#CP", "control protection exception"),
            28 => ("#HV", "hypervisor injection"),
            29 => ("#VC", "VMM communication exception"),
            30 => ("#SX", "security exception"),
            _ => ("#??", "reserved exception"),
        }
    }

    /// What the processor pushes with it.
    pub const fn error_code(self) -> ErrorCode {
        match self.0 {
            8 | 17 => ErrorCode::Zero,
            10..=13 => ErrorCode::Selector,
            14 => ErrorCode::PageFault,
            21 => ErrorCode::ControlProtection,
            29 | 30 => ErrorCode::GuestExit,
            _ => ErrorCode::None,
        }
    }

    /// Explains the error code that was pushed with this exception.
    pub const fn explain(self, code: u64) -> Explained {
        Explained { meaning: self.error_code(), code }
    }
}

impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (short, long) = self.names();
        write!(f, "{short} {long} (vector {})", self.0)
    }
}

/// An error code that reads as a sentence.
#[derive(Clone, Copy, Debug)]
pub struct Explained {
    meaning: ErrorCode,
    code: u64,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code;
        match self.meaning {
            ErrorCode::None => f.write_str("none"),
            ErrorCode::Zero | ErrorCode::GuestExit => write!(f, "{code:#x}"),
            ErrorCode::Selector if code == 0 => f.write_str("0x0, no descriptor"),
            ErrorCode::Selector => {
                let table = ["GDT", "IDT", "LDT", "IDT"][(code >> 1 & 3) as usize];
                let origin = if code & 1 != 0 { ", from outside the program" } else { "" };
                write!(f, "{code:#x}, entry {} of the {table}{origin}", code >> 3 & 0x1fff)
            }
            ErrorCode::PageFault => write!(f, "{code:#x}, {}", PageFault::of(code)),
            ErrorCode::ControlProtection => {
                let cause =
                    ["?", "near return", "far return", "missing ENDBRANCH", "shadow stack token", "shadow stack"];
                write!(f, "{code:#x}, {}", cause.get((code & 0x7fff) as usize).unwrap_or(&"?"))
            }
        }
    }
}

bitflags! {
    /// The bits of a page fault's error code.
    #[derive(Clone, Copy, Debug)]
    struct PageFaultCode: u64 {
        const PROTECTION = 1;
        const WRITE = 1 << 1;
        const USER = 1 << 2;
        const RESERVED_BIT = 1 << 3;
        const FETCH = 1 << 4;
        const PROTECTION_KEY = 1 << 5;
        const SHADOW_STACK = 1 << 6;
    }
}

/// What a page fault was about to do, and why it could not.
#[derive(Clone, Copy, Debug)]
pub struct PageFault(PageFaultCode);

/// Who was about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Rings 0 to 2.
    Kernel,
    /// Ring 3.
    User,
}

/// Why an access faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFaultCause {
    /// The tables lead nowhere.
    NotPresent,
    /// The page does not allow it.
    Protection,
    /// The page's protection key does not allow it.
    ProtectionKey,
    /// Shadow stacks are accessed in no other way.
    ShadowStack,
    /// The tables are malformed.
    ReservedBit,
}

impl PageFault {
    /// What the processor's error code says.
    pub const fn of(code: u64) -> Self {
        Self(PageFaultCode::from_bits_truncate(code))
    }

    /// What it was about to do.
    pub const fn access(self) -> Access {
        if self.0.contains(PageFaultCode::FETCH) {
            Access::Execute
        } else if self.0.contains(PageFaultCode::WRITE) {
            Access::Write
        } else {
            Access::Read
        }
    }

    /// Who was.
    pub const fn mode(self) -> Mode {
        if self.0.contains(PageFaultCode::USER) { Mode::User } else { Mode::Kernel }
    }

    /// Why it could not.
    pub const fn cause(self) -> PageFaultCause {
        if self.0.contains(PageFaultCode::RESERVED_BIT) {
            PageFaultCause::ReservedBit
        } else if self.0.contains(PageFaultCode::PROTECTION_KEY) {
            PageFaultCause::ProtectionKey
        } else if self.0.contains(PageFaultCode::SHADOW_STACK) {
            PageFaultCause::ShadowStack
        } else if self.0.contains(PageFaultCode::PROTECTION) {
            PageFaultCause::Protection
        } else {
            PageFaultCause::NotPresent
        }
    }
}

impl fmt::Display for PageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access() {
            Access::Read => "read",
            Access::Write => "write",
            Access::Execute => "execute",
        };
        let mode = match self.mode() {
            Mode::Kernel => "kernel",
            Mode::User => "user",
        };
        let cause = match self.cause() {
            PageFaultCause::ReservedBit => "a reserved bit is set in a page table",
            PageFaultCause::ProtectionKey => "the page's protection key forbids it",
            PageFaultCause::ShadowStack => "it was a shadow-stack access",
            PageFaultCause::Protection => "the page's protection forbids it",
            PageFaultCause::NotPresent => "the page is not present",
        };
        write!(f, "{mode} {access}, {cause}")
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn a_page_fault_says_access_mode_and_cause() {
        let say = |code| Vector::PAGE_FAULT.explain(code).to_string();
        assert_eq!(say(0), "0x0, kernel read, the page is not present");
        assert_eq!(say(0b00011), "0x3, kernel write, the page's protection forbids it");
        assert_eq!(say(0b10101), "0x15, user execute, the page's protection forbids it");
        assert_eq!(say(0b01001), "0x9, kernel read, a reserved bit is set in a page table");
    }

    #[test]
    fn a_selector_error_code_names_table_and_entry() {
        let general_protection = Vector(13);
        assert_eq!(general_protection.explain(0).to_string(), "0x0, no descriptor");
        assert_eq!(general_protection.explain(0x10).to_string(), "0x10, entry 2 of the GDT");
        assert_eq!(Vector(11).explain(0x283).to_string(), "0x283, entry 80 of the IDT, from outside the program");
    }

    #[test]
    fn odd_error_codes_are_still_explained() {
        assert_eq!(Vector(21).explain(u64::MAX).to_string(), "0xffffffffffffffff, ?");
        assert_eq!(Vector(3).explain(7).to_string(), "none");
        assert!(Vector(13).explain(u64::MAX).to_string().contains("entry 8191 of the IDT"));
    }
}
