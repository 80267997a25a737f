//! What the sender of a REQUIRETLS message is told, and under which requirement (RFC 8689 §5).

use std::sync::Arc;

use mail_parser::{MessageParser, PartType};
use posthaste::dispatch::Wake;
use posthaste::front::notices::Teller;
use posthaste::message::{QueueId, RequireTls, Ret};
use posthaste::policy::failure::Verdict;
use posthaste::store::NewContent;

use super::CONTENT;
use crate::support::office::Office;
use crate::support::queue::{message, row};

/// Queues a message whose sender wants all of it back.
fn send(office: &Office, require: RequireTls) -> QueueId {
    let id = office.queue.store.allocate_id().unwrap();
    let rows = vec![row("bob@dest.example", office.now())];
    let mut new = message(id, office.now(), rows);
    new.content = NewContent::Inline(Arc::new(CONTENT.as_bytes().to_vec()));
    let head = Arc::get_mut(&mut new.head).unwrap();
    head.require_tls = require;
    head.ret = Some(Ret::Full);
    (head.subject, head.message_id) = ("figures".to_owned(), "<1@here.example>".to_owned());
    let destination = new.recipients[0].destination.clone();
    office.queue.store.enqueue(new).unwrap();
    office.dispatcher.wake(Wake::Due(destination, office.now()));
    id
}

/// Lets the next transaction fail for good, and tells what there is to tell. What failed: its id, its requirement and
/// its content.
fn fail_and_tell(office: &Office) -> (QueueId, RequireTls, String) {
    let transaction = office.take();
    let (id, require) = (transaction.head.id, transaction.head.require_tls);
    let mut reader = office.queue.store.content(id).unwrap();
    let mut content = Vec::new();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        content.extend_from_slice(&chunk);
    }
    office.settle(transaction, |_| Verdict::Failed);
    office
        .queue
        .clock
        .advance(office.live.get().dsn.collect.get());
    let waking = office.dispatcher.clone();
    let teller = Teller {
        config: office.live.clone(),
        store: office.queue.store.clone(),
        clock: office.queue.clock.clone(),
        wake: Arc::new(move |wake| waking.wake(wake)),
        blocker: Arc::new(|_| None),
    };
    teller.tell_all_due().unwrap();
    (id, require, String::from_utf8(content).unwrap())
}

/// The types of its parts.
fn parts(notice: &str) -> Vec<String> {
    let parsed = MessageParser::default().parse(notice.as_bytes()).unwrap();
    let PartType::Multipart(parts) = &parsed.root_part().body else {
        panic!("not a multipart: {notice}");
    };
    let parts = parts.iter().map(|part| &parsed.parts[*part as usize]);
    parts
        .map(|part| {
            let header = part.headers.iter().find(|h| h.name() == "Content-Type");
            let kind = header.unwrap().value.as_content_type().unwrap();
            format!("{}/{}", kind.ctype(), kind.subtype().unwrap())
        })
        .collect()
}

// DSN-2, DSN-10, DSN-15
#[test]
fn a_notification_under_requiretls_returns_the_header_and_one_that_cannot_meet_it_nothing() {
    let office = Office::open(4);
    let id = send(&office, RequireTls::Yes);
    assert_eq!(fail_and_tell(&office).0, id);

    let (first, require, content) = fail_and_tell(&office);
    assert_eq!(require, RequireTls::Yes);
    assert_eq!(
        parts(&content),
        [
            "text/plain",
            "message/delivery-status",
            "text/rfc822-headers"
        ]
    );
    assert!(content.contains("\r\nSubject: figures\r\n") && !content.contains("the body"));

    let (second, require, content) = fail_and_tell(&office);
    assert!(second > first);
    assert_eq!(require, RequireTls::Default);
    assert_eq!(parts(&content), ["text/plain", "message/delivery-status"]);
    for word in [
        "figures",
        "<1@here.example>",
        "ann@here.example\r\n",
        "the body",
    ] {
        assert!(!content.contains(word), "{word} in\n{content}");
    }
    assert!(
        content.contains("\r\nFinal-Recipient: rfc822;bob@dest.example\r\n"),
        "{content}"
    );
    assert!(content.contains("\r\nAuto-Submitted: auto-replied\r\n"));
    // That was the last word.
    let stats = office.queue.store.stats().unwrap();
    assert_eq!((stats.messages, stats.notices_lost), (0, 1));
    office.close();
}

// DSN-2, DSN-5
#[test]
fn without_requiretls_a_notification_that_nobody_takes_is_lost_at_once() {
    let office = Office::open(4);
    send(&office, RequireTls::No);
    fail_and_tell(&office);
    let (_, require, content) = fail_and_tell(&office);
    assert_eq!(require, RequireTls::Default);
    assert_eq!(parts(&content).last().unwrap(), "message/rfc822");
    let stats = office.queue.store.stats().unwrap();
    assert_eq!((stats.messages, stats.notices_lost), (0, 1));
    office.close();
}
