//! Rows to values and back.
//!
//! What cannot be read back is [`Damage`]: the row is held with that reason and skipped, everything else goes on.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Row;
use rusqlite::types::FromSql;

use super::{DestinationKey, Doubt, RecipientRow, ShownAttempt, State};
use crate::clock::Timestamp;
use crate::message::{Head, NewRecipient, Notify, QueueId, RecipientId, RequireTls, Ret};
use crate::policy::failure::{Attempt, Cause, Stage, TlsLevel};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::reply::{EnhancedCode, ReplyCode};

/// Bits that the number of a recipient, or the position of a chunk, takes in its row id.
const NUMBER_BITS: u32 = 20;

/// The highest recipient number and the highest position of a chunk.
pub(super) const MAX_NUMBER: u32 = (1 << NUMBER_BITS) - 1;

/// The highest queue id.
pub(super) const MAX_ID: i64 = i64::MAX >> NUMBER_BITS;

/// Addresses remembered per recipient (DV-12).
const MAX_DIALLED: usize = 8;

/// Octets of a blocker; the whole reply stands in the attempt.
const MAX_BLOCKER: usize = 1024;

/// The row id of a recipient or chunk.
pub(super) fn row_id(message: QueueId, number: u32) -> i64 {
    (message.get() << NUMBER_BITS) | i64::from(number)
}

/// The first and last row id of a message.
pub(super) fn row_range(message: QueueId) -> (i64, i64) {
    (row_id(message, 0), row_id(message, MAX_NUMBER))
}

/// The message that a row id belongs to, as stored.
pub(super) fn message_of(row: i64) -> i64 {
    row >> NUMBER_BITS
}

/// The recipient that a row id stands for.
pub(super) fn recipient_id(row: i64) -> Result<RecipientId, Damage> {
    let message = QueueId::new(message_of(row))
        .ok_or_else(|| Damage(format!("recipient row {row} belongs to no message")))?;
    // The mask leaves 20 bits.
    let number = (row & i64::from(MAX_NUMBER)) as u32;
    Ok(RecipientId { message, number })
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage(pub(super) String);

impl From<rusqlite::Error> for Damage {
    fn from(error: rusqlite::Error) -> Damage {
        Damage(error.to_string())
    }
}

/// Columns of [`head`], of a message `m`.
pub(super) const HEAD: &str = "m.id, m.arrived, m.caller, m.client, m.sender, m.header, m.message_id, m.subject, m.size, \
    m.eight_bit, m.utf8_headers, m.require_tls, m.envid, m.ret, m.priority, m.lifetime, m.max_attempts, m.extras";

/// Columns of [`recipient`], of a recipient `r` and its destination's key.
pub(super) const RECIPIENT: &str = "r.id, r.state, r.attempts, r.last_attempt, r.next_attempt, r.transport, r.dialled, \
    r.blocker, r.doubt, r.address, r.orcpt, r.notify, r.delay_told, r.parked";
/// How many they are; [`recipient`] takes the destination's key apart from them.
pub(super) const RECIPIENT_WIDTH: usize = 14;

fn get<T: FromSql>(row: &Row<'_>, index: usize) -> Result<T, Damage> {
    row.get(index).map_err(Damage::from)
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn span(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// Milliseconds, saturating.
pub(super) fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// The head in the columns [`HEAD`] from `at` on.
pub(super) fn head(row: &Row<'_>, at: usize) -> Result<Head, Damage> {
    let id: i64 = get(row, at)?;
    let id = QueueId::new(id).ok_or_else(|| Damage(format!("message id {id}")))?;
    let sender: String = get(row, at + 4)?;
    let reverse_path = ReversePath::parse(&sender, true)
        .map_err(|error| Damage(format!("reverse-path <{sender}>: {error}")))?;
    let extras: Option<Vec<u8>> = get(row, at + 17)?;
    Ok(Head {
        id,
        arrived: time(get(row, at + 1)?),
        caller: get(row, at + 2)?,
        client: get(row, at + 3)?,
        reverse_path,
        added_header: get(row, at + 5)?,
        message_id: get(row, at + 6)?,
        subject: get(row, at + 7)?,
        size: u64::try_from(get::<i64>(row, at + 8)?).map_err(|_| Damage("size".into()))?,
        eight_bit: get(row, at + 9)?,
        utf8_headers: get(row, at + 10)?,
        require_tls: match get::<i64>(row, at + 11)? {
            0 => RequireTls::Default,
            1 => RequireTls::Yes,
            2 => RequireTls::No,
            other => return Err(Damage(format!("require_tls {other}"))),
        },
        envid: get(row, at + 12)?,
        ret: match get::<Option<String>>(row, at + 13)?.as_deref() {
            None => None,
            Some("full") => Some(Ret::Full),
            Some("headers") => Some(Ret::Headers),
            Some(other) => return Err(Damage(format!("ret {other}"))),
        },
        priority: get(row, at + 14)?,
        lifetime: get::<Option<i64>>(row, at + 15)?.map(span),
        max_attempts: get(row, at + 16)?,
        extras: extras.map_or(Ok(Vec::new()), |bytes| split_extras(&bytes))?,
    })
}

/// As stored: see [`head`].
pub(super) fn require_tls(value: RequireTls) -> i64 {
    match value {
        RequireTls::Default => 0,
        RequireTls::Yes => 1,
        RequireTls::No => 2,
    }
}

/// As stored: see [`head`].
pub(super) fn ret(value: Ret) -> &'static str {
    match value {
        Ret::Full => "full",
        Ret::Headers => "headers",
    }
}

/// Extras as one value, or why they cannot be stored.
pub(super) fn join_extras(extras: &[(String, String)]) -> Result<Option<Vec<u8>>, &'static str> {
    if extras.is_empty() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    for text in extras.iter().flat_map(|(key, value)| [key, value]) {
        if text.contains('\0') {
            return Err("an extra contains NUL");
        }
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    // The separators do not count.
    if extras.len() > 64 || bytes.len() - 2 * extras.len() > 4096 {
        return Err("more than 64 extras or 4 KiB of them");
    }
    Ok(Some(bytes))
}

fn split_extras(bytes: &[u8]) -> Result<Vec<(String, String)>, Damage> {
    let damage = || Damage("extras".into());
    let text = std::str::from_utf8(bytes).map_err(|_| damage())?;
    let mut words = text.strip_suffix('\0').ok_or_else(damage)?.split('\0');
    let mut extras = Vec::new();
    while let Some(key) = words.next() {
        let value = words.next().ok_or_else(damage)?;
        extras.push((key.to_owned(), value.to_owned()));
    }
    Ok(extras)
}

/// A state as stored.
pub(super) fn state_code(state: State) -> i64 {
    match state {
        State::Queued => 0,
        State::Claimed => 1,
        State::Held => 2,
        State::Delivered => 3,
        State::Failed => 4,
        State::Expired => 5,
        State::Dropped => 6,
    }
}

/// A stored state.
pub(super) fn state(code: i64) -> Result<State, Damage> {
    Ok(match code {
        0 => State::Queued,
        1 => State::Claimed,
        2 => State::Held,
        3 => State::Delivered,
        4 => State::Failed,
        5 => State::Expired,
        6 => State::Dropped,
        other => return Err(Damage(format!("state {other}"))),
    })
}

/// A doubt as stored.
pub(super) fn doubt_code(doubt: Option<Doubt>) -> i64 {
    match doubt {
        None => 0,
        Some(Doubt::InDoubt) => 1,
        Some(Doubt::MayBeSentTwice) => 2,
    }
}

fn doubt(code: i64) -> Result<Option<Doubt>, Damage> {
    Ok(match code {
        0 => None,
        1 => Some(Doubt::InDoubt),
        2 => Some(Doubt::MayBeSentTwice),
        other => return Err(Damage(format!("doubt {other}"))),
    })
}

/// NOTIFY as stored.
pub(super) fn notify_code(notify: Notify) -> i64 {
    i64::from(notify.never)
        | i64::from(notify.success) << 1
        | i64::from(notify.failure) << 2
        | i64::from(notify.delay) << 3
        | i64::from(notify.given) << 4
}

/// Stored NOTIFY.
pub(super) fn notify(code: i64) -> Notify {
    Notify {
        never: code & 1 != 0,
        success: code & 2 != 0,
        failure: code & 4 != 0,
        delay: code & 8 != 0,
        given: code & 16 != 0,
    }
}

/// A forward-path as stored.
pub(super) fn forward_path(text: &str) -> Result<ForwardPath, Damage> {
    ForwardPath::parse(text, true)
        .map_err(|error| Damage(format!("forward-path <{text}>: {error}")))
}

/// The recipient in the columns [`RECIPIENT`] from `at` on.
pub(super) fn recipient(
    row: &Row<'_>,
    at: usize,
    destination: DestinationKey,
) -> Result<RecipientRow, Damage> {
    let address: String = get(row, at + 9)?;
    Ok(RecipientRow {
        id: recipient_id(get(row, at)?)?,
        recipient: NewRecipient {
            path: forward_path(&address)?,
            orcpt: get(row, at + 10)?,
            notify: notify(get(row, at + 11)?),
        },
        state: state(get(row, at + 1)?)?,
        attempts: get(row, at + 2)?,
        last_attempt: get::<Option<i64>>(row, at + 3)?.map(time),
        next_attempt: time(get(row, at + 4)?),
        destination,
        transport: get(row, at + 5)?,
        dialled: addresses(get::<Option<String>>(row, at + 6)?.as_deref())?,
        blocker: get(row, at + 7)?,
        doubt: doubt(get(row, at + 8)?)?,
        delay_told: span(get(row, at + 12)?),
        parked: get(row, at + 13)?,
    })
}

/// A destination's key.
pub(super) fn key(row: &Row<'_>, at: usize) -> Result<DestinationKey, Damage> {
    Ok(DestinationKey(get::<Arc<str>>(row, at)?))
}

fn addresses(text: Option<&str>) -> Result<Vec<IpAddr>, Damage> {
    text.unwrap_or_default()
        .split_whitespace()
        .map(|word| word.parse().map_err(|_| Damage(format!("address {word}"))))
        .collect()
}

/// Addresses as stored; `None` without any.
pub(super) fn join_addresses(addresses: &[IpAddr]) -> Option<String> {
    if addresses.is_empty() {
        return None;
    }
    let words: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    Some(words.join(" "))
}

/// What was dialled before and now, latest last, each once, at most 8 (DV-12).
pub(super) fn merge_dialled(before: Option<&str>, now: &[IpAddr]) -> Option<String> {
    let mut all = addresses(before).unwrap_or_default();
    for address in now {
        all.retain(|known| known != address);
        all.push(*address);
    }
    let surplus = all.len().saturating_sub(MAX_DIALLED);
    join_addresses(&all[surplus..])
}

/// `451 4.7.1 try again later`: what a recipient waits for, cut to a length fit for its row.
pub(super) fn blocker(attempt: &Attempt) -> String {
    let code = attempt.code.map(ReplyCode::get);
    words(code, attempt.status.to_string(), attempt.text.clone())
}

/// The same of what stands in its row.
pub(super) fn words(code: Option<u16>, status: String, reply: String) -> String {
    let mut text = String::new();
    if let Some(code) = code {
        text.push_str(&code.to_string());
        text.push(' ');
    }
    // The text of a reply usually begins with its enhanced code.
    if !reply.starts_with(&status) {
        text.push_str(&status);
        text.push(' ');
    }
    text.push_str(&reply);
    cut(text)
}

/// Cuts a text to the length that rows of recipients hold.
pub(super) fn cut(mut text: String) -> String {
    if text.len() > MAX_BLOCKER {
        let end = (0..=MAX_BLOCKER)
            .rev()
            .find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
    }
    text
}

const STAGES: [Stage; 14] = [
    Stage::Route,
    Stage::Dns,
    Stage::Connect,
    Stage::Greeting,
    Stage::Ehlo,
    Stage::StartTls,
    Stage::Auth,
    Stage::Mail,
    Stage::Rcpt,
    Stage::Data,
    Stage::Content,
    Stage::FinalDot,
    Stage::Rset,
    Stage::Quit,
];

/// A stage as stored.
pub(super) fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Route => "route",
        Stage::Dns => "dns",
        Stage::Connect => "connect",
        Stage::Greeting => "greeting",
        Stage::Ehlo => "ehlo",
        Stage::StartTls => "starttls",
        Stage::Auth => "auth",
        Stage::Mail => "mail",
        Stage::Rcpt => "rcpt",
        Stage::Data => "data",
        Stage::Content => "content",
        Stage::FinalDot => "final-dot",
        Stage::Rset => "rset",
        Stage::Quit => "quit",
    }
}

const LEVELS: [TlsLevel; 4] = [
    TlsLevel::Plain,
    TlsLevel::Encrypted,
    TlsLevel::Verified,
    TlsLevel::Dane,
];

/// A level as stored.
pub(super) fn level_name(level: TlsLevel) -> &'static str {
    match level {
        TlsLevel::Plain => "plain",
        TlsLevel::Encrypted => "encrypted",
        TlsLevel::Verified => "verified",
        TlsLevel::Dane => "dane",
    }
}

const CAUSES: [Cause; 11] = [
    Cause::Reply,
    Cause::Address,
    Cause::Eof,
    Cause::Reset,
    Cause::Epipe,
    Cause::Timeout,
    Cause::Refused,
    Cause::Dns,
    Cause::Tls,
    Cause::Protocol,
    Cause::Local,
];

fn by_name<T: Copy>(all: &[T], name: fn(T) -> &'static str, text: &str) -> Result<T, Damage> {
    all.iter()
        .copied()
        .find(|value| name(*value) == text)
        .ok_or_else(|| Damage(format!("unknown word {text}")))
}

/// How an attempt row came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It ended.
    Ended = 0,
    /// A crash cut it off.
    CutOff = 1,
    /// An operator cancelled the recipient.
    Operator = 2,
}

/// Columns of [`attempt`].
pub(super) const ATTEMPT: &str = "recipient, ordinal, kind, started, duration, in_queue, in_connect, in_session, in_data, \
    transport, host, address, dialled, source, tls, stage, code, status, text, cause, twice, worker, reused, uid, tls_policy";

/// The attempt in the columns [`ATTEMPT`].
pub(super) fn attempt(row: &Row<'_>) -> Result<ShownAttempt, Damage> {
    let number = recipient_id(get(row, 0)?)?.number;
    let ordinal: u32 = get(row, 1)?;
    let kind: i64 = get(row, 2)?;
    let started = time(get(row, 3)?);
    let shown = ShownAttempt {
        number,
        ordinal,
        started,
        result: None,
        cut_off: kind == Kind::CutOff as i64,
        in_doubt: kind == Kind::CutOff as i64 && get::<Option<String>>(row, 18)?.is_none(),
        operator: None,
    };
    if kind == Kind::Operator as i64 {
        let uid: Option<i64> = get(row, 23)?;
        let text: Option<String> = get(row, 18)?;
        let mut operator = String::from("canceled by operator");
        if let Some(uid) = uid {
            operator.push_str(&format!(" uid={uid}"));
        }
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            operator.push_str(&format!(": {text}"));
        }
        return Ok(ShownAttempt {
            operator: Some(operator),
            ..shown
        });
    }
    if kind != Kind::Ended as i64 {
        return Ok(shown);
    }
    let word = |index: usize| get::<Option<String>>(row, index).map(Option::unwrap_or_default);
    let address: Option<String> = get(row, 11)?;
    let source: Option<String> = get(row, 13)?;
    let status = word(17)?;
    let cause: Option<String> = get(row, 19)?;
    let result = Attempt {
        started,
        duration: span(get(row, 4)?),
        delays: [
            span(get(row, 5)?),
            span(get(row, 6)?),
            span(get(row, 7)?),
            span(get(row, 8)?),
        ],
        transport: word(9)?,
        host: word(10)?,
        address: match address {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| Damage(format!("address {text}")))?,
            ),
        },
        dialled: addresses(get::<Option<String>>(row, 12)?.as_deref())?,
        source: match source {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| Damage(format!("address {text}")))?,
            ),
        },
        tls: by_name(&LEVELS, level_name, &word(14)?)?,
        stage: by_name(&STAGES, stage_name, &word(15)?)?,
        code: get::<Option<u16>>(row, 16)?.and_then(ReplyCode::new),
        status: EnhancedCode::parse(&status).ok_or_else(|| Damage(format!("status {status}")))?,
        text: word(18)?,
        cause: match cause {
            None => None,
            Some(text) => Some(by_name(&CAUSES, Cause::word, &text)?),
        },
        may_be_sent_twice: get(row, 20)?,
        worker: word(21)?,
        reused: get(row, 22)?,
        tls_policy: word(24)?,
    };
    Ok(ShownAttempt {
        result: Some(result),
        ..shown
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_ids_take_apart_into_message_and_number() {
        let id = QueueId::new(MAX_ID).unwrap();
        let row = row_id(id, MAX_NUMBER);
        assert_eq!(row, i64::MAX);
        let back = recipient_id(row).unwrap();
        assert_eq!((back.message, back.number), (id, MAX_NUMBER));
        assert_eq!(message_of(row_range(id).0), MAX_ID);
    }

    //
    #[test]
    fn extras_come_back_as_they_were_and_have_a_bound() {
        let extras = vec![("a".to_owned(), String::new()), ("b".into(), "ü=1 ".into())];
        let bytes = join_extras(&extras).unwrap().unwrap();
        assert_eq!(split_extras(&bytes).unwrap(), extras);
        assert_eq!(join_extras(&[]).unwrap(), None);
        assert!(join_extras(&[("a".into(), "\0".into())]).is_err());
        assert!(join_extras(&[("a".into(), "x".repeat(4096))]).is_err());
        assert!(join_extras(&vec![(String::new(), String::new()); 65]).is_err());
    }

    // DV-12
    #[test]
    fn dialled_addresses_are_kept_once_each_latest_last_and_at_most_eight() {
        let ip = |n: u8| IpAddr::from([192, 0, 2, n]);
        let first: Vec<IpAddr> = (1..=6).map(ip).collect();
        let text = merge_dialled(None, &first);
        let text = merge_dialled(text.as_deref(), &[ip(2), ip(7), ip(8), ip(9)]);
        let all = addresses(text.as_deref()).unwrap();
        assert_eq!(all, [3, 4, 5, 6, 2, 7, 8, 9].map(ip));
        assert_eq!(merge_dialled(None, &[]), None);
    }

    #[test]
    fn every_word_that_is_stored_is_read_back() {
        for stage in STAGES {
            assert_eq!(
                by_name(&STAGES, stage_name, stage_name(stage)).unwrap(),
                stage
            );
        }
        for level in LEVELS {
            assert_eq!(
                by_name(&LEVELS, level_name, level_name(level)).unwrap(),
                level
            );
        }
        for cause in CAUSES {
            assert_eq!(
                by_name(&CAUSES, Cause::word, Cause::word(cause)).unwrap(),
                cause
            );
        }
        assert!(by_name(&STAGES, stage_name, "x").is_err());
    }
}
