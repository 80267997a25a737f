//! What fits together in a `[[transport]]`, and what it means.

use std::sync::Arc;

use super::{
    KindWord, Line, OF_RETRY, OwnLimits, OwnRetry, RelayHost, Transport, TransportKind,
    TransportTable, overridden,
};
use crate::config::deliver::Deliver;
use crate::config::relay::{Access, Login, Relay, RelayTls};
use crate::config::retry::Retry;
use crate::config::table::Table;
use crate::smtp::reply::{EnhancedCode, ReplyCode};
use crate::smtp::sasl::Mechanism;

impl TransportTable {
    /// What the table means.
    ///
    /// # Errors
    /// The key at fault, and why.
    pub(in crate::config) fn checked(
        &self,
        deliver: &Deliver,
        retry: &Retry,
    ) -> Result<Transport, (&'static str, &'static str)> {
        let kind = match self.kind {
            KindWord::Relay | KindWord::Lmtp => TransportKind::Relay(Arc::new(self.relay()?)),
            _ => {
                self.no_relay()?;
                match self.kind {
                    KindWord::Fail => self.fail()?,
                    KindWord::Discard => TransportKind::Discard,
                    _ => TransportKind::Direct,
                }
            }
        };
        if self.kind != KindWord::Fail {
            let defaults = TransportTable::defaults();
            let given = [
                ("code", self.code != defaults.code),
                ("text", self.text != defaults.text),
            ];
            if let Some((key, _)) = given.iter().find(|(_, given)| *given) {
                return Err((key, "only kind \"fail\" has it"));
            }
        }
        if self
            .source_addresses
            .iter()
            .any(|ip| ip.is_unspecified() || ip.is_multicast())
        {
            return Err(("source_addresses", "an address of this host is wanted"));
        }
        let overrides = self.overrides.iter().cloned();
        let (of_retry, of_deliver): (Vec<_>, Vec<_>) =
            overrides.partition(|(key, _)| OF_RETRY.contains(key));
        let line = Line {
            helo: self.helo.clone(),
            source_addresses: self.source_addresses.clone(),
            proxy: self.proxy.clone(),
            deliver: (!of_deliver.is_empty()).then(|| overridden(deliver, &of_deliver)),
            overrides: of_deliver,
        };
        let connects = matches!(kind, TransportKind::Direct | TransportKind::Relay(_));
        if let Some(key) = line.first_key().filter(|_| !connects) {
            return Err((key, "only a transport that connects to hosts has it"));
        }
        Ok(Transport {
            name: self.name.clone(),
            kind,
            line: (line != Line::default()).then(|| Arc::new(line)),
            retry: (!of_retry.is_empty()).then(|| {
                Arc::new(OwnRetry {
                    terms: overridden(retry, &of_retry),
                    overrides: of_retry,
                })
            }),
            limits: OwnLimits {
                connections: self.connections,
                recipients: self.recipients,
                rate: self.rate,
                dial_interval: self.dial_interval,
            },
        })
    }

    fn fail(&self) -> Result<TransportKind, (&'static str, &'static str)> {
        let code = ReplyCode::new(self.code).ok_or(("code", "no reply code"))?;
        // RFC 2034 §3: the class of the status is the first digit of the reply code.
        let status = EnhancedCode::parse(self.text.split(' ').next().unwrap_or_default());
        if status.is_some_and(|status| u16::from(status.class()) != self.code / 100) {
            return Err((
                "text",
                "its status code begins with another digit than code",
            ));
        }
        Ok(TransportKind::Fail {
            code,
            text: self.text.clone(),
        })
    }

    fn relay(&self) -> Result<Relay, (&'static str, &'static str)> {
        if self.hosts.is_empty() {
            return Err(("hosts", "a relay needs at least one host"));
        }
        let sockets = self.hosts.iter();
        let sockets = sockets.filter(|(host, _)| matches!(host, RelayHost::Unix(_)));
        let (lmtp, sockets) = (self.kind == KindWord::Lmtp, sockets.count());
        if !lmtp && sockets > 0 {
            return Err(("hosts", "only LMTP goes over Unix sockets"));
        }
        if sockets > 0
            && (sockets < self.hosts.len() || self.tls.is_some_and(|tls| tls != RelayTls::None))
        {
            // One requirement holds for all hosts of a transport, and a socket has no name to verify.
            return Err((
                "hosts",
                "beside Unix sockets there is neither TLS nor another kind of host",
            ));
        }
        // RFC 2033 §5
        if lmtp && self.hosts.iter().any(|(_, port)| *port == 25) {
            return Err(("hosts", "LMTP must not go to port 25; give another"));
        }
        let tls = match sockets {
            0 => self.tls,
            _ => Some(RelayTls::None),
        };
        let plain = tls == Some(RelayTls::None);
        if plain && self.ca_file.is_some() {
            return Err(("ca_file", "without TLS there is no certificate to believe"));
        }
        if sockets > 0 && self.proxy.is_some() {
            return Err(("proxy", "Unix sockets are not reached through a proxy"));
        }
        if plain && self.danger_accept_invalid_certs {
            return Err((
                "danger_accept_invalid_certs",
                "without TLS there is no certificate to accept",
            ));
        }
        let login = match (&self.user, &self.password) {
            (Some(_), Some(_)) if self.cannot_log_in(plain) => {
                return Err((
                    "mechanisms",
                    "without verified TLS none of these may be used; add SCRAM-SHA-256, or set danger_auth_without_tls",
                ));
            }
            (Some(user), Some(password)) => Some(Login {
                user: user.clone(),
                password: password.clone(),
                mechanisms: self.mechanisms.clone(),
                danger_without_tls: self.danger_auth_without_tls,
            }),
            (Some(_), None) => return Err(("password", "a user needs a password")),
            (None, Some(_)) => return Err(("user", "a password needs a user")),
            (None, None) if !self.mechanisms.is_empty() => {
                return Err(("mechanisms", "without a user there is no AUTH"));
            }
            (None, None) if self.danger_auth_without_tls => {
                return Err(("danger_auth_without_tls", "without a user there is no AUTH"));
            }
            (None, None) => None,
        };
        let access = Access {
            login,
            ca_file: self.ca_file.clone(),
        };
        Ok(Relay {
            lmtp,
            hosts: self.hosts.clone(),
            order: self.order,
            tls,
            danger_accept_invalid_certs: self.danger_accept_invalid_certs,
            redial: self.redial,
            probe: self.probe,
            access: (access != Access::default()).then(|| Arc::new(access)),
        })
    }

    /// Whether no mechanism is left, whatever the relay announces (RO-7): the bound ones need TLS, those that show the
    /// password verified TLS.
    fn cannot_log_in(&self, plain: bool) -> bool {
        let verified = !plain && !self.danger_accept_invalid_certs;
        let may = |mechanism: &Mechanism| match mechanism {
            Mechanism::ScramSha256Plus | Mechanism::ScramSha1Plus => !plain,
            Mechanism::ScramSha256 | Mechanism::ScramSha1 => true,
            _ => verified || self.danger_auth_without_tls,
        };
        !self.mechanisms.is_empty() && !self.mechanisms.iter().any(may)
    }

    /// Keys that mean nothing unless there are hosts.
    fn no_relay(&self) -> Result<(), (&'static str, &'static str)> {
        let defaults = TransportTable::defaults();
        let given = [
            ("hosts", self.hosts != defaults.hosts),
            ("order", self.order != defaults.order),
            ("tls", self.tls != defaults.tls),
            (
                "danger_accept_invalid_certs",
                self.danger_accept_invalid_certs,
            ),
            ("ca_file", self.ca_file.is_some()),
            ("user", self.user.is_some()),
            ("password", self.password.is_some()),
            ("mechanisms", !self.mechanisms.is_empty()),
            ("danger_auth_without_tls", self.danger_auth_without_tls),
            ("redial", self.redial != defaults.redial),
            ("probe", self.probe != defaults.probe),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some(("hosts", _)) => Err(("hosts", "only a relay has hosts")),
            Some((key, _)) => Err((key, "only a relay has it")),
            None => Ok(()),
        }
    }
}
