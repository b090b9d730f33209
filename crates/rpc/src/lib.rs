//! gRPC: the contracts in `api/proto`, and a thin server and client of each service, over the
//! interfaces of [`gozon_api`].

mod client;
mod codec;
mod convert;
pub mod proto;
mod server;
mod status;

pub use client::{CallRules, OrdersClient, PaymentsClient};
pub use server::{orders, payments};
pub use status::{problem, status};
