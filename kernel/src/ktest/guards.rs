//! Tests that end the kernel at the guard pages of its stacks, each of which its report must name. They run only when named
//! in full.

use kernel_core::layout::Edge;
use mm::owner::TaskId;
use mm::units::Order;

use super::crash::write;
use super::space::live;
use super::{Outcome, ktest};
use crate::kernel_stack::MappedStack;
use crate::stacks::{self, ExceptionStack, StackUse};

/// Writes next to an end of a stack that is used so.
fn run_over(used_for: StackUse, edge: Edge) -> Outcome {
    let live = live()?;
    let _task = MappedStack::new(live.space, live.owners, Order::of(2), StackUse::Task, TaskId(1))?;
    let stack = stacks::all().find(|stack| stack.name == used_for.name()).ok_or("there is no such stack")?;
    match edge {
        Edge::Below => write(stack.range.start - 1),
        Edge::Above => write(stack.range.end),
    }
}

macro_rules! run_over {
    ($($below:ident, $above:ident: $used_for:expr;)+) => { $(
        ktest!(WhenNamed, "crash", fn $below() { run_over($used_for, Edge::Below) });
        ktest!(WhenNamed, "crash", fn $above() { run_over($used_for, Edge::Above) });
    )+ };
}

run_over! {
    below_kernel_stack, above_kernel_stack: StackUse::Kernel;
    below_task_stack, above_task_stack: StackUse::Task;
    below_double_fault_stack, above_double_fault_stack: StackUse::Exception(ExceptionStack::DoubleFault);
    below_page_fault_stack, above_page_fault_stack: StackUse::Exception(ExceptionStack::PageFault);
    below_nmi_stack, above_nmi_stack: StackUse::Exception(ExceptionStack::NonMaskable);
    below_machine_check_stack, above_machine_check_stack: StackUse::Exception(ExceptionStack::MachineCheck);
}
