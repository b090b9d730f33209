//! The gateway through its real door: real sockets on both sides.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the answer")]

mod balancing;
mod grpc;
mod limits;
mod passing;
mod shop;
mod sockets;
