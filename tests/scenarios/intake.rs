//! Scenarios: intake.
