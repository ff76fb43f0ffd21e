//! The segments that long mode still needs, and the task state segment with the exceptions' own stacks.

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

use crate::image::ro_after_init;
use crate::stacks::{self, ExceptionStack};

#[derive(Debug)]
struct Segments {
    table: GlobalDescriptorTable,
    code: SegmentSelector,
    data: SegmentSelector,
    task: SegmentSelector,
}

/// What a CPU has of them; stays where it is once it is loaded.
#[derive(Debug)]
pub(crate) struct Tables {
    task: TaskStateSegment,
    segments: Once<Segments>,
}

ro_after_init! {
    /// The boot CPU's, until it has an area of its own.
    static EARLY: Once<Tables> = Once::new();
}

/// Loads the kernel's own segments on the boot CPU, with the exception stacks of the image.
pub(crate) fn init() {
    let end = |which| VirtAddr::new_truncate(stacks::early_stack(which).range.end);
    EARLY.call_once(|| Tables::new(ExceptionStack::ALL.map(end))).load();
}

impl Tables {
    /// Those of a CPU whose exceptions are to run on the stacks that end at `stacks`.
    pub(crate) fn new(stacks: [VirtAddr; ExceptionStack::ALL.len()]) -> Self {
        let mut task = TaskStateSegment::new();
        for (which, end) in ExceptionStack::ALL.into_iter().zip(stacks) {
            task.interrupt_stack_table[which as usize] = end;
        }
        Self { task, segments: Once::new() }
    }

    /// Loads them on this CPU, the only one that ever has them.
    pub(crate) fn load(&'static self) {
        let task = &self.task;
        load(self.segments.call_once(|| {
            let mut table = GlobalDescriptorTable::new();
            let code = table.append(Descriptor::kernel_code_segment());
            let data = table.append(Descriptor::kernel_data_segment());
            let task = table.append(Descriptor::tss_segment(task));
            Segments { table, code, data, task }
        }));
    }
}

fn load(segments: &'static Segments) {
    segments.table.load();
    // SAFETY: the selector names the 64-bit code segment of the table just loaded.
    unsafe { CS::set_reg(segments.code) };
    // SAFETY: the selector names the data segment of that table.
    unsafe { SS::set_reg(segments.data) };
    // SAFETY: long mode uses none of the descriptor but its presence; the same holds for the next.
    unsafe { DS::set_reg(segments.data) };
    // SAFETY: as above.
    unsafe { ES::set_reg(segments.data) };
    // GS stays as it is: its base leads to what the CPU is (`cpu_local`), and loading the selector may clear that.
    // SAFETY: nothing uses FS; a null selector is allowed.
    unsafe { FS::set_reg(SegmentSelector::NULL) };
    // SAFETY: the selector names the task state segment of that table, which lives for ever.
    unsafe { load_tss(segments.task) };
}
