//! Turns the words of a request into a [`Filter`] (CTL-6), and hands out the others to the verb.
//!
//! A verb takes its own words first, then the filter, then calls [`Args::finish`]: what nobody took is an error, so
//! that a mistyped word never widens what a request hits.

use std::str::FromStr;

use super::line::Word;
use super::output::Stop;
use super::times;
use crate::clock::Timestamp;
use crate::message::QueueId;
use crate::smtp::address::AddressDomain;
use crate::store::{Filter, State};

/// The words of a filter, for help and errors.
pub const WORDS: &str =
    "id rcpt from to domain sender-domain transport state older newer next-before caller text";

/// Most ids in one list.
const MAX_IDS: usize = 1000;

/// The words of a request that are still to be taken.
#[derive(Debug)]
pub struct Args {
    words: Vec<Word>,
}

impl Args {
    /// Of a request.
    pub fn new(words: Vec<Word>) -> Args {
        Args { words }
    }

    fn take(&mut self, name: &str) -> Option<Word> {
        let at = self.words.iter().position(|word| word.name == name)?;
        Some(self.words.remove(at))
    }

    /// Takes a word that stands alone.
    ///
    /// # Errors
    /// It has a value.
    pub fn flag(&mut self, name: &str) -> Result<bool, Stop> {
        match self.take(name) {
            None => Ok(false),
            Some(Word { value: None, .. }) => Ok(true),
            Some(_) => Err(Stop::usage(format!("{name} takes no value"))),
        }
    }

    /// Takes a word with a value, which may be empty.
    ///
    /// # Errors
    /// It has none.
    pub fn value(&mut self, name: &str) -> Result<Option<String>, Stop> {
        match self.take(name) {
            None => Ok(None),
            Some(Word { value, .. }) => match value {
                Some(value) => Ok(Some(value)),
                None => Err(Stop::usage(format!("{name} needs a value: {name}=..."))),
            },
        }
    }

    /// Takes a word and reads its value.
    ///
    /// # Errors
    /// `what` says what the value must be.
    pub fn read<T>(
        &mut self,
        name: &str,
        what: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Stop> {
        match self.value(name)? {
            None => Ok(None),
            Some(text) => match read(&text) {
                Some(value) => Ok(Some(value)),
                None => Err(bad(name, &text, what)),
            },
        }
    }

    /// All words must have been taken.
    ///
    /// # Errors
    /// The first that was not.
    pub fn finish(self) -> Result<(), Stop> {
        match self.words.first() {
            None => Ok(()),
            Some(word) => Err(Stop::usage(format!(
                "unknown word {} here; try help",
                word.name
            ))),
        }
    }
}

/// The error of a bad value.
fn bad(name: &str, text: &str, what: &str) -> Stop {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push_str("..");
    }
    Stop::usage(format!("{name}={short}: must be {what}"))
}

/// Takes the words of a filter. `None` if there is none of them; an absent filter matches all, and whether that will
/// do is the verb's business (CTL-8).
///
/// # Errors
/// A bad value.
pub fn take(args: &mut Args, now: Timestamp) -> Result<Option<Filter>, Stop> {
    let before = args.words.len();
    let any_text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let age = |text: &str| times::duration(text).map(|age| now.minus(age));
    let filter = Filter {
        ids: args
            .read(
                "id",
                "a list of queue ids, ID or ID/N, with commas between",
                ids,
            )?
            .unwrap_or_default(),
        rcpt: args.read("rcpt", "the number of a recipient, from 1", number)?,
        from: args.read(
            "from",
            "a part of an address, @domain, or <> for the null reverse-path",
            |text| match text {
                "<>" => Some(text.to_owned()),
                _ => path(text),
            },
        )?,
        to: args.read("to", "a part of an address, or @domain", path)?,
        domain: args.read("domain", "a domain or an address literal", domain)?,
        sender_domain: args.read("sender-domain", "a domain or an address literal", domain)?,
        transport: args.read("transport", "the name of a transport", any_text)?,
        state: args.read(
            "state",
            "queued, claimed or held, or delivered, failed, expired or dropped",
            state,
        )?,
        arrived_before: args.read("older", "a duration such as 1h30m", age)?,
        arrived_after: args.read("newer", "a duration such as 1h30m", age)?,
        next_before: args.read(
            "next-before",
            "a time such as 2026-11-21T18:40:00Z or a duration such as 10m",
            |text| moment(text, now),
        )?,
        caller: args.read("caller", "the name of a caller", any_text)?,
        text: args.read("text", "a part of the last reply", any_text)?,
    };
    Ok((args.words.len() < before).then_some(filter))
}

/// A time, or a duration from now.
pub fn moment(text: &str, now: Timestamp) -> Option<Timestamp> {
    times::time(text).or_else(|| times::duration(text).map(|span| now.plus(span)))
}

/// `ID` or `ID/N`.
pub fn id(text: &str) -> Option<(QueueId, Option<u32>)> {
    match text.split_once('/') {
        None => Some((QueueId::from_str(text).ok()?, None)),
        Some((id, n)) => Some((QueueId::from_str(id).ok()?, Some(number(n)?))),
    }
}

fn ids(text: &str) -> Option<Vec<(QueueId, Option<u32>)>> {
    // One more than allowed is enough to see that there are too many.
    let ids: Option<Vec<_>> = text.split(',').take(MAX_IDS + 1).map(id).collect();
    ids.filter(|ids| ids.len() <= MAX_IDS)
}

/// A number from 1 on, without sign.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| plain && *n > 0)
}

fn state(text: &str) -> Option<State> {
    [
        State::Queued,
        State::Claimed,
        State::Held,
        State::Delivered,
        State::Failed,
        State::Expired,
        State::Dropped,
    ]
    .into_iter()
    .find(|state| state.to_string() == text)
}

/// A domain in the form in which the queue has it, or an address literal.
pub fn domain(text: &str) -> Option<String> {
    AddressDomain::parse(text)
        .ok()
        .map(|domain| domain.to_string())
}

/// A part of an address, or `@domain`. The angle brackets of the listing may stay on.
fn path(text: &str) -> Option<String> {
    let text = text
        .strip_prefix('<')
        .and_then(|text| text.strip_suffix('>'))
        .unwrap_or(text);
    if text.is_empty() {
        return None;
    }
    if let Some(name) = text.strip_prefix('@') {
        return domain(name).map(|domain| format!("@{domain}"));
    }
    // Domains are kept in lower case, local parts as they came.
    Some(match text.rsplit_once('@') {
        Some((local, domain)) => format!("{local}@{}", domain.to_ascii_lowercase()),
        None => text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::line;
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const NOW: i64 = 1_795_286_400;

    fn filter(words: &str) -> Result<Option<Filter>, Stop> {
        let request = line::parse(format!("list {words}").as_bytes())
            .unwrap()
            .unwrap();
        let mut args = Args::new(request.words);
        let filter = take(&mut args, Timestamp::from_secs(NOW))?;
        args.finish()?;
        Ok(filter)
    }

    fn some(words: &str) -> Filter {
        filter(words).unwrap().unwrap()
    }

    // CTL-6
    #[test]
    fn each_word_sets_its_field() {
        let id = |n| QueueId::new(n).unwrap();
        assert!(filter("").unwrap().is_none());
        assert_eq!(some("id=42,43/2").ids, [(id(42), None), (id(43), Some(2))]);
        assert_eq!(some("rcpt=3").rcpt, Some(3));
        assert_eq!(some("from=<>").from.as_deref(), Some("<>"));
        assert_eq!(
            some("from=<App@Here.EXAMPLE>").from.as_deref(),
            Some("App@here.example")
        );
        assert_eq!(some("to=bob").to.as_deref(), Some("bob"));
        assert_eq!(some("transport=slow").transport.as_deref(), Some("slow"));
        assert_eq!(some("state=held").state, Some(State::Held));
        assert_eq!(some("caller=uid:joe").caller.as_deref(), Some("uid:joe"));
        assert_eq!(
            some("text=\"try again\"").text.as_deref(),
            Some("try again")
        );
        let now = Timestamp::from_secs(NOW);
        let hour = Duration::from_secs(3600);
        let both = some("older=1h newer=2h");
        assert_eq!(both.arrived_before, Some(now.minus(hour)));
        assert_eq!(both.arrived_after, Some(now.minus(2 * hour)));
        assert_eq!(some("next-before=1h").next_before, Some(now.plus(hour)));
        assert_eq!(
            some("next-before=2026-11-21T19:40:00Z").next_before,
            Some(now.plus(hour))
        );
    }

    // CTL-6
    #[test]
    fn domains_are_compared_in_the_form_of_the_queue() {
        assert_eq!(
            some("domain=Example.ORG").domain.as_deref(),
            Some("example.org")
        );
        assert_eq!(
            some("domain=b\u{fc}cher.example").domain.as_deref(),
            Some("xn--bcher-kva.example")
        );
        assert_eq!(some("to=@Example.org").to.as_deref(), Some("@example.org"));
        assert_eq!(
            some("sender-domain=[192.0.2.1]").sender_domain.as_deref(),
            Some("[192.0.2.1]")
        );
    }

    // CTL-6
    #[test]
    fn a_bad_value_is_an_error() {
        for bad in [
            "id",
            "id=",
            "id=0",
            "id=-1",
            "id=1,",
            "id=1/0",
            "id=1/+2",
            "id=1/2/3",
            "id=x",
            "rcpt=0",
            "rcpt=4294967296",
            "from=",
            "to=<>",
            "to=",
            "to=@",
            "domain=",
            "domain=a..b",
            "transport=",
            "state=done",
            "state=Queued",
            "older=5",
            "older=2026-11-21T18:40:00Z",
            "newer=",
            "next-before=soon",
            "caller=",
            "text=",
            "ids=1",
            "all=1",
        ] {
            assert!(
                matches!(filter(bad), Err(Stop::Refused(..))),
                "{bad} was taken"
            );
        }
    }

    #[test]
    fn a_list_of_ids_is_bounded() {
        let list = |n: usize| vec!["7"; n].join(",");
        assert!(filter(&format!("id={}", list(MAX_IDS))).is_ok());
        assert!(filter(&format!("id={}", list(MAX_IDS + 1))).is_err());
    }

    proptest! {
        // SEC-6
        #[test]
        fn any_value_is_taken_or_refused(value in any::<String>()) {
            for name in WORDS.split(' ').filter(|name| !name.contains("domain")) {
                let mut args = Args::new(vec![Word { name: name.to_owned(), value: Some(value.clone()) }]);
                let _ = take(&mut args, Timestamp::from_secs(NOW));
            }
        }
    }
}
