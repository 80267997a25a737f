//! From failures to verdicts: whether a refusal is for good, what several hosts together mean, and what becomes of the
//! recipient (RT-3, RT-4, CL-17 to CL-19, DV-16, DV-17).
//!
//! Unclear means temporary: never success and never a bounce.

use super::failure::{Cause, Failure, Retry, Scope, Stage, Verdict};
use super::retry::{Course, Ended, Terms};
use crate::smtp::reply::{EnhancedCode, Reply};

/// Authentication failed (RFC 4954 §6: X.7.8, authentication credentials invalid), for now.
pub const AUTH_FAILED: EnhancedCode = EnhancedCode::new(4, 7, 8);

/// What a 4yz or 5yz to MAIL, RCPT, DATA, the content or the final dot says (CL-5, CL-17 to CL-19). `enhanced`: the
/// peer announced ENHANCEDSTATUSCODES.
pub fn refused(stage: Stage, reply: &Reply, enhanced: bool) -> Failure {
    let code = reply.code();
    let mut retry = if code.is_permanent() {
        Retry::Never
    } else {
        Retry::Later
    };
    let mut status = reply.status(enhanced);
    match (stage, code.get()) {
        // RFC 5321 §4.5.3.1.10: 552 was once the code for too many recipients, which is no reason to bounce (CL-17).
        (Stage::Rcpt, 552) if !reply.has_permanent_enhanced_code(enhanced) => retry = Retry::Later,
        // RFC 1870 §6.1: the message is too large for this server (CL-19).
        (Stage::Mail, 552) => status = EnhancedCode::new(5, 3, 4),
        _ => {}
    }
    if retry == Retry::Later {
        status = temporary(status);
    }
    Failure {
        retry,
        scope: match stage {
            Stage::Rcpt => Scope::Recipient,
            _ => Scope::Transaction,
        },
        stage,
        cause: Cause::Reply,
        code: Some(code),
        status,
        text: reply.text(),
        may_be_sent_twice: false,
    }
}

/// What a refusal of the session itself says, before MAIL or by 421: this host will not do now (CL-1, CL-8). Only 521
/// as greeting speaks for good, and only if every host says so (RFC 7504 §4); never a relay's (RO-9).
pub fn session_refused(stage: Stage, reply: &Reply, enhanced: bool, relay: bool) -> Failure {
    let mut failure = refused(stage, reply, enhanced);
    failure.scope = Scope::Host;
    if stage == Stage::Greeting && reply.code().get() == 521 && !relay {
        failure.retry = Retry::Never;
        failure.status = EnhancedCode::new(5, 3, 2);
    } else {
        failure.retry = Retry::Later;
        failure.status = temporary(failure.status);
    }
    if stage == Stage::Auth && failure.status.subject() == 0 {
        failure.status = AUTH_FAILED;
    }
    failure
}

/// The same subject and detail, class 4.
fn temporary(status: EnhancedCode) -> EnhancedCode {
    EnhancedCode::new(4, status.subject(), status.detail())
}

/// CL-18: whether the refusal is about the address, for history and metrics.
pub fn is_about_address(failure: &Failure) -> bool {
    failure.stage == Stage::Rcpt
        && failure.code.is_some_and(|code| {
            matches!(
                code.get(),
                401 | 422 | 441 | 450 | 451 | 501 | 510 | 511 | 513 | 541 | 550 | 551 | 553 | 556
            )
        })
}

/// What the failures of all hosts tried mean together, in the order in which they came (DV-16). A host's word is for
/// good only if every host says so (CL-1, CL-11 to CL-13); else the last temporary one counts. Where no host was good
/// enough for MAIL, it is what an operator must mend (RO-8). The place of the one that counts; `None` without any.
pub fn exhausted(failures: &[Failure]) -> Option<usize> {
    let to_mend = failures.iter().rposition(|f| f.scope == Scope::Transport);
    if to_mend.is_some() && !failures.iter().any(|f| f.stage.is_from_mail_on()) {
        return to_mend;
    }
    let last_temporary = failures.iter().rposition(|f| f.retry == Retry::Later);
    last_temporary.or(failures.len().checked_sub(1))
}

/// What becomes of a recipient after a failed attempt. `both_families`: the host that refused has addresses of both
/// families. `random` is 0..=1.
pub fn verdict(
    failure: &Failure,
    terms: &Terms<'_>,
    ended: &Ended,
    both_families: bool,
    random: f64,
) -> Verdict {
    if failure.retry == Retry::Never && !is_worth_the_other_family(failure, ended, both_families) {
        return Verdict::Failed;
    }
    match terms.after_failure(ended, random) {
        Course::Again(next) => Verdict::Deferred { next },
        Course::Expired => Verdict::Expired,
        Course::Exhausted => Verdict::Failed,
    }
}

/// DV-17: a refusal by policy may be about our address of one family only, so the first one is given a second chance
/// with the other.
fn is_worth_the_other_family(failure: &Failure, ended: &Ended, both_families: bool) -> bool {
    both_families
        && ended.attempts == 1
        && failure.status.subject() == 7
        && failure.code.is_some_and(|code| code.is_permanent())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Head, QueueId};
    use crate::smtp::address::Domain;
    use crate::smtp::reply::ReplyCode;

    fn reply(text: &str) -> Reply {
        let (code, text) = text.split_at(3);
        let code = ReplyCode::new(code.parse().unwrap()).unwrap();
        Reply::new(code, text.trim_start())
    }

    fn at_rcpt(text: &str) -> (Retry, String) {
        let failure = refused(Stage::Rcpt, &reply(text), true);
        (failure.retry, failure.status.to_string())
    }

    // CL-18
    #[test]
    fn the_first_digit_of_the_reply_to_rcpt_decides_and_the_known_codes_are_about_the_address() {
        for code in [450, 451, 401, 422, 441] {
            assert_eq!(at_rcpt(&format!("{code} x")).0, Retry::Later, "{code}");
        }
        for code in [501, 510, 511, 513, 541, 550, 551, 553, 556] {
            assert_eq!(at_rcpt(&format!("{code} x")).0, Retry::Never, "{code}");
        }
        let about = |text| is_about_address(&refused(Stage::Rcpt, &reply(text), true));
        assert!(about("550 x") && about("451 x"));
        assert!(!about("554 x") && !about("452 x"));
        assert!(!is_about_address(&refused(
            Stage::Mail,
            &reply("550 x"),
            true
        )));
    }

    // CL-17
    #[test]
    fn a_552_to_rcpt_is_permanent_only_with_an_enhanced_code_of_class_5() {
        assert_eq!(at_rcpt("552 too many"), (Retry::Later, "4.0.0".to_string()));
        assert_eq!(
            at_rcpt("552 4.5.3 too many"),
            (Retry::Later, "4.5.3".to_string())
        );
        assert_eq!(
            at_rcpt("552 5.2.2 full"),
            (Retry::Never, "5.2.2".to_string())
        );
        assert_eq!(
            refused(Stage::Rcpt, &reply("552 5.2.2 full"), false).retry,
            Retry::Later,
            "not announced"
        );
        assert_eq!(at_rcpt("452 4.5.3 too many").0, Retry::Later);
    }

    // CL-19
    #[test]
    fn a_552_to_mail_means_too_large() {
        let failure = refused(Stage::Mail, &reply("552 no"), true);
        assert_eq!(failure.status.to_string(), "5.3.4");
        assert_eq!(failure.retry, Retry::Never);
        assert_eq!(failure.scope, Scope::Transaction);
    }

    // CL-1, RO-9
    #[test]
    fn only_521_as_greeting_of_an_mx_host_speaks_for_good() {
        let said = |stage, text, relay| session_refused(stage, &reply(text), true, relay).retry;
        assert_eq!(said(Stage::Greeting, "521 no mail", false), Retry::Never);
        assert_eq!(said(Stage::Greeting, "521 no mail", true), Retry::Later);
        assert_eq!(said(Stage::Greeting, "554 no", false), Retry::Later);
        assert_eq!(said(Stage::Ehlo, "550 no", false), Retry::Later);
        let failure = session_refused(Stage::Greeting, &reply("554 5.7.1 no"), false, false);
        assert_eq!(failure.status.to_string(), "4.0.0");
    }

    // CL-1, CL-11, DV-16
    #[test]
    fn hosts_fail_for_good_only_all_together() {
        let never = session_refused(Stage::Greeting, &reply("521 a"), true, false);
        let later = session_refused(Stage::Greeting, &reply("421 b"), true, false);
        assert_eq!(exhausted(&[never.clone(), never.clone()]), Some(1));
        assert_eq!(exhausted(&[later.clone(), never.clone()]), Some(0));
        assert_eq!(exhausted(&[later.clone(), never, later]), Some(2));
        assert_eq!(exhausted(&[]), None);
    }

    fn head() -> Head {
        Head::new(
            QueueId::new(1).unwrap(),
            crate::clock::Timestamp::from_secs(1_800_000_000),
            "relay",
        )
    }

    fn judge(text: &str, attempts: u32, both_families: bool) -> Verdict {
        let config = crate::config::Config::default_for(Domain::parse("here.test").unwrap());
        let head = head();
        let terms = Terms::of(&config, &head);
        let ended = Ended {
            attempts,
            started: head.arrived,
            took: std::time::Duration::ZERO,
            now: head.arrived,
        };
        let failure = refused(Stage::Rcpt, &reply(text), true);
        verdict(&failure, &terms, &ended, both_families, 0.5)
    }

    // DV-17
    #[test]
    fn a_first_refusal_by_policy_gets_a_second_chance_with_the_other_family() {
        let deferred = |verdict| matches!(verdict, Verdict::Deferred { .. });
        assert!(deferred(judge("550 5.7.1 listed", 1, true)));
        assert_eq!(judge("550 5.7.1 listed", 2, true), Verdict::Failed);
        assert_eq!(judge("550 5.7.1 listed", 1, false), Verdict::Failed);
        assert_eq!(judge("550 5.1.1 unknown", 1, true), Verdict::Failed);
    }
}
