//! `mailq`: the queue in fixed columns for people (SM-11).

use std::fmt;
use std::io::{self, Write};

use super::control::{Connection, Last};
use super::paths::Paths;
use super::{Exit, SOFTWARE};
use crate::front::control::line::{self, Request};

const HEADING: &str =
    "ID/N              SIZE  AGE         STATE    NEXT ATTEMPT          FROM -> TO, REASON";

/// Lists everything, page by page.
pub(super) fn run(paths: &Paths) -> Result<u8, Exit> {
    let mut connection = Connection::open(&paths.control)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut totals = Totals::default();
    // By arrival, so that the recipients of a message stand together.
    let mut request = "list sort=queued\n".to_owned();
    loop {
        let last = connection.ask(&request, |data| {
            let row = Row::read(data)
                .ok_or_else(|| Exit::new(SOFTWARE, "the daemon's listing cannot be read"))?;
            if totals.recipients == 0 {
                writeln!(out, "{HEADING}").map_err(|error| Exit::output(&error))?;
            }
            totals.add(&row);
            write!(out, "{row}").map_err(|error| Exit::output(&error))
        })?;
        let Last::Count {
            cursor: Some(cursor),
            ..
        } = last
        else {
            break;
        };
        // As it came, quotes included.
        request = format!("list sort=queued cursor={cursor}\n");
    }
    writeln!(out, "{totals}")
        .and_then(|()| out.flush())
        .map_err(|error| Exit::output(&error))?;
    Ok(0)
}

/// A line of the listing.
struct Row {
    words: Request,
}

impl Row {
    /// A record has the grammar of a request but for the verb.
    fn read(data: &[u8]) -> Option<Row> {
        let mut line = b"row ".to_vec();
        line.extend_from_slice(data);
        let words = line::parse(&line).ok()??;
        Some(Row { words })
    }

    fn get(&self, name: &str) -> &str {
        let word = self.words.words.iter().find(|word| word.name == name);
        word.and_then(|word| word.value.as_deref()).unwrap_or("")
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No wider than the columns while the numbers are of this world.
        writeln!(
            f,
            "{:<14} {:>7}  {:<10}  {:<7}  {:<20}  {} -> {}",
            format!("{}/{}", self.get("id"), self.get("rcpt")),
            human(self.get("size").parse().unwrap_or(0)),
            self.get("age"),
            self.get("state"),
            self.get("next"),
            printable(self.get("from")),
            printable(self.get("to")),
        )?;
        let (blocker, doubt) = (self.get("blocker"), self.get("doubt"));
        if !blocker.is_empty() {
            writeln!(f, "    {}", printable(blocker))?;
        }
        if !doubt.is_empty() {
            writeln!(f, "    ({doubt})")?;
        }
        Ok(())
    }
}

/// One line, whatever is in it; letters of all scripts stay.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[derive(Default)]
struct Totals {
    recipients: u64,
    size: u64,
    message: String,
}

impl Totals {
    fn add(&mut self, row: &Row) {
        self.recipients += 1;
        if self.message != row.get("id") {
            self.message = row.get("id").to_owned();
            let size = row.get("size").parse().unwrap_or(0);
            self.size = self.size.saturating_add(size);
        }
    }
}

/// The last line.
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} recipients, {}", self.recipients, human(self.size))
    }
}

/// A size in at most 7 columns: `999B`, `4.1KiB`, `50MiB`.
fn human(octets: u64) -> String {
    if octets < 1000 {
        return format!("{octets}B");
    }
    let mut size = octets as f64;
    for unit in ["KiB", "MiB", "GiB"] {
        size /= 1024.0;
        if size < 10.0 {
            return format!("{size:.1}{unit}");
        }
        if size < 1000.0 {
            return format!("{size:.0}{unit}");
        }
    }
    format!("{:.0}TiB", size / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"id=42 rcpt=1 from=<app@here.example> to=<bob@example.org> state=queued attempts=2 \
        next=2026-11-21T18:40:00Z size=4211 age=1h30m12s blocker=\"451 4.7.1 try \\\"again\\\"\\nlater\" doubt=in-doubt";

    // SM-11
    #[test]
    fn a_row_has_fixed_columns_next_attempt_and_reason() {
        let row = Row::read(LINE).unwrap();
        assert_eq!(
            row.to_string(),
            "42/1            4.1KiB  1h30m12s    queued   2026-11-21T18:40:00Z  \
             <app@here.example> -> <bob@example.org>\n    \
             451 4.7.1 try \"again\" later\n    (in-doubt)\n"
        );
        let column = |text: &str, of: &str| text.find(of).unwrap();
        let first = row.to_string();
        assert_eq!(column(HEADING, "AGE"), column(&first, "1h30m"));
        assert_eq!(column(HEADING, "STATE"), column(&first, "queued"));
        assert_eq!(column(HEADING, "NEXT"), column(&first, "2026"));
        assert_eq!(column(HEADING, "FROM"), column(&first, "<app"));
        assert!(Row::read(b"no = record").is_none());
    }

    // SM-11
    #[test]
    fn the_last_line_counts_recipients_and_each_message_once() {
        let mut totals = Totals::default();
        assert_eq!(totals.to_string(), "0 recipients, 0B");
        for line in [
            "id=1 rcpt=1 size=600",
            "id=1 rcpt=2 size=600",
            "id=2 rcpt=1 size=300",
        ] {
            totals.add(&Row::read(line.as_bytes()).unwrap());
        }
        assert_eq!(totals.to_string(), "3 recipients, 900B");
    }

    #[test]
    fn sizes_are_short() {
        for (octets, text) in [
            (0, "0B"),
            (999, "999B"),
            (1024, "1.0KiB"),
            (50 << 20, "50MiB"),
            (1_048_575, "1.0MiB"),
            (u64::MAX, "16777216TiB"),
        ] {
            assert_eq!(human(octets), text);
        }
    }
}
