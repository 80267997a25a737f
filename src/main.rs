//! posthasted: arguments to exit status.

fn main() {}
