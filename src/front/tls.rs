//! A session's way into TLS (IN-30), and certificates that are read again (CFG-5).

use std::io;

use super::smtp::Place;
use crate::clock::Timestamp;
use crate::config::Listen;
use crate::log::Line;
use crate::net::deadline::Deadline;
use crate::net::stream::Stream;
use crate::net::tls::server::{HANDSHAKE, Identity, Secured};

/// The handshake of one session, at most until `ends`. `None`: it failed, which is in the log; the client was told by
/// TLS itself as far as that is possible.
pub(super) fn handshake(
    stream: Stream,
    place: &Place<'_>,
    ends: Deadline,
) -> Option<(Stream, Secured)> {
    let deadline = Deadline::after(HANDSHAKE).min(ends);
    let wanted = || !place.stops.stopping.is_raised();
    let identity = place.identity.as_ref()?;
    let error = match stream.accept_tls(identity, deadline, &wanted) {
        Ok(secured) => return Some(secured),
        Err(error) => error,
    };
    place.intake.count_refused(place.origin, "tls");
    let text = match error.kind() {
        io::ErrorKind::TimedOut if !wanted() => "service is stopping".to_owned(),
        io::ErrorKind::TimedOut => "the TLS handshake timed out".to_owned(),
        _ => error.to_string(),
    };
    Line::of_client("rejected", place.origin)
        .key("listen", &place.listen.name)
        .key("caller", &place.caller)
        .peer("text", &text)
        .info();
    None
}

/// What listeners that stay will show from now on: read, and not in force yet.
#[derive(Debug, Default)]
pub struct Renewed {
    pub(super) identities: Vec<(Listen, Identity)>,
    unreadable: bool,
}

impl Renewed {
    /// Reads the files of a listener again, which shows `present` so far.
    ///
    /// # Errors
    /// Which file cannot be used, and why; `present` goes on.
    pub(super) fn read(
        &mut self,
        listen: &Listen,
        present: Option<&Identity>,
    ) -> Result<(), String> {
        use crate::net::tls::server::Renewal;
        let Some((cert, key)) = listen.identity_files() else {
            return Ok(());
        };
        let renewal = match present {
            Some(present) => present.reload(cert, key),
            None => Identity::load(cert, key).map(Renewal::New),
        };
        match renewal {
            Ok(Renewal::New(identity)) => self.identities.push((listen.clone(), identity)),
            Ok(Renewal::Same) => {}
            Ok(Renewal::Unreadable(error)) => {
                self.unreadable = true;
                Line::new("certificate")
                    .key("listen", &listen.name)
                    .key("result", "kept")
                    .peer("text", &error.to_string())
                    .warn();
            }
            Err(error) => return Err(format!("listen {}: {error}", listen.name)),
        }
        Ok(())
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }

    /// Whether there are files that only a restart can read.
    pub fn is_unreadable(&self) -> bool {
        self.unreadable
    }
}

/// One line for a certificate that is in use from now on.
pub(super) fn log_identity(listen: &Listen, identity: &Identity, now: Timestamp) {
    let line = Line::new("certificate")
        .key("listen", &listen.name)
        .key("file", identity.file().display())
        .opt("until", identity.until());
    match identity.until() {
        Some(until) if until <= now => line.key("text", "it has expired").warn(),
        _ => line.info(),
    }
}
