//! The cross-verification matrix: what we mint and what is wrong in one respect each ([`mutants`]), as [`cases`], shown to every
//! implementation within reach ([`judges`], [`envoy`]), and the [`table`] of what each said.

pub mod cases;
pub mod envoy;
pub mod judges;
pub mod mutants;
pub mod peer;
pub mod table;
pub mod tokens;
