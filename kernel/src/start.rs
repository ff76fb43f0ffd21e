//! Starting the other CPUs.
//!
//! Each begins in real mode in a page below 1 MiB, the trampoline, which takes it to the kernel's page tables, its own
//! stack and its own area; there it says that it is up, and idles. They are started one by one, so one page serves all. A
//! CPU that does not come up is sent back to where it waits for its start, and the kernel goes on without it.
//!
//! Source: Intel SDM volume 3, section 9.4, "Multiple-processor (MP) initialization"; Intel's MP specification 1.4,
//! appendix B.4.

use core::arch::{global_asm, naked_asm};
use core::hint::spin_loop;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};

use kernel_core::acpi::ApicId;
use kernel_core::layout::{LOCAL_APIC, TABLE_ENTRIES};
use mm::boot_map::BootMap;
use mm::machine::Machine;
use mm::owner::TaskId;
use mm::units::{Count, CpuId, Order, PAGE_SIZE, Pfn, PfnRange};
use thiserror::Error;
use x86_64::VirtAddr;
use x86_64::instructions::{hlt, interrupts};
use x86_64::registers::control::{Cr0, Cr4, Cr4Flags};
use x86_64::registers::model_specific::{Efer, EferFlags};

use crate::apic::{self, LocalApic, Message, NoApic};
use crate::cpu_area::{AreaError, CpuArea};
use crate::cpu_local::{self, Head, this_cpu};
use crate::image::Protection;
use crate::kernel_stack::{MappedStack, StackError};
use crate::memory::{Allocator, MachineOwners};
use crate::paging::entry::Entry;
use crate::paging::retire;
use crate::paging::space::{MapError, Space, page_at};
use crate::pit::{self, Microseconds, Waited};
use crate::platform::Platform;
use crate::serial::println;
use crate::stacks::StackUse;
use crate::{cpu, idt, nmi};

/// The order of the stack that a CPU works on.
const STACK_ORDER: Order = Order::of(4);

/// Real mode reaches so far.
const REAL_MODE_END: Pfn = Pfn::new(0x100);

/// The trampoline's pages: its code, and tables that map that at its own address, from the root down.
#[derive(Debug)]
pub(crate) struct Trampoline(PfnRange);

const PAGES: u32 = 5;

/// Why another CPU, or all of them, do not run.
#[derive(Clone, Copy, Debug, Error)]
enum StartError {
    #[error("no memory below 1 MiB for them to begin in")]
    NoTrampoline,
    #[error("{0}")]
    Apic(#[from] NoApic),
    #[error("its local APIC has number {n}, which no message can name", n = .0.0)]
    Unreachable(ApicId),
    #[error("stack: {0}")]
    Stack(#[from] StackError),
    #[error("{0}")]
    Area(#[from] AreaError),
    #[error("local APIC: {0}")]
    NotMapped(#[from] MapError),
    #[error("it does not answer")]
    Silent,
}

impl Trampoline {
    /// Takes the pages out of the boot map: usable memory in reach of real mode and of the direct map. `None` if there are
    /// none, or if there is nobody to start.
    pub(crate) fn carve(map: &mut BootMap, cpus: core::num::NonZeroU16, direct_map_end: Pfn) -> Option<Self> {
        if cpus.get() == 1 {
            return None;
        }
        map.carve(PAGES, REAL_MODE_END.min(direct_map_end), None).ok().map(Self)
    }

    fn page(&self, platform: &'static Platform, number: u32) -> NonNull<u8> {
        platform.direct_map(self.0.start.plus(number))
    }

    fn table(&self, platform: &'static Platform, number: u32) -> &'static [AtomicU64; TABLE_ENTRIES] {
        let page = self.page(platform, number).cast();
        // SAFETY: the pages were carved for this, are in the direct map, and a table fills one.
        unsafe { page.as_ref() }
    }

    /// Fills the tables: the kernel's half, and the code's page at its own address, where it can be executed and not
    /// written.
    fn map(&self, platform: &'static Platform, space: &Space) {
        const ROOT: u32 = 1;
        for number in ROOT..PAGES {
            for slot in self.table(platform, number) {
                slot.store(0, Ordering::Relaxed);
            }
            let code = self.0.start;
            // It is below 1 MiB, so the lowest entry of each table leads to it, but for the last one's.
            let (index, entry) = if number + 1 < PAGES {
                (0, Entry::table(code.plus(number + 1)))
            } else {
                (code.index() % TABLE_ENTRIES, Entry::page(code, Protection::ReadExecute))
            };
            self.table(platform, number)[index].store(entry.bits(), Ordering::Release);
        }
        space.share_with(self.table(platform, ROOT));
    }

    /// Writes the code and what it needs to know.
    fn fill(&self, platform: &'static Platform, space: &Space, stack: VirtAddr, head: &'static Head) {
        let address = |symbol: *const u8| symbol.addr() as u64;
        let start = address(&raw const trampoline_start);
        let base = self.0.start.address().0;
        let here = |symbol: *const u8| base + (address(symbol) - start);
        let at = base + PARAMETERS as u64;
        let parameters = Parameters {
            descriptors: (size_of_val(&GDT) as u64 - 1) | (at + offset_of!(Parameters, gdt) as u64) << 16,
            protected: here(&raw const trampoline_protected) | u64::from(CODE_32) << 32,
            long: here(&raw const trampoline_long) | u64::from(CODE_64) << 32,
            cr3: base + PAGE_SIZE as u64,
            // Those that only long mode may set come later, if anybody wants them.
            cr4: (Cr4::read() - Cr4Flags::PCID).bits(),
            efer: (Efer::read() - EferFlags::LONG_MODE_ACTIVE).bits(),
            cr0: Cr0::read_raw(),
            stack: stack.as_u64(),
            entry: VirtAddr::from_ptr(arrive as *const ()).as_u64(),
            root: space.root().address().0,
            head: VirtAddr::from_ptr(head).as_u64(),
            gdt: GDT,
        };
        let length = (&raw const trampoline_end).addr() - (&raw const trampoline_start).addr();
        assert!(length <= PARAMETERS, "the trampoline's code runs into what it reads");
        // SAFETY: the assembly lies between its two labels.
        let code = unsafe { slice::from_raw_parts(&raw const trampoline_start, length) };
        let page = self.page(platform, 0);
        // SAFETY: the page was carved for the code, and nobody runs it while a CPU is prepared.
        let bytes = unsafe { page.cast::<[u8; PAGE_SIZE]>().as_mut() };
        bytes[..length].copy_from_slice(code);
        // SAFETY: the parameters lie inside the page.
        let place = unsafe { page.add(PARAMETERS) }.cast::<Parameters>();
        // SAFETY: as above; the offset is a multiple of their alignment.
        unsafe { place.write(parameters) };
    }
}

/// Where the parameters are in the trampoline's page.
const PARAMETERS: usize = 0xf00;

/// What the trampoline needs to know. Registers that it writes in 32-bit mode have their lower halves in use.
#[derive(Debug)]
#[repr(C)]
struct Parameters {
    descriptors: u64,
    protected: u64,
    long: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    cr0: u64,
    stack: u64,
    entry: u64,
    root: u64,
    head: u64,
    gdt: [u64; 4],
}

const _: () = assert!(PARAMETERS + size_of::<Parameters>() <= PAGE_SIZE);

const CODE_32: u16 = 8;
const DATA: u16 = 16;
const CODE_64: u16 = 24;
const GDT: [u64; 4] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00af_9b00_0000_ffff];

global_asm!(
    include_str!("trampoline.s"),
    parameters = const PARAMETERS,
    descriptors = const PARAMETERS + offset_of!(Parameters, descriptors),
    protected = const PARAMETERS + offset_of!(Parameters, protected),
    long = const PARAMETERS + offset_of!(Parameters, long),
    cr3 = const PARAMETERS + offset_of!(Parameters, cr3),
    cr4 = const PARAMETERS + offset_of!(Parameters, cr4),
    efer = const PARAMETERS + offset_of!(Parameters, efer),
    cr0 = const PARAMETERS + offset_of!(Parameters, cr0),
    stack = const PARAMETERS + offset_of!(Parameters, stack),
    entry = const PARAMETERS + offset_of!(Parameters, entry),
    root = const PARAMETERS + offset_of!(Parameters, root),
    head = const PARAMETERS + offset_of!(Parameters, head),
    data = const DATA,
    options(att_syntax)
);

// SAFETY: the assembly of this module defines them, in this order.
unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_protected: u8;
    static trampoline_long: u8;
    static trampoline_end: u8;
}

/// What starting CPUs works with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) platform: &'static Platform,
    pub(crate) allocator: &'static Allocator,
    pub(crate) owners: &'static MachineOwners,
    pub(crate) space: &'static Space,
}

/// Takes the local APIC into use and starts every CPU that firmware lists. Interrupts are on from then on.
pub(crate) fn start(memory: Memory, trampoline: Option<Trampoline>) {
    let cpus = memory.platform.cpus().get();
    // Firmware leaves some of theirs open, at vectors that are exceptions'.
    apic::mask_pics();
    cpu::come_online();
    match use_apic(memory) {
        Ok(apic) => {
            apic.init(this_cpu(), apic::own_id());
            nmi::take();
            if cpus > 1 {
                start_others(memory, apic, trampoline);
            }
        }
        Err(error) => println!("cpus: no interrupts, and no other CPU: {error}"),
    }
    interrupts::enable();
}

fn use_apic(memory: Memory) -> Result<LocalApic, StartError> {
    let listed = memory.platform.topology().local_apic();
    apic::probe(listed)?;
    let frame = Pfn::containing(listed).ok_or(NoApic::Elsewhere)?;
    memory.space.map_device(page_at(LOCAL_APIC), frame)?;
    // SAFETY: APIC-1, the registers were just mapped, and nobody unmaps them.
    Ok(unsafe { LocalApic::announce() })
}

fn start_others(memory: Memory, apic: LocalApic, trampoline: Option<Trampoline>) {
    let Some(trampoline) = trampoline else {
        return println!("cpus: only the first one is used: {}", StartError::NoTrampoline);
    };
    trampoline.map(memory.platform, memory.space);
    let mut all_up = true;
    for cpu in (1..memory.platform.cpus().get()).map(CpuId) {
        if let Err(error) = start_one(memory, apic, &trampoline, cpu) {
            all_up = false;
            println!("cpus: CPU {} is not used: {error}", cpu.0);
        }
    }
    println!("cpus: {} of {} are up", cpu::online().count(), memory.platform.cpus());
    if all_up {
        // SAFETY: every CPU has left the trampoline, which was carved out of the map.
        let Count(pages) = unsafe { retire::give_back_frames(memory.allocator, trampoline.0) };
        println!("trampoline: its {pages} pages are free memory now");
    }
}

fn start_one(memory: Memory, apic: LocalApic, trampoline: &Trampoline, cpu: CpuId) -> Result<(), StartError> {
    const AFTER_INIT: Microseconds = Microseconds(10_000);
    const BEFORE_SECOND: Microseconds = Microseconds(10_000);
    const SHARE: Microseconds = Microseconds(50_000);
    const SHARES: u32 = 100;
    const BROADCAST: u32 = 0xff;
    let Memory { platform, space, owners, .. } = memory;
    let id = platform.topology().apic(cpu).filter(|id| id.0 < BROADCAST);
    let id = id.ok_or(StartError::Unreachable(platform.topology().apic(cpu).unwrap_or(ApicId(BROADCAST))))?;
    let stack = MappedStack::new(space, owners, STACK_ORDER, StackUse::Kernel, TaskId(cpu.0.into()))?;
    CpuArea::new(platform, space, owners, cpu)?;
    trampoline.fill(platform, space, VirtAddr::new_truncate(stack.range().end), cpu_local::head(cpu));

    let is_up = || if cpu::is_online(cpu) { Waited::Happened } else { Waited::InVain };
    let startup = u8::try_from(trampoline.0.start.number()).map_or(Message::Init, Message::Startup);
    apic.send_to(id, Message::Init);
    pit::wait(AFTER_INIT, || Waited::InVain);
    apic.send_to(id, startup);
    if pit::wait(BEFORE_SECOND, is_up) == Waited::InVain {
        // The first one may have come too early. Whoever runs takes no notice.
        apic.send_to(id, startup);
    }
    if (0..SHARES).all(|_| pit::wait(SHARE, is_up) == Waited::InVain) && cpu::give_up(cpu) {
        // It must not begin when the page has another's parameters, or is somebody's memory.
        apic.send_to(id, Message::Init);
        return Err(StartError::Silent);
    }
    // Who has arrived is never waited for in vain.
    while !cpu::is_online(cpu) {
        spin_loop();
    }
    // INVARIANT: the CPU runs on its stack for ever.
    core::mem::forget(stack);
    Ok(())
}

/// Where the trampoline leaves to, on the CPU's own stack: rdi is the kernel's root, rsi what GS is to lead to.
#[unsafe(naked)]
extern "C" fn arrive() {
    naked_asm!(
        "mov cr3, rdi",
        "mov ecx, 0xc0000101", // GS's base
        "mov eax, esi",
        "mov rdx, rsi",
        "shr rdx, 32",
        "wrmsr",
        "xor ebp, ebp",
        "call {begin}",
        "ud2",
        begin = sym begin,
    )
}

/// The first function of a CPU, which knows who it is.
extern "sysv64" fn begin() -> ! {
    CpuArea::of(this_cpu()).expect("a CPU is started with an area").enter();
    if !cpu::arrive() {
        // Whoever has given it up stops it for good, and the stack goes.
        loop {
            hlt();
        }
    }
    idt::init();
    let apic = LocalApic::get().expect("a CPU is started by a local APIC's message");
    apic.init(this_cpu(), apic::own_id());
    nmi::take();
    cpu::come_online();
    cpu::idle()
}
