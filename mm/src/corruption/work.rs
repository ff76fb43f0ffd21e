//! What is done with a machine of which a bit has flipped: everything, by somebody who knows what is whose.

use core::ptr::NonNull;
use std::collections::BTreeMap;
use std::format;
use std::vec::Vec;

use super::fork::{double, lost, named};
use super::scene::{Held, M, OBJECT, Scene};
use crate::host::on_cpu;
use crate::machine::Machine;
use crate::migratetype::Migratetype;
use crate::page::Request;
use crate::units::{Count, CpuId, Order, Pfn, PfnRange, PhysAddr};

/// Bytes of each block and object that are written and looked at again.
const MARK: usize = 64;

/// What is whose, as far as the one knows who works: blocks by their first frames, objects by their addresses.
#[derive(Default)]
struct Shadow {
    blocks: BTreeMap<Pfn, Order>,
    objects: BTreeMap<usize, usize>,
    refused: Option<std::string::String>,
}

/// The bytes that stand in what is held.
fn mark_of(frame: u32) -> [u8; MARK] {
    let [low, high, ..] = frame.to_le_bytes();
    core::array::from_fn(|index| if index % 2 == 0 { low ^ 0x5a } else { high ^ 0xa5 })
}

impl Scene<'_, '_> {
    /// Writes into every page of what is held as a bare number.
    pub(super) fn fill_held(&self) {
        self.held.iter().for_each(|held| fill(self.machine, *held));
    }
}

fn range(Held { head, order }: Held) -> PfnRange {
    PfnRange::new(head, head.plus(order.pages()))
}

fn fill(machine: &M, held: Held) {
    for pfn in range(held).frames() {
        let mark = mark_of(pfn.number());
        if pfn < machine.direct_map_end() {
            // SAFETY: the page is in the direct map, and somebody's who knows of this.
            unsafe { machine.direct_map(pfn).cast().write(mark) };
        } else {
            machine.write(pfn, 0, &mark);
        }
    }
}

/// Whoever holds a block finds in it what he wrote.
fn look(machine: &M, held: Held) {
    for pfn in range(held).frames() {
        let mut found = [0; MARK];
        if pfn < machine.direct_map_end() {
            // SAFETY: as above.
            found = unsafe { machine.direct_map(pfn).cast().read() };
        } else {
            machine.read(pfn, 0, &mut found);
        }
        if found != mark_of(pfn.number()) {
            double(&format_args!("{pfn:?} was written to by somebody else"));
        }
    }
}

impl Shadow {
    /// Somebody is given a block.
    fn take_block(&mut self, machine: &M, held: Held) {
        let end = held.head.number().saturating_add(held.order.pages());
        let before = self.blocks.range(..Pfn::new(end)).next_back();
        let overlaps = before.is_some_and(|(head, order)| head.plus(order.pages()) > held.head);
        if overlaps || end > machine.memory_end().number() {
            double(&format_args!("{held:?} is given out, and somebody's"));
        }
        self.blocks.insert(held.head, held.order);
    }

    /// Somebody is given an object.
    fn take_object(&mut self, machine: &M, at: NonNull<u8>, bytes: usize) {
        let (start, end) = (at.addr().get(), at.addr().get() + bytes);
        let before = self.objects.range(..end).next_back();
        let overlaps = before.is_some_and(|(&start_of, &bytes)| start_of + bytes > start);
        let PhysAddr(physical) = machine.physical(at);
        let frame = Pfn::containing(PhysAddr(physical)).filter(|&pfn| pfn < machine.direct_map_end());
        let in_block = frame.is_none_or(|pfn| {
            let before = self.blocks.range(..=pfn).next_back();
            before.is_some_and(|(head, order)| head.plus(order.pages()) > pfn)
        });
        if overlaps || in_block {
            double(&format_args!("an object of {bytes} bytes is given out, and somebody's"));
        }
        self.objects.insert(start, bytes);
        // SAFETY: it was just given out, and is nobody else's, as far as is known.
        unsafe { at.as_ptr().write_bytes(0x3c, bytes.min(OBJECT as usize)) };
    }

    fn leave_object(&mut self, at: NonNull<u8>) {
        // SAFETY: it is held.
        let bytes = unsafe { core::slice::from_raw_parts(at.as_ptr(), MARK) };
        let intact = bytes.iter().all(|&byte| byte == 0x3c);
        if self.objects.remove(&at.addr().get()).is_some() && !intact {
            double(&"an object was written to by somebody else");
        }
    }

    fn note(&mut self, refused: &dyn core::fmt::Display) {
        self.refused.get_or_insert_with(|| format!("{refused}"));
    }
}

/// Has the checkers look.
pub(super) fn check(scene: &mut Scene<'_, '_>) {
    if let Err(violation) = scene.pages.verify() {
        named(&violation);
    }
    if let Err(violation) = scene.caches.verify() {
        named(&violation);
    }
    for folio in &scene.folios {
        core::hint::black_box(folio.head());
    }
}

fn free(scene: &Scene<'_, '_>, shadow: &mut Shadow, held: Held) {
    // SAFETY: it is held, and not used any more.
    match unsafe { scene.pages.free_raw(held.head) } {
        Ok(()) => drop(shadow.blocks.remove(&held.head)),
        Err(error) => shadow.note(&error),
    }
}

fn free_object(scene: &Scene<'_, '_>, shadow: &mut Shadow, object: NonNull<u8>) {
    shadow.leave_object(object);
    // SAFETY: it is held, and not used any more.
    if let Err(error) = unsafe { scene.caches.kfree(object) } {
        shadow.note(&error);
    }
}

/// Allocates blocks of an order until there are none.
fn exhaust(scene: &Scene<'_, '_>, shadow: &mut Shadow, order: Order, kind: Migratetype) -> Vec<Held> {
    let mut held = Vec::new();
    while let Ok(head) = scene.pages.alloc_raw(Request::movable(order).with_migratetype(kind)) {
        shadow.take_block(scene.machine, Held { head, order });
        held.push(Held { head, order });
    }
    held
}

/// Uses everything. Returns only if there is nothing to say.
pub(super) fn everything(scene: &mut Scene<'_, '_>) {
    let mut shadow = Shadow::default();
    let mut held = core::mem::take(&mut scene.held);
    let mut objects = core::mem::take(&mut scene.objects);
    shadow.blocks.extend(held.iter().map(|held| (held.head, held.order)));
    for owned in scene.folios.iter().map(|owned| (owned.head(), owned.order())) {
        shadow.blocks.insert(owned.0, owned.1);
    }
    for owned in scene.stacks.iter().map(|owned| (owned.head(), owned.order())) {
        shadow.blocks.insert(owned.0, owned.1);
    }
    // What is free is taken first, while as much as can be is somebody's.
    let taken: Vec<_> = (0..40).map_while(|_| scene.cache.alloc_raw().ok()).collect();
    for &object in &taken {
        if objects.contains(&object) {
            double(&"an object that somebody has is given out");
        }
        shadow.take_object(scene.machine, object, OBJECT as usize);
    }
    for cpu in [CpuId(1), CpuId(0)] {
        let few = on_cpu(cpu, || {
            (0..6).map_while(|_| scene.pages.alloc_raw(Request::movable(Order::ZERO)).ok()).collect::<Vec<_>>()
        });
        for head in few {
            shadow.take_block(scene.machine, Held { head, order: Order::ZERO });
            fill(scene.machine, Held { head, order: Order::ZERO });
            held.push(Held { head, order: Order::ZERO });
        }
    }
    let before = held.len();
    for order in [3, 1, 0] {
        held.extend(exhaust(scene, &mut shadow, Order::of(order), Migratetype::Movable));
    }
    held[before..].iter().for_each(|&held| fill(scene.machine, held));
    held.iter().for_each(|&held| look(scene.machine, held));
    // Then every other thing is given back, and all the rest, so that everything merges.
    scene.folios.drain(..).for_each(|folio| {
        shadow.blocks.remove(&folio.head());
        drop(folio);
    });
    let (first, second): (Vec<_>, Vec<_>) = (0..).zip(held).partition(|(index, _)| index % 2 == 0);
    for (_, held) in first {
        free(scene, &mut shadow, held);
    }
    taken.into_iter().for_each(|object| free_object(scene, &mut shadow, object));
    objects.drain(..).for_each(|object| free_object(scene, &mut shadow, object));
    scene.caches.gather_all();
    let mut again: Vec<_> = (0..60).map_while(|_| scene.cache.alloc_raw().ok()).collect();
    again.iter().for_each(|&object| shadow.take_object(scene.machine, object, OBJECT as usize));
    for (_, held) in second {
        free(scene, &mut shadow, held);
    }
    again.drain(..).for_each(|object| free_object(scene, &mut shadow, object));
    scene.cache.shrink();
    scene.stacks.drain(..).for_each(|stack| {
        shadow.blocks.remove(&stack.head());
        drop(stack);
    });
    let Count(_) = scene.pages.drain();
    // All there is, in blocks of three sizes, and back.
    for (order, kind) in [(5, Migratetype::Unmovable), (2, Migratetype::Reclaimable), (0, Migratetype::Movable)] {
        let all = exhaust(scene, &mut shadow, Order::of(order), kind);
        all.into_iter().for_each(|held| free(scene, &mut shadow, held));
    }
    if let Some(refused) = shadow.refused {
        named(&refused);
    }
    if let Err(violation) = scene.pages.verify() {
        lost(&format_args!("afterwards, {violation}"));
    }
    if let Err(violation) = scene.caches.verify() {
        lost(&format_args!("afterwards, {violation}"));
    }
    if !shadow.blocks.is_empty() {
        lost(&format_args!("{} blocks are left", shadow.blocks.len()));
    }
}
