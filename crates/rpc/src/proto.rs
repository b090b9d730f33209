//! What is generated from `api/proto`.

/// Both contracts and what they import, as a `FileDescriptorSet`.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contracts.binpb"));

/// `gozon.orders.v1`.
#[allow(missing_docs, unused_qualifications, clippy::pedantic, reason = "generated")]
pub mod orders {
    tonic::include_proto!("gozon.orders.v1");
}

/// `gozon.payments.v1`.
#[allow(missing_docs, unused_qualifications, clippy::pedantic, reason = "generated")]
pub mod payments {
    tonic::include_proto!("gozon.payments.v1");
}
