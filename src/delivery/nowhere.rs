//! What reaches nobody: the transports `fail` and `discard` (RO-13), and mail that waited in vain for a limit (SC-8).

use std::sync::Arc;

use super::Parts;
use super::running::Running;
use super::settle::{Accepted, Happened, Scene, settle};
use crate::policy::failure::{Cause, Failure, Retry, Scope, Stage};
use crate::smtp::reply::{EnhancedCode, Reply, ReplyCode};

/// What kind `fail` says: 4yz for now, 5yz for good. An enhanced status code at the beginning of the text counts.
pub(super) fn fails(code: ReplyCode, text: &str) -> Failure {
    let reply = Reply::new(code, text.to_owned());
    Failure {
        retry: match code.is_permanent() {
            true => Retry::Never,
            false => Retry::Later,
        },
        // The operator's word about these recipients, and no fault: each time counts as an attempt.
        scope: Scope::Recipient,
        stage: Stage::Route,
        cause: Cause::Reply,
        code: Some(code),
        status: reply.status(true),
        text: reply.text(),
        may_be_sent_twice: false,
    }
}

/// What has reached its end while its address had had as many messages in a day as it may (SC-8, RT-4).
pub(super) fn over_limit(most: u32) -> Failure {
    Failure {
        retry: Retry::Later,
        // No fault of ours, nor of any host.
        scope: Scope::Recipient,
        stage: Stage::Route,
        cause: Cause::Local,
        code: None,
        // RFC 3463 §3.8 (X.7.1): delivery not authorized, by a rule about how much of it.
        status: EnhancedCode::new(4, 7, 1),
        text: format!(
            "limit: per_address_day {most}: no more messages may be sent to this address today"
        ),
        may_be_sent_twice: false,
    }
}

/// Settles these rows as delivered.
pub(super) fn discard(parts: &Parts, running: &Running, rows: &[usize]) {
    let happened = running.take(rows).into_iter().map(|row| Happened {
        row,
        result: Ok(Accepted {
            code: None,
            status: EnhancedCode::new(2, 0, 0),
            text: "discarded".to_owned(),
            // Whoever asked to be told of success is not told of this.
            confirms: true,
        }),
        scene: Arc::new(Scene::default()),
        poison: false,
    });
    settle(parts, running, happened.collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    // RO-13
    #[test]
    fn the_code_decides_whether_it_is_tried_again() {
        let fails = |code, text| fails(ReplyCode::new(code).unwrap(), text);
        let never = fails(554, "no");
        assert_eq!(
            (never.retry, never.status.to_string()),
            (Retry::Never, "5.0.0".into())
        );
        let later = fails(450, "4.7.1 not yet");
        assert_eq!(
            (later.retry, later.status.to_string()),
            (Retry::Later, "4.7.1".into())
        );
        let forced = fails(450, "5.7.1 not yet");
        assert_eq!(
            (forced.retry, forced.status.to_string()),
            (Retry::Later, "4.7.1".into())
        );
    }
}
