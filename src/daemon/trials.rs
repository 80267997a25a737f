//! Relays that are tried out when the daemon starts (RO-16).

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::select;

use super::error::Error;
use crate::clock::Clock;
use crate::config::{Config, StartProbe, TransportKind};
use crate::delivery::Workers;
use crate::log::Line;
use crate::net::deadline::Deadline;

/// How often a relay that must work is tried.
const TRIES: u32 = 11;

/// The time between two tries.
const PAUSE: Duration = Duration::from_secs(2);

/// The longest try.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tries those that must work, one after the other, and begins with those that should.
///
/// # Errors
/// [`Error::Unavailable`]: one that must work does not.
pub fn at_start(config: &Config, workers: &Arc<Workers>, clock: &Clock) -> Result<(), Error> {
    let wanted = |probe: StartProbe| {
        config.transport.iter().filter(move |transport| {
            matches!(&transport.kind, TransportKind::Relay(relay) if relay.probe == probe)
        })
    };
    for transport in wanted(StartProbe::Warn) {
        let (name, workers) = (transport.name.clone(), Arc::clone(workers));
        let started = std::thread::Builder::new()
            .name(format!("probe-{name}"))
            .spawn(move || {
                // It is in the log.
                let _ = once(&name, &workers);
            });
        // A host without a thread to spare has other worries.
        drop(started);
    }
    for transport in wanted(StartProbe::Require) {
        let name = &transport.name;
        let mut result = once(name, workers);
        for _ in 1..TRIES {
            if result.is_ok() {
                break;
            }
            let timer = clock.timer(clock.now().plus(PAUSE));
            select! {
                recv(timer) -> _ => {}
            }
            result = once(name, workers);
        }
        result.map_err(|text| Error::Unavailable(format!("transport {name}: {text}")))?;
    }
    Ok(())
}

/// One try; why no host works.
fn once(name: &str, workers: &Workers) -> Result<(), String> {
    let line = Line::new("transport-probe").key("transport", name);
    let text = match workers.try_transport(name, Deadline::after(PATIENCE)) {
        Ok(trials) if trials.iter().any(|trial| trial.works()) => {
            line.key("result", "ok").info();
            return Ok(());
        }
        Ok(trials) => {
            let faults: Vec<String> = trials
                .iter()
                .filter_map(|trial| Some(format!("{}: {}", trial.host, trial.fault()?)))
                .collect();
            faults.join("; ")
        }
        Err(failure) => failure.text,
    };
    line.key("result", "error").peer("text", &text).warn();
    Err(text)
}
