//! posthaste: the operator's tool, and the sendmail names.

use std::process::ExitCode;

fn main() -> ExitCode {
    posthaste::tool::run(std::env::args_os())
}
