//! Runner, outbox, relay, inbox and dead letters on both databases: what must hold after every failure.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod backlog;
mod broker;
mod dead_letters;
mod inbox;
mod memory;
mod outbox;
mod pending;
mod retention;
mod runner;
mod service;
mod upgrade;
mod use_case;
