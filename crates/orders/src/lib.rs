//! The orders service: placing orders, reading them, hearing how their payment ended, and telling
//! the clients that watch.

mod apply;
#[cfg(test)]
mod interleavings;
mod offer;
mod place;
mod recent;
mod resend;
mod service;
mod sql;
mod stream;
mod stretch;
mod unsettled;

pub use resend::ask_again;
pub use service::{MIGRATIONS, Orders, Settings, TOPICS};
pub use stream::StreamLimits;
