//! Readers, writers, splits and reclaim at once, on CPUs of their own.

use std::thread;

use super::*;
use crate::folio::SplitTo;
use crate::host::{on_cpu, scaled};
use crate::units::{Bytes, CpuId};

const PAGES: u64 = scaled(128, 32);
const TURNS: u32 = scaled(4000, 25);

fn word(page: u64) -> [u8; 8] {
    (page.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).to_le_bytes()
}

/// What every page holds, whoever has written it.
fn contents(page: u64) -> Vec<u8> {
    word(page).repeat(PAGE_SIZE / 8)
}

/// Looks a page up without a lock: if it is there and whole, it is the right one.
fn look(mapping: &Mapping<'_, HostMachine>, page: u64) -> u32 {
    let Some(folio) = mapping.lookup(PageIndex(page)) else { return 0 };
    let mut bytes = [0; 8];
    let index = folio.index().0;
    // As long as the reference is held, the folio keeps its pages, and its place or none.
    if folio.flags().contains(FolioFlags::UPTODATE) && index <= page && page - index < u64::from(folio.order().pages())
    {
        let offset = usize::try_from(page - index).expect("small") * PAGE_SIZE;
        folio.copy_to(Bytes(offset), &mut bytes).expect("the folio has the page");
        assert_eq!(bytes, word(page), "page {page} of another file");
        return 1;
    }
    0
}

fn work(cache: Cache<'_>, mappings: &[MappingRef<'_, HostMachine>], cpu: u16) -> u32 {
    let mut random = fastrand::Rng::with_seed(u64::from(cpu));
    let mut found = 0;
    for _ in 0..TURNS {
        let page = random.u64(..PAGES);
        let mapping = &mappings[random.usize(..mappings.len())];
        match (cpu, random.u32(..8)) {
            (0, 0..3) => {
                let _ = cache.reclaim(Count(random.u32(..64)));
            }
            (0, 3) => {
                if let Some(folio) = mapping.lookup(PageIndex(page)) {
                    let to = SplitTo::Around(folio.head(), Order::ZERO);
                    // Somebody may refer to it, or have split it before.
                    let _ = cache.split(folio.lock(), to);
                }
            }
            (1, 0..3) => mapping.write(PageIndex(page).start(), &contents(page)).expect("there is memory"),
            (1, 3) => {
                let _ = mapping.write_back().expect("the host has the file");
            }
            (_, 0..6) => found += look(mapping, page),
            _ => {
                let mut seen = [0; 8];
                mapping.read(PageIndex(page).start().plus(8), &mut seen).expect("there is memory");
                assert_eq!(seen, word(page));
            }
        }
    }
    found
}

#[test]
fn who_looks_up_without_a_lock_never_finds_another_folio_whatever_comes_and_goes() {
    let whole: Vec<u8> = (0..PAGES).flat_map(contents).collect();
    let files = [HostFile::of(whole.clone()), HostFile::of(whole)];
    let swap = HostFile::pages(512);
    with_cache_of(4, 4, &swap, |cache| {
        let mut mappings: Vec<_> =
            files.iter().map(|file| cache.file(Arc::clone(file), Order::of(3)).expect("there is memory")).collect();
        let anonymous = cache.anonymous(Order::of(2)).expect("there is memory");
        for page in 0..PAGES {
            anonymous.write(PageIndex(page).start(), &contents(page)).expect("there is memory");
        }
        mappings.push(anonymous);
        let found: u32 = thread::scope(|scope| {
            let (cache, mappings) = (cache, &mappings);
            let spawn = |cpu| scope.spawn(move || on_cpu(CpuId(cpu), || work(cache, mappings, cpu)));
            let workers: Vec<_> = (0..4).map(spawn).collect();
            workers.into_iter().map(|worker| worker.join().expect("no worker has failed")).sum()
        });
        assert!(found > TURNS / 10, "{found} were found");
        mappings.iter().for_each(|mapping| mapping.verify().expect("the mapping is sound"));
    });
}

/// One side of a fork: all of it is what was written last, some of it is written once more, and some goes meanwhile.
fn use_up(cache: Cache<'_>, side: &Mapping<'_, HostMachine>, written: &[u8], cpu: u16) {
    let mut random = fastrand::Rng::with_seed(u64::from(cpu));
    for _ in 0..scaled(2, 1) * written.len() {
        let page = random.usize(..written.len());
        let (at, mut seen) = (PageIndex(page as u64).start(), [0]);
        match random.u32(..8) {
            0 => drop(cache.reclaim(Count(random.u32(..8)))),
            1 => side.write(at, &written[page..=page]).expect("there is memory"),
            _ => {
                side.read(at, &mut seen).expect("there is memory");
                assert_eq!(seen, written[page..=page], "page {page}");
            }
        }
    }
}

#[test]
fn who_faults_while_the_other_side_of_a_fork_goes_sees_what_was_written_last() {
    const ROUNDS: u8 = scaled(100, 3);
    // So few places that they are taken again at once.
    let swap = HostFile::pages(40);
    with_cache_of(4, 4, &swap, |cache| {
        let mut side = cache.anonymous(Order::of(2)).expect("there is memory");
        let mut written = [0; 32];
        for round in 0..ROUNDS {
            for (page, byte) in written.iter_mut().enumerate().skip(usize::from(round % 3)).step_by(3) {
                *byte = round;
                side.write(PageIndex(page as u64).start(), &[round]).expect("there is memory");
            }
            let Fork { parent, child } = Mapping::fork(&side).expect("there is memory");
            side = parent;
            thread::scope(|scope| {
                let (cache, side, written) = (cache, &side, &written);
                (1..3).for_each(|cpu| {
                    scope.spawn(move || on_cpu(CpuId(cpu), || use_up(cache, side, written, cpu)));
                });
                // It goes while the others are at work.
                scope.spawn(move || on_cpu(CpuId(3), || use_up(cache, &child, &written[..8], 3)));
            });
            side.verify().expect("the mapping is sound");
        }
    });
}
