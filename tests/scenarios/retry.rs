//! Scenarios: retry.
