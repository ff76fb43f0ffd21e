//! Blocks that are frozen and thaw as they were, or change only into what they may.

use super::*;
use crate::page::Block;

type Frozen<'o> = super::super::frozen::Frozen<'o, HostMachine, KernelStack>;

fn stack<'o>(owners: &'o Owners<'o, HostMachine>, order: usize) -> Owned<'o, HostMachine, KernelStack> {
    let stack = KernelStack { task: TaskId(order as u64) };
    owners.alloc(Request::new(Order::of(order)), stack).map_err(|(_, error)| error).expect("there is memory")
}

fn frozen<'o>(owners: &'o Owners<'o, HostMachine>, order: usize) -> Frozen<'o> {
    stack(owners, order).freeze().expect("nobody refers to it")
}

fn block<'o>(owners: &'o Owners<'o, HostMachine>, order: usize) -> Block<'o, HostMachine> {
    owners.pages().alloc(Request::new(Order::of(order))).expect("there is memory")
}

/// What a frozen block is to whoever walks.
fn is_seen(owners: &Owners<'_, HostMachine>, head: Pfn) -> bool {
    owners.walk().look(head).get().is_some()
}

#[test]
fn a_frozen_block_that_drops_goes_if_its_holder_had_the_only_reference() {
    with_owners(|owners| {
        let head = {
            let frozen = frozen(owners, 2);
            assert!(!is_seen(owners, frozen.head()), "nobody refers to what is frozen");
            frozen.head()
        };
        assert!(!is_seen(owners, head));
        // `with_owners` counts the blocks that are left.
    });
}

#[test]
fn a_frozen_block_that_drops_stays_for_the_other_references() {
    with_owners(|owners| {
        let shared = stack(owners, 1).into_shared();
        let head = shared.head();
        // No value stands for it meanwhile.
        let kept = core::mem::ManuallyDrop::new(shared.get());
        // SAFETY: it is given up when this has thawed.
        let frozen = unsafe { shared.freeze(Count(1)) }.expect("there is one other");
        assert!(!is_seen(owners, head));
        drop(frozen);
        assert!(is_seen(owners, head), "it was not thawed");
        drop(core::mem::ManuallyDrop::into_inner(kept));
        assert!(!is_seen(owners, head));
    });
}

#[test]
fn a_frozen_block_moves_to_no_block_of_another_size() {
    with_owners(|owners| {
        let mut frozen = frozen(owners, 1);
        for order in [0, 2] {
            let old = frozen.head();
            let refused = frozen.relocate(block(owners, order)).expect_err("it has another size");
            assert_eq!((refused.order(), frozen.head()), (Order::of(order), old));
        }
        let new = block(owners, 1);
        let (from, to) = (frozen.head(), new.head());
        let old = frozen.relocate(new).expect("it has the same size");
        assert_eq!((old.head(), frozen.head()), (from, to));
        drop(frozen.thaw());
    });
}

#[test]
fn blocks_of_two_sizes_are_not_joined() {
    with_owners(|owners| {
        let mut aside = owners.descriptors(Count(2)).expect("there is memory");
        let (lower, upper) =
            frozen(owners, 2).halve(&mut aside, |stack| KernelStack { task: stack.task }).expect("it has two halves");
        let (upper, last) =
            upper.halve(&mut aside, |stack| KernelStack { task: stack.task }).expect("it has two halves");
        // The first of the last two is where the buddy of the lower half was.
        let (lower, upper) = lower.join(upper).expect_err("they have two sizes");
        assert_eq!([&lower, &upper, &last].map(|frozen| frozen.order().index()), [1, 0, 0]);
        let (upper, _) = upper.join(last).expect("they are buddies");
        let (whole, _) = lower.join(upper).expect("they are buddies");
        assert_eq!(whole.order(), Order::of(2));
        drop(whole.thaw());
    });
}

/// Each counts what it owns, and has descriptors of its own.
#[test]
fn blocks_of_two_owners_are_not_joined() {
    with_owners(|owners| {
        let others = Owners::new(owners.caches).expect("there is memory");
        let (lower, upper) = block(owners, 3).split().expect("it has two halves");
        let stack = || KernelStack { task: TaskId(3) };
        let lower = owners.adopt(lower, stack()).map_err(|(_, _, error)| error).expect("there is memory");
        let upper = others.adopt(upper, stack()).map_err(|(_, _, error)| error).expect("there is memory");
        let [lower, upper] = [lower.freeze(), upper.freeze()].map(|frozen| frozen.expect("nobody refers to it"));
        let (lower, upper) = lower.join(upper).expect_err("they are different owners'");
        assert!(core::ptr::eq(lower.owners(), owners) && core::ptr::eq(upper.owners(), &raw const others));
        let whole = [lower.into_block().0, upper.into_block().0];
        assert_eq!(whole.map(|block| block.order()), [Order::of(2); 2]);
    });
}

#[test]
fn what_is_frozen_and_what_has_thawed_show_what_they_are_and_where() {
    with_owners(|owners| {
        let frozen = frozen(owners, 2);
        let place = format!("{:?}, {:?}", frozen.head(), frozen.order());
        assert_eq!(format!("{frozen:?}"), format!("Frozen({}, {place})", OwnerKind::KernelStack.name()));
        let thawed = frozen.thaw();
        assert_eq!(format!("{thawed:?}"), format!("{}({place})", OwnerKind::KernelStack.name()));
    });
}
