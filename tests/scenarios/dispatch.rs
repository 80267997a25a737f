//! Scenarios: dispatch.
