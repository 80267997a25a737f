//! Mechanism of the network: deadlines, streams, dialling, DNS, TLS. Judges nothing.

pub mod deadline;
pub mod stream;
