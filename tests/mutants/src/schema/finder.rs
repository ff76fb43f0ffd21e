//! Finds the places of mutants in a source.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::{Context, Result};
use proc_macro2::LineColumn;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Number;
use super::writer::Edit;
use crate::list::{Genre, Mutant, Place, Span};

/// What was found.
pub(super) struct Found {
    /// By start; what is around others before them.
    pub(super) edits: Vec<(Range<usize>, Edit)>,
    /// Mutants that are inside of a constant.
    pub(super) constant: BTreeSet<Number>,
    /// Those that no place was found for, and those of what only tests have.
    pub(super) unplaced: BTreeSet<Number>,
}

pub(super) struct Source<'s> {
    text: &'s str,
    /// Where lines start.
    lines: Vec<usize>,
}

impl<'s> Source<'s> {
    pub(super) fn new(text: &'s str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, lines }
    }

    /// Where a character stands; lines count from 1, columns from 0.
    fn offset(&self, at: LineColumn) -> usize {
        let start = self.lines[at.line - 1];
        self.text[start..].char_indices().nth(at.column).map_or(self.text.len(), |(offset, _)| start + offset)
    }

    fn place(&self, at: Place) -> usize {
        self.offset(LineColumn { line: at.line, column: at.column - 1 })
    }

    pub(super) fn mutated(&self, span: Span) -> Range<usize> {
        self.place(span.start)..self.place(span.end)
    }

    fn of(&self, node: &impl Spanned) -> Range<usize> {
        let span = node.span();
        self.offset(span.start())..self.offset(span.end())
    }
}

struct Finder<'s, 'm> {
    source: &'s Source<'s>,
    wanted: BTreeMap<(usize, usize), Vec<(Number, &'m Mutant)>>,
    edits: Vec<(Range<usize>, Edit)>,
    constant: BTreeSet<Number>,
    /// How many constants we are in.
    depth: usize,
    /// Whether we are in what only tests have: those of it stay where they are.
    in_tests: bool,
}

impl Finder<'_, '_> {
    /// Takes the mutants of a genre whose span this is.
    fn take(&mut self, range: &Range<usize>, genre: Genre) -> Vec<(Number, String)> {
        if self.in_tests {
            return Vec::new();
        }
        let Some(here) = self.wanted.get_mut(&(range.start, range.end)) else { return Vec::new() };
        let found: Vec<_> = here.extract_if(.., |(_, mutant)| mutant.genre == genre).collect();
        if self.depth > 0 {
            self.constant.extend(found.iter().map(|(number, _)| *number));
            return Vec::new();
        }
        found.into_iter().map(|(number, mutant)| (number, mutant.replacement.clone())).collect()
    }

    fn constant(&mut self, visit: impl FnOnce(&mut Self)) {
        self.depth += 1;
        visit(self);
        self.depth -= 1;
    }

    /// Visits an item, which may be one that only tests have.
    fn item(&mut self, attributes: &[syn::Attribute], visit: impl FnOnce(&mut Self)) {
        let around = self.in_tests;
        self.in_tests |= attributes.iter().any(is_for_tests);
        visit(self);
        self.in_tests = around;
    }

    fn body(&mut self, output: &syn::ReturnType, block: &syn::Block) {
        let (Some(first), Some(last)) = (block.stmts.first(), block.stmts.last()) else { return };
        let range = self.source.of(first).start..self.source.of(last).end;
        let mutants = self.take(&range, Genre::FnValue);
        if matches!(output, syn::ReturnType::Type(_, of) if matches!(**of, syn::Type::ImplTrait(_))) {
            // What is returned at once would have another type than what is returned otherwise.
            let nothing = mutants.iter().filter(|(_, value)| value.ends_with("iter::empty()"));
            self.edits.extend(nothing.map(|(mutant, _)| (range.clone(), Edit::Nothing(*mutant))));
        } else if !mutants.is_empty() {
            self.edits.push((range.start..range.start, Edit::Return(mutants)));
        }
    }
}

impl<'ast> Visit<'ast> for Finder<'_, '_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.item(&item.attrs, |finder| {
            finder.body(&item.sig.output, &item.block);
            visit::visit_item_fn(finder, item);
        });
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.item(&item.attrs, |finder| {
            finder.body(&item.sig.output, &item.block);
            visit::visit_impl_item_fn(finder, item);
        });
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.item(&item.attrs, |finder| visit::visit_item_impl(finder, item));
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.item(&item.attrs, |finder| visit::visit_item_mod(finder, item));
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.body(&item.sig.output, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.constant(|finder| visit::visit_item_const(finder, item));
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        self.constant(|finder| visit::visit_impl_item_const(finder, item));
    }

    fn visit_trait_item_const(&mut self, item: &'ast syn::TraitItemConst) {
        self.constant(|finder| visit::visit_trait_item_const(finder, item));
    }

    fn visit_expr_const(&mut self, block: &'ast syn::ExprConst) {
        self.constant(|finder| visit::visit_expr_const(finder, block));
    }

    fn visit_type_array(&mut self, array: &'ast syn::TypeArray) {
        self.constant(|finder| visit::visit_type_array(finder, array));
    }

    fn visit_expr_repeat(&mut self, array: &'ast syn::ExprRepeat) {
        self.visit_expr(&array.expr);
        self.constant(|finder| finder.visit_expr(&array.len));
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.constant(|finder| visit::visit_variant(finder, variant));
    }

    fn visit_expr_binary(&mut self, expression: &'ast syn::ExprBinary) {
        let operator = self.source.of(&expression.op);
        // In a chain of conditions that bind names there is only "and": what is put in its place does not compile.
        let binds = chain_binds(&expression.left) || chain_binds(&expression.right);
        let mutants = if binds { Vec::new() } else { self.take(&operator, Genre::BinaryOperator) };
        if !mutants.is_empty() {
            let (left, right) = (self.source.of(&expression.left), self.source.of(&expression.right));
            self.edits.push((left.start..right.end, Edit::Binary { left, operator, right, mutants }));
        }
        visit::visit_expr_binary(self, expression);
    }

    fn visit_expr_unary(&mut self, expression: &'ast syn::ExprUnary) {
        let operator = self.source.of(&expression.op);
        for (mutant, _) in self.take(&operator, Genre::UnaryOperator) {
            let operand = self.source.of(&expression.expr);
            self.edits.push((operator.start..operand.end, Edit::Unary { operand, mutant }));
        }
        visit::visit_expr_unary(self, expression);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let pattern = self.source.of(&arm.pat);
        let body = self.source.of(&arm.body);
        let ends = [self.source.of(arm).end, body.end, body.end + 1];
        let starts = [self.source.of(arm).start, pattern.start];
        let spans = starts.iter().flat_map(|&start| ends.iter().map(move |&end| start..end));
        let gone: Vec<_> = spans.flat_map(|range| self.take(&range, Genre::MatchArm)).collect();
        match &arm.guard {
            None => {
                let at = pattern.end..pattern.end;
                self.edits.extend(gone.into_iter().map(|(mutant, _)| (at.clone(), Edit::Arm(mutant))));
            }
            Some((_, guard)) => {
                let range = self.source.of(guard);
                let mut mutants = self.take(&range, Genre::MatchArmGuard);
                mutants.extend(gone.into_iter().map(|(mutant, _)| (mutant, "false".to_string())));
                if !mutants.is_empty() {
                    self.edits.push((range, Edit::Guard { mutants }));
                }
            }
        }
        visit::visit_arm(self, arm);
    }

    fn visit_expr_struct(&mut self, expression: &'ast syn::ExprStruct) {
        for field in &expression.fields {
            let range = self.source.of(field);
            let mutants = [range.end, range.end + 1].map(|end| self.take(&(range.start..end), Genre::StructField));
            for (mutant, _) in mutants.into_iter().flatten() {
                let Some(base) = &expression.rest else { continue };
                let syn::Member::Named(member) = &field.member else { continue };
                let edit = Edit::Field { member: member.to_string(), base: self.source.of(base), mutant };
                if field.colon_token.is_some() {
                    self.edits.push((self.source.of(&field.expr), edit));
                }
            }
        }
        visit::visit_expr_struct(self, expression);
    }
}

/// `cfg(test)`, alone or with more.
fn is_for_tests(attribute: &syn::Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else { return false };
    let condition = list.tokens.to_string().replace(' ', "");
    list.path.is_ident("cfg") && (condition == "test" || condition.starts_with("all(test,"))
}

fn chain_binds(operand: &syn::Expr) -> bool {
    match operand {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(chain) if matches!(chain.op, syn::BinOp::And(_)) => {
            chain_binds(&chain.left) || chain_binds(&chain.right)
        }
        _ => false,
    }
}

/// Finds the places of mutants in a text.
pub(super) fn find(text: &str, mutants: &[(Number, &Mutant)]) -> Result<Found> {
    let source = Source::new(text);
    let mut wanted: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for &(number, mutant) in mutants {
        let range = source.mutated(mutant.span);
        wanted.entry((range.start, range.end)).or_default().push((number, mutant));
    }
    let file = syn::parse_file(text).context("a source can be parsed")?;
    let mut finder =
        Finder { source: &source, wanted, edits: Vec::new(), constant: BTreeSet::new(), depth: 0, in_tests: false };
    finder.visit_file(&file);
    let Finder { wanted, mut edits, constant, .. } = finder;
    edits.sort_by_key(|(place, _)| (place.start, !place.is_empty(), usize::MAX - place.end));
    let unplaced = wanted.into_values().flatten().map(|(number, _)| number).collect();
    Ok(Found { edits, constant, unplaced })
}
