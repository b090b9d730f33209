//! Where the simulator takes the place of the process around our code: its tasks, its connections,
//! its clock, its randomness; and the faults that it puts back on purpose.
//!
//! In every other build these are tokio's own, or nothing at all. The simulator's build is told
//! apart by the feature `simulation`, which only `make simulate` asks for.

#[cfg(not(feature = "simulation"))]
mod process {
    pub use tokio::spawn;

    /// Connections over TCP.
    pub mod net {
        pub use tokio::net::{TcpListener, TcpStream};
    }

    /// Whether a fault that was mended is put back. Never, outside of the simulator.
    #[inline]
    #[must_use]
    pub const fn is_mutated(_: &str) -> bool {
        false
    }
}

#[cfg(feature = "simulation")]
mod simulation;

#[cfg(not(feature = "simulation"))]
pub use process::{is_mutated, net, spawn};
#[cfg(feature = "simulation")]
pub use simulation::*;

/// Whether the simulator has put back the fault of this name, to see that its checks find it.
/// `false` in every other build.
#[macro_export]
macro_rules! mutation {
    ($name:literal) => {
        $crate::is_mutated($name)
    };
}

/// `tokio::select!`, with a fixed order of its branches in the simulator: it has delays instead, that
/// follow from its seed.
#[cfg(not(feature = "simulation"))]
pub use tokio::select;

/// `tokio::select!` with a fixed order of its branches.
#[cfg(feature = "simulation")]
#[macro_export]
macro_rules! select {
    (biased; $($branches:tt)*) => { tokio::select! { biased; $($branches)* } };
    ($($branches:tt)*) => { tokio::select! { biased; $($branches)* } };
}
