//! Scenarios: peers.
