//! Random splits, joins, frees and conversions against sets of pages, with every page looked at after each.

use std::collections::BTreeMap;

use super::*;
use crate::charge::{ChargeGroup, GroupId};
use crate::page::Block;

/// What the model knows of a block that somebody holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    order: Order,
    group: GroupId,
    /// The state and the index of a folio; none of a plain block.
    folio: Option<(FolioFlags, u64)>,
}

enum Held<'o> {
    Folio(Folios<'o>),
    Plain(Block<'o, HostMachine>),
}

struct Model<'o, 'm> {
    owners: &'o Owners<'o, HostMachine>,
    groups: [ChargeGroup<'m>; 2],
    rng: fastrand::Rng,
    held: BTreeMap<Pfn, Held<'o>>,
    known: BTreeMap<Pfn, Known>,
    /// What each page holds.
    contents: BTreeMap<Pfn, u64>,
}

impl<'o> Model<'o, '_> {
    fn group(&mut self) -> GroupId {
        match self.rng.u8(0..3) {
            0 => GroupId::ROOT,
            which => self.groups[usize::from(which) - 1].id(),
        }
    }

    fn any(&mut self) -> Option<Pfn> {
        let at = self.rng.usize(0..self.held.len().max(1));
        self.held.keys().nth(at).copied()
    }

    fn hold(&mut self, head: Pfn, held: Held<'o>, known: Known) {
        self.held.insert(head, held);
        self.known.insert(head, known);
    }

    fn alloc(&mut self) {
        let small = self.rng.u64(..).trailing_zeros().min(10) as usize;
        let order = Order::of(if self.rng.u8(0..8) == 0 { self.rng.usize(5..=LARGE) } else { small });
        let group = self.group();
        let request = Request::movable(order).charged_to(group);
        let Ok(mut folio) = self.owners.alloc(request, Folio::new()) else { return };
        for pfn in folio.range().frames() {
            let tag = self.rng.u64(..);
            folio.with_page(pfn, |bytes| bytes[80..88].copy_from_slice(&tag.to_le_bytes())).expect("its own page");
            self.contents.insert(pfn, tag);
        }
        let flags = FolioFlags::from_bits_truncate(self.rng.u32(..)) - FolioFlags::LOCKED;
        let index = u64::from(folio.head().number()) + (self.rng.u64(0..3) << 40);
        folio.set(flags);
        folio.set_place(core::ptr::null_mut(), PageIndex(index));
        self.hold(folio.head(), Held::Folio(folio), Known { order, group, folio: Some((flags, index)) });
    }

    fn free(&mut self, head: Pfn) {
        self.held.remove(&head);
        let known = self.known.remove(&head).expect("it is known");
        for pfn in PfnRange::new(head, head.plus(known.order.pages())).frames() {
            self.contents.remove(&pfn);
        }
    }

    fn split(&mut self, head: Pfn) {
        let Some(Held::Folio(folio)) = self.held.remove(&head) else { panic!("it is a folio") };
        let known = self.known[&head];
        let order = Order::of(self.rng.usize(0..=10));
        let near = Pfn::new((head.number() + self.rng.u32(0..known.order.pages() + 2)).wrapping_sub(1));
        let to = if self.rng.bool() { SplitTo::Uniform(order) } else { SplitTo::Around(near, order) };
        // The plan once more, as naively as can be.
        let mut parts = Vec::from([(head, known.order)]);
        while let Some(at) = parts.iter().position(|&(head, size)| match to {
            SplitTo::Uniform(order) => size > order,
            SplitTo::Around(pfn, order) => size > order && (head <= pfn && pfn < head.plus(size.pages())),
        }) {
            let (head, size) = parts.remove(at);
            let half = size.down().expect("it is larger than some size");
            parts.extend([(head, half), (head.plus(half.pages()), half)]);
        }
        parts.sort_unstable();
        match folio.split(to) {
            Err((folio, error)) => {
                assert_eq!((error, parts.len()), (SplitError::NoSuchPieces, 1));
                self.held.insert(head, Held::Folio(folio));
            }
            Ok(row) => {
                self.known.remove(&head);
                for (at, order) in parts {
                    let offset = u64::from(at.number() - head.number());
                    let folio = known.folio.map(|(flags, index)| (flags, index + offset));
                    self.known.insert(at, Known { order, folio, ..known });
                }
                self.held.extend(row.map(|piece| (piece.head(), Held::Folio(piece))));
            }
        }
    }

    /// Joins a block of whatever kind with its buddy, if somebody holds that, or else with any other.
    fn join(&mut self, head: Pfn) {
        let known = self.known[&head];
        let buddy = Some(head.buddy(known.order)).filter(|buddy| self.known.contains_key(buddy));
        let Some(other) = buddy.or_else(|| self.any()).filter(|&other| other != head) else { return };
        let others = self.known[&other];
        let (joined, error) = match (self.held.remove(&head), self.held.remove(&other)) {
            (Some(Held::Folio(one)), Some(Held::Folio(two))) => match one.join(two) {
                Ok(whole) => (Some(Held::Folio(whole)), None),
                Err((one, two, error)) => {
                    self.held.extend([one, two].map(|folio| (folio.head(), Held::Folio(folio))));
                    (None, Some(error))
                }
            },
            (Some(Held::Plain(one)), Some(Held::Plain(two))) => match one.merge(two) {
                Ok(whole) => (Some(Held::Plain(whole)), None),
                Err((one, two)) => {
                    self.held.extend([one, two].map(|block| (block.head(), Held::Plain(block))));
                    (None, None)
                }
            },
            (one, two) => {
                self.held.extend([(head, one.expect("it is held")), (other, two.expect("it is held"))]);
                return;
            }
        };
        let buddies = head.buddy(known.order) == other && known.order == others.order && known.order < Order::of(10);
        assert_eq!(joined.is_some(), buddies && known.group == others.group, "{head:?} and {other:?}: {error:?}");
        let Some(joined) = joined else { return };
        let (low, high) = if head < other { (known, others) } else { (others, known) };
        self.known.remove(&head.max(other));
        let folio = low.folio.zip(high.folio).map(|((low, index), (high, _))| {
            let uptodate = low & high & FolioFlags::UPTODATE;
            (((low | high) - FolioFlags::UPTODATE) | uptodate, index)
        });
        let order = known.order.up().expect("it was smaller than the largest");
        self.hold(head.min(other), joined, Known { order, group: known.group, folio });
    }

    /// Joins all folios of an aligned block, if it is all folios.
    fn join_all(&mut self, head: Pfn) {
        let order = Order::of(self.rng.usize(1..=10));
        let block = PfnRange::new(head.align_down(order), head.align_down(order).plus(order.pages()));
        let known: Vec<_> = self.known.range(block.start..block.end).map(|(&head, &known)| (head, known)).collect();
        let pages: u32 = known.iter().map(|(_, known)| known.order.pages()).sum();
        if pages != block.pages() || known.len() < 2 || known.iter().any(|(_, known)| known.folio.is_none()) {
            return;
        }
        let mut folios = known.iter().map(|(head, _)| match self.held.remove(head) {
            Some(Held::Folio(folio)) => folio,
            _ => panic!("{head:?} is a folio"),
        });
        let first = FolioRow::of(folios.next().expect("two at least"));
        let row = folios.fold(first, |row, next| row.with(next).map_err(drop).expect("they are side by side"));
        let alike = known.iter().all(|(_, other)| other.group == known[0].1.group);
        match row.join() {
            Err((row, error)) => {
                assert!(!alike && matches!(error, JoinError::NotAlike(_)), "{error}");
                self.held.extend(row.map(|folio| (folio.head(), Held::Folio(folio))));
            }
            Ok(whole) => {
                assert!(alike);
                for (head, _) in &known {
                    self.known.remove(head);
                }
                let flags = || known.iter().filter_map(|(_, known)| known.folio).map(|(flags, _)| flags);
                let uptodate = flags().fold(FolioFlags::UPTODATE, |all, flags| all & flags);
                let any = flags().fold(FolioFlags::empty(), |any, flags| any | flags);
                let first = known[0].1;
                let folio = first.folio.map(|(_, index)| ((any - FolioFlags::UPTODATE) | uptodate, index));
                self.hold(block.start, Held::Folio(whole), Known { order, folio, ..first });
            }
        }
    }

    /// Makes a folio of a plain block, or a plain block of a folio, or two plain ones of one.
    fn convert(&mut self, head: Pfn) {
        let known = self.known[&head];
        match self.held.remove(&head) {
            Some(Held::Folio(folio)) => {
                let (block, folio) = folio.into_block().expect("nobody refers to it");
                assert_eq!(known.folio.map(|(flags, _)| flags), Some(folio.flags()));
                self.hold(head, Held::Plain(block), Known { folio: None, ..known });
            }
            Some(Held::Plain(block)) if self.rng.bool() => match block.split() {
                Err(block) => drop(self.held.insert(head, Held::Plain(block))),
                Ok((low, high)) => {
                    let half = Known { order: low.order(), ..known };
                    self.hold(low.head(), Held::Plain(low), half);
                    self.hold(high.head(), Held::Plain(high), half);
                }
            },
            Some(Held::Plain(block)) => {
                let folio = self.owners.adopt(block, Folio::new()).map_err(|(.., error)| error);
                let folio = Held::Folio(folio.expect("there is memory"));
                self.hold(head, folio, Known { folio: Some((FolioFlags::empty(), 0)), ..known });
            }
            None => panic!("it is held"),
        }
    }

    fn step(&mut self) {
        let Some(head) = self.any() else { return self.alloc() };
        match self.rng.u8(0..20) {
            0..=3 => self.alloc(),
            4..=5 => self.free(head),
            6..=9 if self.known[&head].folio.is_some() => self.split(head),
            10..=13 => self.join(head),
            14..=16 => self.join_all(head),
            _ => self.convert(head),
        }
    }

    /// Every page leads to what the model says, and is paid for by whom it says; what it does not know is nobody's.
    fn check(&self) {
        self.owners.verify().expect("the owners are sound");
        let pages = self.owners.pages();
        pages.verify().expect("the pages are sound");
        pages.verify_charges().expect("the charges add up");
        assert!(self.held.keys().eq(self.known.keys()));
        let walker = self.owners.walk();
        for (&head, known) in &self.known {
            assert_eq!(pages.group_of(head), known.group, "{head:?}");
            let kind = if known.folio.is_some() { OwnerKind::Folio } else { OwnerKind::Plain };
            for pfn in PfnRange::new(head, head.plus(known.order.pages())).frames() {
                let sighting = walker.look(pfn);
                assert_eq!(sighting.seen(), Seen::Allocated(kind), "{pfn:?}");
                assert_eq!((sighting.head(), sighting.order()), (head, known.order), "{pfn:?}");
            }
            let found = walker.look(head).get().map(|reference| match reference {
                Reference::Folio(folio) => (folio.flags(), folio.index().0),
                other => panic!("{other:?} is no folio"),
            });
            assert_eq!(found, known.folio, "{head:?}");
        }
        let types = walker.page_types();
        let of = |folios: bool| self.known.values().filter(move |known| known.folio.is_some() == folios);
        for (kind, folios) in [(OwnerKind::Folio, true), (OwnerKind::Plain, false)] {
            let tally = types.allocated(kind);
            let pages: u32 = of(folios).map(|known| known.order.pages()).sum();
            assert_eq!((tally.blocks().0 as usize, tally.pages().0), (of(folios).count(), pages), "{kind:?}");
        }
    }

    fn check_contents(&mut self) {
        for held in self.held.values_mut() {
            let range = match held {
                Held::Folio(folio) => folio.range(),
                Held::Plain(block) => block.range(),
            };
            for pfn in range.frames() {
                let tag = self.contents[&pfn].to_le_bytes();
                let look = |bytes: &mut [u8; 4096]| bytes[80..88] == tag;
                let same = match held {
                    Held::Folio(folio) => folio.with_page(pfn, look),
                    Held::Plain(block) => block.with_page(pfn, look),
                };
                assert_eq!(same, Some(true), "{pfn:?} holds something else");
            }
        }
    }
}

#[test]
fn splits_and_joins_are_what_sets_of_pages_are() {
    for seed in 0..scaled(6, 1) {
        with_owners(|owners| {
            let groups =
                [Some(700), None].map(|limit| owners.pages().groups().create(limit).expect("there are groups"));
            let rng = fastrand::Rng::with_seed(seed);
            let (held, known, contents) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
            let mut model = Model { owners, groups, rng, held, known, contents };
            for round in 0..scaled(400, 12) {
                model.step();
                model.check();
                if round % 32 == 0 {
                    model.check_contents();
                }
            }
            model.check_contents();
            model.held.clear();
        });
    }
}
