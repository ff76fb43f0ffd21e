//! A space that was being made when somebody's code panicked was never there.

use super::rig::with_rig;
use super::*;
use crate::host::{all_memory, panicking_when_short};

#[test]
fn a_space_that_was_being_made_has_no_number() {
    with_rig(|rig| {
        let mut held = all_memory(rig.pages);
        let mut panicked = 0;
        // With each page there is it gets a little further.
        let first = loop {
            match panicking_when_short(rig.pages, || rig.spaces.create()) {
                Some(space) => break space.expect("there was memory"),
                None => panicked += 1,
            }
            held.pop();
        };
        assert!(panicked > scaled(2, 0), "it has come to {panicked} points");
        drop(held);
        rig.verify(&[first, rig.space(), rig.space()]);
    });
}
