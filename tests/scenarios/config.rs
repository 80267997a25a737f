//! Scenarios: config.
