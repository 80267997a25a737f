//! The client's side of SASL (RFC 4422) for AUTH (RFC 4954): octets of a challenge in, octets of a response out.
//!
//! Mechanisms are tried in the order of [`choose`], once: whoever refuses the best that both sides have refuses us, and
//! is not offered the password in a weaker form (RO-7, RO-8).

mod prep;
mod scram;

use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;

use scram::{Hash, Scram};

/// Ways to prove who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// RFC 7677, bound to the TLS session.
    ScramSha256Plus,
    /// RFC 7677
    ScramSha256,
    /// RFC 5802, bound to the TLS session.
    ScramSha1Plus,
    /// RFC 5802
    ScramSha1,
    /// RFC 2195
    CramMd5,
    /// RFC 4616
    Plain,
    /// Older than any RFC.
    Login,
}

/// The best first (RO-7).
const ORDER: [Mechanism; 7] = [
    Mechanism::ScramSha256Plus,
    Mechanism::ScramSha256,
    Mechanism::ScramSha1Plus,
    Mechanism::ScramSha1,
    Mechanism::CramMd5,
    Mechanism::Plain,
    Mechanism::Login,
];

/// The longest challenge that is taken, in octets. Those of the mechanisms here are a tenth of it.
const MAX_CHALLENGE: usize = 8 * 1024;

/// Who we are, and how we may prove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Password,
    /// Mechanisms that may be used; empty: all.
    pub mechanisms: Vec<Mechanism>,
    /// PLAIN, LOGIN and CRAM-MD5 may be used without verified TLS.
    pub in_clear: bool,
}

/// A password, kept from `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// What ties an exchange to the TLS session around it (RFC 5929, RFC 9266).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its registered name.
    pub kind: &'static str,
    /// What both sides know of the session and nobody else.
    pub data: Vec<u8>,
}

/// What a session has that matters to AUTH.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// It is encrypted, and the peer has proved to be whom we mean.
    pub verified: bool,
    /// What ties an exchange to it.
    pub binding: Option<Binding>,
}

impl Mechanism {
    /// Its registered name.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha1Plus => "SCRAM-SHA-1-PLUS",
            Mechanism::ScramSha1 => "SCRAM-SHA-1",
            Mechanism::CramMd5 => "CRAM-MD5",
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
        }
    }

    /// Whether it needs the session to be bound.
    fn is_bound(self) -> bool {
        matches!(self, Mechanism::ScramSha256Plus | Mechanism::ScramSha1Plus)
    }

    /// Whether who listens, or stands in for the peer, learns the password or can guess it.
    fn gives_the_password_away(self) -> bool {
        matches!(
            self,
            Mechanism::CramMd5 | Mechanism::Plain | Mechanism::Login
        )
    }
}

/// The best mechanism that the peer announced, that the operator permits and that this session is good enough for.
///
/// # Errors
/// Why there is none, in words for the operator.
pub fn choose(
    login: &Credentials,
    announced: &[String],
    protection: &Protection,
) -> Result<Mechanism, String> {
    let permitted =
        |mechanism: &Mechanism| login.mechanisms.is_empty() || login.mechanisms.contains(mechanism);
    let common = ORDER.into_iter().filter(|mechanism| {
        permitted(mechanism) && announced.iter().any(|name| name == mechanism.name())
    });
    let mut too_weak = Vec::new();
    for mechanism in common {
        if mechanism.is_bound() && protection.binding.is_none() {
            continue;
        }
        if mechanism.gives_the_password_away() && !protection.verified && !login.in_clear {
            too_weak.push(mechanism.name());
            continue;
        }
        return Ok(mechanism);
    }
    Err(if announced.is_empty() {
        "AUTH is not offered".to_string()
    } else if too_weak.is_empty() {
        let names: Vec<&str> = announced.iter().take(20).map(String::as_str).collect();
        format!("no common mechanism; offered are {}", names.join(" "))
    } else {
        format!(
            "{} only inside verified TLS, and nothing better is offered",
            too_weak.join(" and ")
        )
    })
}

/// One exchange.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    state: State,
}

#[derive(Debug)]
enum State {
    Scram(Box<Scram>),
    CramMd5 {
        user: String,
        password: Password,
    },
    Plain {
        user: String,
        password: Password,
    },
    /// What is still to be said, the last first.
    Login(Vec<Password>),
    /// Nothing more is to be said.
    Said,
}

impl Exchange {
    /// Begins one. `nonce` is 18 random octets or more in a form without commas, made anew for each exchange. A bound
    /// mechanism needs the binding of `protection`, as [`choose`] made sure.
    pub fn new(
        mechanism: Mechanism,
        login: &Credentials,
        protection: &Protection,
        announced: &[String],
        nonce: &str,
    ) -> Exchange {
        let user = login.user.clone();
        let password = login.password.clone();
        let scram = |hash| {
            let binding = protection.binding.as_ref();
            let bound = if mechanism.is_bound() {
                scram::Bound::With(binding.cloned())
            } else if binding.is_some() && !announced.iter().any(|name| name.ends_with("-PLUS")) {
                // RFC 5802 §6: we could, and believe that the peer cannot, with whatever hash. It hears that we think so.
                scram::Bound::PeerCannot
            } else {
                scram::Bound::WeCannot
            };
            State::Scram(Box::new(Scram::new(
                hash,
                &user,
                &login.password.0,
                bound,
                nonce,
            )))
        };
        let state = match mechanism {
            Mechanism::ScramSha256Plus | Mechanism::ScramSha256 => scram(Hash::Sha256),
            Mechanism::ScramSha1Plus | Mechanism::ScramSha1 => scram(Hash::Sha1),
            Mechanism::CramMd5 => State::CramMd5 { user, password },
            Mechanism::Plain => State::Plain { user, password },
            Mechanism::Login => State::Login(vec![password, Password(user)]),
        };
        Exchange { mechanism, state }
    }

    /// Which one it is.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// What is said without being asked; `None` where the peer speaks first.
    pub fn initial(&mut self) -> Option<Vec<u8>> {
        match &mut self.state {
            State::Scram(scram) => Some(scram.first()),
            State::Plain { user, password } => {
                // RFC 4616 §2: no authorization identity of its own.
                let message = format!("\0{user}\0{}", password.0).into_bytes();
                self.state = State::Said;
                Some(message)
            }
            State::CramMd5 { .. } | State::Login(_) | State::Said => None,
        }
    }

    /// The response to a challenge.
    ///
    /// # Errors
    /// The challenge is malformed, or one too many: the exchange is over, and nothing was given away.
    pub fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, String> {
        if challenge.len() > MAX_CHALLENGE {
            return Err("the challenge is too long".to_string());
        }
        match &mut self.state {
            State::Scram(scram) => scram.respond(challenge),
            State::CramMd5 { user, password } => {
                let response = cram_md5(user, &password.0, challenge)?;
                self.state = State::Said;
                Ok(response)
            }
            State::Login(left) => match left.pop() {
                // Its prompts are words for people and mean nothing.
                Some(Password(next)) => Ok(next.into_bytes()),
                None => Err("a challenge too many".to_string()),
            },
            State::Plain { .. } | State::Said => Err("a challenge too many".to_string()),
        }
    }

    /// The peer says that it is done and believes us.
    ///
    /// # Errors
    /// It has not proved that it knows the password, or has not even asked for it.
    pub fn accepted(&self) -> Result<(), String> {
        let done = match &self.state {
            State::Scram(scram) => return scram.accepted(),
            State::Said => true,
            State::Login(left) => left.is_empty(),
            State::CramMd5 { .. } | State::Plain { .. } => false,
        };
        if done {
            Ok(())
        } else {
            Err("accepted before the password was asked for".to_string())
        }
    }
}

/// RFC 2195 §2.
fn cram_md5(user: &str, password: &str, challenge: &[u8]) -> Result<Vec<u8>, String> {
    if challenge.is_empty() {
        return Err("the challenge is empty".to_string());
    }
    let digest = hmac(MessageDigest::md5(), password.as_bytes(), &[challenge])?;
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{user} {hex}").into_bytes())
}

/// RFC 2104, over the parts as one text.
fn hmac(digest: MessageDigest, key: &[u8], parts: &[&[u8]]) -> Result<Vec<u8>, String> {
    let failed = |error: openssl::error::ErrorStack| format!("OpenSSL: {error}");
    let key = PKey::hmac(key).map_err(failed)?;
    let mut signer = Signer::new(digest, &key).map_err(failed)?;
    for part in parts {
        signer.update(part).map_err(failed)?;
    }
    signer.sign_to_vec().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(mechanisms: &[Mechanism], in_clear: bool) -> Credentials {
        Credentials {
            user: "tim".to_string(),
            password: Password("tanstaaftanstaaf".to_string()),
            mechanisms: mechanisms.to_vec(),
            in_clear,
        }
    }

    fn protection(verified: bool, bound: bool) -> Protection {
        Protection {
            verified,
            binding: bound.then(|| Binding {
                kind: "tls-exporter",
                data: vec![7; 32],
            }),
        }
    }

    fn chosen(
        login: &Credentials,
        announced: &str,
        protection: &Protection,
    ) -> Result<&'static str, String> {
        let announced: Vec<String> = announced.split_whitespace().map(str::to_string).collect();
        choose(login, &announced, protection).map(Mechanism::name)
    }

    // RO-7
    #[test]
    fn the_best_mechanism_of_both_sides_is_used() {
        let all = "LOGIN PLAIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-1-PLUS SCRAM-SHA-256 SCRAM-SHA-256-PLUS XOAUTH2";
        let mut left: Vec<&str> = all.split(' ').collect();
        let any = login(&[], false);
        let good = protection(true, true);
        for expected in ORDER {
            assert_eq!(chosen(&any, &left.join(" "), &good), Ok(expected.name()));
            left.retain(|name| *name != expected.name());
        }
        let error = chosen(&any, &left.join(" "), &good).unwrap_err();
        assert_eq!(error, "no common mechanism; offered are XOAUTH2");
        assert_eq!(chosen(&any, "", &good).unwrap_err(), "AUTH is not offered");
        assert_eq!(
            chosen(&any, all, &protection(true, false)),
            Ok("SCRAM-SHA-256")
        );
        let narrow = login(&[Mechanism::Login, Mechanism::ScramSha1], false);
        assert_eq!(chosen(&narrow, all, &good), Ok("SCRAM-SHA-1"));
        assert_eq!(chosen(&narrow, "LOGIN PLAIN", &good), Ok("LOGIN"));
        assert!(chosen(&narrow, "PLAIN", &good).is_err());
    }

    // RO-7, SEC-8
    #[test]
    fn what_gives_the_password_away_needs_verified_tls() {
        let clear = protection(false, false);
        let any = login(&[], false);
        for weak in ["PLAIN", "LOGIN", "CRAM-MD5"] {
            let error = chosen(&any, weak, &clear).unwrap_err();
            assert!(error.contains("only inside verified TLS"), "{error}");
            assert!(chosen(&any, weak, &protection(false, true)).is_err());
            assert_eq!(chosen(&login(&[], true), weak, &clear), Ok(weak));
        }
        assert_eq!(chosen(&any, "PLAIN SCRAM-SHA-1", &clear), Ok("SCRAM-SHA-1"));
    }

    fn exchange(mechanism: Mechanism) -> Exchange {
        Exchange::new(
            mechanism,
            &login(&[], false),
            &protection(true, false),
            &[],
            "n",
        )
    }

    // RO-7: RFC 2195 §2
    #[test]
    fn cram_md5_answers_as_its_rfc_shows() {
        let mut cram = exchange(Mechanism::CramMd5);
        assert_eq!(cram.initial(), None);
        assert!(cram.accepted().is_err());
        let challenge = b"<1896.697170952@postoffice.reston.mci.net>";
        let response = cram.respond(challenge).unwrap();
        assert_eq!(response, b"tim b913a602c7eda7a495b4e6e7334d3890");
        assert_eq!(cram.accepted(), Ok(()));
        assert!(cram.respond(challenge).is_err(), "a challenge too many");
        assert!(exchange(Mechanism::CramMd5).respond(b"").is_err());
    }

    // RO-7, RO-8
    #[test]
    fn plain_and_login_say_what_they_have_once() {
        let mut plain = exchange(Mechanism::Plain);
        assert_eq!(plain.initial().unwrap(), b"\0tim\0tanstaaftanstaaf");
        assert_eq!(plain.accepted(), Ok(()));
        assert!(plain.respond(b"").is_err());
        let mut login = exchange(Mechanism::Login);
        assert_eq!(login.initial(), None);
        assert_eq!(login.respond(b"Username:").unwrap(), b"tim");
        assert!(login.accepted().is_err());
        assert_eq!(login.respond(b"").unwrap(), b"tanstaaftanstaaf");
        assert_eq!(login.accepted(), Ok(()));
        assert!(login.respond(b"Password:").is_err());
        assert!(!format!("{:?}", exchange(Mechanism::Login)).contains("tanst"));
    }

    // RO-8, PRC-8
    #[test]
    fn an_overlong_challenge_is_refused() {
        assert!(
            exchange(Mechanism::CramMd5)
                .respond(&[b'x'; MAX_CHALLENGE + 1])
                .is_err()
        );
    }
}
