//! The segments that long mode still needs, and the task state segment with the exceptions' own stacks.

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

use crate::stacks::{self, ExceptionStack};

struct Segments {
    table: GlobalDescriptorTable,
    code: SegmentSelector,
    data: SegmentSelector,
    task: SegmentSelector,
}

static TASK: Once<TaskStateSegment> = Once::new();
static SEGMENTS: Once<Segments> = Once::new();

/// Loads the kernel's own segments on this CPU.
pub(crate) fn init() {
    let task = TASK.call_once(|| {
        let mut task = TaskStateSegment::new();
        for stack in ExceptionStack::ALL {
            task.interrupt_stack_table[stack as usize] = VirtAddr::new(stacks::exception_stack(stack).range.end);
        }
        task
    });
    let segments = SEGMENTS.call_once(|| {
        let mut table = GlobalDescriptorTable::new();
        let code = table.append(Descriptor::kernel_code_segment());
        let data = table.append(Descriptor::kernel_data_segment());
        let task = table.append(Descriptor::tss_segment(task));
        Segments { table, code, data, task }
    });
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
