//! What the two services offer, independent of how a call travels.
//!
//! [`OrdersApi`] and [`PaymentsApi`] are implemented twice: by the service itself, and by its gRPC
//! client. REST is written once, over these traits. So a service's own port, `gozon up` and a
//! gateway that speaks gRPC to the services give the same answers.

mod call;
pub mod live;
pub mod orders;
pub mod payments;

pub use call::Call;
pub use live::Live;
pub use orders::OrdersApi;
pub use payments::PaymentsApi;
