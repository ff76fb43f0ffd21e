//! What several CPUs must do. On a machine with one CPU most of it is said of that one.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, compiler_fence};

use kernel_core::layout::{BEHIND_STACKS, KMAP_SLOTS, VMAP};
use mm::machine::Machine;
use mm::owner::Reference;
use mm::page::Request;
use mm::units::{CpuId, Order, PAGE_SIZE, Pfn};
use spin::Mutex;
use x86_64::instructions::interrupts;

use super::space::{live, word};
use super::{Outcome, check, diagnostic, ktest, skip};
use crate::apic::LocalApic;
use crate::cpu::{self, HotplugError, NotOnline};
use crate::image::Protection;
use crate::paging::space::page_at;
use crate::stacks;
use crate::timer::{self, Ticks};

/// Long against what a handler takes, on every machine; short against a test.
const PERIOD: Ticks = Ticks(2_000_000);

/// Where CPUs wait for each other.
struct Meeting {
    all: u32,
    arrived: AtomicU32,
}

impl Meeting {
    const fn of(all: u32) -> Self {
        Self { all, arrived: AtomicU32::new(0) }
    }

    /// Waits until every CPU has come as often as this one.
    fn wait(&self) {
        let before = self.arrived.fetch_add(1, Ordering::SeqCst);
        let round = before / self.all;
        while self.arrived.load(Ordering::SeqCst) / self.all == round {
            core::hint::spin_loop();
        }
    }
}

/// The first thing that any CPU found wrong.
struct Verdict(Mutex<Option<&'static str>>);

impl Verdict {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn expect(&self, condition: bool, otherwise: &'static str) {
        if !condition {
            interrupts::without_interrupts(|| {
                self.0.lock().get_or_insert(otherwise);
            });
        }
    }

    fn outcome(&self) -> Outcome {
        match *self.0.lock() {
            None => Ok(()),
            Some(wrong) => Err(wrong.into()),
        }
    }
}

ktest!(
    "cpus",
    fn every_cpu_that_is_listed_is_up_with_its_own_number_stack_area_and_segments() {
        let live = live()?;
        let listed: Vec<_> = (0..live.platform.cpus().get()).map(CpuId).collect();
        let up: Vec<_> = cpu::online().collect();
        check!(up == listed, "{up:?} are up of {listed:?}");
        let seen = Mutex::new(Vec::with_capacity(listed.len()));
        cpu::on_all(&|cpu| {
            let local = 0_u8;
            let segments = x86_64::instructions::tables::sgdt().base.as_u64();
            seen.lock().push((live.platform.cpu(), cpu, (&raw const local).addr() as u64, segments));
        });
        let mut seen = seen.into_inner();
        seen.sort_unstable();
        let ran: Vec<_> = seen.iter().map(|&(is, _, _, _)| is).collect();
        check!(ran == listed, "the work ran on {ran:?}");
        let walker = live.owners.walk();
        for (number, &(is, told, local, segments)) in seen.iter().enumerate() {
            check!(is == told, "{is:?} was told that it is {told:?}");
            let stacks = || stacks::all().filter(|stack| VMAP.contains(&stack.range.start));
            let own = stacks().find(|stack| stack.range.contains(&local));
            let own = own.ok_or("a CPU is on no stack of the kernel's")?.range;
            check!(
                seen.iter().skip(number + 1).all(|&(_, _, other, _)| !own.contains(&other)),
                "{is:?} shares its stack"
            );
            let frame = Pfn::containing(live.platform.physical(word(segments).cast()));
            let area = frame.and_then(|frame| walker.look(frame).get());
            check!(
                matches!(&area, Some(Reference::PerCpuArea(area)) if area.cpu == is),
                "the segments of {is:?} stand in {area:?}"
            );
        }
        for &cpu in &listed {
            let node = live.platform.node_of(cpu);
            let away = live.platform.topology().distance(node, node);
            check!(away == mm::units::Distance::LOCAL, "{cpu:?} is {away:?} from its own memory");
        }
        Ok(())
    }
);

ktest!(
    "cpus",
    fn work_is_done_on_the_cpu_that_was_named_and_cpus_may_ask_each_other_at_once() {
        const ROUNDS: u32 = 50;
        let (verdict, done) = (Verdict::new(), AtomicU32::new(0));
        let cpus: Vec<_> = cpu::online().collect();
        for &cpu in &cpus {
            cpu::run_on(cpu, &|| verdict.expect(crate::cpu_local::this_cpu() == cpu, "another CPU did the work"))?;
        }
        // Everybody asks everybody, so everybody is asked while it waits.
        cpu::on_all(&|asking| {
            for round in 0..ROUNDS {
                let asked = cpus[(usize::from(asking.0) + round as usize) % cpus.len()];
                let ran = cpu::run_on(asked, &|| {
                    verdict.expect(crate::cpu_local::this_cpu() == asked, "another CPU did the work");
                    done.fetch_add(1, Ordering::Relaxed);
                });
                verdict.expect(ran == Ok(()), "a CPU that is online took no work");
            }
        });
        let (done, wanted) = (done.into_inner(), ROUNDS * u32::try_from(cpus.len())?);
        check!(done == wanted, "{done} of {wanted} pieces of work were done");
        verdict.outcome()
    }
);

ktest!(
    "cpus",
    fn a_barrier_on_all_cpus_orders_what_has_no_fence_of_its_own() {
        const ROUNDS: u32 = 300;
        let live = live()?;
        // More than two that wait for each other take long on a host with fewer cores.
        let (meeting, verdict) = (Meeting::of(if cpu::online().count() > 1 { 2 } else { 1 }), Verdict::new());
        let (mine, theirs) = (AtomicU32::new(0), AtomicU32::new(0));
        let seen = [AtomicU32::new(0), AtomicU32::new(0)];
        cpu::on_all(&|cpu| {
            for round in 1..=ROUNDS {
                if cpu > CpuId(1) {
                    return;
                }
                meeting.wait();
                match cpu {
                    CpuId(0) => {
                        mine.store(round, Ordering::Relaxed);
                        live.platform.heavy_barrier();
                        seen[0].store(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                    _ => {
                        theirs.store(round, Ordering::Relaxed);
                        // The processor may let the load overtake the store; the compiler may not.
                        compiler_fence(Ordering::SeqCst);
                        seen[1].store(mine.load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                }
                meeting.wait();
                let neither = seen.iter().all(|seen| seen.load(Ordering::Relaxed) < round);
                verdict.expect(!neither || meeting.all == 1, "neither of two CPUs saw the other's store");
                meeting.wait();
            }
        });
        verdict.outcome()
    }
);

ktest!(
    "cpus",
    fn barriers_from_all_cpus_at_once_with_interrupts_off_and_a_lock_held_all_return() {
        const ROUNDS: u32 = 20;
        let live = live()?;
        let lock = Mutex::new(0_u32);
        cpu::on_all(&|cpu| {
            for round in 0..ROUNDS {
                let _off = live.platform.disable_interrupts();
                // Half of the time the others wait for the lock, without interrupts, while its holder waits for them.
                if (round + u32::from(cpu.0)).is_multiple_of(2) {
                    let mut held = lock.lock();
                    live.platform.heavy_barrier();
                    *held += 1;
                } else {
                    live.platform.heavy_barrier();
                }
            }
        });
        let (counted, wanted) = (lock.into_inner(), ROUNDS / 2 * u32::try_from(cpu::online().count())?);
        check!(counted == wanted, "{counted} rounds of {wanted} under the lock");
        Ok(())
    }
);

ktest!(
    "cpus",
    fn after_a_page_was_unmapped_no_cpu_sees_what_it_led_to() {
        const ROUNDS: u64 = 40;
        let live = live()?;
        let address = BEHIND_STACKS + 0x7000;
        let mut pages = Vec::new();
        for value in 0..2_u8 {
            let mut page = live.allocator.alloc(Request::movable(Order::ZERO))?;
            let head = page.head();
            page.with_page(head, |bytes| bytes.fill(value)).ok_or("a block has no first page")?;
            pages.push(page);
        }
        let verdict = Verdict::new();
        for round in 0..ROUNDS {
            let which = (round % 2) as usize;
            live.space.map(page_at(address), pages[which].head(), Protection::Read)?;
            cpu::on_all(&|_| {
                // SAFETY: the page is mapped, and nobody writes to it.
                let found = unsafe { word(address).read_volatile() };
                verdict.expect(found == which as u64 * 0x0101_0101_0101_0101, "a CPU sees a page that was unmapped");
            });
            // SAFETY: every CPU is done with it.
            unsafe { live.space.unmap(page_at(address)) }?;
        }
        verdict.outcome()
    }
);

ktest!(
    "cpus",
    fn pages_are_mapped_and_unmapped_on_all_cpus_at_once() {
        const ROUNDS: u64 = 30;
        let live = live()?;
        let verdict = Verdict::new();
        let mut pages = Vec::new();
        for _ in cpu::online() {
            pages.push(live.allocator.alloc(Request::movable(Order::ZERO))?);
        }
        let frames: Vec<_> = pages.iter().map(mm::page::Block::head).collect();
        cpu::on_all(&|cpu| {
            let number = u64::from(cpu.0);
            // Neighbours share their tables, which come and go under them.
            let address = BEHIND_STACKS + (1 << 30) + number * PAGE_SIZE as u64;
            let frame = frames[usize::from(cpu.0)];
            for round in 0..ROUNDS {
                let mapped = live.space.map(page_at(address), frame, Protection::ReadWrite);
                if mapped.is_err() {
                    return verdict.expect(false, "a page could not be mapped");
                }
                let value = number << 32 | round;
                // SAFETY: the page is mapped, and this CPU's.
                unsafe { word(address).write_volatile(value) };
                // SAFETY: as above.
                let found = unsafe { word(address).read_volatile() };
                verdict.expect(found == value, "a page shows another CPU's");
                // SAFETY: nobody else uses the page.
                let unmapped = unsafe { live.space.unmap(page_at(address)) };
                verdict.expect(unmapped == Ok(frame), "another frame was unmapped");
            }
        });
        verdict.outcome()
    }
);

/// Ticks that a test waits for.
const TICKS: u32 = 10;

/// Whether this CPU's timer can tick at all.
fn has_timer() -> bool {
    LocalApic::get().is_some()
}

/// Runs until `done` has counted to [`TICKS`], with interrupts on.
fn until(done: &AtomicU32) {
    let were_on = interrupts::are_enabled();
    interrupts::enable();
    while done.load(Ordering::Relaxed) < TICKS {
        core::hint::spin_loop();
    }
    if !were_on {
        interrupts::disable();
    }
}

ktest!(
    "interrupts",
    fn the_timer_ticks_on_every_cpu_in_its_period_or_as_its_handler_says_and_not_behind() {
        if !has_timer() {
            return skip("no timer", "there is no local APIC");
        }
        let verdict = Verdict::new();
        cpu::on_all(&|cpu| {
            let ticks = AtomicU32::new(0);
            let on_tick = |registers: &mut crate::fatal::Registers| {
                verdict.expect(crate::cpu_local::this_cpu() == cpu, "another CPU's timer ticks here");
                verdict.expect(!interrupts::are_enabled(), "a handler is interrupted");
                verdict
                    .expect(crate::image::as_linked(registers.rip).is_some(), "what was interrupted is not the kernel");
                ticks.fetch_add(1, Ordering::Relaxed);
            };
            timer::every(PERIOD, &on_tick, || until(&ticks));
            let (periodic, seen) = (ticks.swap(0, Ordering::Relaxed), timer::seen());
            verdict.expect(periodic >= TICKS, "the timer has not ticked");
            let three = |_: &mut crate::fatal::Registers| {
                let ticks = ticks.fetch_add(1, Ordering::Relaxed) + 1;
                (ticks < TICKS).then_some(Ticks(PERIOD.0 / ticks))
            };
            timer::at_intervals(PERIOD, &three, || until(&ticks));
            let once_more = AtomicBool::new(false);
            timer::at_intervals(
                Ticks(PERIOD.0 / 2),
                &|_| {
                    once_more.store(true, Ordering::Relaxed);
                    None
                },
                || {
                    while !once_more.load(Ordering::Relaxed) {
                        core::hint::spin_loop();
                    }
                },
            );
            verdict.expect(ticks.load(Ordering::Relaxed) == TICKS, "a timer that was stopped has ticked");
            verdict.expect(timer::seen() - seen <= u64::from(TICKS) + 2, "somebody else's ticks came");
        });
        verdict.outcome()
    }
);

ktest!(
    "interrupts",
    fn while_they_are_off_nothing_ticks_and_guards_that_nest_leave_them_as_they_were() {
        if !has_timer() {
            return skip("no timer", "there is no local APIC");
        }
        let live = live()?;
        let verdict = Verdict::new();
        cpu::on_all(&|_| {
            let ticks = AtomicU32::new(0);
            let on_tick = |_: &mut crate::fatal::Registers| _ = ticks.fetch_add(1, Ordering::Relaxed);
            timer::every(PERIOD, &on_tick, || {
                let outer = live.platform.disable_interrupts();
                let before = ticks.load(Ordering::Relaxed);
                let inner = live.platform.disable_interrupts();
                // Longer than some periods, in instructions and in time.
                crate::clock::count_down(u64::from(PERIOD.0));
                drop(inner);
                verdict.expect(!interrupts::are_enabled(), "the inner guard has turned interrupts on");
                verdict.expect(ticks.load(Ordering::Relaxed) == before, "the timer ticked with interrupts off");
                drop(outer);
                until(&ticks);
            });
        });
        verdict.outcome()
    }
);

ktest!(
    "interrupts",
    fn kmap_slots_nest_also_in_a_timer_interrupt_on_every_cpu_at_once() {
        if !has_timer() {
            return skip("no timer", "there is no local APIC");
        }
        let live = live()?;
        let mut pages = Vec::new();
        for _ in 0..cpu::online().count() * KMAP_SLOTS {
            pages.push(live.allocator.alloc(Request::movable(Order::ZERO))?);
        }
        let frames: Vec<_> = pages.iter().map(mm::page::Block::head).collect();
        if let Some(lowmem) = frames.iter().find(|&&frame| frame < live.platform.direct_map_end()) {
            return skip("no highmem is free", format_args!("a movable page is {lowmem:?}"));
        }
        let (verdict, most) = (Verdict::new(), AtomicU64::new(0));
        cpu::on_all(&|cpu| {
            let own = &frames[usize::from(cpu.0) * KMAP_SLOTS..][..KMAP_SLOTS];
            let (tasks, handlers) = own.split_at(KMAP_SLOTS / 2);
            let (ticks, held) = (AtomicU32::new(0), AtomicU32::new(0));
            let on_tick = |_: &mut crate::fatal::Registers| {
                most.fetch_max((held.load(Ordering::Relaxed) as usize + handlers.len()) as u64, Ordering::Relaxed);
                nest(&live, &held, handlers, &verdict);
                ticks.fetch_add(1, Ordering::Relaxed);
            };
            timer::every(PERIOD, &on_tick, || {
                interrupts::enable();
                while ticks.load(Ordering::Relaxed) < 4 * TICKS {
                    nest(&live, &held, tasks, &verdict);
                }
            });
        });
        let most = most.into_inner();
        diagnostic!("{most} slots of a CPU were live at once");
        check!(most > KMAP_SLOTS as u64 / 2, "no tick has come while a task had slots");
        verdict.outcome()
    }
);

/// Maps the frames one within the other, and finds in each what was written to it.
fn nest(live: &super::space::Live, held: &AtomicU32, frames: &[Pfn], verdict: &Verdict) {
    let Some((&frame, rest)) = frames.split_first() else { return };
    let slot = live.platform.kmap_local(frame);
    held.fetch_add(1, Ordering::Relaxed);
    let place = slot.cast::<u64>();
    let value = u64::from(frame.number()) << 20 | rest.len() as u64;
    // SAFETY: the slot is mapped, and the frame the caller's.
    unsafe { place.write_volatile(value) };
    nest(live, held, rest, verdict);
    // SAFETY: as above.
    let found = unsafe { place.read_volatile() };
    verdict.expect(found == value, "a slot shows another frame");
    held.fetch_sub(1, Ordering::Relaxed);
    // SAFETY: those mapped within are given up, and nothing refers to this one.
    unsafe { live.platform.kunmap_local(slot) };
}

ktest!(
    "cpus",
    fn a_cpu_that_is_taken_away_does_nothing_until_it_is_back() {
        let boot = cpu::offline(CpuId(0));
        check!(boot == Err(HotplugError::Needed(CpuId(0))), "the CPU that boots: {boot:?}");
        let absent = CpuId(u16::MAX);
        check!(cpu::offline(absent) == Err(HotplugError::NoChange(absent)), "there is no {absent:?}");
        let all: Vec<_> = cpu::online().collect();
        for &gone in all.iter().skip(1) {
            cpu::offline(gone)?;
            let again = cpu::offline(gone);
            let left = cpu::online().count();
            let refused = cpu::run_on(gone, &|| ());
            let (ran, on_gone) = (AtomicU32::new(0), AtomicBool::new(false));
            cpu::on_all(&|cpu| {
                ran.fetch_add(1, Ordering::Relaxed);
                on_gone.fetch_or(cpu == gone, Ordering::Relaxed);
            });
            cpu::bring_back(gone)?;
            check!(again == Err(HotplugError::NoChange(gone)), "{gone:?} was taken away twice: {again:?}");
            check!(left == all.len() - 1 && refused == Err(NotOnline(gone)), "{left} are left, {refused:?}");
            check!(ran.into_inner() as usize == left && !on_gone.into_inner(), "work ran on a CPU that was away");
            let back = AtomicBool::new(false);
            cpu::run_on(gone, &|| back.store(true, Ordering::Relaxed))?;
            check!(back.into_inner(), "{gone:?} is back and does nothing");
        }
        let after: Vec<_> = cpu::online().collect();
        check!(after == all, "{after:?} are left of {all:?}");
        Ok(())
    }
);
