//! posthaste: the operator's tool, and the sendmail names.

fn main() {}
