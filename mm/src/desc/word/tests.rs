use super::*;
use crate::charge::GroupId;
use crate::desc::allocator_word::{End, PageState};
use crate::host::scaled;
use crate::migratetype::Migratetype;

fn lists() -> impl Iterator<Item = ListId> {
    Migratetype::ALL.into_iter().flat_map(|migratetype| {
        (0..=10).flat_map(move |order| [End::Near, End::Far].map(|end| ListId::new(migratetype, Order::of(order), end)))
    })
}

#[test]
fn a_list_shows_whose_blocks_stand_there_and_how_large_they_are() {
    let list = ListId::new(Migratetype::Movable, Order::of(3), End::Far);
    assert_eq!(std::format!("{list:?}"), "ListId(Movable, order 3, Far)");
}

#[test]
fn every_free_and_node_word_decodes_to_what_was_encoded() {
    for list in lists() {
        for zone in [0, 1, 0x5a, 0xff].map(ZoneId) {
            let page = Page::new(AllocatorWord::HOLE);
            page.set_free(list, zone, Position(0xdead_beef));
            let word = page.word();
            assert_eq!(word.state(), Some(PageState::Free));
            assert_eq!((word.list(), word.zone(), page.position()), (list, zone, Position(0xdead_beef)));

            let place = NodePlace { level: 31, first: Position(u32::MAX) };
            page.set_node(list, zone, place);
            let word = page.word();
            assert_eq!(word.state(), Some(PageState::Node));
            assert_eq!((word.list(), word.zone(), page.place()), (list, zone, place));
        }
    }
}

#[test]
fn the_merge_test_ignores_the_list_and_nothing_else() {
    let zone = ZoneId(3);
    for list in lists() {
        let word = AllocatorWord::free(list, zone);
        assert!(word.is_free(list.order(), zone));
        assert!(!word.is_free(list.order(), ZoneId(2)));
        assert!(!word.is_free(Order::of((list.order().index() + 1) % 11), zone));
        assert!(!AllocatorWord::node(list, 1, zone).is_free(list.order(), zone));
        assert!(!AllocatorWord::allocated(Migratetype::Movable, list.order(), zone).is_free(list.order(), zone));
        assert!(!AllocatorWord::isolated(list.order(), zone).is_free(list.order(), zone));
    }
    assert!(!AllocatorWord::TAIL.is_free(Order::ZERO, ZoneId(0)));
    assert!(!AllocatorWord::HOLE.is_free(Order::ZERO, ZoneId(0)));
}

#[test]
fn a_chain_of_blocks_in_flight_ends_where_it_was_told_to() {
    let page = Page::new(AllocatorWord::TAIL);
    page.set_isolated(Order::ZERO, ZoneId(0), Some(Pfn::new(0)));
    assert_eq!(page.next(), Some(Pfn::new(0)));
    page.set_isolated(Order::ZERO, ZoneId(0), None);
    assert_eq!(page.next(), None);
}

#[test]
fn no_word_with_one_bit_flipped_is_a_word_or_of_any_state_but_its_own() {
    let zones = || [0, 1, 3, 255].map(ZoneId).into_iter();
    let on_lists = lists().flat_map(|list| {
        zones().flat_map(move |zone| {
            let order = list.order();
            let allocated = AllocatorWord::allocated(list.migratetype(), order, zone);
            let group = GroupId::from_bits(0xa7);
            let (charged, resized) = (allocated.charged_to(group), allocated.resized(Order::of(2)));
            let free = [
                AllocatorWord::free(list, zone),
                AllocatorWord::isolated(order, zone),
                AllocatorWord::offline(order, zone),
            ];
            let node = [0, 1, 3, 255].map(|level| AllocatorWord::node(list, level, zone));
            let held = [allocated, allocated.when_cached(), charged, resized, charged.resized(Order::ZERO)];
            free.into_iter().chain(node).chain(held)
        })
    });
    let failed = AllocatorWord::hwpoisoned(Migratetype::Movable, ZoneId(3));
    let bare = [AllocatorWord::HOLE, AllocatorWord::TAIL, AllocatorWord::RESERVED, failed];
    for word in on_lists.step_by(scaled(1, 97)).chain(bare) {
        assert!(word.is_intact() && word.state().is_some(), "{word:?}");
        // Marks of memory that failed stand in any word.
        for bit in (0..u64::BITS).filter(|bit| !matches!(bit, 11 | 12)) {
            let flipped = AllocatorWord(word.0 ^ 1 << bit);
            assert!(!flipped.is_intact(), "{word:?} without bit {bit}");
            assert!(flipped.state().is_none_or(|state| Some(state) == word.state()), "{word:?} without bit {bit}");
            // Who changes it does not make it right.
            let changed = [flipped.charged_to(GroupId::from_bits(3)), flipped.resized(Order::of(1))];
            assert!(changed.iter().all(|changed| !changed.is_intact()), "{word:?} without bit {bit}");
        }
    }
}

#[test]
fn a_charge_and_its_end_leave_a_word_as_it_was() {
    let word = AllocatorWord::allocated(Migratetype::Movable, Order::of(3), ZoneId(5));
    let charged = word.charged_to(GroupId::from_bits(0x8f));
    assert_eq!((charged.group().number(), charged.order(), charged.zone()), (0x8f, Order::of(3), ZoneId(5)));
    assert_eq!(charged.charged_to(GroupId::ROOT), word);
    assert_eq!((word.resized(Order::of(2)).order(), word.resized(Order::of(2)) == word), (Order::of(2), false));
}

/// Every way in which a page can be of a state, and whose its memory is said to be then.
fn every_word() -> impl Iterator<Item = (PageState, ListId, ZoneId, GroupId, AllocatorWord)> {
    let zones = || [0, 1, 3, 255].map(ZoneId).into_iter();
    let groups = || [0, 1, 0xa7, 0xff].map(GroupId::from_bits).into_iter();
    lists().flat_map(move |list| {
        zones().flat_map(move |zone| {
            let order = list.order();
            let allocated = AllocatorWord::allocated(list.migratetype(), order, zone);
            let root = GroupId::from_bits(0);
            let others = [
                (PageState::Hole, AllocatorWord::HOLE),
                (PageState::Reserved, AllocatorWord::RESERVED),
                (PageState::Tail, AllocatorWord::TAIL),
                (PageState::Free, AllocatorWord::free(list, zone)),
                (PageState::Node, AllocatorWord::node(list, 3, zone)),
                (PageState::Isolated, AllocatorWord::isolated(order, zone)),
                (PageState::Cached, allocated.when_cached()),
                (PageState::Offline, AllocatorWord::offline(order, zone)),
            ];
            let others = others.map(|(state, word)| (state, list, zone, root, word));
            let held =
                groups().map(move |group| (PageState::Allocated, list, zone, group, allocated.charged_to(group)));
            others.into_iter().chain(held)
        })
    })
}

#[test]
fn what_is_asked_of_a_word_is_true_of_those_of_which_it_is_true_and_no_others() {
    for (state, list, zone, group, word) in every_word() {
        let other = ZoneId(zone.0 ^ 1);
        let held = state == PageState::Allocated;
        let has_zone = !matches!(state, PageState::Hole | PageState::Reserved | PageState::Tail);
        assert_eq!(word.state(), Some(state));
        assert!(word.is_intact() && !word.is_hwpoison() && !word.has_hwpoisoned());
        assert_eq!(word.is_tail(), state == PageState::Tail);
        assert_eq!(word.is_free_or_node(), matches!(state, PageState::Free | PageState::Node), "{word:?}");
        assert_eq!([word.is_allocated_in(zone), word.is_allocated_in(other)], [held, false], "{word:?}");
        assert_eq!([word.is_sound_in(zone), word.is_sound_in(other)], [held, false], "{word:?}");
        assert_eq!(word.is_uncharged(), held && group.is_root(), "{word:?}");
        if has_zone {
            assert_eq!((word.zone(), word.order()), (zone, list.order()));
            assert_eq!(word.order_bits(), list.order().index());
        }
        if held {
            assert_eq!(word.group(), group);
            let like = ListId::new(list.migratetype(), list.order(), End::Near);
            assert_eq!(word.list_at_hand(), like.index() / 2);
            assert!(
                word.is_like(word) && !word.is_like(AllocatorWord::allocated(list.migratetype(), list.order(), other))
            );
        }
        let marked = AllocatorWord(word.0 | HAS_HWPOISONED);
        assert!(marked.is_intact() && marked.has_hwpoisoned() && !marked.is_hwpoison());
        assert_eq!(marked.is_allocated_in(zone), held);
        assert!(!marked.is_sound_in(zone) && !marked.is_uncharged(), "{marked:?}");
        // What is said of memory that fails, and of what kind of pages it is, makes no difference to what may be joined.
        let of_another_kind = AllocatorWord::allocated(Migratetype::Reclaimable, list.order(), zone).charged_to(group);
        let alike = [marked, of_another_kind, AllocatorWord(of_another_kind.0 | HWPOISON)];
        assert!(!held || alike.iter().all(|&other| word.is_like(other)), "{word:?}");
        let lies = AllocatorWord(word.0 | HWPOISON);
        assert!(lies.is_intact() && lies.is_hwpoison() && !lies.has_hwpoisoned());
        assert_eq!((lies.is_mere_tail(), word.is_mere_tail()), (word.is_tail(), word.is_tail()));
        // A tail keeps what is said of its own memory, and nothing else.
        assert_eq!(
            [word.as_tail(), lies.as_tail()],
            [AllocatorWord::TAIL, AllocatorWord(AllocatorWord::TAIL.0 | HWPOISON)]
        );
        assert_eq!((lies.of_other_part(), word.marked_as(marked), lies.marked_as(word)), (word, marked, word));
    }
}

#[test]
fn blocks_at_hand_are_told_apart_by_order_and_type() {
    let mut seen = std::collections::BTreeMap::new();
    for list in lists() {
        let word = AllocatorWord::allocated(list.migratetype(), list.order(), ZoneId(9));
        let at = *seen.entry(word.list_at_hand()).or_insert((list.migratetype(), list.order()));
        assert_eq!(at, (list.migratetype(), list.order()));
    }
    assert_eq!(seen.len(), Migratetype::ALL.len() * 11);
}

#[test]
fn a_page_is_free_at_its_place_alone() {
    let (list, zone) = (ListId::new(Migratetype::Movable, Order::of(3), End::Far), ZoneId(2));
    let page = Page::new(AllocatorWord::TAIL);
    page.set_free(list, zone, Position(41));
    assert!(page.is_free_at(list, zone, Position(41)));
    assert!(!page.is_free_at(list, zone, Position(40)));
    assert!(!page.is_free_at(list.other_end(), zone, Position(41)));
    assert!(!page.is_free_at(list, ZoneId(3), Position(41)));
    page.set_allocated(Migratetype::Movable, Order::of(3), zone);
    page.set_position(Position(41));
    assert!(!page.is_free_at(list, zone, Position(41)));
}

#[test]
fn the_mark_of_a_block_at_hand_is_set_once_and_goes() {
    let page = Page::new(AllocatorWord::TAIL);
    let head = Pfn::new(7);
    page.set_owner(OwnerWord::at_hand(head));
    assert_eq!([page.mark(head), page.mark(head)], [true, false]);
    page.unmark(head);
    assert!(page.is_at_hand(OwnerWord::at_hand(head)));
    assert!(!page.mark(Pfn::new(8)));
}

#[test]
fn of_two_words_of_a_block_the_one_that_was_resized_more_often_is_newer() {
    let word = AllocatorWord::allocated(Migratetype::Reclaimable, Order::of(7), ZoneId(0x5a))
        .charged_to(GroupId::from_bits(0x81));
    let mut before = word;
    for order in [6, 7, 0, 10, 10, 3].map(Order::of) {
        let after = before.resized(order);
        assert!(after.is_intact() && after.is(PageState::Allocated), "{after:?}");
        assert_eq!((after.order(), after.zone(), after.group()), (order, word.zone(), word.group()));
        assert_eq!(after.list().migratetype(), word.list().migratetype());
        assert_eq!((before.newer(after), after.newer(before)), (after, after));
        assert_eq!((word.newer(after), after.newer(word)), (after, after));
        // Of two that were resized as often each is as good.
        let marked = AllocatorWord(after.0 | HAS_HWPOISONED);
        assert_eq!((after.newer(marked), marked.newer(after)), (after, marked));
        before = after;
    }
}

#[test]
fn a_block_that_has_failing_memory_says_so_as_often_as_it_is_told() {
    let page = Page::new(AllocatorWord::allocated(Migratetype::Movable, Order::of(2), ZoneId(3)));
    let sound = page.word();
    for _ in 0..3 {
        assert_eq!(page.note_hwpoisoned(page.word()), Some(()));
        assert!(page.word().has_hwpoisoned());
        assert_eq!(page.note_hwpoisoned(sound), None, "it says something else by now");
    }
    page.set_hwpoison();
    assert_eq!(page.word().list_at_hand(), sound.list_at_hand());
    page.clear_hwpoison();
    assert_eq!((page.note_sound(page.word()), page.word()), (Some(()), sound));
}
