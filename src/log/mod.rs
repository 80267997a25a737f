//! key=value log lines, one per event (OBS-1).
//!
//! [`Line`] builds one and hands it to the `log` facade; [`Log`] is what stands behind the facade: formats, filters,
//! and a thread that writes to syslog, standard error or a file. Mail never waits for the log: a line that finds no
//! room is counted and reported later (OBS-4).
//!
//! The first word of a line names the event, the keys are an interface: added, never renamed. Events of the mail
//! trail are `queued`, `deliver`, `held`, `released`, `dropped`, `rejected`, `done`; everything that is said through
//! the macros of the facade becomes `note text="..."`. Levels: error = an operator must act; warn = heals by itself;
//! info = the mail trail (OBS-3).

mod backend;
mod flood;
mod line;
mod render;
mod sink;

pub use backend::{Log, StartError};
pub use line::Line;
pub use sink::check_file;
