//! The thread that writes counts down and sends the reports of the days before (RPT-2 to RPT-4).
//!
//! It sleeps on the queue's clock, and ends when [`Reporter::stop`] drops its sender. A try is committed before anybody is
//! spoken to, so a kill costs a try and never makes a loop; one that comes between the last octet and the commit makes a
//! second copy, which has the same Report-ID.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};

use super::Counter;
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, Live};
use crate::delivery::Outbox;
use crate::log::Line;
use crate::message::QueueId;
use crate::message::tlsrpt::{GZIP, Letter, PolicyCount, Report};
use crate::message::trace::new_message_id;
use crate::net::Network;
use crate::net::deadline::Deadline;
use crate::net::https::{Posted, Request};
use crate::policy::hosts::Found;
use crate::policy::tlsrpt::schedule::{self, Day, TRIES};
use crate::policy::tlsrpt::{self, Target};
use crate::smtp::address::{AddressDomain, Domain, Mailbox};
use crate::store::{DueReport, ReportChange, Store, StoreError};

/// The longest post, from the first lookup to the last octet of the answer (RPT-3).
const LONGEST_POST: Duration = Duration::from_secs(60);
/// What a server may say to that; nobody reads it.
const LONGEST_ANSWER: usize = 64 * 1024;
/// Longest sleep, so that a step of the wall clock and a changed configuration are noticed (RT-9).
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// From one look at the old days to the next, at most.
const DAY: Duration = Duration::from_secs(86_400);
/// When the store cannot answer, it is asked again after this time.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a stop waits for the report in hand, which is tried again later when it is left alone.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// The thread.
pub struct Reporter {
    stop: Sender<()>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
    thread: JoinHandle<()>,
    counter: Arc<Counter>,
    store: Store,
}

/// What it works with.
struct Parts {
    counter: Arc<Counter>,
    store: Store,
    live: Live,
    clock: Clock,
    network: Network,
    outbox: Arc<dyn Outbox>,
    /// It has been said that reports by mail are not signed.
    unsigned_told: AtomicBool,
}

/// How a report went out.
enum Sent {
    /// The server has it.
    Posted,
    /// It is mail now.
    Queued(QueueId),
}

/// What it waits for.
struct Plan {
    today: Day,
    /// When reports begin today.
    begins: Timestamp,
    /// When there is a report to send, or to look for.
    next: Timestamp,
    /// What is too old today has been removed.
    tidy: bool,
}

impl Reporter {
    /// Starts it.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(
        counter: Arc<Counter>,
        store: Store,
        network: Network,
        outbox: Arc<dyn Outbox>,
    ) -> std::io::Result<Reporter> {
        let (stop, stopped) = bounded(0);
        let (running, ended) = bounded::<()>(0);
        let parts = Parts {
            store: store.clone(),
            live: counter.live.clone(),
            clock: counter.clock.clone(),
            counter: Arc::clone(&counter),
            network,
            outbox,
            unsigned_told: AtomicBool::new(false),
        };
        let thread = std::thread::Builder::new()
            .name("tls-reports".into())
            .spawn(move || {
                let _running = running;
                parts.run(&stopped);
            })?;
        Ok(Reporter {
            stop,
            ended,
            thread,
            counter,
            store,
        })
    }

    /// Ends it after the report in hand, or without it when that takes long, and writes down what was counted.
    pub fn stop(self) {
        drop(self.stop);
        if self.ended.recv_timeout(STOP_PATIENCE) != Err(RecvTimeoutError::Timeout) {
            let _ = self.thread.join();
        }
        let _ = self.counter.flush(&self.store);
    }
}

impl Parts {
    fn run(&self, stopped: &Receiver<()>) {
        let now = self.clock.now();
        let mut plan = Plan::of(now);
        loop {
            // PRC-3: a panic costs one round.
            let round = catch_unwind(AssertUnwindSafe(|| self.round(&mut plan)));
            let failed = match round {
                Ok(Ok(())) => false,
                Ok(Err(StoreError::Closed)) => return,
                Ok(Err(error)) => {
                    let text = error.to_string();
                    Line::new("tls-report")
                        .key("result", "later")
                        .peer("text", &text)
                        .warn();
                    true
                }
                Err(_) => {
                    Line::new("panic").key("thread", "tls-reports").error();
                    true
                }
            };
            let now = self.clock.now();
            if failed {
                plan.next = plan.next.max(now.plus(PATIENCE));
            }
            let flush = self.counter.flush_at();
            let next = flush.map_or(plan.next, |flush| flush.min(plan.next));
            let timer = self.clock.timer(next.min(now.plus(LONGEST_SLEEP)));
            select! {
                recv(stopped) -> _ => return,
                recv(self.counter.nudged) -> _ => {}
                recv(timer) -> _ => {}
            }
        }
    }

    fn round(&self, plan: &mut Plan) -> Result<(), StoreError> {
        let now = self.clock.now();
        if self.counter.flush_at().is_some_and(|at| now >= at) {
            self.counter.flush(&self.store)?;
        }
        // After a backward step of the clock nothing is further away than a day.
        plan.next = plan.next.min(now.plus(DAY));
        if now < plan.next {
            return Ok(());
        }
        if plan.today != Day::of(now) {
            *plan = Plan::of(now);
        }
        if now < plan.begins {
            plan.next = plan.begins;
            return Ok(());
        }
        // The last minute of yesterday belongs to it.
        self.counter.flush(&self.store)?;
        if !plan.tidy {
            let before = schedule::oldest(now);
            while self.store.change_report(ReportChange::Forget { before })? {}
            plan.tidy = true;
        }
        let midnight = plan.today.end();
        if !self.live.get().tls.reports {
            plan.next = midnight.min(now.plus(LONGEST_SLEEP));
            return Ok(());
        }
        let Some(due) = self.store.due_report(now)? else {
            let next = self.store.next_report(now)?.unwrap_or(midnight);
            plan.next = next.min(midnight);
            return Ok(());
        };
        let waiting = due.waiting - 1;
        // Should this fail, the others go on all the same.
        plan.next = now.plus(schedule::pace(waiting, plan.begins, now));
        self.send(&due, now)
    }

    fn send(&self, due: &DueReport, now: Timestamp) -> Result<(), StoreError> {
        let Ok(domain) = Domain::parse(&due.domain) else {
            return self.done(due);
        };
        if due.tries >= TRIES {
            // Killed in its last try.
            return self.done(due);
        }
        let again = schedule::again(due.tries + 1);
        let begun = self.store.change_report(ReportChange::Try {
            day: due.day,
            domain: due.domain.clone(),
            tries: due.tries,
            next: now.plus(again.unwrap_or(DAY)),
        })?;
        if !begun {
            return Ok(());
        }
        let line = || {
            Line::new("tls-report")
                .key("domain", &domain)
                .key("day", due.day.date())
        };
        let targets = match self.targets(&domain) {
            Ok(targets) => targets.unwrap_or_default(),
            Err(text) => {
                let result = if again.is_some() { "later" } else { "failed" };
                line().key("result", result).peer("text", &text).warn();
                return match again {
                    Some(_) => Ok(()),
                    None => self.done(due),
                };
            }
        };
        if targets.is_empty() {
            return self.done(due);
        }
        let policies = self.store.report_counts(due.day, &due.domain)?;
        let config = self.live.get();
        let (mut sent, mut failed) = (false, false);
        for target in &targets {
            let line = line().key("to", target).num("try", due.tries + 1);
            match self.send_to(target, &domain, due.day, &config, &policies) {
                Some(Ok(Sent::Posted)) => {
                    sent = true;
                    line.key("result", "posted").info();
                }
                Some(Ok(Sent::Queued(id))) => {
                    sent = true;
                    line.key("result", "queued").key("as", id).info();
                }
                Some(Err(text)) => {
                    failed = true;
                    line.key("result", "failed").peer("text", &text).warn();
                }
                None => {}
            }
        }
        // RFC 8460 §3: one of them is enough.
        if failed && !sent && again.is_some() {
            return Ok(());
        }
        self.done(due)
    }

    fn done(&self, due: &DueReport) -> Result<(), StoreError> {
        self.store
            .change_report(ReportChange::Done {
                day: due.day,
                domain: due.domain.clone(),
            })
            .map(drop)
    }

    /// Where the domain wants its report; `None`: nowhere (RPT-2).
    fn targets(&self, domain: &Domain) -> Result<Option<Vec<Target>>, String> {
        let name = format!("{}.{domain}", tlsrpt::LABELS);
        // A domain so long that its record cannot have a name has none.
        if Domain::parse(&name).is_err() {
            return Ok(None);
        }
        let deadline = Deadline::after(self.live.get().dns.total_timeout.get());
        let answer = self.network.resolver().txt(&name, deadline);
        let answer = answer.map_err(|error| error.to_string())?;
        Ok(match &answer.found {
            Found::Records(records) => tlsrpt::record(records),
            Found::Missing(_) => None,
        })
    }

    /// How it went there, or why not; `None`: it cannot go there at all.
    fn send_to(
        &self,
        target: &Target,
        domain: &Domain,
        day: Day,
        config: &Config,
        policies: &[PolicyCount],
    ) -> Option<Result<Sent, String>> {
        let contact = contact(config);
        let submitter = match contact.domain() {
            AddressDomain::Name(name) => name.clone(),
            AddressDomain::Literal(_) => config.hostname.clone(),
        };
        let report = Report {
            domain,
            submitter: &submitter,
            contact: &contact,
            start: day.start(),
            end: day.end().minus(Duration::from_secs(1)),
            policies,
        };
        match target {
            Target::Post { host, port, path } => {
                let request = Request {
                    host,
                    port: *port,
                    path,
                    content: Some(Posted {
                        kind: GZIP,
                        body: &report.gzip(),
                    }),
                    limit: LONGEST_ANSWER,
                };
                let deadline = Deadline::after(LONGEST_POST);
                Some(match self.network.https(&request, deadline) {
                    Ok(answer) if answer.status / 100 == 2 => Ok(Sent::Posted),
                    Ok(answer) => Err(format!("HTTP status {}", answer.status)),
                    Err(error) => Err(error.to_string()),
                })
            }
            Target::Mail(_) if !self.outbox.signs_for(&submitter) => {
                // RFC 8460 §3: without a signature it would be ignored.
                if !self.unsigned_told.swap(true, Ordering::Relaxed) {
                    let reason = "mail from this domain is not signed with DKIM";
                    Line::new("tls-report-unsigned")
                        .key("domain", &submitter)
                        .peer("reason", reason)
                        .warn();
                }
                None
            }
            Target::Mail(to) => {
                let letter = Letter {
                    report: &report,
                    to,
                    now: self.clock.now(),
                    message_id: &new_message_id(&config.hostname),
                };
                let queued = self.outbox.queue(to, &letter.write());
                Some(queued.map(Sent::Queued))
            }
        }
    }
}

impl Plan {
    fn of(now: Timestamp) -> Plan {
        let today = Day::of(now);
        let begins = schedule::begins(today, rand::random());
        Plan {
            today,
            begins,
            next: begins,
            tidy: false,
        }
    }
}

/// Whom to ask about a report: an address that can stand in an ASCII header.
fn contact(config: &Config) -> Mailbox {
    let from = config.tls.report_from.as_ref();
    let from = from.unwrap_or(&config.dsn.from);
    if !from.needs_utf8() {
        return from.clone();
    }
    Mailbox::parse(&format!("postmaster@{}", config.hostname), false)
        .expect("a host name is a domain")
}
