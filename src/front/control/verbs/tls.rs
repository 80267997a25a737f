//! `tlsinfo` and `requiretls` (CTL-15).

use std::time::Duration;

use super::Call;
use super::change::changed;
use crate::clock::Timestamp;
use crate::delivery::{Probe, ProbedHost};
use crate::front::control::filter::Args;
use crate::front::control::output::{Code, Done, Record, Reply, Stop};
use crate::log::Line;
use crate::message::RequireTls;
use crate::policy::tls::facts::{DaneFacts, MemoryFacts, StsFacts, StsMode};
use crate::policy::tlsrpt::schedule::Day;
use crate::smtp::address::Domain;
use crate::store::{Change, ReportRow, StsChange, TlsRow};

/// Rows read at a time.
const PAGE: usize = 500;

/// How long finding out about a domain may take.
const PATIENCE: Duration = Duration::from_secs(50);

pub(super) fn tlsinfo(
    call: &Call<'_>,
    mut args: Args,
    reply: &mut Reply<'_>,
) -> Result<Done, Stop> {
    let domain = args.read("domain", "a domain", |text| Domain::parse(text).ok())?;
    let clear = args.flag("clear")?;
    let test = args.flag("test")?;
    let reported = args.flag("reports")?;
    args.finish()?;
    match (domain, clear, test, reported) {
        (domain, false, false, true) => reports(call, domain.as_ref(), reply),
        (None, false, false, false) => list(call, reply),
        (Some(domain), false, test, false) => about(call, &domain, test, reply),
        (Some(domain), true, false, false) => forget(call, &domain),
        _ => Err(Stop::usage(
            "clear, test or reports, the first two with the domain: tlsinfo domain=D clear",
        )),
    }
}

/// What was counted for TLS reports and is not too old (RPT-1); of one domain, with all that its reports say.
fn reports(call: &Call<'_>, domain: Option<&Domain>, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let mut count = 0;
    let mut after = (Day::from_number(0), String::new());
    loop {
        let page = call
            .control
            .store
            .reports_after((after.0, &after.1), PAGE)?;
        for row in &page {
            if domain.is_some_and(|domain| domain.as_str() != row.domain) {
                continue;
            }
            let state = if row.done { "done" } else { "waiting" };
            let record = Record::new()
                .text("day", row.day.date())
                .text("domain", &row.domain)
                .text("state", state)
                .number("tries", row.tries);
            // What a report said is gone with it.
            let record = match row.done {
                true => record,
                false => record
                    .time("next", row.next)
                    .number("successes", row.successes)
                    .number("failures", row.failures),
            };
            reply.record(&record)?;
            count += 1;
            if domain.is_some() {
                count += report(call, row, reply)?;
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = (last.day, last.domain.clone()),
            _ => return Ok(Done::Count(count, None)),
        }
    }
}

fn report(call: &Call<'_>, row: &ReportRow, reply: &mut Reply<'_>) -> Result<u64, Stop> {
    let mut count = 0;
    for policy in call.control.store.report_counts(row.day, &row.domain)? {
        let record = Record::new()
            .text("policy-type", policy.kind)
            .text("policy-domain", &policy.domain)
            .number("successes", policy.successes)
            .number("failures", policy.failures);
        reply.record(&record)?;
        for failure in &policy.details {
            let some = |text: &'_ String| (!text.is_empty()).then(|| text.clone());
            let record = Record::new()
                .text("kind", &failure.kind)
                .number("sessions", failure.sessions)
                .maybe("host", some(&failure.host))
                .maybe("address", some(&failure.address))
                .maybe("text", some(&failure.reason));
            reply.record(&record)?;
        }
        count += 1 + policy.details.len() as u64;
    }
    Ok(count)
}

/// All that is remembered.
fn list(call: &Call<'_>, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let mut count = 0;
    let mut after = String::new();
    loop {
        let page = call.control.store.tls_memories(&after, PAGE)?;
        for row in &page {
            reply.record(&memory(call, row))?;
            count += 1;
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after.clone_from(&last.domain),
            _ => return Ok(Done::Count(count, None)),
        }
    }
}

fn memory(call: &Call<'_>, row: &TlsRow) -> Record {
    let facts = MemoryFacts {
        encrypted: Some(row.encrypted),
        verified: row.verified,
        requiretls: row.requiretls,
    };
    let age = call.control.config.get().tls.memory_age.get();
    Record::new()
        .text("domain", &row.domain)
        .text("remembered", facts.at(call.now, age).level())
        .time("since", row.since)
        .time("encrypted", row.encrypted)
        .maybe("verified", row.verified)
        .maybe("requiretls", row.requiretls)
}

fn forget(call: &Call<'_>, domain: &Domain) -> Result<Done, Stop> {
    let policy = StsChange::Forget(domain.as_str().to_owned());
    let policy = call.control.store.change_sts(policy)?;
    if !call.control.store.forget_tls(domain.as_str())? && !policy {
        let text = format!("nothing is remembered of {domain}");
        return Err(Stop::Refused(Code::Usage, text));
    }
    Line::new("tls-forgotten")
        .key("domain", domain)
        .num("uid", call.peer.uid)
        .info();
    Ok(Done::Count(1, None))
}

/// One domain: what is remembered, its policy, its hosts.
fn about(
    call: &Call<'_>,
    domain: &Domain,
    test: bool,
    reply: &mut Reply<'_>,
) -> Result<Done, Stop> {
    let mut count = 0;
    if let Some(row) = call.control.store.tls_memory(domain)? {
        reply.record(&memory(call, &row))?;
        count += 1;
    }
    let probe = match call.control.host.probe_tls(domain, test, PATIENCE) {
        None => return Ok(Done::Count(count, None)),
        Some(Ok(probe)) => probe,
        Some(Err(failure)) => {
            let record = Record::new()
                .text("domain", domain)
                .text("result", "error")
                .text("status", failure.status)
                .text("text", &failure.text);
            reply.record(&record)?;
            return Ok(Done::Count(count + 1, None));
        }
    };
    // As it is after the probe, which may have fetched it.
    let kept = call.control.store.sts_policy(domain)?;
    let fetched = kept.map(|row| row.fetched);
    for record in records(domain, &probe, fetched) {
        reply.record(&record)?;
        count += 1;
    }
    Ok(Done::Count(count, None))
}

fn records(domain: &Domain, probe: &Probe, fetched: Option<Timestamp>) -> Vec<Record> {
    let mut records = Vec::new();
    if let StsFacts::Policy(policy) = &probe.sts {
        let mx: Vec<String> = policy.mx.iter().map(ToString::to_string).collect();
        let mode = match policy.mode {
            StsMode::Enforce => "enforce",
            StsMode::Testing => "testing",
            StsMode::None => "none",
        };
        records.push(
            Record::new()
                .text("mta-sts", domain)
                .text("mode", mode)
                .text("policy-id", &policy.id)
                .number("max-age", policy.max_age)
                .maybe("fetched", fetched)
                .time("expires", policy.expires)
                .text("mx", mx.join(",")),
        );
    }
    records.extend(probe.hosts.iter().map(host));
    if let Some(failure) = &probe.end {
        records.push(
            Record::new()
                .text("domain", domain)
                .text("result", "error")
                .text("status", failure.status)
                .text("text", &failure.text),
        );
    }
    records
}

fn host(host: &ProbedHost) -> Record {
    let (dane, records) = match &host.dane {
        DaneFacts::Insecure => ("insecure", None),
        DaneFacts::Nothing => ("none", None),
        DaneFacts::Failed(_) => ("failed", None),
        DaneFacts::Records { records, .. } => {
            let usable = records.iter().any(|record| record.is_usable());
            let texts: Vec<String> = records.iter().map(ToString::to_string).collect();
            (
                if usable { "usable" } else { "unusable" },
                Some(texts.join(", ")),
            )
        }
    };
    let mut record = Record::new()
        .text("host", &host.name)
        .text("dane", dane)
        .maybe("tlsa", records);
    match &host.requirement {
        Ok(requirement) => record = record.text("tls-policy", requirement),
        Err(failure) => {
            return record
                .text("result", "skipped")
                .text("status", failure.status)
                .text("text", &failure.text);
        }
    }
    let Some(session) = &host.session else {
        return record;
    };
    if let Some(reached) = &session.reached {
        record = record
            .text("tls", reached.level())
            .text("protocol", &reached.protocol);
        if let Err(fault) = &reached.name {
            record = record.text("name", &fault.text);
        }
        if let Some(Err(fault)) = &reached.dane {
            record = record.text("tlsa-fault", &fault.text);
        }
    } else if session.result.is_ok() {
        record = record.text("tls", "plain");
    }
    record = record.text("requiretls", if session.requiretls { "yes" } else { "no" });
    match &session.result {
        Ok(()) => record.text("result", "ok"),
        Err(failure) => record
            .text("result", "error")
            .text("status", failure.status)
            .text("text", &failure.text),
    }
}

pub(super) fn requiretls(
    call: &Call<'_>,
    mut args: Args,
    reply: &mut Reply<'_>,
) -> Result<Done, Stop> {
    let value = args.read("set", "yes, no or default", |text| match text {
        "yes" => Some(RequireTls::Yes),
        "no" => Some(RequireTls::No),
        "default" => Some(RequireTls::Default),
        _ => None,
    })?;
    let Some(value) = value else {
        return Err(Stop::usage("set=yes, set=no or set=default is missing"));
    };
    changed(
        call,
        args,
        "requiretls",
        &Change::RequireTls { value },
        reply,
    )
}
