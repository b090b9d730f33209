//! Outbox, relay, inbox and dead letters on both databases: what must hold whatever fails.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod dead_letters;
mod inbox;
mod memory;
mod outbox;
mod retention;
mod service;
mod waiting;
