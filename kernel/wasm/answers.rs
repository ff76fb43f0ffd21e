//! A program for the WebAssembly interpreter that the kernel runs: it works out numbers and texts that others published,
//! with maps, sets, boxes and closures on a heap that grows.
//!
//! `answers.wasm` beside it is this file, compiled for the target `wasm32-unknown-unknown` by
//!
//! ```text
//! rustc --edition 2024 --target wasm32-unknown-unknown --crate-type cdylib -C opt-level=s -C lto -C panic=abort \
//!     -C strip=symbols -C link-arg=-zstack-size=262144 answers.rs
//! ```

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, HashSet};

mod host {
    #[link(wasm_import_module = "host")]
    unsafe extern "C" {
        /// Takes a text, of which `len` bytes lie at `start`.
        pub(crate) fn text(start: *const u8, len: usize);
    }
}

fn tell(text: &str) {
    // SAFETY: the host reads the text, and nothing else, before it returns.
    unsafe { host::text(text.as_ptr(), text.len()) }
}

/// Tells the SHA-256 of so many times the letter `a`, all of them in memory at once, in hexadecimal.
///
/// Source: FIPS 180-4.
#[unsafe(no_mangle)]
pub extern "C" fn sha256_of_letters_a(count: usize) {
    // Behind the letters: a mark, zeroes, and the length in bits.
    let mut message = vec![0; (count + 9).next_multiple_of(64)];
    message[..count].fill(b'a');
    message[count] = 0x80;
    let end = message.len() - 8;
    message[end..].copy_from_slice(&(count as u64 * 8).to_be_bytes());

    let primes = primes(64);
    let constants: Vec<u32> = primes.iter().map(|&prime| fraction_of_root(prime, 3)).collect();
    let mut hash: Vec<u32> = primes[..8].iter().map(|&prime| fraction_of_root(prime, 2)).collect();
    for block in message.chunks_exact(64) {
        compress(&mut hash, &constants, block);
    }
    tell(&hash.iter().map(|word| format!("{word:08x}")).collect::<String>());
}

fn compress(hash: &mut [u32], constants: &[u32], block: &[u8]) {
    let mut schedule = [0_u32; 64];
    for (word, bytes) in schedule.iter_mut().zip(block.chunks_exact(4)) {
        *word = bytes.iter().fold(0, |word, &byte| word << 8 | u32::from(byte));
    }
    for t in 16..64 {
        let (early, late) = (schedule[t - 15], schedule[t - 2]);
        let early = early.rotate_right(7) ^ early.rotate_right(18) ^ early >> 3;
        let late = late.rotate_right(17) ^ late.rotate_right(19) ^ late >> 10;
        schedule[t] = schedule[t - 16].wrapping_add(early).wrapping_add(schedule[t - 7]).wrapping_add(late);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h]: [u32; 8] = hash.try_into().unwrap();
    for (constant, word) in constants.iter().zip(schedule) {
        let sum = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let first = h.wrapping_add(sum).wrapping_add(e & f ^ !e & g).wrapping_add(*constant).wrapping_add(word);
        let sum = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let second = sum.wrapping_add(a & b ^ a & c ^ b & c);
        (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(first), c, b, a, first.wrapping_add(second));
    }
    for (word, new) in hash.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = word.wrapping_add(new);
    }
}

fn primes(count: usize) -> Vec<u32> {
    (2..).filter(|&n: &u32| (2..n).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))).take(count).collect()
}

/// The first 32 bits of what stands behind the point of a square root (`degree` 2) or a cube root (3).
fn fraction_of_root(n: u32, degree: u32) -> u32 {
    let target = u128::from(n) << (32 * degree);
    let mut root = 0_u128;
    for bit in (0..36).rev() {
        let larger = root | 1 << bit;
        if larger.pow(degree) <= target {
            root = larger;
        }
    }
    root as u32
}

/// In how many ways `size` queens stand on a board without attacking each other.
#[unsafe(no_mangle)]
pub extern "C" fn queens(size: u32) -> i64 {
    placements(size).len() as i64
}

/// The same, with those counted as one that turning and mirroring the board makes of each other.
#[unsafe(no_mangle)]
pub extern "C" fn fundamental_queens(size: u32) -> i64 {
    let least = |board: Vec<u8>| symmetries(board).into_iter().min().unwrap();
    placements(size).into_iter().map(least).collect::<HashSet<_>>().len() as i64
}

/// Boards as the row of each column's queen, built column by column from those of one column less.
fn placements(size: u32) -> Vec<Vec<u8>> {
    let size = size as u8;
    (0..size).fold(vec![Vec::new()], |boards: Vec<Vec<u8>>, _| {
        let extend = |board: &Vec<u8>| {
            let free = |row: &u8| {
                board.iter().rev().zip(1..).all(|(&other, distance)| other != *row && other.abs_diff(*row) != distance)
            };
            (0..size).filter(free).map(|row| [&board[..], &[row]].concat()).collect::<Vec<_>>()
        };
        boards.iter().flat_map(extend).collect()
    })
}

fn symmetries(board: Vec<u8>) -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::new();
    let mut turned = board;
    for _ in 0..4 {
        let mut quarter = vec![0; turned.len()];
        for (column, &row) in turned.iter().enumerate() {
            quarter[usize::from(row)] = (turned.len() - 1 - column) as u8;
        }
        all.insert(quarter.iter().rev().copied().collect());
        all.insert(quarter.clone());
        turned = quarter;
    }
    all
}

/// Tells so many decimals of pi.
///
/// Source: S. Rabinowitz, S. Wagon, "A spigot algorithm for the digits of pi", 1995.
#[unsafe(no_mangle)]
pub extern "C" fn decimals_of_pi(count: usize) {
    // Some digits more, for the last ones may yet change by a carry.
    let digits = count + 10;
    let mut places = vec![2_u64; digits * 10 / 3 + 1];
    let mut decimals = Vec::new();
    for _ in 0..digits {
        let mut carry = 0;
        for (place, digit) in places.iter_mut().enumerate().skip(1).rev() {
            let (value, place) = (*digit * 10 + carry, place as u64);
            *digit = value % (2 * place + 1);
            carry = value / (2 * place + 1) * place;
        }
        let value = places[0] * 10 + carry;
        places[0] = value % 10;
        decimals.push((value / 10) as u8);
    }
    for place in (1..decimals.len()).rev() {
        if decimals[place] == 10 {
            decimals[place] = 0;
            decimals[place - 1] += 1;
        }
    }
    tell(&decimals[1..=count].iter().map(|digit| char::from(b'0' + digit)).collect::<String>());
}

/// In which generation of Conway's Game of Life the "diehard" is down to so many cells.
#[unsafe(no_mangle)]
pub extern "C" fn life_of_the_diehard(cells: u32) -> i64 {
    let mut alive: HashSet<(i32, i32)> = [(6, 0), (0, 1), (1, 1), (1, 2), (5, 2), (6, 2), (7, 2)].into();
    let mut generation = 0;
    while alive.len() > cells as usize {
        let mut neighbours = HashMap::new();
        for &(x, y) in &alive {
            for near in (y - 1..=y + 1).flat_map(|y| (x - 1..=x + 1).map(move |x| (x, y))) {
                *neighbours.entry(near).or_insert(0) += u32::from(near != (x, y));
            }
        }
        let lives = |(cell, count): (_, u32)| (count == 3 || count == 2 && alive.contains(&cell)).then_some(cell);
        alive = neighbours.into_iter().filter_map(lives).collect();
        generation += 1;
    }
    generation
}

/// D. Knuth's test of recursion and closures.
///
/// Source: "Man or boy?", ALGOL Bulletin 17, 1964.
#[unsafe(no_mangle)]
pub extern "C" fn man_or_boy(depth: u32) -> i64 {
    i64::from(a(depth as i32, [&|| 1, &|| -1, &|| -1, &|| 1, &|| 0]))
}

type Thunk<'t> = &'t dyn Fn() -> i32;

struct Frame<'t> {
    depth: Cell<i32>,
    arguments: [Thunk<'t>; 5],
}

impl Frame<'_> {
    fn b(&self) -> i32 {
        self.depth.set(self.depth.get() - 1);
        let [first, second, third, fourth, _] = self.arguments;
        // Boxed, so that the call is indirect and its frame on the heap.
        let this: Box<dyn Fn() -> i32 + '_> = Box::new(|| self.b());
        a(self.depth.get(), [&*this, first, second, third, fourth])
    }
}

fn a(depth: i32, arguments: [Thunk<'_>; 5]) -> i32 {
    if depth <= 0 { arguments[3]() + arguments[4]() } else { Frame { depth: Cell::new(depth), arguments }.b() }
}

/// In how many ways `n` is a sum of positive numbers.
#[unsafe(no_mangle)]
pub extern "C" fn partitions(n: usize) -> i64 {
    let mut ways = vec![0_i64; n + 1];
    ways[0] = 1;
    for part in 1..=n {
        for sum in part..=n {
            ways[sum] += ways[sum - part];
        }
    }
    ways[n]
}
