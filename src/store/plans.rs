//! Every statement of the program is explained, and none looks at more than it has to.
//!
//! The statements are found in the sources: each string that begins like one. So a new one is looked at without anybody
//! having to think of it, and one that is put together from pieces has to be shown here in full.

use std::path::Path;

use rusqlite::Connection;

use super::due::EXPIRY;
use super::rows::{ATTEMPT, HEAD, RECIPIENT};
use super::{Filter, ListQuery, Sort, list, schema};
use crate::clock::Timestamp;
use crate::store::statements::tests::plan;

/// Tables that hold a few rows whatever the length of the queue and of the history.
const SMALL: [(&str, &str); 4] = [
    (
        "unowned",
        "what is being staged and what is being removed now",
    ),
    ("pause", "what operators have paused"),
    ("learned_window", "as many as dispatch remembers"),
    ("queue", "one row"),
];

/// Statements that may look at many rows, by their beginning.
const EXEMPT: [(&str, &str); 4] = [
    (
        "SELECT count(*) FROM (SELECT 1 FROM attempt LIMIT 1)",
        "looks at one row",
    ),
    (
        "SELECT m.arrived, d.key",
        "a list in another order than the default sorts what is not final, within 10 s",
    ),
    (
        "SELECT m.size, d.key",
        "a list in another order than the default sorts what is not final, within 10 s",
    ),
    (
        "SELECT r.domain AS name, count(*)",
        "groups are counted over what is not final, within 10 s",
    ),
];

/// Files whose statements are something else.
const OTHER_FILES: [(&str, &str); 3] = [
    (
        "store/check.rs",
        "looks at everything, by its nature, in windows that are cut off",
    ),
    ("store/check/invariants.rs", "as store/check.rs"),
    ("store/plans.rs", "this one"),
];

/// What stands in the holes of a statement that is put together; one line per hole.
const HOLES: [(&str, &str); 5] = [
    ("{RECIPIENT}", RECIPIENT),
    ("{HEAD}", HEAD),
    ("{ATTEMPT}", ATTEMPT),
    ("{COLUMNS}", "*"),
    ("{EXPIRY}", EXPIRY),
];

/// Statements with other holes, in full.
fn put_together() -> Vec<String> {
    let list = |sort, cursor: Option<&str>| {
        let query = ListQuery {
            filter: Filter::default(),
            sort,
            descending: false,
            limit: 100,
            cursor: cursor.map(str::to_owned),
        };
        list::list_sql(&query, 100).unwrap().0
    };
    let mut all = vec![
        list(Sort::Next, None),
        list(Sort::Next, Some("5.7")),
        list(Sort::Arrived, None),
        list(Sort::Size, None),
    ];
    let now = Timestamp::from_secs(1);
    let by = Some(super::GroupBy::Domain);
    all.push(list::count_sql(&Filter::default(), by, now).0);
    for table in ["message", "chunk", "destination", "recipient"] {
        all.push(format!("SELECT min(id) FROM {table}"));
        all.push(format!("SELECT max(id) FROM {table}"));
    }
    for (index, column, condition) in [
        ("recipient_due", "destination", "state = 0"),
        ("recipient_state", "state", "state < 3"),
        ("recipient_next", "next_attempt", "state < 3"),
    ] {
        all.push(format!(
            "SELECT min({column}) FROM recipient INDEXED BY {index} WHERE {condition}"
        ));
    }
    for (index, condition) in [
        ("NOT INDEXED", "r.state < 3"),
        ("INDEXED BY recipient_state", "r.state < 3 AND r.state = 0"),
    ] {
        all.push(format!(
            "SELECT r.id, r.state, r.address, d.key FROM recipient r {index} CROSS JOIN message m ON m.id = r.id >> 20 \
             CROSS JOIN destination d ON d.id = r.destination WHERE {condition} AND r.id > ?1 AND r.id <= ?2 \
             ORDER BY r.id LIMIT 10"
        ));
    }
    all
}

/// What is wrong with a statement, if anything.
fn fault(conn: &Connection, sql: &str) -> Option<String> {
    if EXEMPT
        .iter()
        .any(|(beginning, _)| sql.starts_with(beginning))
    {
        return None;
    }
    // Along an index and no further than its limit.
    let stops = sql.contains(" LIMIT ") && sql.contains(" ORDER BY ");
    plan(conn, sql).into_iter().find(|step| {
        let mut words = step.split(' ');
        let scanned = (words.next() == Some("SCAN")).then(|| words.next().unwrap_or_default());
        let scans = scanned.is_some_and(|table| {
            let small = SMALL.iter().any(|(small, _)| *small == table);
            // A subquery, which has steps of its own, or one row of constants.
            let none = table.starts_with('(') || table == "CONSTANT";
            !(small || none || stops && step.contains(" INDEX "))
        });
        scans || step.contains("TEMP B-TREE")
    })
}

/// The strings of a source file outside of its tests, as the compiler sees them.
fn strings(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let source = source
        .split("#[cfg(test)]\npub(super) mod tests")
        .next()
        .unwrap();
    let mut found = Vec::new();
    let mut rest = source.chars().peekable();
    let mut before = ' ';
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => {
                for c in rest.by_ref() {
                    if c == '\n' {
                        break;
                    }
                }
            }
            // '"' and '\"' are characters, no strings.
            '"' if before == '\'' || before == '\\' => {}
            '"' => {
                let mut text = String::new();
                while let Some(c) = rest.next() {
                    match c {
                        '"' => break,
                        '\\' => match rest.next() {
                            Some('\n') => {
                                while rest.peek().is_some_and(|c| c.is_whitespace()) {
                                    rest.next();
                                }
                            }
                            Some('n') => text.push('\n'),
                            Some(c) => text.push(c),
                            None => break,
                        },
                        c => text.push(c),
                    }
                }
                found.push(text);
            }
            _ => {}
        }
        before = c;
    }
    found
}

fn is_statement(text: &str) -> bool {
    [
        "SELECT ", "INSERT ", "UPDATE ", "DELETE ", "REPLACE ", "WITH ",
    ]
    .iter()
    .any(|word| text.starts_with(word))
}

/// Whether `sql` is `pattern` with something in its holes.
fn fills(pattern: &str, sql: &str) -> bool {
    let mut rest = sql;
    let mut first = true;
    for piece in pattern.split('{') {
        // The name of the hole ends at the brace.
        let fixed = match piece.split_once('}') {
            Some((_, fixed)) if !first => fixed,
            _ => piece,
        };
        match rest.find(fixed) {
            Some(0) => rest = &rest[fixed.len()..],
            Some(at) if !first => rest = &rest[at + fixed.len()..],
            _ => return false,
        }
        first = false;
    }
    true
}

/// What is wrong with a string of the sources, if it is a statement.
fn judge(conn: &Connection, put_together: &[String], text: &str) -> Result<(), String> {
    let mut sql = text.to_owned();
    for (hole, words) in HOLES {
        sql = sql.replace(hole, words);
    }
    if !sql.contains('{') {
        return match fault(conn, &sql) {
            Some(step) => Err(format!("{step}: {sql}")),
            None => Ok(()),
        };
    }
    if put_together.iter().any(|full| fills(&sql, full)) {
        return Ok(());
    }
    Err(format!("not shown in full in store/plans.rs: {text}"))
}

fn files(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn database() -> Connection {
    let mut conn = Connection::open_in_memory().unwrap();
    schema::migrate(&mut conn).unwrap();
    conn
}

//
#[test]
fn no_statement_of_the_program_scans_or_sorts_what_grows() {
    let conn = database();
    let put_together = put_together();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    let (mut count, mut faults) = (0, Vec::new());
    for sql in &put_together {
        faults.extend(fault(&conn, sql).map(|step| format!("{step}: {sql}")));
    }
    for path in paths {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
        let tests = name.ends_with("/tests.rs");
        if tests || OTHER_FILES.iter().any(|(other, _)| *other == name) {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        for text in strings(&source).iter().filter(|text| is_statement(text)) {
            // design.md 5: everything outside knows the interface of the store, never SQL.
            if !name.starts_with("store/") {
                faults.push(format!("SQL outside of the store in {name}: {text}"));
            }
            count += 1;
            faults.extend(judge(&conn, &put_together, text).err());
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // If the search found none, all of them would be fine.
    assert!(count > 90, "{count}");
}

//
#[test]
fn a_statement_that_scans_or_sorts_or_is_not_shown_would_be_found() {
    let conn = database();
    let source = "// \"SELECT 1\"\nfn a() { let c = '\"'; ask(\"SELECT id FROM recipient \\\n    WHERE address = ?1\"); }\n\
        #[cfg(test)]\nmod tests { const X: &str = \"SELECT 2\"; }";
    assert_eq!(
        strings(source),
        ["SELECT id FROM recipient WHERE address = ?1"]
    );
    let scans = judge(&conn, &[], &strings(source)[0]).unwrap_err();
    assert!(scans.starts_with("SCAN recipient: "), "{scans}");
    for (bad, why) in [
        ("SELECT count(*) FROM message", "SCAN message"),
        ("SELECT id FROM chunk ORDER BY data LIMIT 1", "SCAN chunk"),
        (
            "SELECT id FROM recipient WHERE state = 1 AND state < 3 ORDER BY address LIMIT 1",
            "TEMP B-TREE",
        ),
        ("UPDATE recipient SET doubt = 0 WHERE domain = ?1", "SCAN"),
        ("DELETE FROM attempt WHERE started < ?1", "SCAN attempt"),
        ("SELECT id FROM {table} WHERE id = 1", "not shown in full"),
    ] {
        let found = judge(&conn, &[], bad).unwrap_err();
        assert!(found.contains(why), "{bad}: {found}");
    }
    let full = ["SELECT id FROM message WHERE id = 1".to_owned()];
    assert_eq!(
        judge(&conn, &full, "SELECT id FROM {table} WHERE id = 1"),
        Ok(())
    );
}
