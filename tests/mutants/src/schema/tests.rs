use std::path::PathBuf;

use super::{Schema, around, schema};
use crate::list::{Genre, Mutant, Place, Span};

/// A mutant of a piece of a text, which is on one line and in it once.
fn mutant(text: &str, piece: &str, genre: Genre, replacement: &str) -> Mutant {
    let (line, column) = (1..)
        .zip(text.lines())
        .find_map(|(line, text)| Some((line, text.find(piece)? + 1)))
        .expect("the piece is in the text");
    let span = Span { start: Place { line, column }, end: Place { line, column: column + piece.len() } };
    Mutant { file: PathBuf::new(), genre, name: String::new(), replacement: replacement.to_string(), span }
}

fn with(text: &str, mutants: &[Mutant]) -> Schema {
    let numbered: Vec<_> = (1..).zip(mutants).collect();
    schema(text, &numbered).expect("it can be parsed")
}

/// Without the marks, with single spaces.
fn plain(text: &str) -> String {
    let text = text.split_inclusive("*/").map(|part| part.split("/*").next().unwrap_or_default());
    text.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn an_operator_in_an_operand_is_mutated_only_where_the_outer_one_is_not() {
    let text = "fn f(a: u8, b: u8) -> bool { a + 1 < b }";
    let mutants = [mutant(text, "<", Genre::BinaryOperator, ">"), mutant(text, "+", Genre::BinaryOperator, "-")];
    let inner = "(if crate::mutants::on(2) { (a) - (1) } else { (a) + (1) })";
    let outer = format!("(if crate::mutants::on(1) {{ (a + 1) > (b) }} else {{ ({inner}) < (b) }})");
    assert_eq!(plain(&with(text, &mutants).text), format!("fn f(a: u8, b: u8) -> bool {{ {outer} }}"));
}

#[test]
fn a_function_returns_before_its_first_statement() {
    let text = "fn f(a: u8) -> u8 { a * 2 }";
    let mutants = [mutant(text, "a * 2", Genre::FnValue, "0"), mutant(text, "*", Genre::BinaryOperator, "/")];
    let product = "(if crate::mutants::on(2) { (a) / (2) } else { (a) * (2) })";
    let wanted = format!("fn f(a: u8) -> u8 {{ if crate::mutants::on(1) {{ return 0; }} {product} }}");
    assert_eq!(plain(&with(text, &mutants).text), wanted);
}

#[test]
fn an_arm_goes_by_its_guard() {
    let text = "fn f(a: u8) -> u8 {\nmatch a {\n0 => 1,\n1 if a > 0 => 2,\n_ => 3 } }";
    let mutants = [
        mutant(text, "0 => 1,", Genre::MatchArm, ""),
        mutant(text, "a > 0", Genre::MatchArmGuard, "true"),
        mutant(text, "1 if a > 0 => 2,", Genre::MatchArm, ""),
    ];
    let guard = "(if crate::mutants::on(2) { true } else if crate::mutants::on(3) { false } else { a > 0 })";
    let arms = format!("0 if !crate::mutants::on(1) => 1, 1 if {guard} => 2, _ => 3");
    assert_eq!(plain(&with(text, &mutants).text), format!("fn f(a: u8) -> u8 {{ match a {{ {arms} }} }}"));
}

#[test]
fn what_is_in_a_constant_is_set_apart() {
    let text = "const A: u8 = 1 + 2;";
    let mutants = [mutant(text, "+", Genre::BinaryOperator, "-")];
    let schema = with(text, &mutants);
    assert_eq!(schema.text, text);
    assert_eq!(schema.constant.into_iter().collect::<Vec<_>>(), [1]);
}

#[test]
fn what_only_tests_have_stays_as_it_is() {
    for attribute in ["#[cfg(test)]", "#[cfg(all(test, not(loom)))]"] {
        let text = format!("impl A {{ {attribute} fn f(a: u8) -> u8 {{ a + 1 }} }}");
        let schema = with(&text, &[mutant(&text, "+", Genre::BinaryOperator, "*")]);
        assert_eq!((schema.text, schema.unplaced.len()), (text.clone(), 1));
    }
    let text = "#[cfg(not(test))] fn f(a: u8) -> u8 { a + 1 }";
    assert!(with(text, &[mutant(text, "+", Genre::BinaryOperator, "*")]).unplaced.is_empty());
}

#[test]
fn a_chain_that_binds_names_stays_whole() {
    let text = "fn f(a: T) { if let Some(b) = a && b > 1 { g() } }";
    let mutants = [mutant(text, "&&", Genre::BinaryOperator, "||"), mutant(text, ">", Genre::BinaryOperator, "<")];
    let schema = with(text, &mutants);
    assert_eq!(schema.unplaced.into_iter().collect::<Vec<_>>(), [1]);
    assert!(plain(&schema.text).contains("&& (if crate::mutants::on(2) { (b) < (1) } else { (b) > (1) })"));
}

#[test]
fn a_complaint_is_about_the_innermost_mutant() {
    let text = "a /*<1*/ b /*<2*/ c /*2>*/ d /*1>*/ e";
    let about = |letter| text.find(letter).and_then(|at| around(text, at..at + 1));
    assert_eq!(["a ", "b ", "c ", "d ", "e"].map(about), [None, Some(1), Some(2), Some(1), None]);
}
