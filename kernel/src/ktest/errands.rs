//! What CPUs ask of each other comes to an end, wherever it is asked for.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use kernel_core::layout::VMAP;
use mm::machine::Machine;
use mm::page::Request;
use mm::units::{CpuId, Order, PAGE_SIZE};
use x86_64::instructions::interrupts;

use super::space::Live;
use super::{check, diagnostic, ktest, skip};
use crate::apic::LocalApic;
use crate::cpu;
use crate::cpu_local::this_cpu;
use crate::fatal::Registers;
use crate::image::Protection;
use crate::nmi::{self, Resting};
use crate::paging::space::page_at;
use crate::platform::Platform;
use crate::timer::{self, Ticks};

/// Errands in handlers, of each CPU.
const IN_HANDLERS: u32 = 300;

ktest!(
    "cpus",
    fn handlers_ask_all_cpus_for_barriers_whatever_they_interrupt() {
        if LocalApic::get().is_none() || cpu::online().count() < 2 {
            return skip("too few CPUs", "nobody is there to be asked");
        }
        let platform = Platform::get().ok_or("the platform is not up")?;
        let asked = AtomicU32::new(0);
        cpu::on_all(&|CpuId(cpu)| {
            // Only this CPU's handler takes the lock, so nothing that it interrupts has it.
            let random = spin::Mutex::new(fastrand::Rng::with_seed(cpu.into()));
            let next = || Ticks(random.lock().u32(2_000..60_000));
            let ticks = AtomicU32::new(0);
            let on_tick = |_: &mut Registers| {
                platform.heavy_barrier();
                (ticks.fetch_add(1, Ordering::Relaxed) + 1 < IN_HANDLERS).then(next)
            };
            timer::at_intervals(Ticks(2_000), &on_tick, || {
                interrupts::enable();
                while ticks.load(Ordering::Relaxed) < IN_HANDLERS {
                    platform.heavy_barrier();
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        let asked = asked.into_inner();
        diagnostic!("{asked} barriers beside those of handlers");
        check!(asked > IN_HANDLERS, "handlers have asked alone");
        Ok(())
    }
);

ktest!(
    "cpus",
    fn a_cpu_that_idles_is_woken_for_each_job_while_others_ask_for_barriers() {
        const JOBS: u32 = 2_000;
        let mut others = cpu::online().filter(|&cpu| cpu != CpuId(0));
        let (Some(idle), Some(asking)) = (others.next(), others.next()) else {
            return skip("too few CPUs", "three are needed");
        };
        let platform = Platform::get().ok_or("the platform is not up")?;
        let (over, done) = (AtomicBool::new(false), AtomicU32::new(0));
        cpu::on_all(&|cpu| match cpu {
            CpuId(0) => {
                for _ in 0..JOBS {
                    // It has gone back to idling more often than not.
                    let posted = cpu::run_on(idle, &|| _ = done.fetch_add(1, Ordering::Relaxed));
                    debug_assert!(posted.is_ok(), "it is online");
                }
                over.store(true, Ordering::Relaxed);
            }
            cpu if cpu == asking => {
                while !over.load(Ordering::Relaxed) {
                    platform.heavy_barrier();
                }
            }
            _ => {}
        });
        check!(done.into_inner() == JOBS, "jobs were lost");
        Ok(())
    }
);

ktest!(
    "cpus",
    fn who_rests_forgets_tables_before_they_are_free() {
        let Some(resting) = cpu::online().find(|&cpu| cpu != this_cpu()) else {
            return skip("too few CPUs", "nobody rests");
        };
        let Live { allocator, space, .. } = Live::get().ok_or("memory is not up")?;
        let frame = allocator.alloc(Request::movable(Order::ZERO))?;
        // No other page needs its tables.
        let page = page_at(VMAP.end - PAGE_SIZE as u64);
        for _ in 0..100 {
            space.map(page, frame.head(), Protection::ReadWrite)?;
            cpu::run_on(resting, &|| {})?;
            while nmi::resting(resting) == Resting::No {
                spin_loop();
            }
            // SAFETY: nobody looks at the page.
            unsafe { space.unmap(page) }?;
            check!(nmi::resting(resting) != Resting::Stale, "it may remember tables that are free");
        }
        Ok(())
    }
);
