//! Scenarios: sendmail.
