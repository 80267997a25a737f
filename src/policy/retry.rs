//! When a recipient is tried again, and when it is given up (RT-1 to RT-5, RT-11).
//!
//! Pure: settings, facts and a random number in, a time out. Nothing is remembered between calls, so a changed
//! setting applies to mail that is already queued (CFG-6). Whether a failure is worth a retry at all is the business
//! of `policy::verdict`.
//!
//! A transport may have terms of its own (CFG-19), and routes may change the transport with the attempts. After a failed
//! attempt the wait is what the transport of that attempt asks for, as its schedule knows how soon it is worth another
//! look. Whether there is an end, and when, says the transport by which the recipient would go next: by that one it
//! waits from then on, and a way out that was made for what another could not deliver must get it.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{Config, Retry, Span, Transport, TransportKind};
use crate::message::Head;
use crate::policy::route::{RouteFacts, relay_of, route, via_of};
use crate::store::{DestinationKey, RecipientRow};

/// The caller that our own notices carry (RT-10).
pub const DSN_CALLER: &str = "dsn";

/// The caller that our TLS reports carry (RPT-4).
pub const REPORT_CALLER: &str = "tls-report";

/// How long mail is tried that brings no lifetime of its own.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// Mail of others.
    pub mail: Duration,
    /// Our own notices, known by [`DSN_CALLER`] (RT-10).
    pub notices: Duration,
}

impl Lifetimes {
    /// Those of the configuration.
    pub fn of(config: &Config) -> Lifetimes {
        Lifetimes::under(config, &config.retry)
    }

    /// The shortest that hold for anything that waits for this destination: the direct transports share theirs.
    pub fn shortest_at(config: &Config, destination: &DestinationKey) -> Lifetimes {
        let mut lifetimes = match relay_of(destination).or_else(|| via_of(destination)) {
            Some(transport) => return Lifetimes::under(config, config.retry_of(transport)),
            None => Lifetimes::of(config),
        };
        for (transport, own) in config.own_retries() {
            if transport.kind == TransportKind::Direct {
                lifetimes.mail = lifetimes.mail.min(own.lifetime.get());
            }
        }
        lifetimes
    }

    fn under(config: &Config, retry: &Retry) -> Lifetimes {
        Lifetimes {
            mail: retry.lifetime.get(),
            notices: config.dsn.lifetime.get(),
        }
    }

    fn of_caller(self, caller: &str) -> Duration {
        if caller == DSN_CALLER {
            self.notices
        } else {
            self.mail
        }
    }
}

/// The retry settings in force for one recipient: those of the configuration or of its transport (CFG-19), or the
/// message's own (RT-11). Taken anew for each use.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    intervals: &'a [Span],
    jitter: f64,
    lifetime: Duration,
    max_attempts: Option<u32>,
    delay_notices: &'a [Span],
    arrived: Timestamp,
}

/// An attempt that has ended without delivering.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Attempts begun so far, this one included; never zero.
    pub attempts: u32,
    /// When it began: the claim.
    pub started: Timestamp,
    /// How long it took since then, measured on the monotonic clock.
    pub took: Duration,
    /// The time now.
    pub now: Timestamp,
}

impl Ended {
    /// When it really ended (RT-9). Had the clock been put forward while it ran, `now` would end mail that was never tried
    /// at that age; and once the clock is put right again, a wait counted from there would be longer by the whole jump.
    /// If it stays forward, the wait is shorter by as much, as are those of all other mail.
    pub fn at(&self) -> Timestamp {
        self.now.min(self.started.plus(self.took))
    }
}

/// What follows a temporary failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Another attempt at this time.
    Again(Timestamp),
    /// The lifetime is over: expired, status 4.4.7.
    Expired,
    /// `max_attempts` is reached: failed, with the status of the last failure.
    Exhausted,
}

impl<'a> Terms<'a> {
    /// The terms of `head` where its transport has none of its own.
    pub fn of(config: &'a Config, head: &Head) -> Terms<'a> {
        Terms::under(config, head, &config.retry, &config.retry)
    }

    /// Those while it goes by the transport of this name.
    pub fn by(config: &'a Config, head: &Head, transport: &str) -> Terms<'a> {
        Terms::between(config, head, transport, transport)
    }

    /// Those after an attempt by the transport `last`, when the next one would go by `next`.
    pub fn between(config: &'a Config, head: &Head, last: &str, next: &str) -> Terms<'a> {
        Terms::under(config, head, config.retry_of(last), config.retry_of(next))
    }

    /// Those of a recipient that waits, which routes may bring anywhere.
    pub fn of_waiting(config: &'a Config, head: &Head, row: &RecipientRow) -> Terms<'a> {
        if config.own_retries().next().is_none() {
            return Terms::of(config, head);
        }
        let facts = RouteFacts {
            caller: &head.caller,
            from: &head.reverse_path,
            to: &row.recipient.path,
            attempts: row.attempts,
            operator: row.transport.as_deref(),
        };
        Terms::by(config, head, route(config, &facts).name)
    }

    fn under(config: &Config, head: &Head, waits: &'a Retry, ends: &'a Retry) -> Terms<'a> {
        // RT-10: notices about mail must not outlive the interest in it.
        let lifetime = Lifetimes::under(config, ends).of_caller(&head.caller);
        Terms {
            intervals: &waits.intervals,
            jitter: waits.jitter,
            lifetime: head.lifetime.unwrap_or(lifetime),
            max_attempts: head.max_attempts.or(ends.max_attempts),
            delay_notices: &ends.delay_notices,
            arrived: head.arrived,
        }
    }

    /// The ages at which its sender is told that it still waits: those before the expiry, rising (RT-8).
    pub fn delay_notices(&self) -> impl Iterator<Item = Duration> {
        let (arrived, expiry) = (self.arrived, self.expiry());
        let ages = self.delay_notices.iter().map(|age| age.get());
        ages.filter(move |age| arrived.plus(*age) < expiry)
    }

    /// When the lifetime ends. An attempt that ends at this time or later is the last one (RT-3).
    pub fn expiry(&self) -> Timestamp {
        self.arrived.plus(self.lifetime)
    }

    /// The wait after the `attempts`-th failed attempt: that interval, the last one repeating, times a factor of
    /// 1 ± jitter (RT-1). `random` is 0..=1; 0.5 stands for no deviation.
    pub fn wait(&self, attempts: u32, random: f64) -> Duration {
        let nth = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        let interval = self
            .intervals
            .get(nth)
            .or(self.intervals.last())
            .map_or(Duration::ZERO, |span| span.get());
        spread(interval, self.jitter, random)
    }

    /// The longest wait that these terms can ask for.
    pub fn longest_wait(&self) -> Duration {
        longest_wait(self.intervals, self.jitter)
    }

    /// When the attempt after the `attempts`-th is due if that one begins or ends now. It goes into the claim, where
    /// it counts if the attempt is cut off, and into the verdict.
    ///
    /// If the interval would pass the expiry, that is the expiry itself (RT-4). Once the expiry is past there is
    /// nothing to shorten the wait for: the attempt that runs now is the last, and if it is cut off again and again,
    /// the back-off is what keeps the loop slow.
    pub fn next_attempt(&self, attempts: u32, now: Timestamp, random: f64) -> Timestamp {
        let next = now.plus(self.wait(attempts, random));
        let expiry = self.expiry();
        if now < expiry { next.min(expiry) } else { next }
    }

    /// What follows a temporary failure (RT-3, RT-4). Draw `random` once per transaction: recipients that fail together
    /// then stay due together, and travel together again (SC-10).
    pub fn after_failure(&self, ended: &Ended, random: f64) -> Course {
        let at = ended.at();
        if at >= self.expiry() {
            return Course::Expired;
        }
        if self.max_attempts.is_some_and(|most| ended.attempts >= most) {
            return Course::Exhausted;
        }
        Course::Again(self.next_attempt(ended.attempts, at, random))
    }
}

/// The longest wait that any transport can ask for; what waits longer was scheduled by another clock (RT-9).
pub fn longest_wait_of_all(config: &Config) -> Duration {
    let own = config.own_retries().map(|(_, own)| own);
    let waits = own.chain([&config.retry]);
    let longest = waits.map(|retry| longest_wait(&retry.intervals, retry.jitter));
    longest.max().unwrap_or_default()
}

/// The first interval of what waits for this destination, without jitter: of its transport, or if it is the hosts of a
/// domain, the shortest of the direct transports, which share those.
pub fn first_interval_at(config: &Config, destination: &DestinationKey) -> Duration {
    let first = |retry: &Retry| retry.intervals.first().map_or(Duration::MAX, |s| s.get());
    if let Some(transport) = relay_of(destination).or_else(|| via_of(destination)) {
        return first(config.retry_of(transport));
    }
    let direct = |transport: &Transport| transport.kind == TransportKind::Direct;
    let own = config
        .own_retries()
        .filter(|(transport, _)| direct(transport));
    own.map(|(_, own)| first(own))
        .fold(first(&config.retry), Duration::min)
}

/// The longest wait that `intervals` and `jitter` can ask for.
pub fn longest_wait(intervals: &[Span], jitter: f64) -> Duration {
    let longest = intervals.iter().max().map_or(Duration::ZERO, |s| s.get());
    spread(longest, jitter, 1.0)
}

/// `interval` times 1 + `jitter` * (-1..=1), saturating.
fn spread(interval: Duration, jitter: f64, random: f64) -> Duration {
    let within = |x: f64, most: f64| if x.is_nan() { 0.0 } else { x.clamp(0.0, most) };
    let deviation = within(jitter, 0.5) * (within(random, 1.0) * 2.0 - 1.0);
    if deviation == 0.0 {
        return interval; // no detour over floating point for what is exact
    }
    let millis = interval.as_millis() as f64 * (1.0 + deviation);
    Duration::from_millis(millis.round() as u64) // the cast saturates
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;

    fn spans(minutes: &[f64]) -> Vec<Span> {
        let span = |m: &f64| Span(Duration::from_secs_f64(m * 60.0));
        minutes.iter().map(span).collect()
    }

    fn defaults() -> Vec<Span> {
        spans(&[7.5, 15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0])
    }

    fn terms(intervals: &[Span]) -> Terms<'_> {
        Terms {
            intervals,
            jitter: 0.0,
            lifetime: Duration::from_secs(5 * DAY),
            max_attempts: None,
            delay_notices: &[],
            arrived: at(0),
        }
    }

    /// A time `secs` after the arrival of the messages here.
    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000).plus(Duration::from_secs(secs))
    }

    fn ended(attempts: u32, now: Timestamp) -> Ended {
        Ended {
            attempts,
            started: now,
            took: Duration::ZERO,
            now,
        }
    }

    // RT-1, RT-2
    #[test]
    fn the_default_schedule_is_the_one_of_the_manual() {
        let intervals = defaults();
        let terms = terms(&intervals);
        let (mut now, mut attempts, mut minutes) = (at(0), 0, Vec::new());
        loop {
            attempts += 1;
            minutes.push(now.since(at(0)).as_secs_f64() / 60.0);
            match terms.after_failure(&ended(attempts, now), 0.3) {
                Course::Again(next) => now = next,
                end => break assert_eq!(end, Course::Expired),
            }
        }
        let expected = [
            0.0, 7.5, 22.5, 52.5, 112.5, 232.5, 472.5, 952.5, 1912.5, 2872.5, 3832.5, 4792.5,
            5752.5, 6712.5, 7200.0,
        ];
        assert_eq!(minutes, expected);
    }

    // RT-1
    #[test]
    fn jitter_moves_the_wait_by_its_share_and_no_further() {
        let intervals = spans(&[10.0]);
        let terms = Terms {
            jitter: 0.1,
            ..terms(&intervals)
        };
        assert_eq!(terms.wait(1, 0.0), Duration::from_secs(540));
        assert_eq!(terms.wait(1, 0.5), Duration::from_secs(600));
        assert_eq!(terms.wait(1, 1.0), Duration::from_secs(660));
        assert_eq!(
            terms.wait(1, 7.0),
            terms.longest_wait(),
            "a bad random number"
        );
        assert_eq!(terms.wait(1, f64::NAN), Duration::from_secs(540));
    }

    // RT-3
    #[test]
    fn a_lowered_lifetime_or_number_of_attempts_ends_old_mail() {
        let intervals = defaults();
        let long = terms(&intervals);
        let old = ended(6, at(9 * HOUR));
        assert!(matches!(long.after_failure(&old, 0.5), Course::Again(_)));
        let short = Terms {
            lifetime: Duration::from_secs(HOUR),
            ..long
        };
        assert_eq!(short.after_failure(&old, 0.5), Course::Expired);
        let few = Terms {
            max_attempts: Some(3),
            ..long
        };
        assert_eq!(few.after_failure(&old, 0.5), Course::Exhausted);
        let once = Terms {
            max_attempts: Some(1),
            ..long
        };
        assert_eq!(
            once.after_failure(&ended(1, at(0)), 0.5),
            Course::Exhausted,
            "one connection, then the DSN (RT-11)"
        );
    }

    // RT-4
    #[test]
    fn the_last_attempt_falls_on_the_expiry_itself() {
        let intervals = defaults();
        let terms = terms(&intervals);
        let shortly_before = at(5 * DAY - 10);
        assert_eq!(
            terms.after_failure(&ended(12, shortly_before), 0.5),
            Course::Again(at(5 * DAY))
        );
        assert_eq!(
            terms.after_failure(&ended(13, at(5 * DAY)), 0.5),
            Course::Expired
        );
    }

    // RT-4, Q-8
    #[test]
    fn a_last_attempt_that_is_cut_off_waits_its_interval_and_not_zero() {
        let intervals = defaults();
        let terms = terms(&intervals);
        let late = at(9 * DAY);
        assert_eq!(
            terms.next_attempt(2, late, 0.5),
            late.plus(Duration::from_secs(15 * MINUTE))
        );
    }

    // RT-9
    #[test]
    fn a_clock_put_forward_during_an_attempt_expires_nothing() {
        let intervals = defaults();
        let terms = terms(&intervals);
        let jumped = Ended {
            attempts: 1,
            started: at(0),
            took: Duration::from_secs(3),
            now: at(30 * DAY),
        };
        // And its wait is not the jump longer once the clock is put right.
        assert_eq!(
            terms.after_failure(&jumped, 0.5),
            Course::Again(at(3).plus(Duration::from_secs(450)))
        );
    }

    // RT-9
    #[test]
    fn a_clock_put_back_during_an_attempt_lengthens_no_wait() {
        let intervals = defaults();
        let terms = Terms {
            arrived: at(100 * DAY),
            ..terms(&intervals)
        };
        let now = at(0);
        let back = Ended {
            attempts: 9,
            started: at(100 * DAY),
            took: Duration::from_secs(3),
            now,
        };
        assert_eq!(
            terms.after_failure(&back, 0.5),
            Course::Again(now.plus(Duration::from_secs(16 * HOUR)))
        );
    }

    fn with_transports(text: &str) -> Config {
        let text = format!("hostname = \"here.example\"\n{text}");
        Config::parse(&text, std::path::Path::new("f")).unwrap()
    }

    fn head() -> Head {
        Head::new(crate::message::QueueId::new(1).unwrap(), at(0), "relay")
    }

    // CFG-19, RT-1, RT-3, RT-10
    #[test]
    fn a_transports_own_terms_hold_for_it_and_a_messages_own_come_first() {
        let config = with_transports(
            "[retry]\njitter = 0.0\nmax_attempts = 9\n[[transport]]\nname = \"own\"\nkind = \"direct\"\n\
             intervals = [\"1m\", \"2m\"]\nlifetime = \"1h\"\n[[transport]]\nname = \"few\"\nkind = \"direct\"\n\
             max_attempts = 2",
        );
        let mut head = head();
        let hour = Duration::from_secs(HOUR);
        let days = Duration::from_secs(5 * DAY);
        let seen = |terms: Terms<'_>| {
            (
                terms.wait(2, 0.5).as_secs(),
                terms.lifetime,
                terms.max_attempts,
            )
        };
        assert_eq!(seen(Terms::by(&config, &head, "own")), (120, hour, Some(9)));
        assert_eq!(seen(Terms::by(&config, &head, "few")), (900, days, Some(2)));
        assert_eq!(
            seen(Terms::by(&config, &head, "direct")),
            (900, days, Some(9))
        );
        assert_eq!(
            seen(Terms::by(&config, &head, "gone")),
            (900, days, Some(9))
        );
        // The wait is that of the last one, the end that of the next.
        let between = |last, next| seen(Terms::between(&config, &head, last, next));
        assert_eq!(between("own", "few"), (120, days, Some(2)));
        assert_eq!(between("few", "own"), (900, hour, Some(9)));
        head.max_attempts = Some(1);
        head.lifetime = Some(2 * hour);
        assert_eq!(
            seen(Terms::by(&config, &head, "own")),
            (120, 2 * hour, Some(1))
        );
        head.lifetime = None;
        head.caller = DSN_CALLER.to_owned();
        assert_eq!(
            Terms::by(&config, &head, "own").lifetime,
            config.dsn.lifetime.get()
        );
    }

    // CFG-19, RT-9
    #[test]
    fn the_longest_wait_is_that_of_the_most_patient_transport() {
        let config = with_transports(
            "[retry]\njitter = 0.5\nintervals = [\"1h\"]\n[[transport]]\nname = \"a\"\nkind = \"discard\"\n\
             intervals = [\"1m\", \"4h\"]\njitter = 0.0\n[[transport]]\nname = \"b\"\nkind = \"direct\"\n\
             intervals = [\"2h\"]",
        );
        assert_eq!(longest_wait_of_all(&config), Duration::from_secs(4 * HOUR));
        let none = with_transports("[retry]\njitter = 0.5\nintervals = [\"1h\"]");
        assert_eq!(longest_wait_of_all(&none), Duration::from_secs(90 * MINUTE));
    }

    // CFG-19, SC-7
    #[test]
    fn the_shortest_lifetime_at_a_destination_is_that_of_what_can_go_there() {
        let config = with_transports(
            "[retry]\nlifetime = \"3h\"\n[[transport]]\nname = \"f\"\nkind = \"fail\"\nlifetime = \"1h\"\n\
             [[transport]]\nname = \"d\"\nkind = \"direct\"\nlifetime = \"2h\"",
        );
        let hours = |key: &str| {
            let lifetimes = Lifetimes::shortest_at(&config, &DestinationKey(key.into()));
            lifetimes.mail.as_secs() / HOUR
        };
        let keys = ["relay:f", "dest.example", "relay:gone"];
        assert_eq!(keys.map(hours), [1, 2, 3]);
    }

    // CFG-19, SC-7
    #[test]
    fn the_first_interval_at_a_destination_is_that_of_what_can_go_there() {
        let config = with_transports(
            "[retry]\nintervals = [\"30m\"]\n[[transport]]\nname = \"f\"\nkind = \"fail\"\nintervals = [\"90m\"]\n\
             [[transport]]\nname = \"d\"\nkind = \"direct\"\nintervals = [\"20m\", \"1m\"]",
        );
        let minutes = |key: &str| {
            let first = first_interval_at(&config, &DestinationKey(key.into()));
            first.as_secs() / 60
        };
        let keys = ["relay:f", "dest.example", "relay:gone"];
        assert_eq!(keys.map(minutes), [90, 20, 30]);
    }

    // RT-3
    #[test]
    fn absurd_settings_saturate() {
        let intervals = vec![Span(Duration::MAX)];
        let terms = Terms {
            jitter: 0.5,
            lifetime: Duration::MAX,
            ..terms(&intervals)
        };
        assert_eq!(terms.expiry(), Timestamp::MAX);
        for random in [0.0, 0.5, 1.0] {
            let course = terms.after_failure(&ended(u32::MAX, at(0)), random);
            assert_eq!(course, Course::Again(Timestamp::MAX));
        }
        let none = Terms {
            intervals: &[],
            ..terms
        };
        assert_eq!(none.next_attempt(1, at(5), 0.5), at(5));
    }
}
