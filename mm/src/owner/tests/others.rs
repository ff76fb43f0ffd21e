//! Two sets of owners over one allocator: each hands out references to its own.

use super::*;

/// Makes a second set beside the first.
fn with_both(test: impl FnOnce(&Owners<'_, HostMachine>, &Owners<'_, HostMachine>)) {
    with_owners(|ours| {
        let caches = KmemCaches::new(ours.pages()).expect("there is memory");
        let theirs = Owners::new(&caches).expect("there is memory");
        test(ours, &theirs);
    });
}

/// Whether a walk finds an owner at a frame, whose reference it could hand out.
fn finds(owners: &Owners<'_, HostMachine>, pfn: Pfn) -> bool {
    owners.walk().look(pfn).get().is_some()
}

#[test]
fn a_walk_hands_out_no_reference_to_others_owners() {
    with_both(|ours, theirs| {
        let request = Request::movable(Order::of(1));
        let folio = theirs.alloc(request, Folio::new()).map_err(|(_, error)| error).expect("there is memory");
        let tail = folio.head().plus(1);
        assert_eq!(ours.walk().look(tail).seen(), Seen::Allocated(OwnerKind::Folio), "what it is, anybody may know");
        assert!(finds(theirs, tail) && !finds(ours, tail));
    });
}

/// Their slabs go with their caches; a reference would be dropped behind that.
#[test]
fn a_walk_hands_out_no_reference_to_slabs_of_others_caches() {
    with_both(|ours, theirs| {
        let both = [ours, theirs];
        let objects = both.map(|owners| owners.caches.kmalloc(Bytes(100)).expect("there is memory"));
        let slabs = [0, 1].map(|of| both[of].caches.slab_pages(objects[of]).expect("it is in a slab").start);
        assert_eq!([0, 1].map(|of| slabs.map(|slab| finds(both[of], slab))), [[true, false], [false, true]]);
        for (owners, object) in both.into_iter().zip(objects) {
            // SAFETY: nobody uses it any more.
            assert_eq!(unsafe { owners.caches.kfree(object) }, Ok(()));
        }
        // What describes them is an object, too, and that of the first of these describes itself.
        for owners in both {
            let walker = owners.walk();
            let slabs = walker.blocks(walker.frames()).filter(|found| found.seen() == Seen::Allocated(OwnerKind::Slab));
            let found = slabs.filter(|slab| slab.get().is_some()).count();
            assert!(found > 5, "{found} slabs are {:p}'s", owners.caches);
        }
    });
}
