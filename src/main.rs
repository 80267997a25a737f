//! posthasted: arguments to exit status.

use std::process::ExitCode;

use posthaste::daemon;

fn main() -> ExitCode {
    let Err(error) = daemon::run(std::env::args_os().skip(1)) else {
        return ExitCode::SUCCESS;
    };
    eprintln!("{error}");
    ExitCode::from(error.exit_status())
}
