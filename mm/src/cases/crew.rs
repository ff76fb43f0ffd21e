//! CPUs that do what a case asks for, on whatever machine it runs.

use crate::units::CpuId;

/// What a CPU is to do; the machine tells it which one it is.
pub type Work<'w> = &'w (dyn Fn() + Sync);

/// All CPUs of a machine.
pub trait Crew {
    /// Runs `work` on every CPU at once, and returns when all of them are done with it. Meanwhile `handler`, if there is
    /// one, runs on each of them in interrupts that come anywhere; a machine without interrupts never runs it.
    fn everywhere(&self, work: Work<'_>, handler: Option<Work<'_>>);

    /// Runs `work` on one CPU, while the others do nothing, and returns when it is done.
    fn on(&self, cpu: CpuId, work: &mut (dyn FnMut() + Send));
}
