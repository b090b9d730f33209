//! A small healthy shop is damaged in one way per test, and the audit must name exactly that.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod ledger;
mod payments;
mod running;
mod shop;
mod status;
mod waiting;
