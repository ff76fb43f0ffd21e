//! What CPUs have at hand: it counts as free, is found by whoever needs it, and nothing of it is lost.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::charge::GroupId;
use crate::desc::allocator_word::AllocatorWord;
use crate::desc::owner_word::OwnerWord;
use crate::host::on_cpu;
use crate::invariant::Invariant;
use crate::migratetype::Migratetype;
use crate::page::FreeError;
use crate::units::{Count, CpuId};

/// From whoever may have the last page.
const PAGE: Request = Request::movable(Order::ZERO).from_reserve();
const LARGEST: Request = Request::movable(Order::of(10)).from_reserve();

/// One past the last frame of [`with_cpus`]'s machine.
const END: u32 = scaled(0x4000, 0x1000);

fn on<R>(cpu: u16, work: impl FnOnce() -> R) -> R {
    on_cpu(CpuId(cpu), work)
}

/// A machine of so many CPUs, half of whose memory is highmem.
fn with_cpus(cpus: u16, test: impl FnOnce(&PageAllocator<'_, Machine>)) {
    with_memory(cpus, Pfn::new(END).address().0, test);
}

/// The same with so much memory, half of it highmem.
fn with_memory(cpus: u16, memory: u64, test: impl FnOnce(&PageAllocator<'_, Machine>)) {
    let pfn = |address| Pfn::containing(PhysAddr(address)).expect("it is low");
    let cpus = NonZeroU16::new(cpus).expect("a machine has a CPU");
    let machine = Machine::new(pfn(memory), pfn(memory / 2), cpus).expect("the host lends address space");
    let allocator = allocator(&machine, &[usable(0, memory)]);
    let before = allocator.free_pages();
    let whole: u32 = allocator.zones().map(|zone| zone.blocks_of(Order::of(10))).sum();
    test(&allocator);
    allocator.verify().expect("every invariant holds");
    allocator.drain();
    allocator.verify().expect("every invariant holds when all is drained");
    allocator.verify_charges().expect("the charges add up");
    let after: u32 = allocator.zones().map(|zone| zone.blocks_of(Order::of(10))).sum();
    assert_eq!((allocator.free_pages(), cached(&allocator)), (before, 0));
    assert!(after.abs_diff(whole) <= 1, "memory has coalesced: {after} whole blocks, {whole} before");
}

fn cached(allocator: &PageAllocator<'_, Machine>) -> u32 {
    allocator.zones().map(|zone| zone.cached).sum()
}

/// Makes CPUs have something at hand: each frees blocks of all sizes that are kept.
fn stock(allocator: &PageAllocator<'_, Machine>, cpus: u16) {
    for cpu in 0..cpus {
        on(cpu, || {
            for migratetype in Migratetype::ALL {
                for order in [0, 1, 2, 3, 9] {
                    let request = Request::movable(Order::of(order)).with_migratetype(migratetype);
                    drop((allocator.alloc(request).ok(), allocator.alloc(request.up_to(ZoneKind::Normal)).ok()));
                }
            }
        });
    }
}

#[test]
fn a_page_at_hand_counts_as_free_and_is_refused_when_it_is_freed_again() {
    with_cpus(2, |allocator| {
        let free = allocator.free_pages();
        let page = allocator.alloc(PAGE).expect("memory is free");
        let pfn = page.head();
        assert_eq!(allocator.free_pages(), free - 1);
        drop(page);
        assert_eq!((allocator.free_pages(), allocator.page_state(pfn).0), (free, PageState::Cached));
        for cpu in 0..2 {
            // SAFETY: it is refused.
            assert_eq!(on(cpu, || unsafe { allocator.free_raw(pfn) }), Err(FreeError::AlreadyFree(pfn)));
        }
        assert_eq!(
            on(1, || allocator.alloc(PAGE).map(|page| page.head() == pfn)).ok(),
            Some(false),
            "it is another CPU's"
        );
        assert_eq!(allocator.alloc(PAGE).map(|page| page.head()).ok(), Some(pfn), "the newest comes first");
    });
}

#[test]
fn with_k_pages_free_anywhere_k_allocations_succeed_from_any_cpu() {
    const CPUS: u16 = scaled(4, 2);
    with_cpus(CPUS, |allocator| {
        for cpu in 0..CPUS {
            stock(allocator, CPUS);
            let spread: HashSet<_> = (0..CPUS).map(|_| cached(allocator)).collect();
            assert!(spread.iter().all(|&pages| pages > scaled(1000, 0)), "the CPUs have plenty: {spread:?}");
            let _ballast = ballast(allocator, PAGE.with_order(Order::of(6)), 700);
            let free = allocator.free_pages();
            let held: Vec<_> = on(cpu, || core::iter::from_fn(|| allocator.alloc(PAGE).ok()).collect());
            assert_eq!((held.len(), allocator.free_pages()), (free as usize, 0), "from CPU {cpu}");
            let frames: HashSet<_> = held.iter().map(Block::head).collect();
            assert_eq!(frames.len(), held.len(), "no page is had twice");
            allocator.verify().expect("every invariant holds when nothing is free");
            // Back, each from another CPU, in an order that nothing likes.
            for (nth, page) in held.into_iter().enumerate() {
                on((nth % usize::from(CPUS)) as u16, || drop(page));
            }
        }
    });
}

#[test]
fn the_last_pages_of_another_cpu_are_found_one_by_one() {
    with_cpus(2, |allocator| {
        let _ballast = ballast(allocator, PAGE.with_order(Order::of(6)), 700);
        let mut held: Vec<_> = core::iter::from_fn(|| allocator.alloc(PAGE).ok()).collect();
        for _ in 0..scaled(100, 10) {
            let given: Vec<_> = held.drain(..3).map(|page| page.head()).collect();
            assert_eq!((allocator.free_pages(), cached(allocator)), (3, 3), "all that is free is at hand of CPU 0");
            for _ in 0..3 {
                let page = on(1, || allocator.alloc(PAGE)).expect("a page is free");
                assert!(given.contains(&page.head()));
                held.push(page);
            }
            assert!(on(1, || allocator.alloc(PAGE)).is_err(), "and no more");
        }
    });
}

#[test]
fn a_whole_block_is_had_although_its_pages_are_at_hand() {
    with_cpus(2, |allocator| {
        let all: Vec<_> = core::iter::from_fn(|| allocator.alloc(LARGEST).ok()).collect();
        let rest = exhaust(allocator, PAGE);
        let mut blocks = all.into_iter();
        let block = blocks.next().expect("there is one");
        let mut pieces = std::vec![block];
        while pieces[0].order() > Order::ZERO {
            pieces = pieces.into_iter().flat_map(|piece| <[_; 2]>::from(piece.split().expect("it is large"))).collect();
        }
        pieces.into_iter().enumerate().for_each(|(nth, page)| on((nth % 2) as u16, || drop(page)));
        assert!(cached(allocator) > scaled(100, 10), "{}", cached(allocator));
        assert!(allocator.alloc(LARGEST).is_ok());
        drop((blocks, rest));
    });
}

#[test]
fn a_range_takes_in_what_cpus_have_at_hand_and_names_what_is_really_in_use() {
    with_cpus(3, |allocator| {
        stock(allocator, 3);
        let frames = PfnRange::new(Pfn::new(END / 8 * 5), Pfn::new(END / 16 * 15));
        let page = allocator.alloc(PAGE).expect("memory is free").head();
        assert_eq!(allocator.page_state(page).0, PageState::Cached);
        let around = PfnRange::new(page, page.plus(1));
        assert_eq!(on(1, || allocator.alloc_contig(around).map(|range| range.range())).ok(), Some(around));
        let range = on(2, || allocator.alloc_contig(frames)).expect("all of it is free or at hand");
        let within = PfnRange::new(frames.start.plus(5), frames.start.plus(6));
        assert_eq!(allocator.alloc_contig(within).map(drop), Err(crate::ContigError::InUse(within.start)));
        drop(range);
    });
}

#[test]
fn pages_freed_on_another_cpu_take_the_zones_lock_once_for_many() {
    with_cpus(2, |allocator| {
        const ROUNDS: u64 = scaled(400, 20);
        let mut operations = 0;
        let mut acquisitions = 0;
        let zones = allocator.zones().count() as u64;
        for round in 0..ROUNDS {
            let before = allocator.zone_lock_acquisitions();
            let batch: Vec<_> = (0..64).map(|_| allocator.alloc(PAGE).expect("memory is free")).collect();
            on(1, || drop(batch));
            // The steady state begins once the lists have found their sizes.
            if round >= ROUNDS / 4 {
                operations += 128;
                // Reading takes each lock once.
                acquisitions += allocator.zone_lock_acquisitions().0 - before.0 - zones;
            }
        }
        assert!(
            acquisitions * 1000 <= operations * scaled(35, 200),
            "{acquisitions} acquisitions in {operations} operations"
        );
    });
}

#[test]
#[cfg_attr(miri, ignore = "a statistic of much memory, of nothing that other tests do not do")]
fn pages_that_one_cpu_frees_and_another_asks_for_change_hands_without_being_merged_and_split() {
    with_memory(2, 256 * MIB, |allocator| {
        let on_lists = || allocator.zones().map(|zone| zone.free - zone.cached).collect::<Vec<_>>();
        let mut moved = 0;
        let mut before = on_lists();
        for round in 0..400 {
            let batch: Vec<_> = (0..64).map(|_| allocator.alloc(PAGE).expect("memory is free")).collect();
            on(1, || drop(batch));
            let after = on_lists();
            // The steady state begins once the lists have found their sizes.
            moved += if round < 200 { 0 } else { after.iter().zip(&before).map(|(a, b)| a.abs_diff(*b)).sum() };
            before = after;
        }
        assert!(moved <= 640, "of 12800 pages {moved} went to their zones or came from there");
        allocator.verify().expect("every invariant holds with pages on the shelf");
        // All of them can be had by whoever wants them.
        let free = allocator.free_pages();
        let held: Vec<_> = on(1, || core::iter::from_fn(|| allocator.alloc(PAGE).ok()).collect());
        assert_eq!(held.len(), free as usize);
    });
}

#[test]
#[cfg_attr(miri, ignore = "a statistic of much memory, of nothing that other tests do not do")]
fn whole_blocks_come_free_again_while_pages_come_and_go_at_random() {
    for (percent, whole_at_least) in [(50, 80), (90, 60)] {
        with_memory(1, 512 * MIB, |allocator| {
            let mut held: Vec<_> = core::iter::from_fn(|| allocator.alloc(PAGE).ok()).collect();
            let target = held.len() * percent / 100;
            let mut random = fastrand::Rng::with_seed(7);
            while held.len() > target {
                drop(held.swap_remove(random.usize(..held.len())));
            }
            for _ in 0..8 * target {
                drop(held.swap_remove(random.usize(..target)));
                held.push(allocator.alloc(PAGE).expect("one was just freed"));
            }
            allocator.drain();
            let whole: u32 =
                allocator.zones().map(|zone| zone.blocks_of(Order::of(9)) + 2 * zone.blocks_of(Order::of(10))).sum();
            let share = whole * 512 * 100 / allocator.free_pages();
            assert!(share >= whole_at_least, "{share} % of what is free is whole with {percent} % in use");
        });
    }
}

#[test]
#[cfg_attr(miri, ignore = "a statistic of much memory, of nothing that other tests do not do")]
fn what_remains_of_batches_makes_no_small_pieces_of_the_next_ones() {
    with_memory(1, 512 * MIB, |allocator| {
        for turn in 0..6 {
            let pages: Vec<_> = core::iter::from_fn(|| allocator.alloc(PAGE).ok()).collect();
            let rows = 1 + pages.windows(2).filter(|pair| pair[0].head().plus(1) != pair[1].head()).count();
            assert!(pages.len() / rows >= 32, "{} pages came in {rows} rows in turn {turn}", pages.len());
            pages.into_iter().for_each(drop);
        }
    });
}

#[test]
fn a_cpu_that_is_taken_down_leaves_nothing_at_hand_and_keeps_nothing_until_it_is_back() {
    with_cpus(2, |allocator| {
        stock(allocator, 2);
        let both = cached(allocator);
        let down = allocator.take_cpu_down(CpuId(1)).expect("there is such a CPU");
        assert_eq!(cached(allocator), 0, "of {both}");
        on(1, || drop(allocator.alloc(PAGE).expect("it still can")));
        assert_eq!(cached(allocator), 0);
        drop(allocator.alloc(PAGE));
        assert!(cached(allocator) > 0, "the others go on");
        drop(down);
        allocator.drain();
        on(1, || drop(allocator.alloc(PAGE)));
        assert!(cached(allocator) > 0, "it is back");
    });
}

#[test]
fn a_cpu_that_there_is_not_cannot_be_taken_down_and_one_is_back_when_all_who_took_it_down_say_so() {
    with_cpus(2, |allocator| {
        assert!([2, 3, u16::MAX].into_iter().all(|cpu| allocator.take_cpu_down(CpuId(cpu)).is_none()));
        let in_a_handler = allocator.machine().interrupt(|| allocator.take_cpu_down(CpuId(1)).is_none());
        assert_eq!(in_a_handler, Some(true));
        let both = [(); 2].map(|()| allocator.take_cpu_down(CpuId(1)).expect("there is such a CPU"));
        let keeps_any = || {
            allocator.drain();
            on(1, || drop(allocator.alloc(PAGE)));
            cached(allocator) > 0
        };
        for down in both {
            assert!(!keeps_any(), "somebody has it down");
            drop(down);
        }
        assert!(keeps_any(), "it is back");
    });
}

#[test]
#[cfg_attr(miri, ignore = "of less memory a CPU keeps what it may keep for ever")]
fn what_a_cpu_does_not_use_goes_back_with_time() {
    with_memory(2, 256 * MIB, |allocator| {
        for _ in 0..8 {
            let pages: Vec<_> = (0..1500).map_while(|_| allocator.alloc(PAGE).ok()).collect();
            drop(pages);
        }
        // What lies on the shelf is no more this CPU's than another's.
        let others_tick = || on(1, || (0..40).for_each(|_| allocator.tick()));
        others_tick();
        let at_first = cached(allocator);
        assert!(at_first > 400, "{at_first}");
        others_tick();
        assert_eq!(cached(allocator), at_first, "only its own");
        (0..40).for_each(|_| allocator.tick());
        assert!(cached(allocator) <= 300, "{} of {at_first}", cached(allocator));
    });
}

#[test]
fn charged_pages_are_kept_at_hand_uncharged() {
    with_cpus(2, |allocator| {
        let group = allocator.groups().create(Some(100)).expect("there are groups");
        for cpu in [0, 1, 0] {
            let pages: Vec<_> =
                on(cpu, || (0..100).map(|_| allocator.alloc(PAGE.charged_to(group.id())).expect("it pays")).collect());
            assert!(on(cpu, || allocator.alloc(PAGE.charged_to(group.id()))).is_err(), "that is all it may have");
            assert_eq!(group.report().usage, 100);
            on(1 - cpu, || drop(pages));
            assert_eq!(group.report().usage, 0);
        }
        let page = allocator.alloc(PAGE).expect("memory is free");
        assert_eq!(page.group(), GroupId::ROOT);
        drop(page);
        group.destroy().expect("nothing is charged");
    });
}

#[test]
fn a_batch_is_as_many_blocks_as_there_are_and_all_of_them_come_back() {
    with_cpus(2, |allocator| {
        let free = allocator.free_pages();
        let batch = allocator.alloc_bulk::<64>(PAGE);
        let frames: HashSet<_> = batch.heads().iter().copied().collect();
        assert_eq!((frames.len(), allocator.free_pages()), (64, free - 64));
        let three: Vec<_> = batch.into_blocks().take(3).collect();
        assert_eq!(allocator.free_pages(), free - 3, "those that were not taken are free");
        drop(three);
        // All but five pages.
        let _ballast = ballast(allocator, PAGE.with_order(Order::of(6)), 700);
        let mut batches = std::vec![];
        while allocator.free_pages() >= 64 + 5 {
            batches.push(allocator.alloc_bulk::<64>(PAGE));
            assert_eq!(batches.last().map(|batch| batch.heads().len()), Some(64), "there are more");
        }
        let mut last: Vec<_> = core::iter::from_fn(|| allocator.alloc(PAGE).ok()).collect();
        on(1, || last.truncate(last.len() - 5));
        let batch = allocator.alloc_bulk::<64>(PAGE);
        assert_eq!((batch.heads().len(), allocator.free_pages()), (5, 0));
        let heads = batch.into_raw();
        // SAFETY: they are the batch's; the second time they are refused.
        assert_eq!(unsafe { allocator.free_bulk_raw(&heads) }, Ok(()));
        // SAFETY: as above.
        let again = unsafe { allocator.free_bulk_raw(&heads) };
        assert_eq!(again, Err(FreeError::AlreadyFree(heads[0])));
        assert_eq!(allocator.alloc_bulk::<4>(PAGE.with_order(Order::of(4))).heads().len(), 0, "nothing is so large");
        on(1, || drop(batches));
    });
}

#[test]
fn a_block_amid_a_batch_that_cannot_be_freed_is_named_and_the_others_are_free() {
    with_cpus(1, |allocator| {
        let heads = allocator.alloc_bulk::<8>(PAGE).into_raw();
        let block = allocator.alloc(PAGE.with_order(Order::of(10))).expect("memory is free");
        let tail = block.head().plus(3);
        let mut wrong = heads.clone();
        wrong[4] = tail;
        let free = allocator.free_pages();
        // SAFETY: they are the batch's; the tail is refused.
        let freed = unsafe { allocator.free_bulk_raw(&wrong) };
        assert_eq!(freed, Err(FreeError::Tail { pfn: tail, head: block.head() }));
        assert_eq!(allocator.free_pages(), free + 7);
        // SAFETY: it is the one that was left out.
        assert_eq!(unsafe { allocator.free_raw(heads[4]) }, Ok(()));
    });
}

#[test]
fn the_checker_names_a_block_at_hand_that_says_otherwise() {
    let machine = machine(64 * MIB, 64 * MIB);
    let allocator = allocator(&machine, &[usable(0, 64 * MIB)]);
    let pfn = allocator.alloc(PAGE).expect("memory is free").head();
    allocator.verify().expect("all is well");
    let page = allocator.page(pfn).expect("it is memory");
    let zone = page.word().zone();
    let word = |order| AllocatorWord::allocated(Migratetype::Movable, order, zone);
    page.set_allocated(Migratetype::Movable, Order::ZERO, zone);
    assert_eq!(
        allocator.verify().map_err(|violation| (violation.invariant, violation.pfn)),
        Err((Invariant::Pcp1, Some(pfn)))
    );
    page.set_owner(OwnerWord::at_hand(pfn));
    page.keep_at_hand(word(Order::ZERO));
    allocator.verify().expect("all is well again");
    // One that says it is at hand, and is not.
    let lost = allocator.alloc_raw(PAGE.with_order(Order::of(4))).expect("memory is free");
    allocator.page(lost).expect("it is memory").keep_at_hand(word(Order::of(4)));
    assert_eq!(allocator.verify().map_err(|violation| violation.invariant), Err(Invariant::Pcp1));
}

/// What threads hand each other.
type Market<'a> = Mutex<Vec<(Block<'a, Machine>, u64)>>;

/// One CPU's part of the soak: allocates, writes who has the page, frees here or hands it to the others.
fn trade<'a>(allocator: &'a PageAllocator<'a, Machine>, market: &Market<'a>, seed: u64, operations: u32) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut held = Vec::new();
    let sign = |block: &mut Block<'a, Machine>, stamp: u64| {
        let head = block.head();
        block.with_page(head, |bytes| bytes[..8].copy_from_slice(&stamp.to_ne_bytes())).expect("it is the block's");
    };
    let check = |(mut block, stamp): (Block<'a, Machine>, u64)| {
        let head = block.head();
        let found = block.with_page(head, |bytes| u64::from_ne_bytes(bytes[..8].try_into().expect("eight")));
        assert_eq!(found, Some(stamp), "{block:?} is somebody else's too");
    };
    for _ in 0..operations {
        match random.u32(..16) {
            0..7 => {
                let order = Order::of([0, 0, 0, 0, 1, 2, 3, 4, 9][random.usize(..9)]);
                if let Ok(mut block) = allocator.alloc(Request::movable(order)) {
                    let stamp = random.u64(..);
                    sign(&mut block, stamp);
                    held.push((block, stamp));
                }
            }
            7..12 if !held.is_empty() => check(held.swap_remove(random.usize(..held.len()))),
            12..14 if !held.is_empty() => {
                let traded = held.swap_remove(random.usize(..held.len()));
                market.lock().expect("nobody panics").push(traded);
            }
            14 => {
                let bought = market.lock().expect("nobody panics").pop();
                bought.into_iter().for_each(check);
            }
            _ if random.u32(..64) == 0 => drop(allocator.drain()),
            _ if random.u32(..32) == 0 => {
                let start = Pfn::new(random.u32(END / 4..END - 0x100));
                drop(allocator.alloc_contig(PfnRange::new(start, start.plus(random.u32(1..64)))));
            }
            _ if random.u32(..8) == 0 => allocator.tick(),
            _ => {}
        }
    }
    held.into_iter().for_each(check);
}

#[test]
fn many_cpus_allocate_free_hand_over_drain_and_pull_ranges_at_once_and_no_page_is_lost_or_had_twice() {
    const CPUS: u16 = 8;
    with_cpus(CPUS, |allocator| {
        let market = Market::default();
        let done = AtomicBool::new(false);
        thread::scope(|threads| {
            let traders: Vec<_> = (0..CPUS - 1)
                .map(|cpu| {
                    let market = &market;
                    threads.spawn(move || on(cpu, || trade(allocator, market, u64::from(cpu) + 7, scaled(20_000, 20))))
                })
                .collect();
            // One goes and comes back, and the checker looks.
            threads.spawn(|| {
                on(CPUS - 1, || {
                    while !done.load(Ordering::Relaxed) {
                        let down = allocator.take_cpu_down(CpuId(0)).expect("there is such a CPU");
                        thread::yield_now();
                        drop(down);
                        let Count(_) = allocator.drain();
                        thread::yield_now();
                    }
                });
            });
            traders.into_iter().for_each(|trader| trader.join().expect("nobody fails"));
            done.store(true, Ordering::Relaxed);
        });
        drop(market.into_inner());
    });
}
