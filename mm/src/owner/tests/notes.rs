//! What whoever reads an image of memory is told: a line for each structure that it follows.

use std::collections::BTreeMap;

use super::*;
use crate::image::Note;

/// What is read in images of memory (`tests/src/fsck`).
const READ: &str = "
    Cache.closing Cache.layout Cache.name Cache.name.bytes Cache.next Cache.sheaf_objects Cache.sides Cache.slabs
    Cache.slabs.held Cache.slabs.value CpuCache.lists CpuSheaf.busy CpuSheaf.lower CpuSheaf.sheaves CpuSheaf.top
    CpuSheaf.upper Descriptor.folio.state Descriptor.page_table.block Descriptor.page_table.owner Descriptor.slab.block
    Descriptor.slab.owner Descriptor.slab.state Freelists.occupied Freelists.stacks Gate.busy Group.balance List.bottom
    List.capacity List.limit List.mask List.near List.slots List.top List.word PageTable.level PageTable.used
    PageTable.used.held PageTable.used.value Pending.todo Row.gate Section.descriptors.pages Section.types Sheaf.next
    Sheaf.objects Sheaf.objects.elements SheafStack.len SheafStack.top Sheaves.main Sheaves.spare Slab.cache Slab.first
    Slab.state SlabLayout.objects SlabLayout.order SlabLayout.stride SlabList.first SlabList.len SlabState.free
    SlabState.next SlabState.previous SlabState.taken Slabs.empty_sheaves Slabs.full_sheaves Slabs.lists Slabs.own
    Slabs.taken Slot.number Slot.page Stack.height Stack.len Stack.prepared Stack.ring Stack.root Stack.stored Stack.tail
    Zone.free Zone.highatomic Zone.id Zone.lists Zone.managed Zone.nodes Zone.pending Zone.span.end Zone.span.start
    ZoneCell.zone ZoneCell.zone.held ZoneCell.zone.value caches.held caches.value cpus.caches cpus.count
    highatomic.elements lists.count map.holes map.root map.table_shift map.tables pending.stuck zones.count";

#[test]
fn a_note_has_every_line_that_is_read_in_an_image_once() {
    with_owners(|owners| {
        let mut note = Note::new();
        owners.pages().write_note(&mut note).expect("there is room");
        owners.caches.write_note(&mut note).expect("there is room");
        owners.write_note(&mut note).expect("there is room");
        let mut lines = BTreeMap::new();
        for line in note.text().lines() {
            let (name, number) = line.split_once('=').expect("a name and a number");
            let number = u64::from_str_radix(number, 16).expect("it is a hexadecimal number");
            assert_eq!(lines.insert(name, number), None, "{name} is said twice");
        }
        let lacks: Vec<_> = READ.split_whitespace().filter(|&name| !lines.contains_key(name)).collect();
        assert_eq!(lacks, [""; 0]);
        assert_eq!(lines["cpus.count"], u64::from(CPUS));
    });
}
