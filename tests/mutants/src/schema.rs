//! One source with all of its mutants in it, each behind a switch.
//!
//! Compiling takes minutes and most mutants are noticed within a second, so all are compiled at once: `a + b` becomes
//! `if on(17) { a - b } else { a + b }`. Where a mutant does not compile, it is found by where the compiler complains:
//! each stands between two comments. Constants are worked out before anything runs, so none is on there: whatever is
//! changed inside of one is set apart, and has a copy of the source to itself.
//! Source: R. Untch et al., "Mutation analysis using mutant schemata", ISSTA 1993.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::Result;

use self::finder::{Found, Source, find};
use self::writer::write;
use crate::list::Mutant;

mod finder;
#[cfg(test)]
mod tests;
mod writer;

/// A mutant's number; from 1.
pub(crate) type Number = u32;

/// What became of a source.
pub(crate) struct Schema {
    pub(crate) text: String,
    /// Those that are inside of a constant.
    pub(crate) constant: BTreeSet<Number>,
    /// Those that no place was found for, and those of what only tests have.
    pub(crate) unplaced: BTreeSet<Number>,
}
/// A source with the mutants of it in it.
pub(crate) fn schema(text: &str, mutants: &[(Number, &Mutant)]) -> Result<Schema> {
    let Found { edits, constant, unplaced } = find(text, mutants)?;
    Ok(Schema { text: write(text, edits), constant, unplaced })
}

/// A source with one mutant of it, and no switch.
pub(crate) fn mutated(text: &str, mutant: &Mutant) -> String {
    let place = Source::new(text).mutated(mutant.span);
    [&text[..place.start], &mutant.replacement, &text[place.end..]].concat()
}

/// The mutants that a place in such a source is about: the innermost that is around it.
pub(crate) fn around(text: &str, place: Range<usize>) -> Option<Number> {
    let before = &text[..place.start];
    let mut closed = BTreeSet::new();
    let mut marks: Vec<_> = before.match_indices("/*<").map(|(at, _)| (at, true)).collect();
    marks.extend(before.match_indices(">*/").map(|(at, _)| (at, false)));
    marks.sort_unstable();
    for (at, opens) in marks.into_iter().rev() {
        let number = if opens {
            before[at + 3..].chars().take_while(char::is_ascii_digit).collect::<String>()
        } else {
            let digits = before[..at].rfind("/*").map_or("", |start| &before[start + 2..at]);
            digits.to_string()
        };
        let Ok(number) = number.parse::<Number>() else { continue };
        if !opens {
            closed.insert(number);
        } else if !closed.remove(&number) {
            return Some(number);
        }
    }
    None
}
