//! `/proc/slabinfo`, version 2.1: the object caches.

use core::fmt;

use crate::slab::{CacheName, CacheReport};

/// Two lines of heading, then a line a cache.
///
/// As with Linux's SLUB, objects in a CPU's sheaf count as active, and the size is from one object to the next. The
/// limit of the tunables is how many objects a sheaf has, and so is the batch: a sheaf is filled and emptied whole.
/// Factor and shared objects, of which there are none, are columns that readers count on.
#[derive(Clone, Copy, Debug)]
pub struct SlabInfo<F> {
    for_each_cache: F,
}

impl<F: Fn(&mut dyn FnMut(CacheReport))> SlabInfo<F> {
    /// The report on the caches that `for_each_cache` shows to whoever it is given, in their order. What it holds
    /// meanwhile is held while they are printed.
    pub const fn new(for_each_cache: F) -> Self {
        Self { for_each_cache }
    }
}

impl<F: Fn(&mut dyn FnMut(CacheReport))> fmt::Display for SlabInfo<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "slabinfo - version: 2.1")?;
        write!(f, "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>")?;
        write!(f, " : tunables <limit> <batchcount> <sharedfactor>")?;
        writeln!(f, " : slabdata <active_slabs> <num_slabs> <sharedavail>")?;
        let mut written = Ok(());
        (self.for_each_cache)(&mut |cache| written = written.and_then(|()| line(f, &cache)));
        written
    }
}

fn line(f: &mut fmt::Formatter<'_>, cache: &CacheReport) -> fmt::Result {
    let CacheReport {
        name, active, objects, stride, objects_per_slab, order, sheaf_objects, active_slabs, slabs, ..
    } = *cache;
    let (name, pages, sheaf) = (one_word(&name), order.pages(), sheaf_objects.0);
    write!(f, "{name:<17} {:>6} {:>6} {:>6} {:>4}", active.0, objects.0, stride.0, objects_per_slab.0)?;
    write!(f, " {pages:>4} : tunables {sheaf:>4} {sheaf:>4} {:>4}", 0)?;
    writeln!(f, " : slabdata {:>6} {:>6} {:>6}", active_slabs.0, slabs.0, 0)
}

/// The name without white space, at which readers split a line.
fn one_word(name: &CacheName) -> CacheName {
    let mut word = CacheName::new();
    for letter in name.chars() {
        // It fits: an underscore is as short as any letter.
        word.push(if letter.is_whitespace() { '_' } else { letter });
    }
    word
}
