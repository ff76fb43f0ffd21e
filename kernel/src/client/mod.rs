//! A client of the kernel's heap that nobody here wrote: an interpreter for WebAssembly runs a real program.
//!
//! The answers are compared with published ones, and whatever happens to a program, the heap is as it was once the
//! program is gone.

mod program;

use alloc::format;
use alloc::vec::Vec;

use program::{Allowance, Fuel, Program};

use crate::clock::{Clock, Stopwatch};
use crate::heap::{self, Bytes};
use crate::ktest::{Outcome, check, diagnostic, ktest, skip};

/// `kernel/wasm/answers.rs`, compiled.
static ANSWERS: &[u8] = include_bytes!("../../wasm/answers.wasm");

const MIB: usize = 1 << 20;
const PLENTY: Allowance = Allowance { memory: Bytes(4 * MIB), fuel: Fuel(1 << 32) };

/// Function, argument, answer.
const NUMBERS: &[(&str, u32, i64)] = &[
    // OEIS A000170, and A002562 for those that are fundamental.
    ("queens", 6, 4),
    ("queens", 8, 92),
    ("fundamental_queens", 8, 12),
    // OEIS A132343.
    ("man_or_boy", 10, -67),
    // LifeWiki, "Die hard".
    ("life_of_the_diehard", 0, 130),
    // P. MacMahon, in: G. Hardy, S. Ramanujan, "Asymptotic formulae in combinatory analysis", 1918.
    ("partitions", 200, 3_972_999_029_388),
];

/// Function, argument, length and end of the text.
const TEXTS: &[(&str, u32, usize, &str)] = &[
    // NIST, "Secure Hash Standard: example values".
    ("sha256_of_letters_a", 0, 64, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    // `head -c 10000 /dev/zero | tr '\0' a | sha256sum`. (The standard's million takes seconds under emulation.)
    ("sha256_of_letters_a", 10_000, 64, "27dd1f61b867b6a0f6e9d8a41c43231de52107e53ae424de8f847b821db4b711"),
    // J. Machin, 1706. (The six nines that end at the 767th decimal take seconds under emulation, too.)
    ("decimals_of_pi", 100, 100, "3421170679"),
];

/// Runs `work`; afterwards the heap must have as much in use as before.
///
/// Skips if the heap could not hold what these tests need.
fn leaving_nothing(work: impl FnOnce() -> Outcome) -> Outcome {
    /// More than their peak, in the largest pieces that they ask for.
    const PIECES: usize = 4;
    const PIECE: usize = 2 * MIB;

    let before = heap::used();
    let mut pieces = [const { Vec::<u8>::new() }; PIECES];
    if let Err(error) = pieces.iter_mut().try_for_each(|piece| piece.try_reserve_exact(PIECE)) {
        return skip("the heap has no room for the interpreter", error);
    }
    drop(pieces);
    check!(heap::used() == before, "room of {before} became {}", heap::used());

    work()?;
    check!(heap::used() == before, "{before} were in use, and afterwards {}", heap::used());
    Ok(())
}

ktest!(
    "client",
    fn a_webassembly_interpreter_runs_a_real_module_to_the_right_answer() {
        leaving_nothing(|| {
            let before = heap::used();
            let mut program = Program::load(ANSWERS, PLENTY)?;
            let (outcome, ticks) = Stopwatch::calibrated().time(|| every_answer_is_right(&mut program));
            outcome?;
            diagnostic!(
                "{} units of fuel, {} of heap at most",
                PLENTY.fuel.0 - program.fuel().0,
                Bytes(program.peak().0 - before.0),
            );
            if Clock::measure() == Clock::Icount {
                diagnostic!("{ticks} instructions");
            }
            Ok(())
        })
    }
);

fn every_answer_is_right(program: &mut Program) -> Outcome {
    for &(function, argument, expected) in NUMBERS {
        let answer = program.ask(function, argument)?;
        check!(answer == expected, "{function}({argument}) gives {answer}, and should give {expected}");
    }
    for &(function, argument, len, end) in TEXTS {
        let told = program.listen(function, argument)?;
        check!(told.len() == len && told.ends_with(end), "{function}({argument}) tells {told:?}");
    }
    Ok(())
}

/// OEIS A000170.
const QUEENS: [i64; 8] = [1, 1, 0, 0, 2, 10, 4, 40];

ktest!(
    "client",
    fn programs_that_begin_and_end_among_others_do_not_notice_them() {
        const AT_ONCE: usize = 6;
        leaving_nothing(|| {
            let start = || Program::load(ANSWERS, PLENTY);
            let mut programs: Vec<Program> = (0..AT_ONCE).map(|_| start()).collect::<Result<_, _>>()?;
            for round in 0..3 {
                for (size, &expected) in (0..).zip(&QUEENS) {
                    for program in &mut programs {
                        let answer = program.ask("queens", size)?;
                        check!(answer == expected, "round {round}: {answer} ways for {size} queens, not {expected}");
                    }
                    // Now one in the middle goes, now the oldest, now the youngest.
                    let leaves = (round + 4 * usize::try_from(size)?) % AT_ONCE;
                    drop(programs.remove(leaves));
                    programs.push(start()?);
                }
            }
            Ok(())
        })
    }
);

ktest!(
    "client",
    fn a_program_that_is_stopped_anywhere_leaves_nothing() {
        const SIZE: u32 = 5;
        leaving_nothing(|| {
            let (mut fuel, mut stops) = (Fuel(0), 0);
            let answer = loop {
                let before = heap::used();
                let stopped = Program::load(ANSWERS, Allowance { fuel, ..PLENTY });
                let answer = stopped.and_then(|mut program| program.ask("queens", SIZE)).ok();
                check!(heap::used() == before, "stopped after {fuel:?}: {before} in use became {}", heap::used());
                match answer {
                    Some(answer) => break answer,
                    None => check!(fuel < PLENTY.fuel, "{fuel:?} is not enough"),
                }
                fuel.0 += fuel.0 / 8 + 1;
                stops += 1;
            };
            check!(answer == 10 && stops > 20, "{answer}, after {stops} stops");
            Ok(())
        })
    }
);

ktest!(
    "client",
    fn a_module_cut_off_anywhere_is_refused_and_leaves_nothing() {
        leaving_nothing(|| {
            for len in (0..ANSWERS.len()).step_by(251) {
                let before = heap::used();
                let answer = Program::load(&ANSWERS[..len], PLENTY).and_then(|mut program| program.ask("queens", 4));
                check!(answer.is_err(), "{len} bytes of the module are enough for an answer");
                drop(answer);
                check!(heap::used() == before, "after {len} bytes {before} in use became {}", heap::used());
            }
            Ok(())
        })
    }
);

ktest!(
    "client",
    fn a_program_that_asks_for_too_much_fails_and_the_next_one_runs() {
        leaving_nothing(|| {
            // Calls within calls almost without end; a table of 512 MiB.
            for (function, argument) in [("man_or_boy", 1000), ("partitions", 64 << 20)] {
                let trapped = match Program::load(ANSWERS, PLENTY)?.ask(function, argument) {
                    Ok(answer) => Err(format!("gives {answer}")),
                    Err(error) => error.as_trap_code().ok_or_else(|| format!("fails with {error}")),
                };
                let trapped = trapped.map_err(|message| format!("{function}({argument}) {message}"))?;
                let answer = Program::load(ANSWERS, PLENTY)?.ask("queens", 5)?;
                check!(answer == QUEENS[5], "the program after '{trapped}' gives {answer}");
            }
            Ok(())
        })
    }
);
