//! Random operations on files, anonymous memory, private views and forks of both, in a machine with less memory than they
//! have contents, against plain bytes; the checkers after each.

use super::*;
use crate::folio::SplitTo;
use crate::host::scaled;
use crate::host::sweep::fail_each_once;

/// Pages of each memory object.
const PAGES: usize = 80;

type Page = Vec<u8>;

/// A file, and what is to be in it.
struct Shared<'c> {
    mapping: MappingRef<'c, HostMachine>,
    pages: Vec<Page>,
}

/// Private memory, and what was written there; elsewhere the file is seen that it is a view of, or zeroes.
struct Private<'c> {
    mapping: MappingRef<'c, HostMachine>,
    own: Vec<Option<Page>>,
    file: Option<usize>,
}

struct World<'c, 's> {
    cache: &'c Cache<'c>,
    files: &'s [HostFile],
    shared: Vec<Shared<'c>>,
    private: Vec<Private<'c>>,
    random: fastrand::Rng,
}

impl<'c, 's: 'c> World<'c, 's> {
    fn new(cache: &'c Cache<'c>, files: &'s [HostFile], seed: u64) -> Self {
        let open = |file: &'s HostFile| Shared {
            mapping: cache.file(file, Order::of(3)).expect("there is memory"),
            pages: file.bytes.lock().expect("nobody has failed").chunks(PAGE_SIZE).map(<[u8]>::to_vec).collect(),
        };
        let shared = files.iter().map(open).collect();
        Self { cache, files, shared, private: Vec::new(), random: fastrand::Rng::with_seed(seed) }
    }

    fn expected(&self, private: &Private<'_>, page: usize) -> Page {
        match (&private.own[page], private.file) {
            (Some(own), _) => own.clone(),
            (None, Some(file)) => self.shared[file].pages[page].clone(),
            (None, None) => vec![0; PAGE_SIZE],
        }
    }

    fn check_page(&self, mapping: &Mapping<'_, HostMachine>, page: usize, expected: &Page) {
        let mut seen = vec![0; PAGE_SIZE];
        match mapping.read(PageIndex(page as u64).start(), &mut seen) {
            Ok(()) => assert!(seen == *expected, "page {page} is not what was written"),
            Err(CacheError::Store(StoreError::Failed(_))) => {}
            Err(error) => panic!("page {page}: {error}"),
        }
    }

    /// A run of bytes in a page, and what is to be written there.
    fn patch(&mut self) -> (usize, usize, Vec<u8>) {
        let page = self.random.usize(..PAGES);
        let start = self.random.usize(..PAGE_SIZE);
        let len = self.random.usize(1..=PAGE_SIZE - start);
        let byte = self.random.u8(..);
        (page, start, vec![byte; len])
    }

    fn write_shared(&mut self) {
        let file = self.random.usize(..self.shared.len());
        let (page, start, bytes) = self.patch();
        let shared = &mut self.shared[file];
        if shared.mapping.write(PageIndex(page as u64).start().plus(start as u64), &bytes).is_ok() {
            shared.pages[page][start..start + bytes.len()].copy_from_slice(&bytes);
        }
    }

    fn write_private(&mut self) {
        if self.private.is_empty() {
            return;
        }
        let which = self.random.usize(..self.private.len());
        let (page, start, bytes) = self.patch();
        let mut expected = self.expected(&self.private[which], page);
        let private = &mut self.private[which];
        if private.mapping.write(PageIndex(page as u64).start().plus(start as u64), &bytes).is_ok() {
            expected[start..start + bytes.len()].copy_from_slice(&bytes);
            private.own[page] = Some(expected);
        }
    }

    fn begin_private(&mut self) {
        if self.private.len() >= 6 {
            return;
        }
        let file = self.random.bool().then(|| self.random.usize(..self.shared.len()));
        let mapping = match file {
            Some(file) => Mapping::shadow(&self.shared[file].mapping),
            None => self.cache.anonymous(Order::of(self.random.usize(..4))),
        };
        let mapping = mapping.expect("there is memory");
        self.private.push(Private { mapping, own: vec![None; PAGES], file });
    }

    fn fork(&mut self) {
        if self.private.is_empty() || self.private.len() >= 8 {
            return;
        }
        let which = self.random.usize(..self.private.len());
        let private = &mut self.private[which];
        let Fork { parent, child } = Mapping::fork(&private.mapping).expect("there is memory");
        private.mapping = parent;
        let (own, file) = (private.own.clone(), private.file);
        self.private.push(Private { mapping: child, own, file });
    }

    /// Splits any folio that stands anywhere.
    fn split(&mut self) {
        let shared = self.shared.iter().map(|it| &it.mapping);
        let mappings: Vec<_> = shared.chain(self.private.iter().map(|it| &it.mapping)).collect();
        let mapping = mappings[self.random.usize(..mappings.len())];
        let Some(folio) = mapping.lookup(PageIndex(self.random.u64(..PAGES as u64))) else { return };
        if folio.order() == Order::ZERO {
            return;
        }
        let order = Order::of(self.random.usize(..folio.order().index()));
        let frame = folio.head().plus(self.random.u32(..folio.order().pages()));
        let to = if self.random.bool() { SplitTo::Uniform(order) } else { SplitTo::Around(frame, order) };
        let (head, pieces) = (folio.head(), to.pieces(folio.head(), folio.order()).expect("it has such pieces"));
        let end = folio.range().end;
        self.cache.split(folio.lock(), to).map_err(|(_, error)| error).expect("there is memory");
        let walk = self.cache.owners().walk();
        let found = walk.blocks(crate::units::PfnRange::new(head, end)).count();
        assert_eq!(found, pieces.0 as usize, "{to:?}");
    }

    fn check_all(&self) {
        for shared in &self.shared {
            (0..PAGES).for_each(|page| self.check_page(&shared.mapping, page, &shared.pages[page]));
        }
        for private in &self.private {
            (0..PAGES).for_each(|page| self.check_page(&private.mapping, page, &self.expected(private, page)));
        }
    }

    fn verify(&self) {
        for mapping in self.shared.iter().map(|it| &it.mapping).chain(self.private.iter().map(|it| &it.mapping)) {
            mapping.verify().expect("the mapping is sound");
        }
    }

    fn step(&mut self) {
        match self.random.u32(..100) {
            0..25 => self.write_shared(),
            25..55 => self.write_private(),
            55..70 => {
                let page = self.random.usize(..PAGES);
                let file = self.random.usize(..self.shared.len());
                self.check_page(&self.shared[file].mapping, page, &self.shared[file].pages[page]);
                if let Some(private) = self.random.choice(0..self.private.len()) {
                    let private = &self.private[private];
                    self.check_page(&private.mapping, page, &self.expected(private, page));
                }
            }
            70..77 => self.begin_private(),
            77..83 => self.fork(),
            83..88 => {
                if !self.private.is_empty() {
                    self.private.swap_remove(self.random.usize(..self.private.len()));
                }
            }
            88..93 => {
                let _ = self.cache.reclaim(Count(self.random.u32(..128)));
            }
            93..95 => self.split(),
            95..97 => {
                let file = self.random.usize(..self.shared.len());
                if self.shared[file].mapping.write_back().is_ok() {
                    let bytes = self.files[file].bytes.lock().expect("nobody has failed");
                    let written = bytes.chunks(PAGE_SIZE).zip(&self.shared[file].pages);
                    assert!(written.into_iter().all(|(there, page)| there == page), "a file was not written");
                }
            }
            _ => {
                let file = self.random.usize(..self.files.len());
                self.files[file].fails_in.store(self.random.u32(1..6), Ordering::Relaxed);
            }
        }
    }

    fn heal(&self) {
        self.files.iter().for_each(|file| file.fails_in.store(0, Ordering::Relaxed));
    }
}

/// Runs in a machine with less memory than there are contents.
fn run(seed: u64, steps: u32) {
    let files: Vec<HostFile> = (0..2).map(|_| HostFile::pages(PAGES)).collect();
    let swap = HostFile::pages(16 * PAGES);
    with_cache(2, &swap, |cache| {
        let mut world = World::new(cache, &files, seed);
        for step in 0..steps {
            world.step();
            if step % 8 == 0 {
                world.verify();
            }
        }
        world.heal();
        world.check_all();
        world.verify();
        assert!(cache.report().reclaimed > 0 || cfg!(miri), "memory was never short");
    });
}

#[test]
fn every_byte_is_what_was_written_last_whatever_is_reclaimed_forked_and_fails_meanwhile() {
    for seed in 0..scaled(12, 1) {
        run(seed, scaled(1500, 60));
    }
}

#[test]
fn the_nth_allocation_may_fail_for_every_n_and_nothing_is_lost() {
    let files: Vec<HostFile> = vec![HostFile::pages(PAGES)];
    let swap = HostFile::pages(4 * PAGES);
    with_cache(8, &swap, |cache| {
        let script = || -> Result<(), String> {
            let file = cache.file(&files[0], Order::of(3)).map_err(text)?;
            let private = Mapping::shadow(&file).map_err(text)?;
            let mut seen = vec![0; 9 * PAGE_SIZE];
            file.read(FileOffset(100), &mut seen).map_err(text)?;
            private.write(PageIndex(70).start(), &[1; 100]).map_err(text)?;
            private.write(PageIndex(3).start(), &[2; 2 * PAGE_SIZE]).map_err(text)?;
            let Fork { parent, child } = Mapping::fork(&private).map_err(text)?;
            drop(private);
            child.write(PageIndex(4).start(), &[3; 10]).map_err(text)?;
            cache.reclaim(Count(100));
            parent.read(PageIndex(1).start(), &mut seen).map_err(text)?;
            drop(parent);
            let folio = file.read_folio(PageIndex(5)).map_err(text)?;
            let around = SplitTo::Around(folio.head(), Order::ZERO);
            if folio.order() > Order::ZERO {
                cache.split(folio.lock(), around).map_err(|(_, error)| text(error))?;
            }
            child.write(PageIndex(3).start(), &[4]).map_err(text)?;
            let anonymous = cache.anonymous(Order::of(4)).map_err(text)?;
            anonymous.write(PageIndex(0).start(), &[5; 16 * PAGE_SIZE]).map_err(text)?;
            anonymous.write(PageIndex(1 << 40).start(), &[6]).map_err(text)?;
            for mapping in [&file, &child, &anonymous] {
                mapping.verify().map_err(text)?;
            }
            Ok(())
        };
        // The pages of descriptors' and nodes' slabs stay.
        script().expect("there is memory");
        cache.owners().caches.shrink();
        let swept = fail_each_once(cache.owners().pages(), || {
            let outcome = script();
            cache.nodes.shrink();
            cache.owners().caches.shrink();
            outcome
        });
        assert!(swept.allocations > 50, "{swept:?}");
    });
}
