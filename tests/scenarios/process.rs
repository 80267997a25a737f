//! Scenarios: process.
