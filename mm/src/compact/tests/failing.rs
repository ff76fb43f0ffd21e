//! Random failures of memory, and sections that go and come back, under users who write all the time.

use std::env;

use super::*;
use crate::page::FailureOutcome;

use PageProtection::ReadWrite;
use Sharing::Private;

/// Of the machine.
const MIB: u32 = scaled(32, 16);

/// Pages of the users'.
const PAGES: u64 = scaled(1024, 128);

/// Steps of a run; `STEPS` says how many if it is to be more.
fn steps() -> u32 {
    env::var("STEPS").ok().and_then(|number| number.parse().ok()).unwrap_or(scaled(400, 100))
}

/// What users know: the word that each page begins with, as long as it was not lost.
struct Known {
    words: Vec<u64>,
    lost: Vec<bool>,
}

impl Known {
    /// Reads every page. What was lost is lost from then on; says how many pages are.
    fn check(&mut self, rig: &Rig<'_>, space: &UserSpace<'_>) -> u32 {
        for page in 0..PAGES {
            let at = usize::try_from(page).expect("small");
            match rig.get(space, page) {
                Ok(word) => assert!(!self.lost[at] && word == self.words[at], "page {page} begins with {word}"),
                Err(FaultError::Poisoned(address)) => {
                    assert_eq!(address, super::at(page));
                    self.lost[at] = true;
                }
                Err(error) => panic!("page {page}: {error}"),
            }
        }
        self.lost.iter().map(|&lost| u32::from(lost)).sum()
    }
}

fn run(lowmem: u32, seed: u64) {
    with_rig(MIB, lowmem, |rig| {
        let mut random = fastrand::Rng::with_seed(seed);
        let space = rig.space();
        space.map_anonymous(pages(0, PAGES), ReadWrite, Private, Order::of(3)).expect("nothing is there");
        let len = usize::try_from(PAGES).expect("small");
        let mut known = Known { words: (1..=PAGES).collect(), lost: vec![false; len] };
        (0..PAGES).for_each(|page| rig.set(&space, page, page + 1));
        let (mut failed, mut offline, mut lost, mut gone) = (Vec::new(), Vec::new(), 0, 0);
        for step in 0..steps() {
            let pfn = Pfn::new(random.u32(0..MIB << 8));
            match random.u32(0..8) {
                0..4 => {
                    let at = random.usize(0..len);
                    let page = at as u64;
                    if !known.lost[at] {
                        known.words[at] = random.u64(..);
                        let fault = |address, access| space.fault(address, access);
                        let word = known.words[at].to_le_bytes();
                        // What was lost just now shows here first.
                        if rig.unit.store(space.root(), super::at(page), &word, fault).is_err() {
                            known.lost[at] = true;
                        }
                    }
                }
                4..6 if failed.len() < 64 => {
                    if let Ok(failure) = rig.cache.memory_failure(pfn) {
                        failed.push(pfn);
                        if let FailureOutcome::Failed { lost: Count(pages) } = failure.outcome {
                            lost += pages;
                        }
                    }
                }
                6 if offline.is_empty() => {
                    if let Ok(section) = rig.compactor.offline_pages(pfn) {
                        offline.push(section);
                        gone += 1;
                    }
                }
                7 => {
                    for section in offline.drain(..) {
                        rig.pages.online_pages(section.start).expect("it is out of use");
                    }
                }
                _ if !failed.is_empty() => {
                    let pfn = failed.swap_remove(random.usize(0..failed.len()));
                    rig.pages.unpoison_memory(pfn).expect("it was said to fail");
                }
                _ => {}
            }
            if step % 100 == 99 {
                rig.verify([&space]);
                assert_eq!(known.check(rig, &space), lost, "step {step}: other pages are lost than was said");
            }
        }
        assert!(cfg!(miri) || lost > 0 && gone > 0, "{lost} pages were lost, {gone} sections went");
        assert_eq!(known.check(rig, &space), lost);
        offline.iter().for_each(|section| assert!(rig.pages.online_pages(section.start).is_ok()));
        drop(space);
        failed.iter().for_each(|&pfn| rig.pages.unpoison_memory(pfn).expect("it was said to fail"));
        assert_eq!(rig.pages.hwpoisoned_pages(), Count(0));
    });
}

#[test]
fn users_find_what_they_wrote_or_that_it_was_lost_whatever_fails_and_goes() {
    // All lowmem; nearly all highmem; and both.
    for (lowmem, seed) in [(MIB, 1), (MIB / 8 * 3, 2), (MIB / 8 * 5, 3)].into_iter().skip(scaled(0, 2)) {
        run(lowmem, seed);
    }
}
