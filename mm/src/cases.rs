//! Test cases that run on any machine: hosted, and in a kernel, on the allocator that the kernel lives on.
//!
//! A case takes the allocator as it finds it: other memory is allocated and stays so, there may be highmem or none,
//! one node or several. It uses no heap, allocates what it needs from the allocator under test, and leaves every zone
//! as free and as whole as before; [`Case::run`] checks that too.
//!
//! What takes many CPUs (`soak`, `last_page`, `exhausted_node`) has them from a [`crew`](crew::Crew), and is called by itself,
//! as is what is told which allocations fail (`unwinding`).
//!
//! [`beside`] has the specification run along with it. `failure` is how a case ends, `footprint` what it must leave as it was, `holdings` the blocks that it holds, `checks`
//! how often it runs the full checker, `contents` what it writes to pages, `permutation` an order for millions of
//! frames, `random` its choices; everything else is cases, by what they are about.
//!
//! Cost: a machine of 8 GiB makes the cases that fill all of memory run over two million pages, so they touch no more
//! than descriptors, and the checker runs only where something turns.

pub mod beside;
mod charge;
mod checks;
mod contents;
mod contig;
pub mod crew;
pub mod exhausted_node;
mod exhaustion;
mod failure;
mod footprint;
mod holdings;
pub mod last_page;
mod migratetypes;
mod mix;
mod node_pages;
mod numa;
mod orders;
mod owners;
mod ownership;
mod permutation;
mod random;
pub mod refill;
mod reserves;
pub mod soak;
pub mod unwinding;
mod wrong_frees;
mod zones;

pub use failure::Failure;

use crate::machine::Machine;
use crate::page::PageAllocator;
use crate::shrinker::Shortage;
use crate::units::Count;
use footprint::Footprint;

/// Where a case's random choices start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seed(pub u64);

/// One case. Cases need nothing of each other and may run in any order, one at a time.
#[derive(Debug)]
pub struct Case<M: Machine + 'static> {
    /// What it is about and what must hold, as `group::behaviour`, without spaces.
    pub name: &'static str,
    body: fn(&PageAllocator<'_, M>, Seed) -> Result<(), Failure>,
}

impl<M: Machine + 'static> Case<M> {
    /// Runs the case, and makes sure that it leaves the allocator as it found it: as many free pages in every zone, as
    /// many largest blocks, and every invariant holds. Nobody else may use the allocator meanwhile.
    ///
    /// # Errors
    /// Says what did not hold, or that the machine lacks what the case is about ([`Failure::Skipped`]).
    pub fn run(&self, allocator: &PageAllocator<'_, M>, seed: Seed) -> Result<(), Failure> {
        // What shrinkers give up while a case runs would count as the case's.
        while allocator.reclaim(Shortage::of(Count(u32::MAX))) > Count(0) {}
        let before = Footprint::of(allocator);
        let outcome = (self.body)(allocator, seed);
        match outcome {
            Ok(()) | Err(Failure::Skipped(_)) => {
                before.check_restored(allocator)?;
                allocator.verify()?;
                allocator.verify_specified()?;
                allocator.verify_charges()?;
            }
            Err(_) => {}
        }
        outcome
    }
}

/// Enters functions as cases, each under its group and its own name.
macro_rules! cases {
    ($($group:ident: $($case:ident),+ $(,)?;)+) => {
        impl<M: Machine + 'static> Case<M> {
            /// Every case.
            pub const ALL: &'static [Self] = &[
                $($(Self { name: concat!(stringify!($group), "::", stringify!($case)), body: $group::$case },)+)+
            ];
        }
    };
}

cases! {
    beside:
        random_operations_are_as_specified_and_so_is_what_they_leave;
    orders:
        blocks_of_every_order_and_migratetype_are_aligned_whole_and_keep_their_contents,
        blocks_held_at_once_never_share_a_page;
    exhaustion:
        every_free_page_can_be_allocated_and_comes_back_in_ascending_order,
        every_free_page_can_be_allocated_and_comes_back_in_descending_order,
        every_free_page_can_be_allocated_and_comes_back_in_random_order,
        blocks_of_every_order_run_out_only_when_none_is_left;
    refill:
        coalesced_memory_is_the_same_each_time_it_has_run_out;
    wrong_frees:
        a_block_freed_twice_is_turned_away,
        a_half_that_has_merged_meanwhile_is_turned_away,
        a_tail_is_turned_away_and_its_head_named,
        a_reserved_frame_is_turned_away,
        a_frame_without_memory_is_turned_away,
        a_page_that_was_never_allocated_is_turned_away,
        a_page_that_serves_as_a_node_is_turned_away;
    zones:
        an_order_above_the_largest_is_refused,
        requests_up_to_dma32_stay_below_4_gib,
        requests_up_to_normal_never_get_highmem,
        movable_requests_prefer_highmem,
        lower_zones_serve_only_what_the_upper_ones_cannot;
    migratetypes:
        unmovable_requests_can_use_up_all_memory,
        movable_requests_can_use_up_all_memory,
        reclaimable_requests_can_use_up_all_memory,
        all_three_share_exhausted_memory_and_it_coalesces_whoever_goes_first,
        a_request_takes_over_no_more_than_a_pageblock,
        unlike_pages_do_not_share_a_pageblock_while_there_are_plenty;
    node_pages:
        every_second_page_freed_makes_nodes_and_the_others_bring_the_blocks_back,
        the_others_bring_the_blocks_back_in_random_order_too,
        every_second_block_of_any_order_can_be_free;
    mix:
        random_orders_keep_their_contents_at_half_full,
        random_orders_keep_their_contents_at_nine_tenths_full;
    contig:
        an_unaligned_range_comes_out_of_the_middle_of_free_memory,
        a_range_with_a_used_page_names_it_and_changes_nothing,
        a_range_takes_the_place_of_nodes,
        a_range_across_an_edge_of_its_zone_is_refused,
        a_run_larger_than_the_largest_block_is_found_at_its_alignment,
        a_range_that_cannot_be_is_refused,
        a_range_given_up_as_blocks_frees_those_not_taken;
    ownership:
        halves_are_freed_in_either_order,
        a_block_split_into_pages_comes_back_in_random_order,
        a_raw_block_becomes_an_owned_one_again_with_its_contents;
    charge:
        charges_follow_blocks_wherever_they_go,
        a_limit_refuses_at_its_very_edge_and_nothing_is_lost,
        what_exhausted_memory_cannot_serve_is_not_charged,
        a_raw_free_takes_the_charge_back_and_a_second_one_does_not,
        the_blocks_of_a_range_are_recharged_one_by_one,
        a_group_that_still_has_pages_is_not_destroyed;
    owners:
        blocks_change_owners_and_every_frame_leads_to_the_right_one;
    numa:
        memory_comes_from_the_preferred_node,
        memory_comes_from_the_cpus_own_node_unless_another_is_named,
        an_exhausted_node_is_helped_out_by_the_nearest_that_is_not,
        a_request_bound_to_an_exhausted_node_fails_whatever_the_others_have,
        every_allocation_is_a_hit_or_a_miss_and_every_miss_is_foreign_elsewhere;
    reserves:
        ordinary_requests_stop_at_min_and_more_urgent_ones_go_on_to_the_last_page,
        a_large_block_is_to_be_had_in_need_when_single_pages_have_used_up_the_rest;
}
