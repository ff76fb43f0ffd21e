//! Kernel tests that are made to die: each is reported as failed, with the kernel's report and names for its
//! addresses. The kernel runs them only if they are asked for by name. And what comes after a death: a kernel started
//! again behind a test runs all the others.

use harness::ktap::{self, Verdict};
use harness::launch::{Launch, Select, Task};
use harness::machine::Machine;
use harness::size::Size;
use harness::symbols::Symbols;
use harness::topology::Cpus;
use libtest_mimic::Trial;

use crate::{PATIENCE, checked, is_sanitized, trial};

const READ_ONLY: &[&str] = &["EXCEPTION: ", "page fault", "kernel write", "violated: a write to read-only memory"];
const NOT_EXECUTABLE: &[&str] =
    &["EXCEPTION: ", "page fault", "kernel execute", "violated: an execution of memory that is not executable"];

/// The kernel's test, and what its report must say.
const CRASHES: &[(&str, &[&str])] = &[
    ("crash/panic", &["PANIC: ", "as asked"]),
    ("crash/pagefault", &["EXCEPTION: ", "page fault", "write"]),
    ("crash/highmem", &["EXCEPTION: ", "page fault", "read", "highmem"]),
    ("crash/text_write", READ_ONLY),
    ("crash/data_execute", NOT_EXECUTABLE),
    ("crash/constant_write", READ_ONLY),
    ("crash/constant_write_through_the_direct_map", READ_ONLY),
    ("crash/text_write_through_the_direct_map", READ_ONLY),
    ("crash/idt_write", READ_ONLY),
    ("crash/idt_write_through_the_direct_map", READ_ONLY),
    ("crash/gdt_write", READ_ONLY),
    ("crash/stack_execute", NOT_EXECUTABLE),
    ("crash/heap_execute", NOT_EXECUTABLE),
    ("crash/direct_map_execute", NOT_EXECUTABLE),
    ("crash/stack", &["EXCEPTION: ", "page fault", "violated: the guard page below the kernel stack, which is full"]),
    (
        "crash/owned_stack",
        &["EXCEPTION: ", "page fault", "guard page of the task stack", "violated: the guard page below the task stack"],
    ),
    ("crash/below_kernel_stack", &["EXCEPTION: ", "violated: the guard page below the kernel stack, which is full"]),
    ("crash/above_kernel_stack", &["EXCEPTION: ", "violated: the guard page above the kernel stack, which is empty"]),
    ("crash/below_task_stack", &["EXCEPTION: ", "violated: the guard page below the task stack, which is full"]),
    ("crash/above_task_stack", &["EXCEPTION: ", "violated: the guard page above the task stack, which is empty"]),
    (
        "crash/below_double_fault_stack",
        &["EXCEPTION: ", "violated: the guard page below the double-fault stack, which is full"],
    ),
    (
        "crash/above_double_fault_stack",
        &["EXCEPTION: ", "violated: the guard page above the double-fault stack, which is empty"],
    ),
    (
        "crash/below_page_fault_stack",
        &["EXCEPTION: ", "violated: the guard page below the page-fault stack, which is full"],
    ),
    (
        "crash/above_page_fault_stack",
        &["EXCEPTION: ", "violated: the guard page above the page-fault stack, which is empty"],
    ),
    ("crash/below_nmi_stack", &["EXCEPTION: ", "violated: the guard page below the NMI stack, which is full"]),
    ("crash/above_nmi_stack", &["EXCEPTION: ", "violated: the guard page above the NMI stack, which is empty"]),
    (
        "crash/below_machine_check_stack",
        &["EXCEPTION: ", "violated: the guard page below the machine-check stack, which is full"],
    ),
    (
        "crash/above_machine_check_stack",
        &["EXCEPTION: ", "violated: the guard page above the machine-check stack, which is empty"],
    ),
    ("crash/vmap_after_unmap", &["EXCEPTION: ", "page fault", "not present", "vmap area"]),
    (
        "crash/user_refused",
        &["EXCEPTION: ", "page fault", "read", "users' memory", "not resolved: Read is not allowed at 0x"],
    ),
    ("crash/user_without_a_space", &["EXCEPTION: ", "page fault", "not resolved: no user's address space is live"]),
    ("crash/smap_read", &["EXCEPTION: ", "page fault", "users' memory", "kernel read", "violated: SMAP"]),
    (
        "crash/smap_write_of_what_could_be_mapped",
        &["EXCEPTION: ", "page fault", "users' memory", "kernel write", "not present", "violated: SMAP"],
    ),
    ("crash/smap_in_a_handler_that_interrupts_a_copy", &["EXCEPTION: ", "page fault", "kernel read", "violated: SMAP"]),
    ("crash/smep", &["EXCEPTION: ", "page fault", "users' memory", "kernel execute", "violated: SMEP"]),
    ("crash/user_fault_on_a_full_stack", &["EXCEPTION: ", "page fault", "guard page of the task stack"]),
    ("crash/doublefault", &["EXCEPTION: ", "double fault"]),
    ("crash/heap_double_free", &["PANIC: ", "heap: double free", "kmalloc-64"]),
    ("crash/invalid_opcode", &["EXCEPTION: ", "invalid opcode"]),
    // On four CPUs: only the first that fails reports, and a fault says on which.
    ("crash/panic_on_all_cpus_at_once", &["PANIC: ", "as asked of CPU "]),
    ("crash/fault_on_the_last_cpu", &["EXCEPTION: ", "page fault", "on CPU 3"]),
    ("crash/machines_own_alarm", &["EXCEPTION: ", "NMI", "on CPU 0"]),
];

/// The same where free pages are taken out of the direct map.
const FREE_PAGES: &[(&str, &[&str])] = &[
    ("crash/free_page_write", &["EXCEPTION: ", "page fault", "kernel write", FREE_PAGE]),
    ("crash/free_page_read", &["EXCEPTION: ", "page fault", "kernel read", FREE_PAGE]),
    ("crash/free_page_write_on_the_last_cpu", &["EXCEPTION: ", "page fault", "on CPU 3", FREE_PAGE]),
];

/// The same in a kernel with an address sanitizer.
const CLOSED: &[(&str, &[&str])] = &[
    ("crash/closed_freed_page", &[SANITIZER, "read of 1 byte ", "is free, in the block of order "]),
    ("crash/closed_page_that_nobody_had", &[SANITIZER, "write of 1 byte ", "is free, in the block of order 10 "]),
    ("crash/closed_to_the_last_cpu", &[SANITIZER, "write of 1 byte ", "is free, in the block of order "]),
    (
        "crash/closed_behind_what_was_asked_for",
        &[SANITIZER, "write of 1 byte ", "is byte 60 of an object of cache kmalloc-64 that has 60 bytes"],
    ),
    (
        "crash/closed_behind_a_large_allocation",
        &[SANITIZER, "read of 1 byte ", "is allocated, behind what was asked for, in the block of order 3 "],
    ),
    (
        "crash/closed_end_of_a_copy",
        &[SANITIZER, "write of 201 bytes ", "is byte 200 of an object of cache kmalloc-256 that has 200 bytes"],
    ),
    (
        "crash/closed_freed_object",
        &[SANITIZER, "read of 1 byte ", "is byte 99 of an object of cache kmalloc-128 that is free"],
    ),
    (
        "crash/closed_object_that_nobody_had",
        &[SANITIZER, "write of 1 byte ", "is byte 0 of an object of cache fresh that is free"],
    ),
];

const SANITIZER: &str = "PANIC: address sanitizer: ";

const FREE_PAGE: &str = "violated: a use of memory that is free, in the block of order ";

pub(crate) fn trials() -> Vec<Trial> {
    let on = |crashes: &'static [(&str, &[&str])], hardening: &'static [&str]| {
        crashes.iter().map(move |&(name, parts)| {
            trial(&format!("{name}_is_reported_with_names"), move || reported(name, parts, hardening))
        })
    };
    // Who uses a free page is stopped by the sanitizer before the processor does.
    let free_pages = if is_sanitized() { on(CLOSED, &[]) } else { on(FREE_PAGES, &["debug_pagealloc=on"]) };
    let mut trials: Vec<_> = on(CRASHES, &[]).chain(free_pages).collect();
    trials.push(trial("crash/a_kernel_started_behind_a_test_runs_those_after_it", runs_the_rest));
    trials
}

fn runs_the_rest() -> anyhow::Result<()> {
    let launch = Launch::new(checked()?, Machine::with_memory(Size::mib(64)));
    let tests = launch.list(PATIENCE)?.tests;
    let middle = tests.len() / 2;
    let task = Task::Test { select: Select::All, after: Some(tests[middle].parse()?) };
    let run = launch.run(&task, PATIENCE, |_| ())?;
    let ktap = ktap::read(&run.serial);
    let ran: Vec<_> = ktap.finished.into_iter().map(|(name, _)| name).collect();
    anyhow::ensure!(ran == tests[middle + 1..], "behind {} of {tests:?} these ran: {ran:?}", tests[middle]);
    anyhow::ensure!(ktap.planned == Some(ran.len()), "planned were {:?}", ktap.planned);
    Ok(())
}

fn reported(name: &str, parts: &[&str], hardening: &'static [&'static str]) -> anyhow::Result<()> {
    let guest = checked()?;
    let symbols = Symbols::load(&guest.symbols)?;
    let tests = (&Select::Exact(name.parse()?), &[name.to_owned()][..]);
    let machine = Machine::with_memory(Size::mib(128)).with_lowmem(Size::mib(64)).with_cpus(Cpus::of(4));
    let machine = machine.hardened(hardening);
    let verdicts = Launch::new(guest, machine).run_tests(tests, &symbols, PATIENCE, |_| ());
    let Some((_, Verdict::Failed(report))) = verdicts.first() else { anyhow::bail!("is not a failure: {verdicts:?}") };
    for part in parts {
        anyhow::ensure!(report.contains(part), "says nothing of '{part}':\n{report}");
    }
    let named = |line: &str| line.starts_with("  at ") && line.contains("kernel::") && line.contains(".rs:");
    anyhow::ensure!(report.lines().any(named), "no line names a function of the kernel:\n{report}");
    Ok(())
}
