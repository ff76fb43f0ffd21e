//! What must happen when several CPUs are in one space.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use mm::space::{PageProtection, Sharing};
use mm::units::{CpuId, Order};

use super::users::{Users, page, pages, write};
use crate::cpu;
use crate::ktest::{check, ktest};
use crate::user::access::copy_from_user;
use crate::user::live;

ktest!(
    "space",
    fn when_a_region_is_replaced_no_cpu_that_is_in_the_space_sees_the_old_ones_pages() {
        const ROUNDS: u8 = 8;
        Users::with(|users| {
            let space = users.spaces.create()?;
            let region = || space.map_anonymous(pages(0, 4), PageProtection::ReadWrite, Sharing::Private, Order::ZERO);
            let all = u32::try_from(cpu::online().count())?;
            region()?;
            for round in 1..=ROUNDS {
                write(&space, 0, round)?;
                let (old, new, refused) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
                let (replaced, seen) = (AtomicBool::new(false), AtomicU32::new(0));
                let reads = |wanted| copy_from_user_byte() == Some(wanted);
                cpu::on_all(&|cpu| {
                    live::with(&*space, || {
                        if !reads(round) {
                            refused.store(true, Ordering::Relaxed);
                        }
                        old.fetch_add(1, Ordering::SeqCst);
                        if cpu == CpuId(0) {
                            while old.load(Ordering::SeqCst) < all {
                                core::hint::spin_loop();
                            }
                            if space.unmap(pages(0, 4)).is_err() || region().is_err() {
                                refused.store(true, Ordering::Relaxed);
                            }
                            replaced.store(true, Ordering::SeqCst);
                        }
                        while !replaced.load(Ordering::SeqCst) {
                            core::hint::spin_loop();
                        }
                        // Who has replaced it reads last: its read may well bring in the old page again, and clears it.
                        while cpu == CpuId(0) && seen.load(Ordering::SeqCst) < all - 1 {
                            core::hint::spin_loop();
                        }
                        new.fetch_add(u32::from(reads(0)), Ordering::Relaxed);
                        seen.fetch_add(1, Ordering::SeqCst);
                    });
                });
                check!(!refused.into_inner(), "round {round}: the old region was not read, or not replaced");
                check!(new.load(Ordering::Relaxed) == all, "round {round}: {new:?} of {all} CPUs see the new region");
            }
            Ok(())
        })
    }
);

/// The first byte of the tests' first page; `None` if it cannot be read.
fn copy_from_user_byte() -> Option<u8> {
    let mut byte = [0];
    copy_from_user(page(0), &mut byte).ok().map(|()| byte[0])
}
