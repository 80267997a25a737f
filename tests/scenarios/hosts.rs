//! Scenarios: hosts.
