//! `scheduling`

use super::table::words;

words! {
    /// How the daemon's threads share processors with other programs (sched(7)).
    pub enum Scheduling {
        /// As programs do that nobody waits for: a thread that becomes ready takes no processor away from one that runs.
        Batch = "batch",
        /// As it was started.
        Inherit = "inherit",
    }
}
