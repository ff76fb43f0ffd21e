//! The segments that long mode still needs, and the task state segment with the exceptions' own stacks.

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

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
    task: Once<TaskStateSegment>,
    segments: Once<Segments>,
}

/// The boot CPU's, until it has an area of its own.
static EARLY: Tables = Tables::new();

/// Loads the kernel's own segments on the boot CPU, with the exception stacks of the image.
pub(crate) fn init() {
    EARLY.load(ExceptionStack::ALL.map(|which| VirtAddr::new_truncate(stacks::early_stack(which).range.end)));
}

impl Tables {
    pub(crate) const fn new() -> Self {
        Self { task: Once::new(), segments: Once::new() }
    }

    /// Loads them on this CPU, whose exceptions run on the stacks that end at `stacks` from then on. The stacks of the
    /// first call count.
    pub(crate) fn load(&'static self, stacks: [VirtAddr; ExceptionStack::ALL.len()]) {
        let task = self.task.call_once(|| {
            let mut task = TaskStateSegment::new();
            for (which, end) in ExceptionStack::ALL.into_iter().zip(stacks) {
                task.interrupt_stack_table[which as usize] = end;
            }
            task
        });
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
    // SAFETY: nothing uses FS yet; a null selector is allowed.
    unsafe { FS::set_reg(SegmentSelector::NULL) };
    // SAFETY: nothing uses GS yet; a null selector is allowed.
    unsafe { GS::set_reg(SegmentSelector::NULL) };
    // SAFETY: the selector names the task state segment of that table, which lives for ever.
    unsafe { load_tss(segments.task) };
}
