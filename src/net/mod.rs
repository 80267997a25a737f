//! Mechanism of the network: deadlines, streams, dialling, DNS, TLS. Judges nothing.

pub mod deadline;
mod socket;
pub mod stream;
mod tls;
