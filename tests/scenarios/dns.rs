//! Scenarios: dns.
