use super::*;
use crate::desc::allocator_word::{End, PageState};
use crate::migratetype::Migratetype;

fn lists() -> impl Iterator<Item = ListId> {
    Migratetype::ALL.into_iter().flat_map(|migratetype| {
        (0..=10).flat_map(move |order| [End::Near, End::Far].map(|end| ListId::new(migratetype, Order::of(order), end)))
    })
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
