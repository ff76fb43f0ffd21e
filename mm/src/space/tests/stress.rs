//! Several CPUs at once, in one space and its forks, while memory is reclaimed.

use std::sync::Arc;
use std::thread;

use super::rig::{HostFile, Rig, UserSpace, with_rig};
use super::*;
use crate::host::on_cpu;
use crate::space::Sharing::{Private, Shared};
use crate::space::mmu::Access;
use crate::units::{Bytes, CpuId, PageIndex};

use PageProtection::ReadWrite;

/// Pages that each of the workers has in each of three regions.
const EACH: usize = scaled(40, 10);
const WORKERS: usize = 2;
const ROUNDS: u64 = scaled(150, 4);

/// Where the regions begin: anonymous memory, a file privately, a file shared.
const REGIONS: [u64; 3] = [0, 128, 256];

/// Writes pages that are this worker's, and finds what it wrote, in a space where others do the same beside it.
fn work(rig: &Rig<'_>, space: &UserSpace<'_>, worker: usize) {
    let mut random = fastrand::Rng::with_seed(worker as u64);
    let mut known = [[None::<u8>; EACH]; REGIONS.len()];
    for round in 0..ROUNDS {
        for _ in 0..8 {
            let (region, page) = (random.usize(..REGIONS.len()), random.usize(..EACH));
            // Pages of several workers stand in one folio.
            let address = REGIONS[region] + (page * WORKERS + worker) as u64;
            match (random.u8(..3), known[region][page]) {
                (0, _) => {
                    let byte = random.u8(..);
                    rig.set(space, address, byte);
                    known[region][page] = Some(byte);
                }
                (1, Some(byte)) => {
                    let pinned = space.get_user_pages(at(address), Bytes(1), Access::Write).expect("it can be had");
                    let run = &pinned.runs()[0];
                    let mut found = [0];
                    run.folio().copy_to(run.offset(), &mut found).expect("it is the folio's");
                    assert_eq!(found, [byte], "round {round}, page {address}");
                }
                (_, Some(byte)) => assert_eq!(rig.byte(space, address), byte, "round {round}, page {address}"),
                (_, None) => {
                    rig.byte(space, address);
                }
            }
        }
    }
}

#[test]
fn workers_in_one_space_find_what_they_wrote_while_it_forks_and_is_reclaimed() {
    let store = HostFile::pages(96);
    with_rig(|rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::of(4)).expect("there is memory");
        let space = rig.space();
        let all = (EACH * WORKERS) as u64;
        space.map_anonymous(pages(REGIONS[0], all), ReadWrite, Private, LARGE).expect("nothing is there");
        space.map_file(pages(REGIONS[1], all), &file, PageIndex(0), ReadWrite, Private).expect("nothing is there");
        space.map_file(pages(REGIONS[2], all), &file, PageIndex(0), ReadWrite, Shared).expect("nothing is there");
        let space = &space;
        thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|worker| {
                    let cpu = CpuId(u16::try_from(worker).expect("small"));
                    scope.spawn(move || on_cpu(cpu, || work(rig, space, worker)))
                })
                .collect();
            // This one is a CPU, too.
            on_cpu(CpuId(2), || {
                while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
                    rig.cache.reclaim(Count(50));
                    let child = space.fork().expect("there is memory");
                    rig.byte(&child, REGIONS[0] + 3);
                    rig.set(&child, REGIONS[0] + 4, 0xff);
                    rig.set(&child, REGIONS[1] + 5, 0xff);
                    file.write_back().expect("the store works");
                    space.protect(pages(REGIONS[0], 7), ReadWrite).expect("there is memory");
                }
            });
        });
        rig.verify([space]);
        file.verify().expect("the file is sound");
    });
}
