//! Content that comes with the due rows of its message.

use std::sync::Arc;

use posthaste::message::QueueId;
use posthaste::store::NewContent;

use crate::support::office::Office;
use crate::support::queue::{Queue, key, message, row, start};

use super::{claim, minutes, with_sql};

const TO: &str = "bob@dest.example";

/// Queues a message of so many octets, which all are the last digit of its id.
fn add(queue: &Queue, size: usize) -> QueueId {
    let id = queue.store.allocate_id().unwrap();
    let mut new = message(id, start(), vec![row(TO, start())]);
    let head = Arc::get_mut(&mut new.head).unwrap();
    head.size = (head.added_header.len() + size) as u64;
    new.content = NewContent::Inline(Arc::new(octets(id, size)));
    queue.store.enqueue(new).unwrap();
    id
}

fn octets(id: QueueId, size: usize) -> Vec<u8> {
    vec![b'0' + (id.get() % 10) as u8; size]
}

/// What comes with the rows that are due: id and octets, by id.
fn handed(queue: &Queue) -> Vec<(QueueId, Vec<u8>)> {
    let due = queue
        .store
        .due_with_content(&key("dest.example"), start(), 1000);
    let (rows, contents) = due.unwrap();
    assert_eq!(
        rows.len(),
        queue
            .store
            .due(&key("dest.example"), start(), 1000)
            .unwrap()
            .len()
    );
    let mut found: Vec<_> = contents
        .into_iter()
        .map(|(id, octets)| (id, octets.to_vec()))
        .collect();
    found.sort();
    found
}

// ST-17
#[test]
fn small_content_comes_with_the_due_rows_and_large_content_is_read_by_whoever_sends_it() {
    let queue = Queue::new();
    let small = add(&queue, 4096);
    add(&queue, 16_385);
    add(&queue, 300_000);
    let largest = add(&queue, 16_384);
    let claimed = add(&queue, 10);
    queue
        .store
        .claim(vec![claim(claimed, &[1], 0, start().plus(minutes(8)))])
        .unwrap();
    assert_eq!(
        handed(&queue),
        [
            (small, octets(small, 4096)),
            (largest, octets(largest, 16_384))
        ]
    );
}

//
#[test]
fn content_that_is_missing_or_cut_does_not_come_with_the_due_rows() {
    let queue = Queue::new();
    let missing = add(&queue, 100);
    let cut = add(&queue, 100);
    let whole = add(&queue, 100);
    with_sql(
        &queue,
        &format!(
            "DELETE FROM chunk WHERE id = {missing} << 20; UPDATE chunk SET data = x'00' WHERE id = {cut} << 20"
        ),
    );
    assert_eq!(handed(&queue), [(whole, octets(whole, 100))]);
}

// ST-17
#[test]
fn not_more_than_a_mebibyte_of_content_comes_at_once() {
    let queue = Queue::new();
    for _ in 0..70 {
        add(&queue, 16_384);
    }
    assert_eq!(handed(&queue).len(), 64);
}

// ST-17
#[test]
fn a_transaction_from_the_queue_carries_its_small_content() {
    let queue = Queue::new();
    let small = add(&queue, 4096);
    let large = add(&queue, 16_385);
    let office = Office::over(queue, crate::support::office::config(), 8);
    for _ in 0..2 {
        let transaction = office.take();
        let expected = (transaction.head.id == small).then(|| octets(small, 4096));
        assert!(transaction.head.id == small || transaction.head.id == large);
        assert_eq!(transaction.content.as_deref(), expected.as_ref());
        office.deliver(transaction);
    }
}
