//! `[[route]]`

use super::pattern::DomainPattern;
use super::table::table;

table! {
    /// `[[route]]` (CFG-22).
    pub struct Route in "route" repeated true {
        /// Callers that it holds for; `[]` for all.
        caller: Vec<String> = "[]", names;
        /// Patterns for the domain of the sender; `[]` for all.
        from: Vec<DomainPattern> = "[]";
        /// Patterns for the domain of the recipient; `[]` for all.
        to: Vec<DomainPattern> = "[]";
        /// Attempts so far, at least: with 1 the first attempt goes another way.
        min_attempts: u32 = "0";
        /// Name of a `[[transport]]`, or `"direct"`.
        transport: String = (required "\"direct\"");
    }
}

fn names(callers: &[String]) -> Result<(), String> {
    let odd = |caller: &&String| {
        let no_name = caller.is_empty() || caller.ends_with(':');
        no_name || caller.chars().any(|c| c.is_whitespace() || c.is_control())
    };
    match callers.iter().find(odd) {
        Some(caller) => Err(format!(
            "{caller:?} is no caller; relay and uid:www-data are"
        )),
        None => Ok(()),
    }
}
