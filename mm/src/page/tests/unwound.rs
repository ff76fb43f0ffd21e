//! What was under way when somebody's shrinker panicked is as if nobody had begun it.

use super::{MIB, allocator, machine, usable};
use crate::host::{all_memory, panicking_when_short};
use crate::page::Request;
use crate::units::Order;

#[test]
fn a_group_does_not_pay_for_what_was_not_had() {
    let machine = machine(4 * MIB, 2 * MIB);
    let allocator = allocator(&machine, &[usable(0, 4 * MIB)]);
    let group = allocator.groups().create(None).expect("no group was made");
    let held = all_memory(&allocator);
    let request = Request::movable(Order::ZERO).charged_to(group.id());
    assert!(panicking_when_short(&allocator, || allocator.alloc(request).is_ok()).is_none(), "there was memory");
    drop(held);
    assert_eq!(group.report().usage, 0);
    allocator.verify_charges().expect("all is charged that is had");
    assert!(group.destroy().is_ok());
}

#[test]
fn blocks_that_were_had_before_the_others_could_not_be_go_back() {
    let machine = machine(4 * MIB, 2 * MIB);
    let allocator = allocator(&machine, &[usable(0, 4 * MIB)]);
    let free = allocator.free_pages();
    let mut held = all_memory(&allocator);
    let request = Request::movable(Order::ZERO);
    let mut seen = 0;
    // With each page there is it gets a little further.
    loop {
        let before = allocator.free_pages();
        match panicking_when_short(&allocator, || allocator.alloc_bulk::<48>(request)) {
            None => seen += u32::from(before > 0),
            Some(batch) => {
                assert_eq!(batch.heads().len(), 48);
                break;
            }
        }
        assert_eq!(allocator.free_pages(), before, "blocks were lost");
        drop(held.pop().expect("there is more memory than that"));
    }
    assert!(seen > 0, "none was had before another could not be");
    drop(held);
    assert_eq!(allocator.free_pages(), free);
}
