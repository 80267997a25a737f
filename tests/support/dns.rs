//! Test support: dns.
