//! Scenarios: store.
