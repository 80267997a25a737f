//! Everything that can be asked, as one table (CTL-26): the socket and posthaste(8) know no other list of verbs.

mod change;
mod daemon;
mod domains;
mod list;
mod pause;
mod show;
mod tls;
mod transports;
mod upkeep;

use std::io;
use std::sync::Arc;

use super::Host;
use super::filter::Args;
use super::line;
use super::output::{Code, Done, Record, Reply, Sink, Stop};
use super::peer::Peer;
use crate::clock::{Clock, Timestamp};
use crate::config::Live;
use crate::store::{Filter, Store};

/// What the verbs work on.
pub struct Control {
    /// The queue.
    pub store: Store,
    /// The configuration in force.
    pub config: Live,
    /// The time.
    pub clock: Clock,
    /// The daemon around it.
    pub host: Arc<dyn Host>,
}

/// Who may say a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Everybody; who may not do all sees only its own mail.
    Own,
    /// Root, our user and our group.
    All,
}

/// One verb.
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// Its words, in the notation of the manual.
    pub usage: &'static str,
    /// What it does, in one sentence.
    pub help: &'static str,
    /// Who may say it.
    pub rights: Rights,
    run: fn(&Call<'_>, Args, &mut Reply<'_>) -> Result<Done, Stop>,
}

/// One request while it is carried out.
struct Call<'a> {
    control: &'a Control,
    peer: &'a Peer,
    /// The time that all durations of the request count from.
    now: Timestamp,
}

impl Call<'_> {
    /// Narrows a filter to what the client may see; `false` if nothing is left (CTL-4).
    fn narrow(&self, filter: &mut Filter) -> bool {
        if self.peer.all {
            return true;
        }
        match &filter.caller {
            Some(caller) => *caller == self.peer.caller,
            None => {
                filter.caller = Some(self.peer.caller.clone());
                true
            }
        }
    }
}

/// All verbs, in the order of `help`.
pub const TABLE: &[Verb] = &[
    Verb {
        name: "list",
        usage: "[FILTER] [sort=[-]next|queued|age|size] [limit=N] [cursor=C]",
        help: "List recipients, one a line.",
        rights: Rights::Own,
        run: list::list,
    },
    Verb {
        name: "show",
        usage: "id=ID[/N] [headers|content]",
        help: "Show one message with its recipients and attempts, and its header or all of its content.",
        rights: Rights::Own,
        run: show::show,
    },
    Verb {
        name: "count",
        usage: "[FILTER] [by=domain|transport|state|caller|age]",
        help: "Count recipients, in all or in groups.",
        rights: Rights::Own,
        run: list::count,
    },
    Verb {
        name: "why",
        usage: "id=ID[/N]",
        help: "Say why recipients of a message are still here, and what happens next.",
        rights: Rights::Own,
        run: show::why,
    },
    Verb {
        name: "kick",
        usage: "FILTER|all [at=TIME|in=DURATION] [transport=T] [dry-run]",
        help: "Make queued recipients due now or then, by this transport from now on if one is given.",
        rights: Rights::All,
        run: change::kick,
    },
    Verb {
        name: "drop",
        usage: "FILTER|all [wait] [dry-run]",
        help: "Remove recipients without telling the sender.",
        rights: Rights::All,
        run: change::drop,
    },
    Verb {
        name: "fail",
        usage: "FILTER|all [text=TEXT] [wait] [dry-run]",
        help: "Give recipients up and tell the sender, with this text.",
        rights: Rights::All,
        run: change::fail,
    },
    Verb {
        name: "hold",
        usage: "FILTER|all [reason=TEXT] [dry-run]",
        help: "Make no attempts for these recipients until they are released.",
        rights: Rights::All,
        run: change::hold,
    },
    Verb {
        name: "release",
        usage: "FILTER|all [dry-run]",
        help: "Undo a hold; recipients that are due start at once.",
        rights: Rights::All,
        run: change::release,
    },
    Verb {
        name: "route",
        usage: "FILTER|all transport=NAME|default [dry-run]",
        help: "Set the transport from the next attempt on.",
        rights: Rights::All,
        run: change::route,
    },
    Verb {
        name: "requiretls",
        usage: "FILTER|all set=yes|no|default [dry-run]",
        help: "Say what messages require of TLS from the next attempt on, whatever their senders asked for.",
        rights: Rights::All,
        run: tls::requiretls,
    },
    Verb {
        name: "pause",
        usage: "[transport=T|domain=D] [for=DURATION] [reason=TEXT]",
        help: "Begin no deliveries at all, by this transport, or to this domain; mail is still accepted.",
        rights: Rights::All,
        run: pause::pause,
    },
    Verb {
        name: "resume",
        usage: "[transport=T|domain=D|all]",
        help: "Lift that pause, or with the word all every pause.",
        rights: Rights::All,
        run: pause::resume,
    },
    Verb {
        name: "tlsinfo",
        usage: "[domain=D] [clear|test|reports]",
        help: "Show what domains reached in TLS, or what holds for one; forget it; test it by one connection; show TLS reports.",
        rights: Rights::All,
        run: tls::tlsinfo,
    },
    Verb {
        name: "domains",
        usage: "[domain=D] [transport=T] [state=S|set=N] [pin|clear]",
        help: "List destinations with their windows; set the window of one, pin it, or let it begin anew.",
        rights: Rights::All,
        run: domains::domains,
    },
    Verb {
        name: "transports",
        usage: "[test=NAME|clear=NAME]",
        help: "List transports and how they are; try the hosts of one; or forget that it is broken.",
        rights: Rights::All,
        run: transports::transports,
    },
    Verb {
        name: "stats",
        usage: "",
        help: "Show the numbers of queue and daemon, and the pauses in force.",
        rights: Rights::All,
        run: daemon::stats,
    },
    Verb {
        name: "metrics",
        usage: "",
        help: "Show all counters and gauges in the text format of Prometheus.",
        rights: Rights::All,
        run: daemon::metrics,
    },
    Verb {
        name: "backup",
        usage: "to=FILE",
        help: "Make a consistent copy of the queue in a new file, while the daemon works.",
        rights: Rights::All,
        run: upkeep::backup,
    },
    Verb {
        name: "check",
        usage: "[quick]",
        help: "Look for damage in the queue: named invariants, and SQLite's integrity_check.",
        rights: Rights::All,
        run: upkeep::check,
    },
    Verb {
        name: "reload",
        usage: "",
        help: "Read the configuration again and name the keys that have changed.",
        rights: Rights::All,
        run: daemon::reload,
    },
    Verb {
        name: "shutdown",
        usage: "[now]",
        help: "Stop the daemon, with the word now without a grace time for running deliveries.",
        rights: Rights::All,
        run: daemon::shutdown,
    },
    Verb {
        name: "help",
        usage: "[VERB]",
        help: "List the verbs, or one of them.",
        rights: Rights::Own,
        run: help,
    },
    Verb {
        name: "version",
        usage: "",
        help: "Show the version of the daemon.",
        rights: Rights::Own,
        run: daemon::version,
    },
    Verb {
        name: "quit",
        usage: "",
        help: "End the connection.",
        rights: Rights::Own,
        run: quit,
    },
];

/// The verb of this name.
fn find(name: &str) -> Result<&'static Verb, Stop> {
    TABLE
        .iter()
        .find(|verb| verb.name == name)
        .ok_or_else(|| Stop::usage("unknown verb; try help"))
}

fn no_such_transport(name: &str) -> Stop {
    let text = format!("no transport is named {name:?}; transports lists them");
    Stop::usage(text)
}

/// Answers one request line; `false` if the connection ends with this answer. Blocks until the client has taken what
/// does not fit the socket's buffers.
///
/// # Errors
/// The client is gone or does not read.
pub fn answer(
    control: &Control,
    peer: &Peer,
    line: &[u8],
    sink: &mut dyn Sink,
) -> io::Result<bool> {
    let request = match line::parse(line) {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(true),
        Err(error) => {
            Reply::new(false, sink).end(&Err(Stop::usage(error.to_string())))?;
            return Ok(true);
        }
    };
    let mut reply = Reply::new(request.json, sink);
    let result = find(&request.verb).and_then(|verb| {
        if verb.rights == Rights::All && !peer.all {
            let text = format!("{} is for root and the group of the daemon", verb.name);
            return Err(Stop::Refused(Code::Denied, text));
        }
        let call = Call {
            control,
            peer,
            now: control.clock.now(),
        };
        (verb.run)(&call, Args::new(request.words), &mut reply)
    });
    if let Err(Stop::Gone(error)) = result {
        return Err(error);
    }
    reply.end(&result)?;
    Ok(result.ok() != Some(Done::Bye))
}

fn help(_: &Call<'_>, mut args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let mut chosen = Vec::new();
    for verb in TABLE {
        if args.flag(verb.name)? {
            chosen.push(verb);
        }
    }
    if args.finish().is_err() {
        return Err(Stop::usage("unknown verb; try help alone"));
    }
    if chosen.is_empty() {
        chosen.extend(TABLE);
    }
    for verb in &chosen {
        let record = Record::new()
            .text("verb", verb.name)
            .text("usage", verb.usage)
            .text("help", verb.help);
        reply.record(&record)?;
    }
    Ok(Done::Count(chosen.len() as u64, None))
}

fn quit(_: &Call<'_>, args: Args, _: &mut Reply<'_>) -> Result<Done, Stop> {
    args.finish()?;
    Ok(Done::Bye)
}

#[cfg(test)]
mod tests {
    use super::super::filter;
    use super::TABLE;

    const MANUAL: &str = include_str!("../../../../man/posthaste-control.5");

    // CTL-9, CTL-26
    #[test]
    fn every_verb_and_every_word_of_a_filter_is_in_the_manual() {
        for verb in TABLE {
            let entry = format!("\n.It Cm {}", verb.name);
            let there = MANUAL
                .split(&entry)
                .skip(1)
                .any(|rest| rest.starts_with([' ', '\n']));
            assert!(there, "{} is not in the manual", verb.name);
            // The words of its usage as well, but for the notation.
            let words = verb
                .usage
                .split(|c: char| !c.is_ascii_lowercase() && c != '-');
            for word in words.filter(|word| word.len() > 1 && !word.starts_with('-')) {
                assert!(
                    MANUAL.contains(word),
                    "{word} of {} is not there",
                    verb.name
                );
            }
        }
        for word in filter::WORDS.split(' ') {
            let entry = format!("Cm {word} Ns = Ns Ar");
            assert!(MANUAL.contains(&entry), "{word} is not in the manual");
        }
    }

    // CTL-9
    #[test]
    fn the_manual_of_the_tool_lists_the_verbs() {
        let manual = include_str!("../../../../man/posthaste.8");
        for verb in TABLE.iter().filter(|verb| verb.name != "quit") {
            assert!(manual.contains(verb.name), "{}", verb.name);
        }
    }
}
