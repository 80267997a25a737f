//! What must hold of the rows, as queries that find where it does not (ST-18).

/// One invariant. Its query returns a row, with one column that names the offender, for each place where it does not hold.
pub(super) struct Invariant {
    pub(super) name: &'static str,
    pub(super) sentence: &'static str,
    pub(super) sql: &'static str,
}

/// About the queue as a whole, in one look each; those of the quick set first.
pub(super) const WHOLE: &[Invariant] = &[
    Invariant {
        name: "next-id",
        sentence: "Every id in use is below the next one to be handed out.",
        sql: "SELECT 'message ' || id FROM (SELECT max(id) AS id FROM message UNION ALL SELECT max(message) FROM unowned \
            UNION ALL SELECT max(id) >> 20 FROM recipient UNION ALL SELECT max(id) >> 20 FROM chunk) \
            WHERE id >= (SELECT next_id FROM queue)",
    },
    Invariant {
        name: "unowned",
        sentence: "Content marked as nobody's belongs to no message that still needs it.",
        sql: "SELECT 'message ' || u.message FROM unowned u CROSS JOIN message m ON m.id = u.message WHERE u.kind = 0 \
            OR EXISTS (SELECT 1 FROM recipient r WHERE r.id BETWEEN u.message << 20 AND (u.message << 20) + 1048575 \
            AND r.state < 3) OR EXISTS (SELECT 1 FROM notice n WHERE n.message = u.message)",
    },
    Invariant {
        name: "notice",
        sentence: "What a sender is to be told is of a recipient that came to that end.",
        sql: "SELECT 'recipient ' || n.message || '/' || n.number || ' kind ' || n.kind FROM notice n \
            LEFT JOIN message m ON m.id = n.message LEFT JOIN recipient r ON r.id = (n.message << 20) + n.number \
            WHERE m.id IS NULL OR r.id IS NULL OR n.kind = 0 AND r.state NOT IN (4, 5) OR n.kind = 2 AND r.state <> 3 \
            OR n.kind NOT IN (0, 1, 2)",
    },
    Invariant {
        name: "counts",
        sentence: "The counts of recipients per state are those of the rows.",
        sql: "SELECT name || ' ' || said || ' but ' || there FROM (\
            SELECT 'queued' AS name, queued AS said, (SELECT count(*) FROM recipient INDEXED BY recipient_state \
            WHERE state = 0 AND state < 3) AS there FROM queue UNION ALL \
            SELECT 'claimed', claimed, (SELECT count(*) FROM recipient INDEXED BY recipient_state \
            WHERE state = 1 AND state < 3) FROM queue UNION ALL \
            SELECT 'held', held, (SELECT count(*) FROM recipient INDEXED BY recipient_state \
            WHERE state = 2 AND state < 3) FROM queue) WHERE said <> there",
    },
    Invariant {
        name: "next-due",
        sentence: "Every destination knows when its first queued recipient is due.",
        sql: "SELECT d.key FROM destination d WHERE d.next_due IS NOT (SELECT min(r.next_attempt) FROM recipient r \
            INDEXED BY recipient_due WHERE r.state = 0 AND r.destination = d.id)",
    },
    Invariant {
        name: "count-doubt",
        sentence: "The count of recipients in doubt is that of the rows.",
        sql: "SELECT doubt || ' but ' || there FROM queue, (SELECT count(*) AS there FROM recipient \
            INDEXED BY recipient_state WHERE state < 3 AND doubt <> 0) WHERE doubt <> there",
    },
    Invariant {
        name: "count-messages",
        sentence: "The count of messages is that of those with a recipient that is not final.",
        sql: "SELECT messages || ' but ' || there FROM queue, (SELECT count(*) AS there FROM message m WHERE EXISTS \
            (SELECT 1 FROM recipient r WHERE r.id BETWEEN m.id << 20 AND (m.id << 20) + 1048575 AND r.state < 3)) \
            WHERE messages <> there",
    },
];

/// How many of [`WHOLE`] are quick: their cost does not follow the history, and hardly the queue.
pub(super) const QUICK_ONES: usize = 5;

/// About the messages from ?1 to ?2.
pub(super) const OF_MESSAGES: &[Invariant] = &[
    Invariant {
        name: "recipient-message",
        sentence: "Every recipient belongs to a message and to a destination.",
        sql: "SELECT 'recipient ' || (r.id >> 20) || '/' || (r.id & 1048575) FROM recipient r \
            WHERE r.id BETWEEN ?1 << 20 AND (?2 << 20) + 1048575 AND (r.id & 1048575 = 0 \
            OR NOT EXISTS (SELECT 1 FROM message m WHERE m.id = r.id >> 20) \
            OR NOT EXISTS (SELECT 1 FROM destination d WHERE d.id = r.destination))",
    },
    Invariant {
        name: "recipients",
        sentence: "Every message has all its recipients.",
        sql: "SELECT 'message ' || m.id FROM message m WHERE m.id BETWEEN ?1 AND ?2 AND m.recipients <> (\
            SELECT count(*) FROM recipient r WHERE r.id BETWEEN m.id << 20 AND (m.id << 20) + 1048575)",
    },
    Invariant {
        name: "open",
        sentence: "A message with several recipients or much content knows how many of them are not final.",
        sql: "SELECT 'message ' || m.id FROM message m WHERE m.id BETWEEN ?1 AND ?2 \
            AND (m.recipients > 1 OR m.chunks > 1) AND m.open <> (SELECT count(*) FROM recipient r \
            WHERE r.id BETWEEN m.id << 20 AND (m.id << 20) + 1048575 AND r.state < 3)",
    },
    Invariant {
        name: "alone",
        sentence: "A recipient marked as its message's only one is that, and no other is so marked.",
        sql: "SELECT 'recipient ' || m.id || '/' || (r.id & 1048575) FROM message m CROSS JOIN recipient r \
            ON r.id BETWEEN m.id << 20 AND (m.id << 20) + 1048575 WHERE m.id BETWEEN ?1 AND ?2 \
            AND r.alone <> (m.recipients = 1 AND m.chunks <= 1)",
    },
    Invariant {
        name: "state",
        sentence: "The fields of a recipient fit its state.",
        sql: "SELECT 'recipient ' || (r.id >> 20) || '/' || (r.id & 1048575) FROM recipient r \
            WHERE r.id BETWEEN ?1 << 20 AND (?2 << 20) + 1048575 AND (r.state NOT BETWEEN 0 AND 6 \
            OR r.doubt NOT BETWEEN 0 AND 2 OR r.wish NOT BETWEEN 0 AND 3 OR r.attempts < 0 \
            OR (r.finished IS NULL) <> (r.state < 3) OR r.state = 1 AND (r.attempts = 0 OR r.last_attempt IS NULL) \
            OR r.state >= 3 AND (r.delay_due IS NOT NULL OR r.wish <> 0) OR r.state <> 1 AND r.counted IS NOT NULL \
            OR r.state NOT IN (0, 2) AND r.parked IS NOT NULL)",
    },
    Invariant {
        name: "content",
        sentence: "A message that may still be sent or told of has all its content.",
        sql: "SELECT 'message ' || m.id FROM message m WHERE m.id BETWEEN ?1 AND ?2 AND (EXISTS (SELECT 1 FROM recipient r \
            WHERE r.id BETWEEN m.id << 20 AND (m.id << 20) + 1048575 AND r.state < 3) \
            OR EXISTS (SELECT 1 FROM notice n WHERE n.message = m.id)) \
            AND (m.chunks, m.content_size) IS NOT (SELECT count(*), coalesce(sum(length(c.data)), 0) FROM chunk c \
            WHERE c.id BETWEEN m.id << 20 AND (m.id << 20) + 1048575)",
    },
    Invariant {
        name: "freed",
        sentence: "All content belongs to a message that needs it, or is marked as nobody's.",
        sql: "SELECT 'message ' || (c.id >> 20) FROM chunk c WHERE c.id BETWEEN ?1 << 20 AND (?2 << 20) + 1048575 \
            AND NOT EXISTS (SELECT 1 FROM unowned u WHERE u.message = c.id >> 20) \
            AND (NOT EXISTS (SELECT 1 FROM message m WHERE m.id = c.id >> 20) \
            OR NOT EXISTS (SELECT 1 FROM recipient r WHERE r.id BETWEEN c.id >> 20 << 20 AND (c.id >> 20 << 20) + 1048575 \
            AND r.state < 3) AND NOT EXISTS (SELECT 1 FROM notice n WHERE n.message = c.id >> 20))",
    },
    Invariant {
        name: "attempt",
        sentence: "Every attempt is one that its recipient has counted.",
        sql: "SELECT 'recipient ' || (a.recipient >> 20) || '/' || (a.recipient & 1048575) || ' attempt ' || a.ordinal \
            FROM attempt a LEFT JOIN recipient r ON r.id = a.recipient \
            WHERE a.recipient BETWEEN ?1 << 20 AND (?2 << 20) + 1048575 \
            AND (r.id IS NULL OR a.kind NOT IN (0, 1, 2) OR a.ordinal > r.attempts AND a.kind < 2)",
    },
    Invariant {
        name: "delivered",
        sentence: "Every delivered recipient has the attempt that delivered it.",
        sql: "SELECT 'recipient ' || (r.id >> 20) || '/' || (r.id & 1048575) FROM recipient r \
            WHERE r.id BETWEEN ?1 << 20 AND (?2 << 20) + 1048575 AND r.state = 3 AND NOT EXISTS (\
            SELECT 1 FROM attempt a WHERE a.recipient = r.id AND a.kind = 0 AND a.cause IS NULL)",
    },
];
