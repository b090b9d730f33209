//! `gozon bench`: places orders through the public API at a given rate or as fast as a number of
//! clients can, follows each order until it is settled, and reports throughput and latency.
//!
//! It runs on the machine that it measures, so it is built to cost little: one thread, requests
//! written in advance, and only the id is read of each answer.

#![allow(clippy::cast_precision_loss, reason = "the figures are for people")]

mod args;
mod check;
mod frames;
mod http;
mod load;
mod processes;
mod report;
mod run;
mod schedule;
mod svg;
mod tracker;
mod users;

pub use args::Args;
pub use run::run;
