//! What was under way when somebody's code panicked leads nowhere.

use super::given::folio;
use super::*;
use crate::host::{all_memory, panicking_when_short};

#[test]
fn a_folio_that_was_being_inserted_leads_to_no_mapping() {
    const FOLIOS: u32 = scaled(64, 12);
    let swap = HostFile::pages(4);
    with_cache(4, &swap, |cache| {
        let mapping = cache.anonymous(Order::ZERO).expect("there is memory");
        let folios: Vec<_> = (0..FOLIOS).map(|_| folio(cache, 0)).collect();
        let pages = cache.pages();
        let held = all_memory(pages);
        let mut panicked = 0;
        // As far from each other as that each needs nodes of its own.
        for (number, folio) in (0..).zip(folios) {
            let given = panicking_when_short(pages, || mapping.give(folio, PageIndex(number << 30)).is_ok());
            panicked += u32::from(given.is_none());
        }
        assert!(panicked > FOLIOS / 2, "{panicked} found no memory");
        drop(held);
        mapping.verify().expect("all is well");
    });
}
