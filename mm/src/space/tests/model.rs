//! Everything at once, at random, against plain bytes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::vec;

use super::rig::{File, HostFile, Rig, UserSpaceRef, with_rig};
use super::*;
use crate::space::mmu::Access;
use crate::space::{FaultError, Sharing};
use crate::units::{Bytes, PageIndex};

use Sharing::{Private, Shared};

/// Pages of a space that are used.
const SPAN: u64 = 10 * LEAF_PAGES;
const FILE: u64 = 48;

/// The first and the last byte of a page: what is written across an edge shows in both.
type Page = [u8; 2];

/// What others may see too.
type Object = Rc<RefCell<Vec<Page>>>;

#[derive(Clone)]
enum Content {
    /// A page of something that is shared.
    Of(Object, usize),
    /// Nobody else's.
    Own(Page),
    /// What the file has, until it is written.
    Through(Object, usize),
}

#[derive(Clone)]
struct Shown {
    content: Content,
    protection: PageProtection,
}

type Model = BTreeMap<u64, Shown>;

fn get(shown: &Shown) -> Page {
    match &shown.content {
        Content::Own(page) => *page,
        Content::Of(object, index) | Content::Through(object, index) => object.borrow()[*index],
    }
}

fn set(shown: &mut Shown, which: usize, byte: u8) {
    match &mut shown.content {
        Content::Own(page) => page[which] = byte,
        Content::Of(object, index) => object.borrow_mut()[*index][which] = byte,
        Content::Through(object, index) => {
            let mut page = object.borrow()[*index];
            page[which] = byte;
            shown.content = Content::Own(page);
        }
    }
}

struct World<'w, 'r> {
    rig: &'w Rig<'r>,
    files: Vec<(File<'r>, Object)>,
    spaces: Vec<(UserSpaceRef<'r>, Model)>,
    random: fastrand::Rng,
}

impl World<'_, '_> {
    fn range(&mut self) -> (u64, u64) {
        let start = self.random.u64(..SPAN);
        let start = if self.random.bool() { start } else { start & !(LEAF_PAGES - 1) };
        let len = match self.random.u8(..3) {
            0 => self.random.u64(1..4),
            1 => self.random.u64(1..=2 * LEAF_PAGES),
            _ => LEAF_PAGES,
        };
        (start, len.min(SPAN - start))
    }

    fn protection(&mut self) -> PageProtection {
        match self.random.u8(..5) {
            0 => PageProtection::Read,
            1 => PageProtection::ReadExecute,
            _ => PageProtection::ReadWrite,
        }
    }

    fn step(&mut self) {
        if self.spaces.is_empty() {
            self.spaces.push((self.rig.space(), Model::new()));
        }
        let which = self.random.usize(..self.spaces.len());
        match self.random.u8(..40) {
            0..5 => self.map(which),
            5..8 => {
                let (start, len) = self.range();
                let (space, model) = &mut self.spaces[which];
                space.unmap(pages(start, len)).expect("there is memory");
                model.retain(|page, _| !(start..start + len).contains(page));
            }
            8..10 => {
                let ((start, len), protection) = (self.range(), self.protection());
                let (space, model) = &mut self.spaces[which];
                space.protect(pages(start, len), protection).expect("there is memory");
                model.range_mut(start..start + len).for_each(|(_, shown)| shown.protection = protection);
            }
            10..12 if self.spaces.len() < 5 => {
                let (space, model) = &self.spaces[which];
                let child = (space.fork().expect("there is memory"), model.clone());
                self.spaces.push(child);
            }
            12 => drop(self.spaces.swap_remove(which)),
            13 => {
                let count = self.random.u32(1..200);
                self.rig.cache.reclaim(Count(count));
            }
            14 => {
                let file = self.random.usize(..self.files.len());
                self.files[file].0.write_back().expect("the store works");
            }
            15..17 => self.pin(which),
            17..29 => self.write(which),
            _ => self.read(which),
        }
    }

    fn map(&mut self, which: usize) {
        let ((start, len), protection) = (self.range(), self.protection());
        let file = self.random.usize(..self.files.len());
        let first = self.random.u64(..FILE - 1);
        let len = len.min(FILE - first);
        let largest = Order::of(self.random.usize(..=LARGE.index()));
        let (space, model) = &mut self.spaces[which];
        let range = pages(start, len);
        let free = model.range(start..start + len).next().is_none();
        let (mapping, object) = &self.files[file];
        let kind = self.random.u8(..4);
        let mapped = match kind {
            0 => space.map_anonymous(range, protection, Private, largest),
            1 => space.map_anonymous(range, protection, Shared, largest),
            2 => space.map_file(range, mapping, PageIndex(first), protection, Private),
            _ => space.map_file(range, mapping, PageIndex(first), protection, Shared),
        };
        assert_eq!(mapped.is_ok(), free, "{mapped:?}");
        if !free {
            return;
        }
        let own = Object::new(RefCell::new(vec![[0; 2]; usize::try_from(len).expect("small")]));
        for (page, index) in (start..start + len).zip(0..) {
            let of_file = index + usize::try_from(first).expect("small");
            let content = match kind {
                0 => Content::Own([0; 2]),
                1 => Content::Of(Rc::clone(&own), index),
                2 => Content::Through(Rc::clone(object), of_file),
                _ => Content::Of(Rc::clone(object), of_file),
            };
            model.insert(page, Shown { content, protection });
        }
    }

    fn write(&mut self, which: usize) {
        let (page, bytes) = (self.random.u64(..SPAN), [self.random.u8(..), self.random.u8(..)]);
        let (space, model) = &mut self.spaces[which];
        // The last byte of the page, and the first one of the next.
        let outcome = self.rig.store(space, VirtualAddress(at(page).0 + 4095), &bytes);
        let mut expected = Ok(());
        for (page, (place, byte)) in [(page, (1, bytes[0])), (page + 1, (0, bytes[1]))] {
            expected = match model.get_mut(&page) {
                None => Err(FaultError::NoRegion(at(page))),
                Some(shown) if !shown.protection.allows(Access::Write) => {
                    Err(FaultError::Denied(at(page), Access::Write))
                }
                Some(shown) => {
                    set(shown, place, byte);
                    Ok(())
                }
            };
            if expected.is_err() {
                break;
            }
        }
        match (outcome, expected) {
            (Ok(()), Ok(())) => {}
            (Err(FaultError::NoRegion(found)), Err(FaultError::NoRegion(page))) => assert_eq!(found.page(), page),
            (Err(FaultError::Denied(found, _)), Err(FaultError::Denied(page, _))) => assert_eq!(found.page(), page),
            other => panic!("found and expected: {other:?}"),
        }
    }

    fn read(&mut self, which: usize) {
        let page = self.random.u64(..SPAN);
        self.compare(which, page);
    }

    fn compare(&self, which: usize, page: u64) {
        let (space, model) = &self.spaces[which];
        let found = self.rig.load(space, at(page), 4096);
        match (found, model.get(&page)) {
            (Ok(bytes), Some(shown)) => {
                assert_eq!([bytes[0], bytes[4095]], get(shown), "page {page} of {:?}", space.id());
            }
            (Err(FaultError::NoRegion(_)), None) => {}
            (found, expected) => panic!("{:?} where there is {}", found.err(), expected.is_some()),
        }
    }

    /// A device reads, or writes, what it has pinned.
    fn pin(&mut self, which: usize) {
        let (page, byte) = (self.random.u64(..SPAN), self.random.u8(..));
        let access = if self.random.bool() { Access::Read } else { Access::Write };
        let (space, model) = &mut self.spaces[which];
        let pinned = space.get_user_pages(at(page), Bytes(1), access);
        let allowed = model.get_mut(&page).filter(|shown| shown.protection.allows(access));
        assert_eq!(pinned.is_ok(), allowed.is_some());
        let (Ok(pinned), Some(shown)) = (pinned, allowed) else { return };
        let run = &pinned.runs()[0];
        let frame = run.folio().head().plus(u32::try_from(run.offset().0 >> 12).expect("small"));
        let mut found = [0];
        self.rig.machine.read(frame, 0, &mut found);
        assert_eq!(found[0], get(shown)[0]);
        if access == Access::Write {
            self.rig.cache.reclaim(Count(20));
            self.rig.machine.write(frame, 0, &[byte]);
            set(shown, 0, byte);
        }
    }

    fn verify(&self) {
        self.rig.verify(self.spaces.iter().map(|(space, _)| space));
        self.files.iter().for_each(|(file, _)| file.verify().expect("the file is sound"));
    }
}

fn run(seed: u64, steps: u32) {
    let stores = [HostFile::pages(48), HostFile::pages(48)];
    with_rig(|rig| {
        let mut files = Vec::new();
        for store in &stores {
            let file = rig.cache.file(Arc::clone(store), Order::of(4)).expect("there is memory");
            let contents = (0..48).map(|page| [page, 0]).collect();
            files.push((file, Rc::new(RefCell::new(contents))));
        }
        let mut world = World { rig, files, spaces: Vec::new(), random: fastrand::Rng::with_seed(seed) };
        for step in 0..steps {
            world.step();
            world.verify();
            if step % 64 == 0 {
                for which in 0..world.spaces.len() {
                    (0..SPAN).for_each(|page| world.compare(which, page));
                }
            }
        }
        // What was written to files by anybody is in them at last.
        world.spaces.clear();
        for ((file, object), store) in world.files.iter().zip(&stores) {
            file.write_back().expect("the store works");
            assert!(object.borrow().iter().enumerate().all(|(page, bytes)| store.byte(page) == bytes[0]));
        }
    });
}

#[test]
fn whatever_is_mapped_forked_written_and_reclaimed_users_find_their_bytes() {
    for seed in 0..scaled(6, 1) {
        run(seed, scaled(600, 30));
    }
}
