//! Test support: mx.
