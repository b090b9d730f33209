//! The payments service: accounts, their ledger, and the settling of payment requests.
//!
//! Deciding is pure ([`ledger`]); all SQL is in one file; each endpoint and the settling of
//! requests has a file of its own.

pub mod ledger;

mod balance;
mod deposit;
mod entries;
#[cfg(test)]
mod interleavings;
mod open_account;
mod service;
mod settle;
mod sql;

pub use service::{MIGRATIONS, Payments, TOPICS, openapi};
