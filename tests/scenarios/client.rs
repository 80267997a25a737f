//! Scenarios: client.
