//! Random operations on files, anonymous memory, private views and forks of both, in a machine with less memory than they
//! have contents and of which now and then a page fails, against plain bytes and what was lost; the checkers after each.

use super::lookup::Shown;
use super::*;
use crate::folio::SplitTo;
use crate::host::scaled;
use crate::host::sweep::fail_each_once;
use crate::page::FailureOutcome;

/// Pages of each memory object.
const PAGES: usize = 80;

type Page = Vec<u8>;

/// A file, what is to be in it, and which of its pages are lost.
struct Shared<'c> {
    mapping: MappingRef<'c, HostMachine>,
    pages: Vec<Page>,
    lost: Vec<bool>,
}

/// Private memory, what was written there, and what was lost; elsewhere the file is seen that it is a view of, or zeroes.
struct Private<'c> {
    mapping: MappingRef<'c, HostMachine>,
    own: Vec<Option<Page>>,
    lost: Vec<bool>,
    file: Option<usize>,
}

struct World<'c, 's> {
    cache: Cache<'c>,
    files: &'s [Arc<HostFile>],
    shared: Vec<Shared<'c>>,
    private: Vec<Private<'c>>,
    /// Pages that were lost, as often as somebody saw them.
    lost: u32,
    random: fastrand::Rng,
}

impl Shared<'_> {
    /// What is to be seen; `None` if that is lost.
    fn expected(&self, page: usize) -> Option<Page> {
        (!self.lost[page]).then(|| self.pages[page].clone())
    }
}

/// Where the folio is that is seen at a page, at which page it begins, and its order.
fn shown(mapping: &Mapping<'_, HostMachine>, page: usize) -> Option<(Pfn, PageIndex, Order)> {
    match mapping.shown(PageIndex(page as u64)) {
        Shown::Own(folio) | Shown::Behind(folio) => Some((folio.head(), folio.index(), folio.order())),
        Shown::Nothing => None,
    }
}

impl<'c, 's: 'c> World<'c, 's> {
    fn new(cache: Cache<'c>, files: &'s [Arc<HostFile>], seed: u64) -> Self {
        let open = |file: &'s Arc<HostFile>| Shared {
            mapping: cache.file(Arc::clone(file), Order::of(3)).expect("there is memory"),
            pages: file.bytes.lock().expect("nobody has failed").chunks(PAGE_SIZE).map(<[u8]>::to_vec).collect(),
            lost: vec![false; PAGES],
        };
        let shared = files.iter().map(open).collect();
        Self { cache, files, shared, private: Vec::new(), lost: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// What is to be seen; `None` if that is lost.
    fn expected(&self, private: &Private<'_>, page: usize) -> Option<Page> {
        match (&private.own[page], private.file) {
            _ if private.lost[page] => None,
            (Some(own), _) => Some(own.clone()),
            (None, Some(file)) => self.shared[file].expected(page),
            (None, None) => Some(vec![0; PAGE_SIZE]),
        }
    }

    fn check_page(&self, mapping: &Mapping<'_, HostMachine>, page: usize, expected: Option<&Page>) {
        let mut seen = vec![0; PAGE_SIZE];
        match mapping.read(PageIndex(page as u64).start(), &mut seen) {
            Ok(()) => assert!(expected == Some(&seen), "page {page} is not what was written"),
            Err(CacheError::Store(StoreError::Failed(_))) => {}
            Err(CacheError::Lost(index)) => assert!(index.0 == page as u64 && expected.is_none(), "{index:?} is lost"),
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
            assert!(!shared.lost[page], "a part of what is lost was written");
            shared.pages[page][start..start + bytes.len()].copy_from_slice(&bytes);
        }
    }

    fn write_private(&mut self) {
        if self.private.is_empty() {
            return;
        }
        let which = self.random.usize(..self.private.len());
        let (page, start, bytes) = self.patch();
        let expected = self.expected(&self.private[which], page);
        let private = &mut self.private[which];
        if private.mapping.write(PageIndex(page as u64).start().plus(start as u64), &bytes).is_ok() {
            let mut expected = expected.expect("nobody writes a part of what is lost");
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
        self.private.push(Private { mapping, own: vec![None; PAGES], lost: vec![false; PAGES], file });
    }

    fn fork(&mut self) {
        if self.private.is_empty() || self.private.len() >= 8 {
            return;
        }
        let which = self.random.usize(..self.private.len());
        let private = &mut self.private[which];
        let Fork { parent, child } = Mapping::fork(&private.mapping).expect("there is memory");
        private.mapping = parent;
        let (own, lost, file) = (private.own.clone(), private.lost.clone(), private.file);
        self.private.push(Private { mapping: child, own, lost, file });
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

    /// The memory of a page fails that anybody sees. Whoever sees it there loses what nobody else has.
    fn fail(&mut self) {
        let shared = self.shared.iter().map(|it| &it.mapping);
        let mappings: Vec<_> = shared.chain(self.private.iter().map(|it| &it.mapping)).collect();
        let mapping = mappings[self.random.usize(..mappings.len())];
        let from = self.random.usize(..PAGES);
        let Some(page) = (from..PAGES).find(|&page| shown(mapping, page).is_some()) else { return };
        let (head, index, order) = shown(mapping, page).expect("just seen");
        let first = usize::try_from(index.0).expect("small");
        let pages = first..first + order.pages() as usize;
        let sees = |mapping: &_, page| shown(mapping, page) == Some((head, index, order));
        let seeing: Vec<(usize, usize)> = (0..mappings.len())
            .flat_map(|which| pages.clone().map(move |page| (which, page)))
            .filter(|&(which, page)| page < PAGES && sees(mappings[which], page))
            .collect();
        let files = self.shared.len();
        let is_files = seeing.iter().any(|&(which, _)| which < files);
        let bad = head.plus(u32::try_from(page - first).expect("small"));
        let failed = self.cache.memory_failure(bad).expect("a folio is there");
        if let FailureOutcome::Failed { lost } = failed.outcome {
            assert!(lost == Count(1) || lost == Count(order.pages()), "{lost:?} of {order:?}");
            let is_lost =
                |&&(which, of): &&(usize, usize)| (lost > Count(1) || of == page) && is_files == (which < files);
            for &(which, page) in seeing.iter().filter(is_lost) {
                match which.checked_sub(files) {
                    None => self.shared[which].lost[page] = true,
                    Some(private) => self.private[private].lost[page] = true,
                }
                self.lost += 1;
            }
        }
        self.cache.owners().pages().unpoison_memory(bad).expect("it was said to fail");
    }

    /// A file is as its store has it, in a page that was lost or from its beginning.
    fn forget(&mut self) {
        let which = self.random.usize(..self.shared.len());
        let Shared { mapping, pages, lost } = &mut self.shared[which];
        let from = self.random.usize(..PAGES);
        let forgotten = if let Some(page) = (from..PAGES).find(|&page| lost[page]) {
            mapping.forget(PageIndex(page as u64));
            page..page + 1
        } else if self.random.u32(..8) == 0 {
            mapping.truncate(PageIndex(0)).expect("nothing begins before the first page");
            0..PAGES
        } else {
            return;
        };
        let stored = self.files[which].bytes.lock().expect("nobody has failed");
        for page in forgotten {
            pages[page] = stored[page * PAGE_SIZE..][..PAGE_SIZE].to_vec();
            lost[page] = false;
        }
    }

    fn check_all(&self) {
        for shared in &self.shared {
            (0..PAGES).for_each(|page| self.check_page(&shared.mapping, page, shared.expected(page).as_ref()));
        }
        for private in &self.private {
            (0..PAGES).for_each(|page| self.check_page(&private.mapping, page, self.expected(private, page).as_ref()));
        }
    }

    fn verify(&self) {
        for mapping in self.shared.iter().map(|it| &it.mapping).chain(self.private.iter().map(|it| &it.mapping)) {
            mapping.verify().expect("the mapping is sound");
        }
    }

    fn step(&mut self) {
        match self.random.u32(..108) {
            0..25 => self.write_shared(),
            25..55 => self.write_private(),
            55..70 => {
                let page = self.random.usize(..PAGES);
                let file = self.random.usize(..self.shared.len());
                self.check_page(&self.shared[file].mapping, page, self.shared[file].expected(page).as_ref());
                if let Some(private) = self.random.choice(0..self.private.len()) {
                    let private = &self.private[private];
                    self.check_page(&private.mapping, page, self.expected(private, page).as_ref());
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
                    let expected = (0..PAGES).map(|page| self.shared[file].expected(page));
                    let mut written = bytes.chunks(PAGE_SIZE).zip(expected);
                    let is_there = |(there, page): (&[u8], Option<Page>)| page.is_none_or(|page| there == page);
                    assert!(written.all(is_there), "a file was not written");
                }
            }
            97..101 => self.fail(),
            101..105 => self.forget(),
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
    let files: Vec<Arc<HostFile>> = (0..2).map(|_| HostFile::pages(PAGES)).collect();
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
        assert!(
            cfg!(miri) || cache.report().reclaimed > 0 && world.lost > 5,
            "memory was never short, or nothing lost: {}, {}",
            cache.report().reclaimed,
            world.lost
        );
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
    let files: Vec<Arc<HostFile>> = vec![HostFile::pages(PAGES)];
    let swap = HostFile::pages(4 * PAGES);
    with_cache(8, &swap, |cache| {
        let script = || -> Result<(), String> {
            let file = cache.file(Arc::clone(&files[0]), Order::of(3)).map_err(text)?;
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
