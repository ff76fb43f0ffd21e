//! Writes a source with its mutants in it: what stays is as it was, to the letter.

use std::fmt::Write as _;
use std::ops::Range;

use super::Number;

/// A place in the source that is written otherwise.
#[derive(Debug)]
pub(super) enum Edit {
    /// At a function's beginning: it returns at once.
    Return(Vec<(Number, String)>),
    /// A body whose iterator of a type without a name comes to nothing.
    Nothing(Number),
    /// An operator between two operands becomes another.
    Binary { left: Range<usize>, operator: Range<usize>, right: Range<usize>, mutants: Vec<(Number, String)> },
    /// An operator in front of its operand goes.
    Unary { operand: Range<usize>, mutant: Number },
    /// Behind a pattern without a guard: the arm goes.
    Arm(Number),
    /// A guard is replaced, or its arm goes.
    Guard { mutants: Vec<(Number, String)> },
    /// A field's value is that of the struct it would be taken from.
    Field { member: String, base: Range<usize>, mutant: Number },
}

/// A mutated piece, between the comments by which it is found again.
fn piece(mutant: Number, text: &str) -> String {
    format!("/*<{mutant}*/ {text} /*{mutant}>*/")
}

fn either(mutants: impl Iterator<Item = (Number, String)>, otherwise: &str) -> String {
    let mut text = String::from("(");
    for (mutant, mutated) in mutants {
        let _ = write!(text, "if crate::mutants::on({mutant}) {{ {} }} else ", piece(mutant, &mutated));
    }
    let _ = write!(text, "{{ {otherwise} }})");
    text
}

/// Edits of a text, in the order in which they begin.
struct Writer<'s> {
    text: &'s str,
    edits: Vec<(Range<usize>, Edit)>,
}

impl Writer<'_> {
    /// The source in a range, with the edits in it from the one at `next` on.
    fn write(&self, range: Range<usize>, mut next: usize) -> String {
        let mut text = String::new();
        let mut at = range.start;
        while let Some((place, edit)) = self.edits.get(next).filter(|(place, _)| place.end <= range.end) {
            next += 1;
            if place.start < at {
                continue;
            }
            text.push_str(&self.text[at..place.start]);
            text.push_str(&self.edited(place, edit, next));
            at = place.end;
        }
        text.push_str(&self.text[at..range.end]);
        text
    }

    fn inner(&self, range: &Range<usize>, from: usize) -> String {
        let first = self.edits[from..].iter().position(|(place, _)| place.start >= range.start);
        self.write(range.clone(), from + first.unwrap_or(self.edits.len() - from))
    }

    fn edited(&self, place: &Range<usize>, edit: &Edit, next: usize) -> String {
        let raw = |range: &Range<usize>| &self.text[range.clone()];
        match edit {
            Edit::Return(mutants) => mutants.iter().fold(String::new(), |mut text, (mutant, value)| {
                let value = piece(*mutant, &format!("return {value};"));
                let _ = write!(text, "if crate::mutants::on({mutant}) {{ {value} }} ");
                text
            }),
            Edit::Nothing(mutant) => {
                let limit = either([(*mutant, "0".to_string())].into_iter(), "usize::MAX");
                format!("({{ {} }}).take({limit})", self.inner(place, next))
            }
            Edit::Binary { left, operator, right, mutants } => {
                let mutated = |(mutant, operator): &(Number, String)| {
                    (*mutant, format!("({}) {operator} ({})", raw(left), raw(right)))
                };
                let (left, right) = (self.inner(left, next), self.inner(right, next));
                either(mutants.iter().map(mutated), &format!("({left}) {} ({right})", raw(operator)))
            }
            Edit::Unary { operand, mutant } => {
                let operator = &self.text[place.start..operand.start];
                let otherwise = format!("{operator}{}", self.inner(operand, next));
                either([(*mutant, format!("({})", raw(operand)))].into_iter(), &otherwise)
            }
            Edit::Arm(mutant) => format!(" if !crate::mutants::on({mutant}) "),
            Edit::Guard { mutants } => either(mutants.iter().cloned(), &self.inner(place, next)),
            Edit::Field { member, base, mutant } => {
                let mutated = format!("({}).{member}", raw(base));
                either([(*mutant, mutated)].into_iter(), &self.inner(place, next))
            }
        }
    }
}

/// A text with the edits in it, which are by start, and what is around others before them.
pub(super) fn write(text: &str, edits: Vec<(Range<usize>, Edit)>) -> String {
    Writer { text, edits }.write(0..text.len(), 0)
}
