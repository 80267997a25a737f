//! The statements of the writer, prepared once. None of them may scan a table that grows: a test explains each.

use rusqlite::{Connection, PrepFlags, Statement};

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident: $sql:expr;)*) => {
        /// All statements of the writer on its connection.
        pub(super) struct Statements<'c> {
            $($(#[$doc])* pub(super) $name: Statement<'c>,)*
        }

        impl<'c> Statements<'c> {
            pub(super) fn prepare(conn: &'c Connection) -> rusqlite::Result<Statements<'c>> {
                // They stay: SQLite is told to keep them out of the small memory it has ready for what comes and goes.
                let stays = PrepFlags::SQLITE_PREPARE_PERSISTENT;
                Ok(Statements { $($name: conn.prepare_with_flags($sql, stays)?,)* })
            }
        }

        /// Their names and texts, for the test.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &str)] = &[$((stringify!($name), $sql),)*];
    };
}

statements! {
    begin: "BEGIN IMMEDIATE";
    commit: "COMMIT";
    rollback: "ROLLBACK";
    savepoint: "SAVEPOINT request";
    release: "RELEASE request";
    rollback_to: "ROLLBACK TO request";
    /// With what the running transaction adds.
    page_count: "PRAGMA page_count";

    save_tally: "UPDATE queue SET messages = ?1, queued = ?2, claimed = ?3, held = ?4, doubt = ?5 WHERE one = 1";
    save_next_id: "UPDATE queue SET next_id = ?1 WHERE one = 1";
    save_clean: "UPDATE queue SET clean = ?1 WHERE one = 1";

    insert_message: "INSERT INTO message (id, arrived, caller, client, sender, sender_domain, header, message_id, subject, \
        size, eight_bit, utf8_headers, require_tls, envid, ret, priority, lifetime, max_attempts, extras, chunks, \
        content_size, recipients, open) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?22)";
    insert_chunk: "INSERT INTO chunk (id, data) VALUES (?1, ?2)";
    insert_recipient: "INSERT INTO recipient (id, state, destination, rank, next_attempt, attempts, last_attempt, alone, \
        doubt, address, domain, notify, orcpt, blocker, wish, delay_due) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, ?9, ?10, ?11, ?12, ?13, 0, ?14)";
    mark_unowned: "INSERT INTO unowned (message, kind) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET kind = excluded.kind";
    unmark_unowned: "DELETE FROM unowned WHERE message = ?1";
    /// The table holds what is being staged and what is being removed, no more.
    next_unowned: "SELECT message FROM unowned WHERE kind = 1 LIMIT 1";
    /// A bounded step of a sweep.
    delete_chunks: "DELETE FROM chunk WHERE id IN (SELECT id FROM chunk WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3)";
    delete_chunk: "DELETE FROM chunk WHERE id = ?1";

    find_destination: "SELECT id FROM destination WHERE key = ?1";
    insert_destination: "INSERT INTO destination (key) VALUES (?1)";
    /// The first queued row of the next priority level of a destination: one seek.
    next_level: "SELECT rank, next_attempt FROM recipient INDEXED BY recipient_due \
        WHERE state = 0 AND destination = ?1 AND rank > ?2 ORDER BY rank, next_attempt LIMIT 1";
    save_next_due: "UPDATE destination SET next_due = ?2 WHERE id = ?1 AND next_due IS NOT ?2";

    /// Looked at before the claim: RETURNING would be a trigger with a journal of its own.
    claimable: "SELECT destination FROM recipient WHERE id = ?1 AND state = 0 AND attempts = ?2";
    claim: "UPDATE recipient SET state = 1, attempts = attempts + 1, last_attempt = ?2, next_attempt = ?3, counted = ?4, \
        parked = NULL WHERE id = ?1";
    /// Changes nothing when the address has had its share, or the row is not as it was.
    count_address: "INSERT INTO address_day (day, address, count) SELECT ?4, lower(address), 1 FROM recipient \
        WHERE id = ?1 AND state = 0 AND attempts = ?2 ON CONFLICT DO UPDATE SET count = count + 1 WHERE count < ?3";
    find_address: "SELECT count FROM address_day \
        WHERE (day, address) = (SELECT ?2, lower(address) FROM recipient WHERE id = ?1)";
    park: "UPDATE recipient SET next_attempt = ?3, parked = ?4 WHERE id = ?1 AND state = 0 AND attempts = ?2 \
        RETURNING destination";
    uncount_address: "UPDATE address_day SET count = count - 1 WHERE count > 0 \
        AND (day, address) = (SELECT counted, lower(address) FROM recipient WHERE id = ?1)";
    /// A bounded step: more than one row goes for each that comes.
    forget_old_addresses: "DELETE FROM address_day WHERE (day, address) IN \
        (SELECT day, address FROM address_day WHERE day < ?1 ORDER BY day, address LIMIT 4)";
    move_to: "UPDATE recipient SET destination = ?3 WHERE id = ?1 AND state = 0 AND attempts = ?2";

    find_recipient: "SELECT state, destination, attempts, last_attempt, alone, doubt, domain, dialled, wish, wish_text, wish_uid, \
        counted FROM recipient WHERE id = ?1";
    finish: "UPDATE recipient SET state = ?2, finished = ?3, blocker = ?4, doubt = ?5, used = coalesce(?6, used), \
        dialled = coalesce(?7, dialled), wish = 0, wish_text = NULL, wish_uid = NULL, delay_due = NULL, counted = NULL, \
        parked = NULL WHERE id = ?1";
    /// With the time, for a clock that goes back into the attempt (RT-9).
    defer: "UPDATE recipient SET state = ?2, next_attempt = ?3, destination = ?4, blocker = ?5, doubt = ?6, used = ?7, \
        dialled = ?8, wish = 0, wish_text = NULL, wish_uid = NULL, delay_due = ?9, counted = NULL, \
        put_off = ?10 WHERE id = ?1";
    next_attempt: "SELECT next_attempt FROM recipient WHERE id = ?1";
    /// A first claim given back may have no time for a delay yet: whoever tells of delays looks at it and sets one.
    give_back: "UPDATE recipient SET state = 0, next_attempt = ?2, attempts = attempts - 1, counted = NULL, \
        put_off = CASE WHEN ?2 > ?3 THEN ?3 END, \
        delay_due = CASE WHEN attempts = 1 THEN coalesce(delay_due, ?3) ELSE delay_due END, blocker = coalesce(?4, blocker), \
        last_attempt = (SELECT max(started) FROM attempt WHERE recipient = ?1 AND kind < 2) WHERE id = ?1";
    insert_attempt: "INSERT INTO attempt (recipient, ordinal, kind, started, duration, in_queue, in_connect, in_session, in_data, \
        transport, host, address, dialled, source, tls, stage, code, status, text, cause, twice, worker, reused, tls_policy) \
        VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23)";
    insert_note: "INSERT INTO attempt (recipient, ordinal, kind, started, text, uid) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    arrived: "SELECT arrived FROM message WHERE id = ?1";
    close_some: "UPDATE message SET open = open - ?2 WHERE id = ?1 RETURNING open, chunks";
    count_fault: "UPDATE message SET faults = faults + 1 WHERE id = ?1 RETURNING faults";
    count_death: "UPDATE message SET deaths = deaths + 1 WHERE id = ?1 RETURNING deaths";

    set_next: "UPDATE recipient SET next_attempt = ?2, parked = NULL, put_off = NULL WHERE id = ?1";
    pull_in: "UPDATE recipient SET next_attempt = ?2 WHERE id = ?1";
    hold: "UPDATE recipient SET state = 2, blocker = ?2 WHERE id = ?1";
    release_held: "UPDATE recipient SET state = 0, blocker = ?2 WHERE id = ?1";
    /// Of the last attempt that ended.
    last_reply: "SELECT code, status, text FROM attempt WHERE recipient = ?1 AND kind = 0 ORDER BY ordinal DESC LIMIT 1";
    set_require_tls: "UPDATE message SET require_tls = ?2 WHERE id = ?1";
    set_route: "UPDATE recipient SET transport = ?2, destination = ?3 WHERE id = ?1";
    set_wish: "UPDATE recipient SET wish = ?2, wish_text = ?3, wish_uid = ?4 WHERE id = ?1";
    /// Recipients of one message that are not final, a page at a time.
    open_of_message: "SELECT id FROM recipient WHERE id > ?1 AND id <= ?2 AND state < 3 ORDER BY id LIMIT ?3";
    /// What was claimed when the last run ended.
    claimed: "SELECT id FROM recipient INDEXED BY recipient_state WHERE state = 1 AND state < 3 AND id > ?1 \
        ORDER BY id LIMIT ?2";
    doubt: "UPDATE recipient SET state = ?2, doubt = coalesce(?5, doubt), blocker = ?3, wish = 0, wish_text = NULL, wish_uid = NULL, \
        delay_due = coalesce(delay_due, ?4), counted = NULL WHERE id = ?1";
    /// Latest due first: what a backward step of the clock left too far ahead.
    far_ahead: "SELECT r.id, r.next_attempt, r.state, r.destination, \
        max(coalesce(r.last_attempt, 0), coalesce(r.put_off, 0)), m.arrived, r.parked \
        FROM recipient r INDEXED BY recipient_next CROSS JOIN message m ON m.id = r.id >> 20 \
        WHERE r.state < 3 AND r.next_attempt > ?1 AND (r.next_attempt, r.id) < (?2, ?3) \
        ORDER BY r.next_attempt DESC, r.id DESC LIMIT ?4";

    note_tls: "INSERT INTO tls_memory (domain, since, encrypted, verified, requiretls) VALUES (?1, ?2, ?2, ?3, ?4) \
        ON CONFLICT DO UPDATE SET encrypted = excluded.encrypted, verified = coalesce(excluded.verified, verified), \
        requiretls = coalesce(excluded.requiretls, requiretls)";
    note_window: "INSERT INTO learned_window (destination, size, ceiling, cause, at, pinned) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
        ON CONFLICT DO UPDATE SET size = excluded.size, ceiling = excluded.ceiling, cause = excluded.cause, \
        at = excluded.at, pinned = excluded.pinned";
    forget_window: "DELETE FROM learned_window WHERE destination = ?1";
    forget_tls: "DELETE FROM tls_memory WHERE domain = ?1";
    forget_tls_before: "DELETE FROM tls_memory WHERE domain = ?1 AND encrypted < ?2";
    /// A bounded step: more than one row goes for each that comes.
    forget_old_tls: "DELETE FROM tls_memory WHERE domain IN \
        (SELECT domain FROM tls_memory WHERE encrypted < ?1 ORDER BY encrypted LIMIT 4)";

    renew_sts: "UPDATE sts_policy SET id = ?2, mode = ?3, max_age = ?4, mx = ?5, fetched = ?6, expires = ?7, anew = 0 \
        WHERE domain = ?1";
    insert_sts: "INSERT INTO sts_policy (domain, id, mode, max_age, mx, fetched, expires, used, anew) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?6, 0)";
    count_sts: "SELECT policies FROM sts_count WHERE one = 1";
    use_sts: "UPDATE sts_policy SET used = ?2 WHERE domain = ?1";
    anew_sts: "UPDATE sts_policy SET anew = 1 WHERE domain = ?1 AND anew = 0";
    forget_sts: "DELETE FROM sts_policy WHERE domain = ?1";
    /// Room for one.
    forget_expired_sts: "DELETE FROM sts_policy WHERE domain IN \
        (SELECT domain FROM sts_policy WHERE expires < ?1 ORDER BY expires LIMIT 1)";
    /// A bounded step.
    forget_unused_sts: "DELETE FROM sts_policy WHERE domain IN \
        (SELECT domain FROM sts_policy WHERE used < ?1 ORDER BY used LIMIT ?2)";

    add_report: "UPDATE tls_report_policy SET successes = successes + ?6, failures = failures + ?7 \
        WHERE day = ?1 AND domain = ?2 AND kind = ?3 AND base = ?4 AND lines = ?5 RETURNING id";
    insert_report_policy: "INSERT INTO tls_report_policy (day, domain, kind, base, lines, successes, failures) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING id";
    find_report: "SELECT done FROM tls_report WHERE day = ?1 AND domain = ?2";
    count_policies: "SELECT count(*) FROM tls_report_policy WHERE day = ?1 AND domain = ?2";
    /// Changes nothing when the day is full.
    add_report_domain: "INSERT INTO tls_report_day (day, domains) VALUES (?1, 1) \
        ON CONFLICT DO UPDATE SET domains = domains + 1 WHERE domains < ?2";
    insert_report: "INSERT INTO tls_report (day, domain, done, tries, next) VALUES (?1, ?2, 0, 0, ?3)";
    add_failures: "UPDATE tls_report_failure SET sessions = sessions + ?7 \
        WHERE policy = ?1 AND kind = ?2 AND host = ?3 AND address = ?4 AND helo = ?5 AND source = ?6";
    count_failures: "SELECT count(*) FROM tls_report_failure WHERE policy = ?1";
    insert_failure: "INSERT INTO tls_report_failure (policy, kind, host, address, helo, source, reason, sessions) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    add_other_failures: "INSERT INTO tls_report_failure (policy, kind, host, address, helo, source, reason, sessions) \
        VALUES (?1, ?2, '', '', '', '', '', ?3) ON CONFLICT DO UPDATE SET sessions = sessions + excluded.sessions";
    try_report: "UPDATE tls_report SET tries = tries + 1, next = ?4 \
        WHERE day = ?1 AND domain = ?2 AND tries = ?3 AND done = 0";
    finish_report: "UPDATE tls_report SET done = 1 WHERE day = ?1 AND domain = ?2 AND done = 0";
    forget_failures_of: "DELETE FROM tls_report_failure WHERE policy IN \
        (SELECT id FROM tls_report_policy WHERE day = ?1 AND domain = ?2)";
    forget_policies_of: "DELETE FROM tls_report_policy WHERE day = ?1 AND domain = ?2";
    /// These two see the same policies, in this order.
    forget_old_failures: "DELETE FROM tls_report_failure WHERE policy IN \
        (SELECT id FROM tls_report_policy WHERE day < ?1 ORDER BY day, domain, kind, base, lines LIMIT ?2)";
    forget_old_policies: "DELETE FROM tls_report_policy WHERE id IN \
        (SELECT id FROM tls_report_policy WHERE day < ?1 ORDER BY day, domain, kind, base, lines LIMIT ?2)";
    forget_old_reports: "DELETE FROM tls_report WHERE (day, domain) IN \
        (SELECT day, domain FROM tls_report WHERE day < ?1 ORDER BY day, domain LIMIT ?2)";
    forget_old_days: "DELETE FROM tls_report_day WHERE day < ?1";

    notice_facts: "SELECT r.notify, m.sender <> '', m.caller = 'dsn', m.require_tls = 1 FROM recipient r CROSS JOIN message m ON m.id = r.id >> 20 WHERE r.id = ?1";
    insert_notice: "INSERT INTO notice (message, kind, number, due) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
    has_notice: "SELECT 1 FROM notice WHERE message = ?1 LIMIT 1";
    strike_notice: "DELETE FROM notice WHERE message = ?1 AND kind = ?2 AND number = ?3";
    is_open: "SELECT 1 FROM recipient WHERE id BETWEEN ?1 AND ?2 AND state < 3 LIMIT 1";
    set_delay: "UPDATE recipient SET delay_due = ?2, delay_told = max(delay_told, ?3) WHERE id = ?1";
    postpone_notice: "UPDATE notice SET due = ?3 WHERE message = ?1 AND kind = ?2";
    pull_notices: "UPDATE notice INDEXED BY notice_due SET due = ?1 WHERE due > ?2";
    find_notified: "SELECT since, sent FROM notified WHERE address = ?1";
    count_notified: "INSERT INTO notified (address, since, sent, withheld, first) VALUES (?1, ?2, ?3, ?4, ?5) \
        ON CONFLICT DO UPDATE SET since = excluded.since, sent = excluded.sent, \
        withheld = withheld + excluded.withheld, first = coalesce(first, excluded.first)";
    forget_withheld: "UPDATE notified SET withheld = 0, first = NULL WHERE address = ?1";
    /// Those whose time is over and from whom nothing was withheld, a few at a time.
    tidy_notified: "DELETE FROM notified WHERE address IN (SELECT address FROM notified INDEXED BY notified_since \
        WHERE withheld = 0 AND since < ?1 LIMIT ?2)";

    set_pause: "INSERT INTO pause (scope, name, since, until, reason) VALUES (?1, ?2, ?3, ?4, ?5) \
        ON CONFLICT DO UPDATE SET since = excluded.since, until = excluded.until, reason = excluded.reason";
    lift_pause: "DELETE FROM pause WHERE scope = ?1 AND name = ?2";
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::store::schema;

    /// The plan of a statement, one line per step.
    pub(in crate::store) fn plan(conn: &Connection, sql: &str) -> Vec<String> {
        let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let parameters = statement.parameter_count();
        statement
            .query_map(rusqlite::params_from_iter(vec![1; parameters]), |row| {
                row.get(3)
            })
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }

    //
    #[test]
    fn no_statement_of_the_writer_scans_a_table_that_grows() {
        let mut conn = Connection::open_in_memory().unwrap();
        schema::migrate(&mut conn).unwrap();
        for (name, sql) in ALL {
            if [
                "BEGIN",
                "COMMIT",
                "ROLLBACK",
                "SAVEPOINT",
                "RELEASE",
                "PRAGMA",
            ]
            .iter()
            .any(|word| sql.starts_with(word))
            {
                continue;
            }
            for step in plan(&conn, sql) {
                // `unowned` does not grow with the queue.
                let small = step.starts_with("SCAN unowned");
                assert!(!step.starts_with("SCAN") || small, "{name}: {step}");
                assert!(!step.contains("TEMP B-TREE"), "{name}: {step}");
            }
        }
    }
}
