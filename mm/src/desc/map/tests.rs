//! Which descriptor is whose, and where they stand.

use core::num::NonZeroU16;
use core::ptr::NonNull;
use std::vec::Vec;

use super::PageMap;
use crate::arena::{ArenaMachine, Deep};
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::early::MetadataBytes;
use crate::host::{HostMachine, scaled};
use crate::machine::Machine;
use crate::units::{NodeId, PAGE_SIZE, Pfn, PhysAddr};

/// Sections of sixteen frames.
type Small = Deep<4, 2, 2>;

/// Frames that a table of sections is for.
const TABLE: u64 = 16 << super::TABLE_SHIFT;

fn frames(number: u64) -> Pfn {
    Pfn::new(u32::try_from(number).expect("few"))
}

fn region(frames: core::ops::Range<u64>, node: u8) -> Region {
    let (start, len) = (frames.start * PAGE_SIZE as u64, (frames.end - frames.start) * PAGE_SIZE as u64);
    Region { start: PhysAddr(start), len, kind: RegionKind::Usable, node: NodeId(node) }
}

#[test]
fn neighbours_are_those_that_a_look_up_of_each_would_give() {
    let machine = ArenaMachine::<Small>::new(Pfn::new(200), Pfn::new(200));
    // Section 7 is not there.
    let mut boot_map: BootMap = BootMap::new(&[region(1..112, 0), region(130..200, 0)]).expect("disjoint");
    let map: PageMap<'_, Small> = PageMap::carve(&machine, &mut boot_map, &mut MetadataBytes::default()).expect("fits");
    let mut neighbours = map.neighbours();
    for pfn in (0..210).chain((0..210).rev()).chain((0..210).map(|step| step * 37 % 210)).map(Pfn::new) {
        let [alone, beside] = [map.get(pfn), neighbours.get(pfn)].map(|page| page.map(core::ptr::from_ref));
        assert_eq!(beside, alone, "{pfn:?}");
    }
}

#[test]
fn exactly_the_frames_that_were_carved_hold_descriptors_and_what_leads_to_them() {
    // Three tables of sections, of which the second has none that is there.
    let end = 2 * TABLE + 400;
    let machine = HostMachine::<Small>::new(frames(end), frames(300), NonZeroU16::MIN).expect("the host lends memory");
    let mut boot_map: BootMap =
        BootMap::new(&[region(1..100, 0), region(130..400, 0), region(2 * TABLE..end, 0)]).expect("disjoint");
    let before: Vec<_> = boot_map.usable().flat_map(|(range, _)| range.frames()).collect();
    let map: PageMap<'_, Small> = PageMap::carve(&machine, &mut boot_map, &mut MetadataBytes::default()).expect("fits");
    let is_usable = |pfn: Pfn| boot_map.usable().any(|(range, _)| range.contains(pfn));
    let carved: Vec<_> = before.into_iter().filter(|&pfn| !is_usable(pfn)).collect();
    for pfn in (0..500).step_by(scaled(1, 40)).map(Pfn::new) {
        assert_eq!(map.stands_in(&machine, pfn), carved.contains(&pfn), "{pfn:?}");
    }
}

#[test]
fn descriptors_stand_on_the_node_whose_memory_they_are_for() {
    let machine = ArenaMachine::<Small>::new(frames(TABLE + 400), frames(TABLE + 400));
    let regions = [region(1..400, 0), region(TABLE..TABLE + 400, 1)];
    let mut boot_map: BootMap = BootMap::new(&regions).expect("disjoint");
    let map: PageMap<'_, Small> = PageMap::carve(&machine, &mut boot_map, &mut MetadataBytes::default()).expect("fits");
    for pfn in [1, 399, TABLE, TABLE + 399] {
        let place = machine.physical(NonNull::from(map.page(frames(pfn))).cast());
        assert_eq!(place.0 >= TABLE * PAGE_SIZE as u64, pfn >= TABLE, "descriptor of {pfn:#x}");
    }
}
