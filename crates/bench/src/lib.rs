//! `gozon bench`: places orders through the public API as fast as told, follows each until it is
//! settled, and says how many there were and how long they took.
//!
//! It shares the machine with what it measures, so it is made to cost little: one thread, requests
//! written in advance, and of each answer only the id is read.

#![allow(clippy::cast_precision_loss, reason = "the figures are for people")]

mod args;
mod book;
mod check;
mod frames;
mod http;
mod load;
mod pace;
mod report;
mod run;
mod svg;
mod users;

pub use args::Args;
pub use run::run;
