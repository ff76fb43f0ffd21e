//! The note that stays in memory for whoever reads an image of it: [`mm::image`], and where the kernel's page
//! tables begin and what they map.

use kernel_core::layout::{DIRECT_MAP, KMAP_LOCAL};
use mm::image::{Note, NoteFull};
use spin::Once;

use crate::image::ro_after_init;
use crate::memory::{Allocator, Caches, MachineOwners};
use crate::paging::space::Space;
use crate::serial::println;

ro_after_init! {
    static NOTE: Once<Note> = Once::new();
}

/// Writes the note, once all that it tells of is there.
pub(crate) fn leave(allocator: &Allocator, caches: &Caches, owners: &MachineOwners, space: &Space) {
    NOTE.call_once(|| {
        let mut note = Note::new();
        let said = (|| -> Result<(), NoteFull> {
            allocator.write_note(&mut note)?;
            caches.write_note(&mut note)?;
            owners.write_note(&mut note)?;
            note.number("direct_map", DIRECT_MAP)?;
            note.number("slots", KMAP_LOCAL)?;
            note.number("kernel_root", space.root().number().into())
        })();
        if let Err(error) = said {
            println!("image: {error}");
        }
        note
    });
}
