//! From what happened to what is recorded: verdicts, the settling commit, and the line of the mail trail (OBS-1, OBS-8).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::Parts;
use super::running::Running;
use super::trail::{Trail, tell_done, tell_doubt};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::dispatch::Wake;
use crate::log::Line;
use crate::message::RecipientId;
use crate::metrics::Fault;
use crate::policy::failure::{Attempt, Cause, Failure, Scope, Stage, TlsLevel, Verdict};
use crate::policy::notice;
use crate::policy::retry::{Course, Ended, Terms};
use crate::policy::{route, verdict};
use crate::smtp::reply::{EnhancedCode, ReplyCode};
use crate::store::{DestinationKey, Outcome, Settled, Settlement, StoreError};

/// The connection on which something happened, as far as there was one.
#[derive(Clone, Debug, Default)]
pub(super) struct Scene {
    /// The host; empty if none was reached.
    pub host: String,
    /// Its address and port.
    pub address: Option<SocketAddr>,
    /// Our own address.
    pub source: Option<IpAddr>,
    /// The level of protection.
    pub tls: TlsLevel,
    /// What was required of it and by whom; empty where it did not come so far.
    pub tls_policy: String,
    /// The session had been used before.
    pub reused: bool,
    /// The host has addresses of both families (DV-17).
    pub both_families: bool,
    /// Time for lookups and dialling.
    pub connect: Duration,
    /// Time from the connection to the session at rest.
    pub session: Duration,
    /// Time from MAIL to the outcome.
    pub data: Duration,
}

/// The 2yz after the dot, or what stands for it.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    /// `None`: nobody was asked (RO-13).
    pub code: Option<ReplyCode>,
    pub status: EnhancedCode,
    pub text: String,
    /// The host will tell the sender who asked to be told of success: it announced DSN (RFC 3461 §5.2.1).
    pub confirms: bool,
}

/// What happened to one recipient.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    /// The row in [`Running::rows`].
    pub row: usize,
    /// Delivered, or why not.
    pub result: Result<Accepted, Failure>,
    /// Where.
    pub scene: Arc<Scene>,
    /// The unit of work panicked or hung.
    pub poison: bool,
}

/// Records outcomes of rows that the caller has taken from the registry; returns after the commit. A store that
/// is full or busy for now is asked again until it takes them or closes: what was delivered must be recorded (ST-7).
pub(super) fn settle(parts: &Parts, running: &Running, happened: Vec<Happened>) {
    if !happened.is_empty() {
        Judged::new(parts, running, happened).commit(parts, running);
    }
}

/// Outcomes with what becomes of them, on their way to the store.
pub(super) struct Judged {
    now: Timestamp,
    settlement: Arc<Settlement>,
    /// Recipients that may get a second copy.
    doubtful: Vec<RecipientId>,
    /// Recipients of which it was no attempt: until when, and why.
    given_back: Vec<(u32, Timestamp, String)>,
    /// Groups that have something due.
    due: Vec<(DestinationKey, Timestamp)>,
    lines: Vec<Trail>,
}

impl Judged {
    pub(super) fn new(parts: &Parts, running: &Running, happened: Vec<Happened>) -> Judged {
        let config = parts.live.get();
        let now = parts.clock.now();
        let dialled = running.addresses();
        let mut lines = Vec::with_capacity(happened.len());
        let mut doubtful = Vec::new();
        let mut settlement = Settlement {
            id: running.head.id,
            outcomes: Vec::new(),
        };
        let mut given_back: Vec<(u32, Timestamp, String)> = Vec::new();
        let mut due: Vec<(DestinationKey, Timestamp)> = Vec::new();
        for one in happened {
            let row = &running.rows[one.row];
            let counted = is_attempt(&one, &dialled);
            let routed = next_way(&config, running, one.row, counted);
            let terms = Terms::between(&config, &running.head, &running.transport, routed.name);
            let verdict = judge(&terms, running, &one, now, counted);
            let destination = routed.destination;
            let attempt = record(running, &one, &dialled);
            if attempt.may_be_sent_twice {
                doubtful.push(row.id);
            }
            lines.push(Trail::new(running, &one, &attempt, verdict, now));
            if let Verdict::Deferred { next } = verdict {
                due.push((destination.clone(), next));
                if !counted {
                    let why = format!("{} {}", attempt.status, attempt.text);
                    given_back.push((row.id.number, next, why));
                    continue;
                }
            }
            settlement.outcomes.push(Outcome {
                number: row.id.number,
                verdict,
                destination,
                attempt,
                delay_due: notice::next_delay_of(&terms, &running.head, row.delay_told),
                unconfirmed: row.recipient.notify.success
                    && one.result.as_ref().is_ok_and(|accepted| !accepted.confirms),
                poison: one.poison,
            });
        }
        given_back.sort_by(|a, b| (a.1, &a.2).cmp(&(b.1, &b.2)));
        Judged {
            now,
            settlement: Arc::new(settlement),
            doubtful,
            given_back,
            due,
            lines,
        }
    }

    /// Whether all have been delivered, so that there is nothing else to do than to record it.
    pub(super) fn are_deliveries(&self) -> bool {
        let outcomes = &self.settlement.outcomes;
        let mut verdicts = outcomes.iter().map(|outcome| outcome.verdict);
        !outcomes.is_empty()
            && self.given_back.is_empty()
            && verdicts.all(|verdict| verdict == Verdict::Delivered)
    }

    /// What the store is asked to record.
    pub(super) fn settlement(&self) -> Arc<Settlement> {
        Arc::clone(&self.settlement)
    }

    /// Records it, and says so. Asks until the store takes it or never will.
    pub(super) fn commit(self, parts: &Parts, running: &Running) {
        tell_doubt(&self.doubtful);
        let id = self.settlement.id;
        let mut settled = Settled::default();
        let mut add = |more: Settled| {
            settled.finished |= more.finished;
            settled.overruled.extend(more.overruled);
        };
        if !self.settlement.outcomes.is_empty() {
            // It may be asked for again.
            match persist(parts, running, || {
                parts.store.settle(Arc::clone(&self.settlement))
            }) {
                Some(outcome) => add(outcome),
                None => return,
            }
        }
        for group in self.given_back.chunk_by(|a, b| (a.1, &a.2) == (b.1, &b.2)) {
            let numbers: Vec<u32> = group.iter().map(|(number, ..)| *number).collect();
            let (_, next, why) = &group[0];
            let put_back = persist(parts, running, || {
                parts.store.unclaim(id, &numbers, *next, Some(why))
            });
            match put_back {
                Some(outcome) => add(outcome),
                None => return,
            }
        }
        self.recorded(parts, running, &settled);
    }

    /// It is on disk: counts and tells it.
    pub(super) fn recorded(self, parts: &Parts, running: &Running, settled: &Settled) {
        count(parts, &self.settlement);
        for trail in self.lines {
            let number = trail.number;
            let overruled = settled.overruled.iter().find(|(at, _)| *at == number);
            trail.write(overruled.map(|(_, state)| *state));
        }
        tell_done(running, settled, self.now);
        let mut due = self.due;
        due.sort();
        due.dedup();
        for (destination, at) in due {
            (parts.wake)(Wake::Due(destination, at));
        }
    }
}

/// OBS-5: attempts that are on disk.
fn count(parts: &Parts, settlement: &Settlement) {
    for Outcome {
        verdict, attempt, ..
    } in &settlement.outcomes
    {
        let result = match verdict {
            Verdict::Delivered => "delivered",
            Verdict::Deferred { .. } => "deferred",
            Verdict::Failed => "failed",
            Verdict::Expired => "expired",
            Verdict::Held => "held",
        };
        let fault = match attempt.cause {
            None => Fault::NONE,
            Some(cause) => Fault::of(cause, attempt.code),
        };
        let metrics = parts.store.metrics();
        metrics.attempt(result, fault, &attempt.transport);
    }
}

/// Gives claims back untried (RT-7).
pub(super) fn give_back(parts: &Parts, running: &Running, rows: &[usize], due: Timestamp) {
    let numbers: Vec<u32> = rows
        .iter()
        .map(|row| running.rows[*row].id.number)
        .collect();
    if numbers.is_empty() {
        return;
    }
    let id = running.head.id;
    running.untried();
    let put_back = persist(parts, running, || {
        parts.store.unclaim(id, &numbers, due, None)
    });
    if let Some(settled) = put_back {
        for (number, state) in &settled.overruled {
            Line::new(state.word())
                .key("qid", id)
                .num("rcpt", *number)
                .peer("reason", "asked for while it was claimed")
                .info();
        }
        tell_done(running, &settled, parts.clock.now());
        let destination = running.rows[rows[0]].destination.clone();
        (parts.wake)(Wake::Due(destination, due));
    }
}

/// DV-19: a fault of our own counts only when a peer was dialled. A panic or hang always does: it is a fault of this
/// unit of work, and its count is what ends a loop.
fn is_attempt(one: &Happened, dialled: &[IpAddr]) -> bool {
    match &one.result {
        Ok(_) => true,
        Err(failure) => {
            one.poison
                || match failure.scope {
                    Scope::Local => !dialled.is_empty(),
                    // RO-8: never a bounce, however few attempts are permitted.
                    Scope::Transport => false,
                    _ => true,
                }
        }
    }
}

fn judge(
    terms: &Terms<'_>,
    running: &Running,
    one: &Happened,
    now: Timestamp,
    counted: bool,
) -> Verdict {
    let Err(failure) = &one.result else {
        return Verdict::Delivered;
    };
    let before = running.rows[one.row].attempts;
    let mut ended = Ended {
        attempts: before.saturating_add(1),
        started: running.claimed_at,
        took: running.claimed.elapsed(),
        now,
    };
    if counted {
        return verdict::verdict(
            failure,
            terms,
            &ended,
            one.scene.both_families,
            running.random,
        );
    }
    // Not an attempt, so it cannot be one too many; but age goes on (RT-3).
    ended.attempts = before;
    // RO-8: as often as the transport is probed, or mended mail would wait for long.
    let waits = match failure.scope {
        Scope::Transport => 1,
        _ => before.max(1),
    };
    match terms.after_failure(&ended, running.random) {
        Course::Expired => Verdict::Expired,
        Course::Again(_) | Course::Exhausted => Verdict::Deferred {
            next: terms.next_attempt(waits, ended.at(), running.random),
        },
    }
}

/// The way it takes from now on, and the group it waits in: routes may depend on attempts (RO-2).
fn next_way<'a>(
    config: &'a Config,
    running: &'a Running,
    row: usize,
    counted: bool,
) -> route::Routed<'a> {
    let row = &running.rows[row];
    let facts = route::RouteFacts {
        caller: &running.head.caller,
        from: &running.head.reverse_path,
        to: &row.recipient.path,
        attempts: row.attempts.saturating_add(u32::from(counted)),
        operator: row.transport.as_deref(),
    };
    route::route(config, &facts)
}

fn record(running: &Running, one: &Happened, dialled: &[IpAddr]) -> Attempt {
    let scene = &one.scene;
    let (stage, code, status, text, cause, twice) = match &one.result {
        Ok(accepted) => (
            match accepted.code {
                Some(_) => Stage::FinalDot,
                None => Stage::Route,
            },
            accepted.code,
            accepted.status,
            accepted.text.clone(),
            None,
            false,
        ),
        Err(failure) => (
            failure.stage,
            failure.code,
            failure.status,
            failure.text.clone(),
            Some(match verdict::is_about_address(failure) {
                true => Cause::Address,
                false => failure.cause,
            }),
            failure.may_be_sent_twice,
        ),
    };
    Attempt {
        started: running.claimed_at,
        duration: running.began.elapsed(),
        delays: [
            running.claimed_at.since(running.head.arrived),
            scene.connect,
            scene.session,
            scene.data,
        ],
        transport: running.transport.clone(),
        host: scene.host.clone(),
        address: scene.address,
        dialled: dialled.to_vec(),
        source: scene.source,
        tls: scene.tls,
        tls_policy: scene.tls_policy.clone(),
        stage,
        code,
        status,
        text,
        cause,
        may_be_sent_twice: twice,
        worker: running.worker.clone(),
        reused: scene.reused,
    }
}

/// Asks the store until it has taken it. `None`: it never will; the recipients stay claimed, in doubt after a restart.
fn persist<T>(
    parts: &Parts,
    running: &Running,
    ask: impl Fn() -> Result<T, StoreError>,
) -> Option<T> {
    let mut told = false;
    loop {
        running.alive();
        let error = match ask() {
            Ok(answer) => return Some(answer),
            Err(error) => error,
        };
        let passing = is_passing(&error);
        if !passing || !told {
            tell_unsettled(running, &error);
            told = true;
        }
        if !passing || !parts.pause(SETTLE_AGAIN) {
            running.keep_mark();
            return None;
        }
    }
}

/// Whether it is worth asking again (ST-7).
pub(super) fn is_passing(error: &StoreError) -> bool {
    matches!(error, StoreError::Full(_) | StoreError::Busy)
}

/// The store did not take an outcome.
pub(super) fn tell_unsettled(running: &Running, error: &StoreError) {
    let line = Line::new("unsettled")
        .key("qid", running.head.id)
        .key(
            "result",
            if is_passing(error) {
                "waiting"
            } else {
                "in-doubt"
            },
        )
        .peer("text", &error.to_string());
    line.error();
}

/// How long a store that cannot take an outcome is left alone.
const SETTLE_AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::super::outcome::local;
    use super::super::running::Begun;
    use super::super::trail::level;
    use super::*;
    use crate::policy::failure::Retry;
    use crate::store::State;

    fn happened(result: Result<Accepted, Failure>) -> Happened {
        Happened {
            row: 0,
            result,
            scene: Arc::new(Scene {
                host: "mx1.dest.test".into(),
                address: Some("192.0.2.7:25".parse().unwrap()),
                connect: Duration::from_millis(20),
                session: Duration::from_secs(1),
                data: Duration::from_millis(1500),
                tls: TlsLevel::Encrypted,
                ..Scene::default()
            }),
            poison: false,
        }
    }

    fn greylisted() -> Failure {
        Failure {
            retry: Retry::Later,
            scope: Scope::Recipient,
            stage: Stage::Rcpt,
            cause: Cause::Reply,
            code: ReplyCode::new(451),
            status: EnhancedCode::new(4, 7, 1),
            text: "4.7.1 try\n\"again\" later".into(),
            may_be_sent_twice: false,
        }
    }

    fn enter(fixture: &Fixture) -> super::super::running::Entry {
        let transaction = fixture.claim();
        let begun = Begun {
            head: transaction.head,
            rows: transaction.recipients,
            transport: transaction.transport,
            claimed_at: transaction.claimed_at,
            worker: "worker-7".into(),
            permit: transaction.permit,
        };
        fixture.parts.registry.enter(begun).0
    }

    // OBS-1
    #[test]
    fn one_line_says_what_happened_to_one_recipient() {
        let fixture = Fixture::new();
        fixture.clock.advance(Duration::from_secs(90));
        let entry = enter(&fixture);
        let one = happened(Err(greylisted()));
        let attempt = record(&entry.running, &one, &[]);
        let now = fixture.clock.now();
        let next = now.plus(Duration::from_secs(450));
        let trail = |verdict| Trail::new(&entry.running, &one, &attempt, verdict, now);
        assert_eq!(trail(Verdict::Failed).level, log::Level::Info);
        let line = trail(Verdict::Deferred { next }).complete(None);
        assert_eq!(
            line.to_string(),
            format!(
                "deliver qid={} rcpt=1 to=<bob@dest.test> from=<joe@here.test> \
                 relay=mx1.dest.test[192.0.2.7]:25 transport=direct attempt=1 delay=90s \
                 delays=90/0.020/1/1.500 tls=encrypted stage=rcpt code=451 status=4.7.1 \
                 result=deferred next={next} text=\"4.7.1 try\\n\\\"again\\\" later\"",
                entry.running.head.id
            )
        );
        // What an operator asked for meanwhile came first, and there is no next attempt.
        let line = trail(Verdict::Deferred { next }).complete(Some(State::Dropped));
        let line = line.to_string();
        assert!(line.contains(" result=dropped text="), "{line}");
    }

    // DV-19, OBS-3
    #[test]
    fn a_fault_of_our_own_is_an_error_and_no_attempt_unless_somebody_was_dialled() {
        let ours = || {
            let status = EnhancedCode::new(4, 4, 3);
            local(Stage::Dns, status, "DNS: no server answers".to_string())
        };
        let fixture = Fixture::new();
        let entry = enter(&fixture);
        settle(&fixture.parts, &entry.running, vec![happened(Err(ours()))]);
        let row = fixture.shown().recipients.remove(0);
        assert_eq!((row.state, row.attempts), (State::Queued, 0));
        assert_eq!(
            row.next_attempt,
            fixture.clock.now().plus(Duration::from_secs(450))
        );

        let fixture = Fixture::new();
        let entry = enter(&fixture);
        entry.running.dialled(&["192.0.2.7".parse().unwrap()]);
        let one = happened(Err(ours()));
        assert_eq!(level(&one), log::Level::Error);
        settle(&fixture.parts, &entry.running, vec![one]);
        assert_eq!(fixture.shown().recipients[0].attempts, 1);
    }

    // RT-9
    #[test]
    fn a_clock_put_forward_during_an_attempt_lengthens_no_wait_once_it_is_put_back() {
        let fixture = Fixture::new();
        let claimed_at = fixture.clock.now();
        let ours = local(Stage::Dns, EnhancedCode::new(4, 4, 3), "DNS".to_string());
        for result in [Err(ours), Err(greylisted())] {
            let entry = enter(&fixture);
            fixture.clock.advance(Duration::from_secs(86_400));
            settle(&fixture.parts, &entry.running, vec![happened(result)]);
            fixture.clock.set(claimed_at);
            let next = fixture.shown().recipients[0].next_attempt;
            assert!(next < claimed_at.plus(Duration::from_secs(3600)), "{next}");
        }
        let entry = enter(&fixture);
        fixture.clock.advance(Duration::from_secs(86_400));
        let now = entry.running.now(&fixture.clock);
        assert!(now < claimed_at.plus(Duration::from_secs(3600)), "{now}");
        // What was due when it was claimed is due, even if that time has not come again.
        fixture
            .clock
            .set(claimed_at.minus(Duration::from_secs(86_400)));
        assert_eq!(entry.running.due(&fixture.clock), fixture.clock.now());
    }

    // RT-3, RT-12: age goes on, whoever is to blame
    #[test]
    fn mail_past_its_lifetime_ends_even_if_nobody_can_be_dialled() {
        let fixture = Fixture::new();
        let entry = enter(&fixture);
        fixture.parts.live.set({
            let mut config = Config::clone(&fixture.parts.live.get());
            config.retry.lifetime = crate::config::Span(Duration::ZERO);
            config
        });
        let ours = local(Stage::Dns, EnhancedCode::new(4, 4, 3), "DNS".to_string());
        settle(&fixture.parts, &entry.running, vec![happened(Err(ours))]);
        assert_eq!(fixture.shown().recipients[0].state, State::Expired);
    }
}
