//! Who may send to whom at a listener, and under which path it is queued (IN-21). Pure.

use std::net::IpAddr;

use crate::config::{Config, Listen, Role};
use crate::message::trace::Origin;
use crate::smtp::address::{AddressDomain, ForwardPath, Mailbox};
use crate::smtp::answer::Answer;
use crate::smtp::command::{RcptCommand, RcptPath};
use crate::smtp::params::RcptParams;
use crate::smtp::server::Recipient;

/// Whether this client may send to this recipient here (IN-21), and to whom it is then queued.
pub(super) fn accept_recipient(
    config: &Config,
    listen: &Listen,
    origin: Origin,
    command: RcptCommand,
) -> Result<Recipient, Answer> {
    let RcptCommand { path, params } = command;
    let path = match path {
        RcptPath::Mailbox(path) => path,
        RcptPath::Postmaster => {
            // IN-23
            let taker = config
                .local_mail_to
                .as_ref()
                .or(config.dsn.postmaster.as_ref());
            let taker = taker.ok_or(Answer::new(550, 1, 1, "nobody reads mail here"))?;
            let original = format!("postmaster@{}", config.hostname);
            return Ok(redirected(taker, original, params));
        }
    };
    let ip: Option<IpAddr> = match origin {
        Origin::Ip(ip) => Some(ip),
        Origin::Uid(_) | Origin::Own => None,
    };
    // The domain is what follows the last `@`, and it does not matter which it is: no form of address opens anything.
    let relays = matches!(listen.role, Role::Relay | Role::Lmtp)
        && listen.relay_from.iter().any(|pattern| pattern.matches(ip));
    if !relays {
        return Err(Answer::new(554, 7, 1, "relaying denied"));
    }
    match path.domain() {
        // DV-11
        AddressDomain::Literal(_) if !config.deliver.address_literals => {
            Err(Answer::new(550, 1, 2, "address literals are not taken"))
        }
        // RO-4
        AddressDomain::Name(domain) if *domain == config.hostname => {
            Ok(match &config.local_mail_to {
                Some(taker) => redirected(taker, path.to_string(), params),
                None => Recipient { path, params },
            })
        }
        _ => Ok(Recipient { path, params }),
    }
}

/// The recipient is another from here on; what it was is kept for notices (DSN-16).
fn redirected(taker: &Mailbox, original: String, mut params: RcptParams) -> Recipient {
    let kind = if original.is_ascii() {
        "rfc822"
    } else {
        "utf-8"
    };
    params.orcpt.get_or_insert(format!("{kind};{original}"));
    Recipient {
        path: ForwardPath::clone(taker),
        params,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClientPattern, ListenAddress};
    use crate::smtp::address::Domain;

    fn config() -> Config {
        Config::default_for(Domain::parse("mail.here.example").unwrap())
    }

    fn listen() -> Listen {
        Listen::at(ListenAddress::Tcp(([127, 0, 0, 1], 25).into()))
    }

    fn ask(
        config: &Config,
        listen: &Listen,
        origin: Origin,
        to: &str,
    ) -> Result<Recipient, String> {
        let command = RcptCommand::parse(format!("TO:<{to}>").as_bytes(), true, false).unwrap();
        accept_recipient(config, listen, origin, command).map_err(|a| a.to_string()[..9].to_owned())
    }

    const HERE: Origin = Origin::Ip(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    const AWAY: Origin = Origin::Ip(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)));

    // IN-21, SEC-5
    #[test]
    fn only_clients_of_relay_from_relay_whatever_the_address_looks_like() {
        for to in [
            "bob@dest.example",
            "user%dest.example@mail.here.example",
            "dest.example!user@mail.here.example",
            "\"user@dest.example\"@mail.here.example",
            "@mail.here.example:bob@dest.example",
            "bob@mail.here.example",
        ] {
            assert!(ask(&config(), &listen(), HERE, to).is_ok(), "{to}");
            assert!(
                ask(&config(), &listen(), Origin::Uid(Some(1)), to).is_ok(),
                "{to}"
            );
            let refused = ask(&config(), &listen(), AWAY, to);
            assert_eq!(refused, Err("554 5.7.1".to_owned()), "{to}");
        }
        let mut narrow = listen();
        narrow.relay_from = vec![ClientPattern::Net([192, 0, 2, 0].into(), 24)];
        assert!(ask(&config(), &narrow, AWAY, "a@b.example").is_ok());
        assert!(ask(&config(), &narrow, HERE, "a@b.example").is_err());
        assert!(ask(&config(), &narrow, Origin::Uid(None), "a@b.example").is_err());
        narrow.role = Role::Inbound;
        assert!(ask(&config(), &narrow, AWAY, "a@b.example").is_err());
    }

    // DV-11
    #[test]
    fn address_literals_are_taken_only_where_they_are_allowed() {
        let mut config = config();
        let refused = ask(&config, &listen(), HERE, "a@[192.0.2.1]");
        assert_eq!(refused, Err("550 5.1.2".to_owned()));
        config.deliver.address_literals = true;
        assert!(ask(&config, &listen(), HERE, "a@[192.0.2.1]").is_ok());
    }

    // IN-23, RO-4, CFG-9
    #[test]
    fn local_mail_and_postmaster_go_to_whom_the_configuration_names() {
        let mut config = config();
        let refused = ask(&config, &listen(), HERE, "postmaster");
        assert_eq!(refused, Err("550 5.1.1".to_owned()));
        config.dsn.postmaster = Some(Mailbox::parse("pm@dest.example", false).unwrap());
        let taken = ask(&config, &listen(), HERE, "Postmaster").unwrap();
        assert_eq!(taken.path.to_string(), "pm@dest.example");
        config.local_mail_to = Some(Mailbox::parse("all@dest.example", false).unwrap());
        let taken = ask(&config, &listen(), HERE, "Postmaster").unwrap();
        assert_eq!(taken.path.to_string(), "all@dest.example");
        let taken = ask(&config, &listen(), HERE, "root@MAIL.here.example").unwrap();
        assert_eq!(taken.path.to_string(), "all@dest.example");
        assert_eq!(
            taken.params.orcpt.as_deref(),
            Some("rfc822;root@mail.here.example")
        );
        let other = ask(&config, &listen(), HERE, "root@other.example").unwrap();
        assert_eq!(other.path.to_string(), "root@other.example");
    }
}
