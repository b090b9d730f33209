//! The payments service: accounts, their ledger, and the settling of payment requests.
//!
//! Deciding is pure ([`ledger`]); all SQL is in one file; each use case has a file of its
//! own.

pub mod ledger;

mod deposit;
#[cfg(test)]
mod interleavings;
mod offer;
mod open_account;
mod service;
mod settle;
mod sql;

pub use service::{MIGRATIONS, Payments, TOPICS};
